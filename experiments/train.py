"""The trainer: from variables to better variables, on a mesh, resumable at any moment.

It reads top to bottom: the config, the `Job`, `fit`, and the loop that `fit` runs. What happens in
one update is in `train_step`. The state after step n is a function of the job alone: batches follow
from (seed, n), random keys are folded from the step, and the loop only decides when to look,
evaluate and save.
"""

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from pydantic import Field

from experiments import divergence, evaluation, optimizers, processes, train_step
from experiments import mesh as meshes
from experiments.checkpoint import Checkpointer
from experiments.data.dataset import Batch, Dataset
from experiments.data.info import IMAGE
from experiments.divergence import Diverged
from experiments.logs import RunLog
from experiments.logs.window import Window
from experiments.network import Network, Trainable, Variables, prepare
from experiments.precision import Precision
from experiments.preemption import Preempted, Preemption
from experiments.schema import Schema
from experiments.train_step import Augment, Objective, StepConfig, TrainState, supervised
from slim import paths

PyTree = Any

LOG = logging.getLogger("slim")

MAX_ROLLBACKS = 3


class TrainConfig(StepConfig):
    """How long to train, and what to do on the way.

    Attributes:
        epochs: passes over the training split; fractions are allowed.
        eval_epochs: passes between evaluations.
        patience: stop after so many evaluations that were no better, in accuracy, or of language
            in perplexity; 0: never.
        keep: hand on the `last` variables, or those of the `best` evaluation.
        on_nan: `stop` with the offending parameters named, or `rollback` to the last checkpoint
            and go on at half the learning rate, at most three times.
    """

    epochs: Annotated[float, Field(gt=0)] = 10.0
    eval_epochs: Annotated[float, Field(gt=0)] = 1.0
    patience: Annotated[int, Field(ge=0)] = 0
    keep: Literal["last", "best"] = "last"
    on_nan: Literal["stop", "rollback"] = "stop"


class RunConfig(Schema):
    """When to save and to show; changes no result.

    Attributes:
        checkpoint_epochs: passes over the training split between checkpoints.
        checkpoint_seconds: at least so many seconds between them.
        keep_checkpoints: how many of the newest stay, beside the best.
        log_steps: updates between lines of metrics; 0: about 20 an epoch.
        histogram_epochs: passes between histograms of weights and gradients; 0: none, and the
            gradients need not outlive their step.
    """

    checkpoint_epochs: Annotated[float, Field(gt=0)] = 1.0
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 10.0
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    log_steps: Annotated[int, Field(ge=0)] = 0
    histogram_epochs: Annotated[float, Field(ge=0)] = 1.0


