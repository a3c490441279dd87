"""What the trainer costs: its rate beside a bare jitted loop, and the input pipeline's beside both.

    python -m experiments.bench.trainer

Runs `configs/fashion_resnet20.py` (needs Fashion-MNIST); about 4 minutes on 2 cores. The bare loop
is what one would write by hand: loss, gradient, batch statistics and SGD in one jitted function
with donated state, on one batch that lies in memory; no augmentation, no new data, no check for
NaN, no metrics read, no log, no checkpoint. Both run in turn, three rounds.
"""

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from absl import app

from experiments import mesh as meshes
from experiments import platform, recipe, runner
from experiments.bench.record import Row, record
from experiments.data import sets
from experiments.logs import METRICS, jsonl
from experiments.network import Network, prepare
from experiments.preemption import Preemption
from experiments.stages.stage import Context, Model, make_job, train
from experiments.train import Job, TrainConfig

STEPS = 40
WARMUP = 10
ROUNDS = 3
PIPELINE_BATCHES = 1000


def bare_rate(job: Job, network: Network) -> float:
    """Samples a second of the loop written by hand, for the job's network."""
    optimizer = optax.sgd(0.1, momentum=0.9, nesterov=True)
    batch = meshes.put_batch(job.dataset.batch_at(job.seed, 0), job.mesh)

    @jax.jit
    def init() -> tuple[Any, Any, Any]:
        variables = network.init(jax.random.key(0))
        return variables["params"], variables["batch_stats"], optimizer.init(variables["params"])

    def step(params: Any, stats: Any, opt_state: Any, batch: Any) -> tuple[Any, Any, Any]:
        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            logits, changed = network.train(
                {"params": params, "batch_stats": stats}, prepare(batch["input"]), jax.random.key(0)
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
            return loss, changed["batch_stats"]

        grads, stats = jax.grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), stats, opt_state

    compiled = jax.jit(step, donate_argnums=(0, 1, 2))
    state = init()
    for _ in range(WARMUP):
        state = compiled(*state, batch)
    jax.block_until_ready(state)
    started = time.perf_counter()
    for _ in range(STEPS):
        state = compiled(*state, batch)
    jax.block_until_ready(state)
    return STEPS * job.dataset.batch_size / (time.perf_counter() - started)


def trainer_rate(context: Context, config: TrainConfig) -> float:
    """Samples a second of the trainer, from the times in its log."""
    batch_size = context.dataset.batch_size
    epochs = (WARMUP + STEPS) / context.dataset.steps_per_epoch
    with tempfile.TemporaryDirectory() as directory:
        here = dataclasses.replace(context, directory=Path(directory))
        variables = jax.jit(context.network.init)(jax.random.key(0))
        train(here, config.model_copy(update={"epochs": epochs}), Model(variables))
        lines = [
            record
            for record in jsonl.read(Path(directory) / METRICS)
            if "train/loss" in record.values
        ]
    first, last = lines[0], lines[-1]
    return (last.step - first.step) * batch_size / (last.time - first.time)


def pipeline_rate(job: Job) -> float:
    """Samples a second of shuffled, gathered batches put on the device, with nothing else to do."""
    batches = job.dataset.batches(job.seed)
    meshes.put_batch(next(batches), job.mesh)
    started = time.perf_counter()
    for _ in range(PIPELINE_BATCHES):
        jax.block_until_ready(meshes.put_batch(next(batches), job.mesh))
    return PIPELINE_BATCHES * job.dataset.batch_size / (time.perf_counter() - started)


def main(argv: Sequence[str]) -> None:
    """Runs the rounds and records the rows."""
    del argv
    platform.configure()
    made = recipe.resolve(recipe.load("configs/fashion_resnet20.py"), jax.device_count())
    config = made.stages[0].config
    assert isinstance(config, TrainConfig)
    run = made.settings.run.model_copy(update={"log_steps": WARMUP})
    context = dataclasses.replace(
        runner.shared_context(made, sets.load(made.settings.data), Preemption()),
        name="train",
        run=run,
    )
    job = make_job(context, config)
    trainer, bare = [], []
    for _ in range(ROUNDS):
        bare.append(bare_rate(job, context.network))
        trainer.append(trainer_rate(context, config))
    ratio = float(np.median([t / b for t, b in zip(trainer, bare, strict=True)]))
    unit = "samples/s"
    rows = [
        Row(
            "trainer over bare loop",
            float(np.median(trainer)),
            float(np.median(bare)),
            ">= 0.97",
            unit,
            ratio,
        ),
        Row("input pipeline over step", pipeline_rate(job), float(np.median(bare)), ">= 5", unit),
    ]
    record("trainer", rows)


if __name__ == "__main__":
    app.run(main)
