"""A part of `experiments.bench.prune`: finding what is cut together, beside Torch-Pruning.

Ours is `graph.trace` and `graph.groups` on shapes; nothing is executed. The peer's is
`DependencyGraph.build_dependency` on one image and the enumeration of `get_all_groups`. It runs the
model once, so its time has the forward pass in it. Its figure is the better of all threads' and
one's: on busy cores PyTorch's threads wait for one another, many times longer than they compute.
Every round makes both models anew, which is not timed; JAX's caches are emptied before ours.
"""

import gc
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.bench.record import Row
from experiments.network import count
from slim import graph, models

GOAL = "<= 0.25"
ROUNDS = 7
CLASSES = 1000
IMAGE = 224


def measure() -> list[Row]:
    """The rows of both models.

    Raises:
        ImportError: the extra `bench` is not installed.
        RuntimeError: the two packages' models have not equally many parameters.
    """
    import torch_pruning
    import transformers

    def resnet() -> Any:
        config = transformers.ResNetConfig(num_labels=CLASSES)
        return transformers.ResNetForImageClassification(config)

    def vit() -> Any:
        config = transformers.ViTConfig(num_labels=CLASSES)
        return transformers.ViTForImageClassification(config)

    models_by_title = {"ResNet-50": ("resnet50", resnet), "ViT-B/16": ("vit_b", vit)}
    rows = []
    for title, (name, make) in models_by_title.items():
        here, there = count(_model(name)[1]["params"]), sum(p.numel() for p in make().parameters())
        if here != there:
            raise RuntimeError(f"{title}: {here} parameters here, {there} in PyTorch")
        rows += _rows(title, name, partial(_peer, torch_pruning.DependencyGraph, make))
    return rows


def _rows(title: str, name: str, peer: Callable[[], dict[str, float]]) -> list[Row]:
    rounds = [{**_ours(name), **peer()} for _ in range(ROUNDS)]
    seconds = {key: [each[key] for each in rounds] for key in rounds[0]}
    ours = [sum(pair) for pair in zip(seconds["trace"], seconds["groups"], strict=True)]
    best = min((seconds["all threads"], seconds["one thread"]), key=median)
    return [
        Row(
            f"{title}: trace and groups over Torch-Pruning's graph and groups",
            median(ours),
            median(best),
            GOAL,
            "s",
            median(mine / other for mine, other in zip(ours, best, strict=True)),
        ),
        Row(
            f"{title}: of these, JAX's trace over PyTorch's forward pass on one thread",
            median(seconds["trace"]),
            median(seconds["forward"]),
            unit="s",
        ),
    ]


def _model(name: str) -> tuple[nn.Module, Any]:
    """A model and the shapes of its variables."""
    model = models.create(name, num_classes=CLASSES)
    image = jax.ShapeDtypeStruct((1, IMAGE, IMAGE, 3), jnp.float32)
    init = partial(model.init, train=False)
    return model, jax.eval_shape(init, jax.random.key(0), image)


def _ours(name: str) -> dict[str, float]:
    """Seconds to trace a model that has only been initialized, and from there to its groups."""
    jax.clear_caches()
    model, shapes = _model(name)
    image = jax.ShapeDtypeStruct((1, IMAGE, IMAGE, 3), jnp.float32)

    def predict(variables: Any, images: jax.Array) -> Any:
        return model.apply(variables, images, train=False)

    gc.collect()
    start = perf_counter()
    traced = graph.trace(predict, shapes, image)
    middle = perf_counter()
    graph.groups(traced)
    return {"trace": middle - start, "groups": perf_counter() - middle}


def _peer(dependency_graph: Callable[[], Any], make: Callable[[], Any]) -> dict[str, float]:
    """Seconds of the graph and its groups, by threads, and of the forward pass on one thread."""
    import torch

    image = torch.zeros(1, 3, IMAGE, IMAGE)
    seconds = {}
    threads = torch.get_num_threads()
    for key, number in (("all threads", threads), ("one thread", 1)):
        torch.set_num_threads(number)
        model = make().eval()
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says which parameters belong to no layer
            start = perf_counter()
            built = dependency_graph().build_dependency(model, image, verbose=False)
            for _ in built.get_all_groups():
                pass
            seconds[key] = perf_counter() - start
    start = perf_counter()
    model(image)
    seconds["forward"] = perf_counter() - start
    torch.set_num_threads(threads)
    return seconds