def _unchanged(optimizer: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    del steps
    return optimizer


@dataclasses.dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        name: the stage's name, which labels logs.
        directory: where checkpoints and logs go.
        network: the model, or what trains like one.
        dataset: batches to train and to evaluate on.
        augment: from the config's list.
        config: what decides the result.
        run: what does not.
        precision: of storage and computing.
        mesh: the devices.
        layout: how parameters are split over the mesh.
        seed: of the order of batches and all random keys.
        wrap: makes, of the optimizer and the number of steps, the one to use: for pruning.
        objective: what is minimized; None: the cross-entropy with the labels.
        constants: arrays that the objective needs; see `train_step.Objective`.
        extend: adds to a batch what else the objective needs of each row.
    """

    name: str
    directory: Path
    network: Trainable
    dataset: Dataset
    augment: Augment
    config: TrainConfig
    run: RunConfig
    precision: Precision
    mesh: Mesh
    layout: meshes.MeshConfig
    seed: int
    wrap: Callable[[optax.GradientTransformation, int], optax.GradientTransformation] = _unchanged
    objective: Objective | None = None
    constants: PyTree = ()
    extend: Callable[[Batch], Batch] = lambda batch: batch

    @property
    def minimized(self) -> Objective:
        """The objective, or what it is by default."""
        if self.objective is not None:
            return self.objective
        smoothing, network = self.config.label_smoothing, self.network
        if isinstance(network, Network) and network.foretells and not smoothing:
            return train_step.foretelling(network)
        return supervised(network, smoothing)

    @property
    def total_steps(self) -> int:
        """Updates in all the epochs."""
        return max(1, round(self.config.epochs * self.dataset.steps_per_epoch))

    @property
    def rate(self) -> optax.Schedule:
        """The learning rate by step."""
        return optimizers.learning_rate(self.config, self.total_steps, self.every(1))

    @property
    def bias_share(self) -> optax.Schedule | None:
        """What share of their step routers' biases take, by step; None: all, always.

        Early, while the learning rate rises, they have the furthest to go.
        """
        if not getattr(self.config, "anneal_biases", False):
            return None
        config = self.config.model_copy(update={"warmup_epochs": 0.0})
        falling = optimizers.learning_rate(config, self.total_steps, self.every(1))
        return lambda step: falling(step) / config.lr

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer, wrapped."""
        return self.wrap(optimizers.build(self.config, self.rate), self.total_steps)

    def every(self, epochs: float) -> int:
        """Updates in so many epochs, at least one; 0 for none."""
        return max(1, round(epochs * self.dataset.steps_per_epoch)) if epochs else 0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What training gave.

    Attributes:
        variables: to evaluate and hand on.
        opt_state: the optimizer's state that goes with them.
        steps: updates done.
        seconds: time in the loop, over all the processes that took turns at it.
    """

    variables: Variables
    opt_state: PyTree
    steps: int
    seconds: float


@dataclasses.dataclass
class Progress:
    """What is saved beside the arrays; plain JSON.

    Attributes:
        data: the state of the iterator over batches; empty at the start.
        seconds: time in the loop so far.
        score: `Criterion.quality`, where the last step was evaluated and found the best so far.
        best_score: the highest so far.
        best_step: where it was reached.
        bad_evaluations: evaluations since then.
        rollbacks: how often the run diverged and went back.
        stopped: whether patience ran out.
    """

    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    score: float | None = None
    best_score: float = -1.0
    best_step: int = 0
    bad_evaluations: int = 0
    rollbacks: int = 0
    stopped: bool = False

    def judge(self, step: int, score: float, patience: int) -> bool:
        """Takes an evaluation's score and says whether it is the best so far."""
        improved = score > self.best_score
        if improved:
            self.score, self.best_score, self.best_step = score, score, step
        self.bad_evaluations = 0 if improved else self.bad_evaluations + 1
        self.stopped = 0 < patience <= self.bad_evaluations
        return improved


def fit(job: Job, variables: Variables, preemption: Preemption) -> Outcome:
    """Trains from `variables` and returns the outcome; goes on from a checkpoint if there is one.

    Raises:
        Diverged: see `TrainConfig.on_nan`.
        Preempted: SIGTERM came; the state is saved.
        OSError: a checkpoint or a log could not be written; the last complete one is intact.
    """
    fresh = start(job, variables)
    shardings = state_shardings(fresh, job)
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        fresh,
        shardings,
    )
    step = compiled_step(job, shardings)
    directory = job.directory / "checkpoints"
    with Checkpointer(directory, job.run.keep_checkpoints) as checkpointer:
        rollbacks, again = 0, False
        while True:
            found = checkpointer.restore(abstract)
            if found:
                LOG.info("%s: going on from step %d/%d", job.name, found.step, job.total_steps)
                state, progress = found.state, Progress(**found.progress)
            else:
                # Copies, because the state is donated and the caller may keep the variables.
                state = jax.device_put(jax.tree.map(jnp.copy, fresh), shardings)
                progress = Progress()
            if rollbacks > progress.rollbacks:
                progress.rollbacks = rollbacks
                slower = optimizers.set_rate_scale(state.opt_state, 0.5**rollbacks)
                state = jax.device_put(state._replace(opt_state=slower), shardings)
            try:
                state = _loop(job, step, state, progress, checkpointer, preemption)
            except Diverged as diverged:
                rollbacks = progress.rollbacks + 1
                if job.config.on_nan == "stop" or rollbacks > MAX_ROLLBACKS:
                    raise
                LOG.error("%s; rolling back, learning rate x %g", diverged, 0.5**rollbacks)
                continue
            steps = int(state.step)
            if job.config.keep == "best":
                best = checkpointer.restore_best(progress.best_step, abstract)
                if best is None and again:
                    raise OSError(f"{directory}: the best checkpoint is damaged a second time")
                if best is None:
                    again = True
                    continue
                state = best.state
            break
    return Outcome(train_step.result(state), state.opt_state, steps, progress.seconds)


