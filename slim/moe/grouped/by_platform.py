"""The choice among backends, made when a program is lowered, for the platform it is lowered for."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from slim.moe.experts import Grouped, PyTree, RowFn
from slim.moe.grouped.varying import alike


def by_platform(backends: Mapping[str, Grouped]) -> Grouped:
    """A `Grouped` that is on each platform the one given for it.

    `jax.lax.platform_dependent` alone keeps what any of its branches keeps for the backward pass.
    Here all keep the arguments, and the backward pass computes again what it needs beside them.
    """

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def chosen(fn: RowFn, weights: PyTree, x: jax.Array, sizes: jax.Array) -> jax.Array:
        return _choose(backends, lambda grouped: partial(grouped, fn), weights, x, sizes)

    def forward(
        fn: RowFn, weights: PyTree, x: jax.Array, sizes: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, jax.Array, jax.Array]]:
        return chosen(fn, weights, x, sizes), (weights, x, sizes)

    def backward(
        fn: RowFn, kept: tuple[PyTree, jax.Array, jax.Array], gradient: jax.Array
    ) -> tuple[PyTree, jax.Array, None]:
        def pulled(grouped: Grouped) -> Callable[..., tuple[PyTree, jax.Array]]:
            def pull(weights: PyTree, x: jax.Array, sizes: jax.Array, dy: jax.Array) -> Any:
                return jax.vjp(lambda w, x: grouped(fn, w, x, sizes), weights, x)[1](dy)

            return pull

        return *_choose(backends, pulled, *kept, gradient), None

    chosen.defvjp(forward, backward)

    def grouped(fn: RowFn, weights: PyTree, x: jax.Array, sizes: jax.Array) -> jax.Array:
        return chosen(fn, *alike((weights, x, sizes)))

    return grouped


def _choose(
    backends: Mapping[str, Grouped], make: Callable[[Grouped], Callable[..., Any]], *args: Any
) -> Any:
    branches = {platform: make(grouped) for platform, grouped in backends.items()}
    return jax.lax.platform_dependent(*args, **branches)
