"""What a site may have besides its scales: smoothing factors and a correction of its result.

With factors f > 0 for each input and a correction c, a site computes x @ w as

    quantize(x / f) @ quantize(f w) + c

which without rounding and c is x @ w.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slim import paths
from slim.quant.matrices import (
    from_matrix,
    has_parameter,
    parameter_place,
    per_row_of_weights,
    rows,
)
from slim.quant.policy import Assigned

Smoothing = Mapping[str, jax.Array]
"""Factors by site; of each, float32 and positive, in `smoothing_shape`, for each round of the
scans around it."""


def smoothed(assigned: Assigned, operands: Sequence[Any], state: Mapping[str, Any]) -> list[Any]:
    """A site's operands with the data divided by its factors and the parameter, if given, times.

    In float32, and cast back.
    """
    operands = list(operands)
    factors = state.get("smoothing")
    if factors is not None:
        weights = parameter_place(assigned)
        data = operands[1 - weights]
        # A product with the inverse, as in `numerics`: the same bits inside `jit` and outside.
        divided = data.astype(jnp.float32) * (1 / factors)
        operands[1 - weights] = divided.astype(data.dtype)
        if operands[weights] is not None:
            operands[weights] = smooth_weights(assigned, operands[weights], factors)
    return operands


def smooth_weights(assigned: Assigned, w: jax.Array, factors: jax.Array | None) -> jax.Array:
    """F w in one round, computed in float32; w where there are no factors."""
    if factors is None:
        return w
    return (w.astype(jnp.float32) * _factors_of_weights(assigned, factors)).astype(w.dtype)


def corrected(result: jax.Array, state: Mapping[str, Any]) -> jax.Array:
    """A site's result with its correction, if it has one, added in float32."""
    if "correction" not in state:
        return result
    return (result.astype(jnp.float32) + state["correction"]).astype(result.dtype)


def smoothing_shape(assigned: Assigned) -> tuple[int, ...]:
    """The shape of a site's factors in one round: its data's along the inputs, 1 elsewhere.

    A convolution's inputs are the channels, not the window.
    """
    site, place = assigned.site, 1 - parameter_place(assigned)
    along = site.contracted[place][:1] if _is_conv(assigned) else site.contracted[place]
    return tuple(n if d in along else 1 for d, n in enumerate(site.shapes[place]))


def correction_shape(assigned: Assigned) -> tuple[int, ...]:
    """The shape of a site's correction in one round: its parameter's outputs, 1 elsewhere."""
    site = assigned.site
    own = site.outputs[parameter_place(assigned)]
    return tuple(n if d in own else 1 for d, n in enumerate(site.result))


def check_smoothing(sites: Mapping[str, Assigned], smoothing: Smoothing) -> None:
    """Check factors against the sites; of traced ones, shapes and dtypes only.

    Raises:
        ValueError: a name of no quantized site with a parameter, another shape or dtype, or
            factors that are not finite and positive.
    """
    fed = {name: each for name, each in sites.items() if each.roles and has_parameter(each)}
    for name, factors in smoothing.items():
        if name not in fed:
            near = ", ".join(paths.nearest(name, fed) or sorted(fed)[:3])
            raise ValueError(
                f"smoothing of {name!r}, which is no quantized site with a parameter; nearest: "
                f"{near}"
            )
        if _is_conv(fed[name]) and parameter_place(fed[name]) == 0:
            raise ValueError(
                f"smoothing of {name!r}, a convolution of a parameter with a kernel that is data: "
                "leave it out; factors go with kernels"
            )
        shape = (*fed[name].site.loops, *smoothing_shape(fed[name]))
        if factors.shape != shape or factors.dtype != jnp.float32:
            raise ValueError(
                f"smoothing of {name!r} is {factors.dtype} of shape {factors.shape}: must be "
                f"float32 of shape {shape}, a factor for each input"
            )
        if isinstance(factors, jax.core.Tracer):
            continue
        bad = np.asarray(~(jnp.isfinite(factors) & (factors > 0)))
        if bad.any():
            raise ValueError(
                f"smoothing of {name!r} holds {np.asarray(factors)[bad][0]}: factors must be "
                "finite and positive"
            )


def _factors_of_weights(assigned: Assigned, factors: jax.Array) -> jax.Array:
    if not _is_conv(assigned):
        return per_row_of_weights(assigned, rows(assigned, factors)[0])
    shape, (channels, *window) = assigned.site.shapes[1], assigned.site.contracted[1]
    # Of grouped convolutions each output meets the channels of its own group.
    by_group = factors.reshape(-1, shape[channels])
    outputs = next(d for d in range(len(shape)) if d not in (channels, *window))
    each = jnp.repeat(by_group, shape[outputs] // len(by_group), axis=0)
    return from_matrix(assigned, each.T, [1 if d in window else n for d, n in enumerate(shape)])


def _is_conv(assigned: Assigned) -> bool:
    return assigned.site.primitive.startswith("conv")
