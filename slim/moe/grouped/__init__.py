"""Rows sorted by expert through their experts: one way for each platform.

    y = BACKENDS["blocks"](swiglu_rows, weights, x, sizes)        x (rows, width), sizes (experts,)
    y = grouped_matmul(x, w, sizes, BACKENDS["blocks"])           w (experts, width, hidden)

The rows of expert e are the `sizes[e]` after those of the experts before it; for rows past the sum
of sizes come out zeros, and they give no gradients. Work is in proportion to rows, not to experts
(`ragged`: where XLA has it, which is on TPU). `platform` leaves the choice to the lowering, so a
program compiled here for a TPU takes the TPU's; `backend_for` tells a known platform's. `blocks`,
`padded` and `platform` keep x alone for the backward pass and compute the rest again; `ragged` by
itself keeps activations. Under `jax.vmap` only `blocks` and `padded` work: JAX has no such rule for
`ragged_dot`, which `platform` holds too.
A new backend is a `Grouped` in a file of its own, a line in `BACKENDS`, and one in `PLATFORMS`.
"""

from collections.abc import Mapping

import jax

from slim.moe.experts import Grouped, Matmul
from slim.moe.grouped.blocks import blockwise
from slim.moe.grouped.by_platform import by_platform
from slim.moe.grouped.padded import batched
from slim.moe.grouped.ragged import by_ragged_dot
from slim.paths import unknown_name

PLATFORMS: Mapping[str, str] = {
    "cpu": "blocks",
    "tpu": "ragged",
    "gpu": "padded",
    "cuda": "padded",
    "rocm": "padded",
}
"""The backend of each platform that a program is compiled for."""

_OWN: dict[str, Grouped] = {"blocks": blockwise, "padded": batched, "ragged": by_ragged_dot}
_LOWERED = {platform: _OWN[name] for platform, name in PLATFORMS.items() if platform != "gpu"}

BACKENDS: dict[str, Grouped] = _OWN | {"platform": by_platform(_LOWERED)}


def backend_for(platform: str) -> str:
    """The backend of a target platform: its name in `BACKENDS`.

    Raises:
        ValueError: a platform that has none.

    >>> backend_for("tpu")
    'ragged'
    """
    if platform not in PLATFORMS:
        raise ValueError(unknown_name("platform", platform, PLATFORMS))
    return PLATFORMS[platform]


def backend_named(name: str) -> Grouped:
    """The backend of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in BACKENDS:
        raise ValueError(unknown_name("backend", name, BACKENDS))
    return BACKENDS[name]


def grouped_matmul(
    x: jax.Array, weights: jax.Array, sizes: jax.Array, grouped: Grouped
) -> jax.Array:
    """Each row times its expert's matrix.

    Args:
        x: `(rows, width)`, sorted by expert.
        weights: `(experts, width, hidden)`.
        sizes: `(experts,)` integers.
        grouped: one of `BACKENDS`.

    Returns:
        `(rows, hidden)`.
    """
    return grouped(_product, weights, x, sizes)


def _product(matmul: Matmul, weights: jax.Array, x: jax.Array) -> jax.Array:
    return matmul(x, weights)
