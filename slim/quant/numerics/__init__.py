"""Quantized numbers: formats, tensors, scales and their gradients, over plain arrays.

    shape = scale_shape(kernel.shape, contracted=(0,), granularity="channel")
    low, high = WEIGHT_RANGES["mse"](kernel, shape, "int4", symmetric=True)
    scale, zero_point = choose_scale(low, high, "int4", symmetric=True)
    q = quantize(kernel, scale, zero_point, "int4")
    kernel_again = dequantize(q)
    fake_quantize(kernel, scale, zero_point, "int4")  # the same numbers, with gradients

A number x is stored as n, an integer (or a float of 8 or 16 bits), and stands for (n - zero_point)
scale.
Formats are named throughout; `FORMATS` holds what there is to know of each.
"""

from slim.quant.numerics.blocks import Granularity, scale_shape
from slim.quant.numerics.extremes import extremes
from slim.quant.numerics.fake import fake_quantize, grad_scale
from slim.quant.numerics.formats import FORMATS, Format, find_format
from slim.quant.numerics.packing import pack, unpack
from slim.quant.numerics.qtensor import QTensor, check, dequantize, quantize
from slim.quant.numerics.ranges import WEIGHT_RANGES, WeightRange
from slim.quant.numerics.scales import choose_scale

__all__ = [
    "FORMATS",
    "WEIGHT_RANGES",
    "Format",
    "Granularity",
    "QTensor",
    "WeightRange",
    "check",
    "choose_scale",
    "dequantize",
    "extremes",
    "fake_quantize",
    "find_format",
    "grad_scale",
    "pack",
    "quantize",
    "scale_shape",
    "unpack",
]
