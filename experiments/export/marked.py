"""A quantized network as floats with marks: a fake_quant where a number is rounded.

Writers make integers of them where their target can.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments.network import Network, Variables
from slim.export.fake_quant import fake_quant
from slim.graph import Contraction, rewrite
from slim.quant import Quantization, restore
from slim.quant.numerics import QTensor, dequantize
from slim.quant.simulate import Scale
from slim.quant.state import corrected, smoothed


def marked(network: Network, variables: Variables) -> Callable[..., jax.Array]:
    """The network's `predict`, of these variables, with a mark on each quantized operand.

    Args:
        network: whose last cut is its quantization.
        variables: of it, known, since marks hold their scales.

    Raises:
        ValueError: a quantized site inside a scan, whose rounds have a scale each.
    """
    plan, before = network.plans[-1], network.before
    assert isinstance(plan, Quantization)
    assert before is not None
    graph = before.graph()
    sites = plan.on(graph)
    scales = restore(sites, variables).sites
    if inside := [name for name, each in sites.items() if each.site.loops]:
        raise ValueError(
            f"site {inside[0]!r} is quantized inside a scan, whose rounds have a scale each: only "
            "targets that take JAX's own integers (stablehlo) express that"
        )

    def mark(x: jax.Array, scale: Scale | QTensor, format: str) -> jax.Array:
        zero = None if scale.zero_point is None else np.asarray(scale.zero_point)
        return fake_quant(x, np.asarray(scale.scale), zero, format)

    def hook(contract: Contraction, operands: Sequence[Any], given: Any) -> tuple[Any, Any]:
        name = contract.site.name
        assigned, known = sites[name], scales[name]
        operands = smoothed(assigned, operands, given)
        for role in assigned.roles:
            held, place = given[role.name], role.operand
            if isinstance(held, QTensor):
                like: Any = contract.eqn.invars[place].aval
                operands[place] = dequantize(held, like.dtype)
            operands[place] = mark(operands[place], known[role.name], role.spec.format)
        return corrected(contract(*operands), given), given

    rewritten = rewrite(graph, hook)

    def predict(variables: Variables, inputs: jax.Array) -> jax.Array:
        whole = restore(sites, variables)
        logits: jax.Array = rewritten(whole.params, whole.sites, inputs)[0]
        return logits

    return predict
