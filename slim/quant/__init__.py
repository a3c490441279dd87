"""From calibration to integers, on any traced function.

    sites = assign(graph, policy)                      what every site gets; explain(graph, policy)
    scales = calibrate(graph, sites, params, batches)  one more pytree beside the parameters
    fn = simulate(graph, sites)                        fn(params, scales, *inputs), to train
    small = convert(graph, sites, params, scales)      integers
    fn = execute(graph, sites)                         fn(small, *inputs), equal to the simulation

    effects = measure_sites(graph, params, options, batches)   each site quantized alone, each way
    best = allocate(effects.tables(costs), budget)             the best format for every site
    sites, scales = mix(options, best.formats)                 mixed precision
    (sites, scales), _ = auto(options, effects, seconds, tolerance)   the fastest that is tolerable

The graph may be of a Linen, NNX or plain function: nothing is wrapped, layers are not named but by
the paths of their parameters.
"""

from slim.quant.allocation import Allocation, Tables, allocate, cheapest, pareto
from slim.quant.batch_statistics import reestimate
from slim.quant.bias_correction import bias_correction
from slim.quant.calibrate import calibrate, weight_scales
from slim.quant.costs import COSTS, bit_operations, weight_bytes
from slim.quant.integer import Quantized, convert, execute
from slim.quant.learned import join, separate
from slim.quant.policy import (
    Activations,
    Assigned,
    Policy,
    Role,
    Rule,
    Weights,
    assign,
    explain,
    explain_sites,
)
from slim.quant.precision import auto
from slim.quant.sensitivity import Effects, Option, choose, measure_sites, mix
from slim.quant.simulate import Scale, Scales, simulate
from slim.quant.smoothing import awq, smoothquant
from slim.quant.stored import Quantization, restore, store
from slim.quant.trained import TRAINED

__all__ = [
    "COSTS",
    "TRAINED",
    "Activations",
    "Allocation",
    "Assigned",
    "Effects",
    "Option",
    "Policy",
    "Quantization",
    "Quantized",
    "Role",
    "Rule",
    "Scale",
    "Scales",
    "Tables",
    "Weights",
    "allocate",
    "assign",
    "auto",
    "awq",
    "bias_correction",
    "bit_operations",
    "calibrate",
    "cheapest",
    "choose",
    "convert",
    "execute",
    "explain",
    "explain_sites",
    "join",
    "measure_sites",
    "mix",
    "pareto",
    "reestimate",
    "restore",
    "separate",
    "simulate",
    "smoothquant",
    "store",
    "weight_bytes",
    "weight_scales",
]
