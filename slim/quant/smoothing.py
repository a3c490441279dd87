"""SmoothQuant and AWQ on a graph: factors of the inputs of matrix products, for `calibrate`.

    factors = smoothquant(graph, sites, params, batches)     weights and data are quantized
    factors = awq(graph, sites, params, batches)             weights alone are
    scales = calibrate(graph, sites, params, batches, smoothing=factors)

Sites of both kinds may be in one graph; each method takes its own, and `|` joins their factors.
The data is divided where the site is: of several that read the same value (queries, keys, values)
each has factors of its own, which fit it better than those in common that a deployment needs, where
the division is made part of the norm before.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slim.graph import Graph, site_parameters
from slim.quant.awq_core import awq_factors
from slim.quant.hessian import input_hessian
from slim.quant.matrices import is_matmul, matrix, per_input
from slim.quant.numerics import extremes
from slim.quant.passes import measure_inputs
from slim.quant.policy import Assigned, Role, Weights
from slim.quant.smoothquant_core import smoothing_factors

PyTree = Any


def smoothquant(
    graph: Graph,
    sites: Mapping[str, Assigned],
    params: PyTree,
    batches: Iterable[tuple[Any, ...]],
    *,
    alpha: float = 0.5,
) -> dict[str, jax.Array]:
    """f_j = max |x_j|^alpha / max |w_j|^(1 - alpha) of every matrix product, by site.

    Of those whose weights and data are quantized; max |x_j| is over all batches. Xiao et al. 2022,
    arXiv:2211.10438.

    Args:
        graph: of the evaluation function.
        sites: what each site gets; see `assign`.
        params: the float parameters.
        batches: tuples of inputs.
        alpha: how much of the difficulty goes to the weights, from 0 to 1.

    Returns:
        float32, in a shape that broadcasts with the site's data; inside scans for each round.

    Raises:
        ValueError: no batches; inputs that are not finite; alpha is outside [0, 1].
    """
    chosen = {n: each for n, each in sites.items() if is_matmul(each) and each.activations}
    reaches, _ = measure_inputs(
        graph,
        chosen,
        params,
        batches,
        _reach,
        join=jnp.maximum,
        what="SmoothQuant needs the inputs of",
    )
    operands = site_parameters(graph, params)

    def factors(name: str, assigned: Assigned) -> jax.Array:
        def one(w: jax.Array, reach: jax.Array) -> jax.Array:
            weight_reach = jnp.abs(matrix(assigned, w)).max(1)
            return per_input(assigned, smoothing_factors(reach, weight_reach, alpha))

        _check_finite(name, reaches[name])
        found: jax.Array = assigned.each_round(one)(operands[name], reaches[name])
        return found

    return {name: factors(name, assigned) for name, assigned in chosen.items()}


def awq(
    graph: Graph,
    sites: Mapping[str, Assigned],
    params: PyTree,
    batches: Iterable[tuple[Any, ...]],
) -> dict[str, jax.Array]:
    """AWQ's factors of every matrix product whose weights alone are quantized, by site.

    Those of `awq_factors` for the site's own format, granularity and range: rounded, its outputs on
    the batches change no more than without them. Lin et al. 2023, arXiv:2306.00978.

    Args:
        graph: of the evaluation function.
        sites: what each site gets; see `assign`.
        params: the float parameters.
        batches: tuples of inputs, of equal weight.

    Returns:
        float32, in a shape that broadcasts with the site's data; inside scans for each round.

    Raises:
        ValueError: no batches; inputs that are not finite.
    """
    chosen = {n: each for n, each in sites.items() if is_matmul(each) and not each.activations}
    totals, count = measure_inputs(
        graph,
        chosen,
        params,
        batches,
        lambda x: (input_hessian(x), jnp.abs(x).astype(jnp.float32).mean(0)),
        what="AWQ needs the inputs of",
    )
    operands = site_parameters(graph, params)

    def factors(name: str, assigned: Assigned) -> jax.Array:
        role = assigned.parameter
        assert role is not None

        def one(w: jax.Array, hessian: jax.Array, mean: jax.Array) -> jax.Array:
            spec, shape = role.spec, _matrix_scale_shape(assigned, role)
            assert isinstance(spec, Weights)
            rounding = (shape, spec.format, spec.symmetric, spec.range)
            return per_input(assigned, awq_factors(matrix(assigned, w), hessian, mean, *rounding))

        hessian, mean = (total / count for total in totals[name])
        _check_finite(name, hessian)
        found: jax.Array = assigned.each_round(one)(operands[name], hessian, mean)
        return found

    return {name: factors(name, assigned) for name, assigned in chosen.items()}


def _reach(x: jax.Array) -> jax.Array:
    _, reach = extremes(jnp.abs(x), axis=0)
    return reach


def _matrix_scale_shape(assigned: Assigned, role: Role) -> tuple[int, ...]:
    scale = jax.ShapeDtypeStruct(assigned.scale_shape(role), jnp.float32)
    return jax.eval_shape(lambda scale: matrix(assigned, scale), scale).shape


def _check_finite(name: str, seen: jax.Array) -> None:
    if not isinstance(seen, jax.core.Tracer) and not np.isfinite(seen).all():
        raise ValueError(
            f"site {name!r} was given NaN or infinite values, or such that overflow when squared: "
            "the float model must be finite on the calibration data"
        )
