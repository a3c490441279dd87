"""One operation that rounds to what integers hold, by numbers that are known when it is traced."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir

from slim.quant.numerics import fake_quantize

NAME = "slim_fake_quant"


@dataclass(frozen=True, eq=False)
class Grid:
    """What is rounded to; compared by identity, so that JAX may keep it as a parameter.

    Attributes:
        scale: float32, of a shape as in `slim.quant.numerics.QTensor`.
        zero_point: int32 of that shape, or None.
        format: a name of `slim.quant.numerics.FORMATS`.
    """

    scale: np.ndarray
    zero_point: np.ndarray | None
    format: str

    def params(self, shape: tuple[Any, ...]) -> dict[str, Any]:
        """As a Node has it, of an operand of that shape."""
        varies = [d for d, n in enumerate(self.scale.shape) if n > 1]
        groups = [d for d in varies if self.scale.shape[d] != shape[d]]
        return {
            "scale": self.scale,
            "zero_point": self.zero_point,
            "format": self.format,
            "axis": varies[0] if len(varies) == 1 and not groups else None,
            "group": shape[groups[0]] // self.scale.shape[groups[0]] if groups else None,
        }


def fake_quant(
    x: jax.Array, scale: np.ndarray, zero_point: np.ndarray | None, format: str
) -> jax.Array:
    """`slim.quant.numerics.fake_quantize` as one operation, which writers make integers of.

    Args:
        x: of any float dtype.
        scale: float32, of a shape as in `QTensor`; known, not traced.
        zero_point: int32 of that shape, or None.
        format: a name of `slim.quant.numerics.FORMATS`.

    >>> fake_quant(jnp.array([0.26, 9.0]), np.array([0.5], np.float32), None, "int4").tolist()
    [0.5, 3.5]
    """
    zero = None if zero_point is None else np.asarray(zero_point)
    result: jax.Array = _primitive.bind(x, grid=Grid(np.asarray(scale), zero, format))
    return result


def compute(x: jax.Array, grid: Grid) -> jax.Array:
    """The numbers, by the operations that it stands for."""
    zero = None if grid.zero_point is None else jnp.asarray(grid.zero_point)
    return fake_quantize(x, jnp.asarray(grid.scale), zero, grid.format)


_primitive = Primitive(NAME)
_primitive.def_impl(compute)
_primitive.def_abstract_eval(lambda x, grid: x)
mlir.register_lowering(_primitive, mlir.lower_fun(compute, multiple_results=False))