def start(job: Job, variables: Variables) -> TrainState:
    """The state before the first step."""
    return train_step.start(
        variables,
        job.optimizer,
        seed=job.seed,
        initial_scale=job.precision.initial_scale,
        ema=job.config.ema > 0,
    )


def compiled_step(job: Job, shardings: PyTree) -> jax.stages.Wrapped:
    """The step as the loop runs it: (state, batch, constants) -> (state, metrics), jitted."""
    step = train_step.make_step(
        job.minimized,
        job.optimizer,
        job.rate,
        job.config,
        job.augment,
        give_gradients=job.run.histogram_epochs > 0,
        bias_share=job.bias_share,
    )
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def state_shardings(state: TrainState, job: Job) -> PyTree:
    """Where every leaf of a training state of the job lies."""
    sizes = {path: tuple(leaf.shape) for path, leaf in paths.flatten(state.params).items()}
    specs = meshes.parameter_specs(job.layout, sizes, job.mesh.devices.shape)
    return meshes.state_shardings(state, state.params, specs, job.mesh)


def _loop(
    job: Job,
    train: Callable[..., tuple[TrainState, train_step.Metrics]],
    state: TrainState,
    progress: Progress,
    checkpointer: Checkpointer,
    preemption: Preemption,
) -> TrainState:
    """Trains to the end; `progress` is changed in place."""
    total, step = job.total_steps, int(state.step)
    batches = job.dataset.batches(
        job.seed, process_index=jax.process_index(), process_count=jax.process_count()
    )
    if progress.data:
        batches.set_state(progress.data)
    evaluate = evaluation.make(job.network, job.dataset, job.mesh)
    criterion = evaluation.CRITERIA[job.dataset.info.modality]
    eval_steps, save_steps = job.every(job.config.eval_epochs), job.every(job.run.checkpoint_epochs)
    histogram_steps = job.every(job.run.histogram_epochs)
    log_steps = job.run.log_steps or job.every(1 / 20)

    log = RunLog(job.directory, job.name, step=step, enabled=jax.process_index() == 0)
    with log, log.progress(total) as bar:
        window = Window(log, bar, batch_size=job.dataset.batch_size, log_steps=log_steps)
        clock = saved = time.monotonic()
        while step < total and not progress.stopped:
            batch = meshes.put_batch(job.extend(next(batches)), job.mesh)
            if step == 0:
                log.hparams(job.config.model_dump(), [f"eval/{criterion.name}"])
                if job.dataset.info.modality == IMAGE:
                    log.images(0, "augmented", _first_images(job, state, batch))
            state, metrics = train(state, batch, job.constants)
            step += 1
            gradients = metrics.pop("gradients", None)
            window.add(step, metrics)
            checkpointer.settle()
            if histogram_steps and (step == 1 or step % histogram_steps == 0):
                log.histograms(step, "weights", evaluation.to_host(state.params))
                log.histograms(step, "gradients", evaluation.to_host(gradients))

            improved, progress.score = False, None
            evaluated = step % eval_steps == 0 or step == total
            preempted = preemption.reached()
            due = step % save_steps == 0 and bool(
                processes.from_first(time.monotonic() - saved >= job.run.checkpoint_seconds)
            )
            if evaluated or due or preempted:
                window.drain()  # what is evaluated or saved is known to be finite
            if window.failed is not None:
                raise divergence.explain(job, state, window.failed)
            if evaluated:
                scores = evaluate(train_step.result(state))
                log.scalars(step, {f"eval/{name}": value for name, value in scores.items()})
                improved = progress.judge(step, criterion.quality(scores), job.config.patience)
            ended = step == total or progress.stopped
            if due or preempted or ended or (improved and job.config.keep == "best"):
                now = time.monotonic()
                progress.seconds += now - clock
                clock = saved = now
                progress.data = batches.get_state()
                log.flush()
                checkpointer.save(step, state, dataclasses.asdict(progress))
            if preempted and not ended:  # a run that has ended is saved by its stage
                checkpointer.wait()
                raise Preempted(f"{job.name}: saved at step {step} of {total}")
    return state


def _first_images(job: Job, state: TrainState, batch: dict[str, jax.Array]) -> PyTree:
    key = jax.random.wrap_key_data(state.key)
    augmented = jax.jit(lambda key, images: job.augment(key, prepare(images)))(key, batch["input"])
    return evaluation.to_host(augmented)
