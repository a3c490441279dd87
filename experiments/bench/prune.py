"""What pruning costs: finding the groups, running the shrunk network, training the sparse one.

    pip install -e '.[bench]'
    python -m experiments.bench.prune

About 7 minutes on 2 quiet cores; on busy ones nothing here means much. Without the extra `bench`
the rows beside Torch-Pruning are left out, and the command says so.

`grouping` and `shrunken` say what their rows are. The sparse step is the trainer's own under the
defaults of the stage `prune` (magnitude, global, cubic), beside the trainer's dense one. Masks are
renewed every 35th step when ResNet-20 is pruned for 2 epochs of Fashion-MNIST; the judged row is
the mean over such a period. Nothing is donated, so that every call of a kind does the same.
"""

import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import optimizers
from experiments.bench import grouping, shrunken
from experiments.bench.record import Row, record
from experiments.network import Network
from experiments.stages.prune import PruneConfig
from experiments.timing import Latency, in_turn
from experiments.train_step import TrainState, make_step, start, supervised
from slim import models
from slim.prune import DISTRIBUTIONS, SCORES, STRUCTURES, sparsify

BATCH = 128
STEPS_PER_EPOCH = 60_000 // BATCH
EPOCHS = 2.0
SECONDS = 60.0


def sparse_step() -> list[Row]:
    """The train step that keeps masks beside the dense one."""
    network = Network(
        models.create("resnet20", num_classes=10), (28, 28, 1), mean=(0.3,), std=(0.35,)
    )
    config = PruneConfig(epochs=EPOCHS)
    total = round(EPOCHS * STEPS_PER_EPOCH)
    rate = optimizers.learning_rate(config, total, STEPS_PER_EPOCH)
    dense = optimizers.build(config, rate)
    schedule = config.falling(total)
    sparse = sparsify(
        dense,
        schedule=schedule,
        score=SCORES[config.score],
        distribution=DISTRIBUTIONS[config.distribution],
        structure=STRUCTURES[config.structure],
    )
    rng = np.random.default_rng(0)
    batch = {
        "input": jnp.asarray(rng.integers(0, 256, (BATCH, 28, 28, 1)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, 10, BATCH), jnp.int32),
    }

    def program(optimizer: optax.GradientTransformation) -> tuple[Any, TrainState]:
        step = make_step(
            supervised(network, 0.0),
            optimizer,
            rate,
            config,
            lambda key, inputs: inputs,
            give_gradients=False,
        )
        variables = jax.jit(network.init)(jax.random.key(0))
        state = start(variables, optimizer, seed=0, initial_scale=1.0, ema=False)
        return jax.jit(step), state

    dense_step, dense_state = program(dense)
    masked_step, masked_state = program(sparse)
    first, second = np.flatnonzero(schedule.due(jnp.arange(total)))[:2].tolist()
    begun, _ = masked_step(_at(masked_state, first), batch)
    renewing = _at(begun, second)
    between, _ = masked_step(renewing, batch)
    times = in_turn(
        {
            "dense": partial(dense_step, dense_state, batch),
            "between": partial(masked_step, between, batch),
            "renewing": partial(masked_step, renewing, batch),
        },
        min_seconds=SECONDS,
    )
    period = second - first
    mean = Latency(
        tuple(
            rest + (new - rest) / period
            for rest, new in zip(
                times["between"].samples_s, times["renewing"].samples_s, strict=True
            )
        ),
        1,
    )
    title = f"ResNet-20, batch {BATCH}: sparse over dense train step"
    return [
        _row(f"{title}, masks renewed every {period} steps", mean, times["dense"], "<= 1.05"),
        _row(f"{title}, between renewals", times["between"], times["dense"]),
        _row(f"{title}, at a renewal", times["renewing"], times["dense"]),
    ]


def _at(state: TrainState, step: int) -> TrainState:
    """The state with so many steps done, for the masks' schedule."""
    return state._replace(opt_state=state.opt_state._replace(step=jnp.int32(step)))


def _row(name: str, ours: Latency, peer: Latency, goal: str = "") -> Row:
    return Row(name, 1e3 * ours.median_s, 1e3 * peer.median_s, goal, "ms", ours.ratio(peer))


def main() -> None:
    """Runs all parts and records their rows."""
    rows = [row for case in shrunken.CASES for row in shrunken.measure(case)]
    rows += sparse_step()
    try:
        rows = grouping.measure() + rows  # last: PyTorch's threads would disturb the others
    except ModuleNotFoundError as error:
        print(
            f"no rows beside Torch-Pruning: {error.name} is missing, pip install -e '.[bench]'",
            file=sys.stderr,
        )
    record("prune", rows)


if __name__ == "__main__":
    main()
