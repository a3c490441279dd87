"""A part of `experiments.bench.prune`: shrunk networks beside the same ones written by hand.

Every channel, hidden width, head width and residual stream is cut to its first half. That is what
`slim.models` builds at half the width, so the network by hand is an independent program with
parameters of the same shapes. Both are checked to compute the same function before they are timed.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench.record import Row
from experiments.timing import in_turn
from slim import graph, models, paths

PyTree = Any
CLASSES = 10
GOAL = "<= 1.02"
TOLERANCE = 1e-4
SECONDS = 25.0  # of samples, for each pair
OPTIMIZER = optax.sgd(0.01, momentum=0.9)

# The parameters that add to the ViT's residual stream, each along its last dimension.
_STREAM = re.compile(r"(class_token|position_embedding|(patch_embedding|out|mlp2)/\w+)$")


@dataclass(frozen=True)
class Case:
    """A network, and what its first half is by hand.

    Attributes:
        name: what the rows call it.
        full: the network that is shrunk.
        by_hand: the network at half the width.
        images: the shape of a batch.
        prepared: of small parameters, those at which both can be compared.
        translated: of these, the parameters with which `by_hand` is the same function.
    """

    name: str
    full: nn.Module
    by_hand: nn.Module
    images: tuple[int, ...]
    prepared: Callable[[PyTree], PyTree] = lambda variables: variables
    translated: Callable[[PyTree], PyTree] = lambda variables: variables


def centred(variables: PyTree) -> PyTree:
    """The ViT with a residual stream of mean zero, whatever the image, and far above epsilon.

    A shrunk layer normalization divides by the width before the cut, as the masked one does. At
    mean zero this is only a factor, which `rescaled` puts into the scale that follows.
    """

    def centre(path: str, leaf: jax.Array) -> jax.Array:
        return 30 * (leaf - leaf.mean(-1, keepdims=True)) if _STREAM.search(path) else leaf

    return paths.map_with_path(centre, variables)


def rescaled(variables: PyTree) -> PyTree:
    """The shrunk ViT's parameters for a ViT whose constants are those of half the width.

    The constants are the layer normalization's count, and the root of the head width.
    """

    def scale(path: str, leaf: jax.Array) -> jax.Array:
        if re.search(r"norm\d?/scale$", path):
            return leaf * math.sqrt(2)
        return leaf / math.sqrt(2) if "/query/" in path else leaf

    return paths.map_with_path(scale, variables)


CASES = (
    Case(
        "ResNet-20, 28x28x1, batch 64",
        models.create("resnet20", num_classes=CLASSES),
        models.create("resnet20", num_classes=CLASSES, width=8),
        (64, 28, 28, 1),
    ),
    Case(
        "ViT-Ti, 64x64x3 in patches of 8, batch 8",
        models.ViT(width=192, depth=12, heads=3, num_classes=CLASSES, patch_size=8),
        models.ViT(width=96, depth=12, heads=3, num_classes=CLASSES, patch_size=8),
        (8, 64, 64, 3),
        centred,
        rescaled,
    ),
)


def measure(case: Case) -> list[Row]:
    """The forward pass and the train step of the shrunk network beside the one by hand.

    Raises:
        RuntimeError: the two have not the same shapes, or do not compute the same.
    """
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random(case.images, np.float32))
    labels = jnp.asarray(rng.integers(0, CLASSES, case.images[0]), jnp.int32)
    full = jax.jit(partial(case.full.init, train=False))(jax.random.key(0), images)

    traced = graph.trace(partial(_predict, case.full), full, images)
    # All but the number of heads, 3, is even.
    halves = {g.name: range(g.size // 2) for g in graph.groups(traced) if g.size % 2 == 0}
    plan = graph.make_plan(traced, {name: list(kept) for name, kept in halves.items()})
    small = case.prepared(graph.shrink(plan, full))
    hand = case.translated(small)
    _require_shapes(case, hand, images)

    loss = graph.replay(graph.trace(partial(_loss, case.full), full, images, labels), plan)
    return [
        *_compare(
            f"{case.name}: forward",
            (graph.replay(traced, plan), (small, images)),
            (partial(_predict, case.by_hand), (hand, images)),
        ),
        *_compare(
            f"{case.name}: train step",
            (_step(loss), (_start(small), images, labels)),
            (_step(partial(_loss, case.by_hand)), (_start(hand), images, labels)),
        ),
    ]


def _predict(module: nn.Module, variables: PyTree, images: jax.Array) -> Any:
    return module.apply(variables, images, train=False)


def _loss(
    module: nn.Module, variables: PyTree, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, PyTree]:
    logits, changed = module.apply(variables, images, train=True, mutable=["batch_stats"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), changed


def _start(variables: PyTree) -> PyTree:
    return variables, OPTIMIZER.init(variables["params"])


def _step(loss: Callable[..., Any]) -> Callable[..., Any]:
    """A step of SGD with momentum: the loss, and the state after it."""

    def step(state: PyTree, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, PyTree]:
        variables, slots = state

        def of_params(params: PyTree) -> tuple[jax.Array, PyTree]:
            value: tuple[jax.Array, PyTree] = loss({**variables, "params": params}, images, labels)
            return value

        gradient = jax.value_and_grad(of_params, has_aux=True)
        (value, changed), grads = gradient(variables["params"])
        updates, slots = OPTIMIZER.update(grads, slots)
        params = optax.apply_updates(variables["params"], updates)
        return value, ({**changed, "params": params}, slots)

    return step


def _compare(
    name: str, ours: tuple[Callable[..., Any], Any], peer: tuple[Callable[..., Any], Any]
) -> list[Row]:
    """Time, and length of the compiled program, of two functions, each with its arguments.

    Their first results must be equal. Nothing is donated, so that every call does the same.
    """
    programs = [jax.jit(function).lower(*args).compile() for function, args in (ours, peer)]
    calls = [
        partial(program, *args) for program, (_, args) in zip(programs, (ours, peer), strict=True)
    ]
    mine, other = (jax.tree.leaves(call())[0] for call in calls)
    difference = float(jnp.abs(mine - other).max() / jnp.abs(other).max())
    if not difference < TOLERANCE:
        raise RuntimeError(f"{name}: results differ by {difference:.2g} of the largest")
    times = in_turn(dict(zip(("ours", "peer"), calls, strict=True)), min_seconds=SECONDS)
    ours_s, peer_s = times["ours"], times["peer"]
    mine_long, other_long = ((program.as_text() or "").count(" = ") for program in programs)
    return [
        Row(
            f"{name}, shrunk over by hand",
            1e3 * ours_s.median_s,
            1e3 * peer_s.median_s,
            GOAL,
            "ms",
            ours_s.ratio(peer_s),
        ),
        Row(f"{name}, instructions compiled", mine_long, other_long, GOAL, "instructions"),
    ]


def _require_shapes(case: Case, hand: PyTree, images: jax.Array) -> None:
    like = jax.eval_shape(partial(case.by_hand.init, train=False), jax.random.key(0), images)
    given, expected = (
        {path: leaf.shape for path, leaf in paths.flatten(tree).items()} for tree in (hand, like)
    )
    if given != expected:
        raise RuntimeError(f"{case.name}: shrunk to other shapes than those by hand")
