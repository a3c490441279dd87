"""From calibration to integers, on any traced function.

    sites = assign(graph, policy)                      what every site gets; explain(graph, policy)
    scales = calibrate(graph, sites, params, batches)  one more pytree beside the parameters
    fn = simulate(graph, sites)                        fn(params, scales, *inputs), to train
    small = convert(graph, sites, params, scales)      integers
    fn = execute(graph, sites)                         fn(small, *inputs), equal to the simulation

The graph may be of a Linen, NNX or plain function: nothing is wrapped, layers are not named but by
the paths of their parameters.
"""

from slim.quant.calibrate import calibrate, weight_scales
from slim.quant.integer import Quantized, convert, execute
from slim.quant.policy import (
    Activations,
    Assigned,
    Policy,
    Role,
    Rule,
    Weights,
    assign,
    explain,
)
from slim.quant.simulate import Scale, Scales, simulate
from slim.quant.trained import TRAINED

__all__ = [
    "TRAINED",
    "Activations",
    "Assigned",
    "Policy",
    "Quantized",
    "Role",
    "Rule",
    "Scale",
    "Scales",
    "Weights",
    "assign",
    "calibrate",
    "convert",
    "execute",
    "explain",
    "simulate",
    "weight_scales",
]
