"""Programs of one primitive and of several: what each writer's operators are tried on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

from slim.export import Program, passes
from slim.export.program import program
from tests.slim.export.evaluated import evaluated

rng = np.random.default_rng(0)
X = rng.normal(size=(3, 4, 6)).astype(np.float32)
Y = rng.normal(size=(3, 4, 6)).astype(np.float32)
IMAGES = rng.normal(size=(2, 9, 8, 4)).astype(np.float32)
COUNTS = rng.integers(0, 4, (3, 4)).astype(np.int32)
KERNEL = rng.normal(size=(3, 3, 4, 5)).astype(np.float32)
DEPTHWISE = rng.normal(size=(3, 3, 1, 8)).astype(np.float32)
GROUPED = rng.normal(size=(3, 3, 2, 6)).astype(np.float32)
MATRIX = rng.normal(size=(6, 5)).astype(np.float32)
TABLE = rng.normal(size=(7, 5)).astype(np.float32)
NHWC, NCHW = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")


def conv(x: jax.Array, kernel: np.ndarray, *how: object, **more: object) -> jax.Array:
    strides, padding = how or ((1, 1), "SAME")
    more.setdefault("dimension_numbers", NHWC)
    return lax.conv_general_dilated(x, kernel, strides, padding, **more)


def pool(x: jax.Array, how: str, size: int, stride: int, padding: object) -> jax.Array:
    start, step = (-jnp.inf, lax.max) if how == "max" else (0.0, lax.add)
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, start, step, window, strides, padding)


UNARY: dict[str, Callable[[jax.Array], jax.Array]] = {
    "abs": jnp.abs,
    "ceil": jnp.ceil,
    "cos": jnp.cos,
    "erf": lax.erf,
    "erfc": lax.erfc,
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "floor": jnp.floor,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_swish": jax.nn.hard_swish,
    "integer_pow": lambda x: x**3 + x**2 + (x + 9.0) ** -2,
    "log": lambda x: jnp.log(jnp.abs(x) + 1.0),
    "log1p": lambda x: jnp.log1p(jnp.abs(x)),
    "neg": jnp.negative,
    "relu": jax.nn.relu,
    "relu6": lambda x: jax.nn.relu6(x * 5.0),
    "round": jnp.round,
    "rsqrt": lambda x: lax.rsqrt(jnp.abs(x) + 1.0),
    "sigmoid": jax.nn.sigmoid,
    "sign": jnp.sign,
    "silu": jax.nn.silu,
    "sin": jnp.sin,
    "sqrt": lambda x: jnp.sqrt(jnp.abs(x)),
    "square": jnp.square,
    "tanh": jnp.tanh,
}

SHAPED: dict[str, Callable[[jax.Array], jax.Array]] = {
    "argmax": lambda x: jnp.argmax(x, -1),
    "argmin": lambda x: jnp.argmin(x, 1),
    "broadcast": lambda x: x.mean(1, keepdims=True) + x[:, :1, :1] * jnp.ones((1, 4, 6)),
    "cast": lambda x: (x > 0).astype(jnp.float32) + x.astype(jnp.int32).astype(jnp.float32),
    "clamp": lambda x: jnp.clip(x, -0.5, 0.7),
    "compare": lambda x: ((x > 0.1) | (x < -1.0) & ~(x == 0.0)).astype(jnp.float32),
    "compare_ends": lambda x: ((x >= 0.1) | (x <= -1.0)).astype(jnp.float32),
    "concatenate": lambda x: jnp.concatenate([x, x[:, 1:2] * 2.0], 1),
    "cumsum": lambda x: jnp.cumsum(x, 1),
    "dynamic_slice": lambda x: lax.dynamic_slice_in_dim(x, jnp.argmax(x.sum((0, 2))), 2, 1),
    "einsum": lambda x: jnp.einsum("bij,bkj->bik", x, x),
    "einsum_heads": lambda x: jnp.einsum("bihd,bjhd->bhij", *[x.reshape(-1, 4, 2, 3)] * 2),
    "derived": jax.grad(lambda x: (x * x + jnp.sin(x) * x).sum()),
    "dot": lambda x: x @ MATRIX,
    "dot_bias": lambda x: x @ MATRIX + TABLE[0],
    "dot_left": lambda x: jnp.einsum("oi,bji->obj", MATRIX.T, x),
    "dot_two_dimensions": lambda x: jnp.einsum("bij,ijk->bk", x, MATRIX[None, :, :2].repeat(4, 0)),
    "every": lambda x: jnp.all(x > -1.0, 1) & jnp.any(x > 1.0, 1),
    "iota": lambda x: x + jnp.arange(6.0),
    "iota_of_the_shape": lambda x: x + lax.broadcasted_iota(jnp.float32, x.shape, 2),
    "layer_norm": lambda x: jax.nn.standardize(x, epsilon=1e-5) * TABLE[0, 0] + 0.5,
    "log_softmax": jax.nn.log_softmax,
    "max": lambda x: x.max((1, 2)),
    "mean": lambda x: x.mean(1),
    "min": lambda x: x.min(-1, keepdims=True),
    "pad": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1)), constant_values=0.5),
    "pad_negative": lambda x: lax.pad(x, 0.0, ((0, 0, 0), (-1, 2, 0), (1, -2, 0))),
    "prod": lambda x: x.prod(2),
    "reshape": lambda x: x.reshape(-1, 8, 3),
    "reverse": lambda x: x[:, ::-1],
    "select": lambda x: jnp.where(x > 0, x, x * 0.1),
    "slice": lambda x: x[:, 1:3, ::2],
    "softmax": jax.nn.softmax,
    "squeeze": lambda x: lax.squeeze(x[:, :1] * 2.0, (1,)),
    "softmax_middle": lambda x: jax.nn.softmax(x, axis=1),
    "split": lambda x: jnp.subtract(*jnp.split(x, 2, -1)),
    "sum": lambda x: x.sum((1, 2)),
    "take": lambda x: x[:, np.array([3, 0, 0])],
    "top_k": lambda x: lax.top_k(x, 2)[0] + lax.top_k(x, 2)[1].astype(jnp.float32),
    "transpose": lambda x: x.transpose(0, 2, 1),
    "variance": lambda x: x.var(1),
}

OTHERS: dict[str, tuple[Callable[..., jax.Array], tuple[np.ndarray, ...]]] = {
    "add": (jnp.add, (X, Y)),
    "clamp_by_arrays": (lambda x, y: lax.clamp(-jnp.abs(y), x, jnp.abs(y)), (X, Y)),
    "divide": (lambda x, y: x / (jnp.abs(y) + 1.0), (X, Y)),
    "maximum": (lambda x, y: jnp.maximum(x, y) * jnp.minimum(x, y), (X, Y)),
    "power": (lambda x, y: (jnp.abs(x) + 0.1) ** y, (X, Y)),
    "batch_matmul": (lambda x, y: x @ y.transpose(0, 2, 1), (X, Y)),
    "counts": (lambda n: n * 2 - n // 3 + jnp.maximum(n, 1), (COUNTS,)),
    "embedding": (lambda n: jnp.asarray(TABLE)[n], (COUNTS,)),
    "take_clipped": (lambda n: jnp.take(TABLE, n + 5, axis=0, mode="clip"), (COUNTS,)),
    "take_along": (lambda x, n: jnp.take_along_axis(x, n[..., None], 2), (X, COUNTS)),
    "conv": (lambda x: conv(x, KERNEL), (IMAGES,)),
    "conv_strided": (lambda x: conv(x, KERNEL, (2, 2), "SAME"), (IMAGES,)),
    "conv_padded": (lambda x: conv(x, KERNEL, (2, 1), ((1, 1), (0, 2))), (IMAGES,)),
    "conv_dilated": (lambda x: conv(x, KERNEL, (1, 1), "SAME", rhs_dilation=(2, 2)), (IMAGES,)),
    "conv_depthwise": (lambda x: conv(x, DEPTHWISE, feature_group_count=4), (IMAGES,)),
    "conv_grouped": (lambda x: conv(x, GROUPED, feature_group_count=2), (IMAGES,)),
    "conv_nchw": (
        lambda x: conv(x, KERNEL.transpose(3, 2, 0, 1), dimension_numbers=NCHW),
        (IMAGES.transpose(0, 3, 1, 2),),
    ),
    "conv_of_one_dimension": (
        lambda x: lax.conv_general_dilated(
            x, KERNEL[0], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        ),
        (IMAGES[:, 0],),
    ),
    "max_pool": (lambda x: pool(x, "max", 3, 2, ((0, 0), (1, 1), (1, 1), (0, 0))), (IMAGES,)),
    "max_pool_same": (lambda x: pool(x, "max", 2, 2, "SAME"), (IMAGES,)),
    "sum_pool": (lambda x: pool(x, "sum", 2, 2, "VALID") / 4.0, (IMAGES,)),
    "sum_pool_padded": (lambda x: pool(x, "sum", 3, 1, "SAME"), (IMAGES,)),
}

CASES: Mapping[str, tuple[Callable[..., jax.Array], tuple[np.ndarray, ...]]] = {
    **{name: (fn, (X,)) for name, fn in (UNARY | SHAPED).items()},
    **OTHERS,
}


SQUARE = rng.normal(size=(6, 6)).astype(np.float32) / 3

STEPS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "add": jnp.add,
    "attend": lambda x, y: jax.nn.softmax(x @ y.transpose(0, 2, 1)) @ x,
    "bias": lambda x, _: x + SQUARE[0],
    "centre": lambda x, _: x - x.mean((1, 2), keepdims=True),
    "dot": lambda x, _: x @ SQUARE,
    "gate": lambda x, y: x * jax.nn.sigmoid(y),
    "halves": lambda x, y: jnp.concatenate([x[:, :2], y[:, 2:]], 1),
    "largest": lambda x, y: jnp.maximum(x, y.max(1, keepdims=True)),
    "mixed": lambda x, _: jnp.einsum("bij,ik->bkj", x, SQUARE[:4, :4]),
    "relu": lambda x, _: jax.nn.relu(x),
    "reordered": lambda x, _: x.transpose(0, 2, 1).reshape(-1, 4, 6),
    "shifted": lambda x, _: jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1],
    "tanh": lambda x, _: jnp.tanh(x),
    "where": lambda x, y: jnp.where(x > y, x, 0.5),
}
"""From two values of one shape to another of it."""


RANDOM = st.lists(
    st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 9), st.integers(0, 9)),
    min_size=1,
    max_size=6,
)
"""Steps, and which of the values so far each takes."""


def composed(steps: Sequence[tuple[str, int, int]]) -> Callable[[jax.Array], jax.Array]:
    """The function of such steps."""

    def run(x: jax.Array) -> jax.Array:
        values = [x]
        for name, first, second in steps:
            values.append(
                STEPS[name](values[-1 - first % min(2, len(values))], values[second % len(values)])
            )
        return values[-1]

    return run


def batches(name: str) -> tuple[str | int, ...]:
    """What a case is traced for."""
    if name == "dynamic_slice":  # its bounds are of the batch, which JAX wants as a number
        return (3,)
    return ("batch", len(CASES[name][1][0])) if name in CASES else ("batch", 3)


def traced(
    fn: Callable[..., jax.Array], inputs: tuple[np.ndarray, ...], batch: str | int
) -> Program:
    """The Program of a case."""
    names = tuple(f"input_{i}" for i in range(len(inputs)))
    made = program(
        lambda _, *x: fn(*x), {}, *inputs, input_names=names, output_names=("y",), batch=batch
    )
    return passes.standard(made)


def check(
    write: Callable[[Program], Any],
    run: Callable[..., dict[str, np.ndarray]],
    fn: Callable[..., jax.Array],
    inputs: tuple[np.ndarray, ...],
    batch: str | int,
) -> None:
    """That what a writer makes of a function gives what JAX does, in its runtime."""
    made = traced(fn, inputs, batch)
    (found,) = run(write(made), *inputs).values()
    (expected,) = evaluated(made, *inputs).values()
    assert found.dtype == expected.dtype
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)


def without_case(
    rules: Mapping[str, Any], cases: Mapping[str, tuple[Any, tuple[np.ndarray, ...]]]
) -> set[str]:
    """The primitives and patterns that a writer has rules for and no case has."""
    met = {"fake_quant"}  # `test_integers`
    for name, (fn, inputs) in cases.items():
        for batch in batches(name):
            made = traced(fn, inputs, batch)
            met |= {node.op for node in (*made.nodes, *passes.matched(made, rules).nodes)}
    return set(rules) - met
