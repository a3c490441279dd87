"""Every primitive that can be said in ONNX's operators, against JAX, in ONNX Runtime."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from slim.export import onnx, passes
from slim.export.program import program
from tests.slim.export.litert.interpreted import evaluated
from tests.slim.export.litert.test_primitives import CASES, COUNTS, STEPS, X, Y
from tests.slim.export.onnx.interpreted import interpreted

pytest.importorskip("onnx")

MORE: dict[str, tuple[Callable[..., jax.Array], tuple[np.ndarray, ...]]] = {
    "argsort": (lambda x: jnp.argsort(x, -1), (X,)),
    "bits": (lambda n: (n & 3) ^ (n | 1) & ~n, (COUNTS,)),
    "choose": (lambda x, n: jnp.where(n[..., None] == 1, x, 0.0), (X, COUNTS)),
    "clamp_by_arrays": (lambda x, y: lax.clamp(-jnp.abs(y), x, jnp.abs(y)), (X, Y)),
    "exclusive": (lambda n: ((n > 1) ^ (n < 3)).astype(jnp.int32), (COUNTS,)),
    "finite": (lambda x: jnp.isfinite(x / jnp.maximum(x, 0.0)), (X,)),
    "iota_of_the_batch": (
        lambda x: x + lax.broadcasted_iota(jnp.float32, x.shape, 0),
        (X,),
    ),
    "remainder": (lambda n: lax.rem(n - 2, jnp.full_like(n, 3)), (COUNTS,)),
    "rows_and_columns": (lambda x: x[:, np.array([0, 3, 1]), np.array([5, 0, 2])], (X,)),
    "select_of_four": (
        lambda x, n: lax.select_n(n, *(x[..., 0] * k for k in range(4))),
        (X, COUNTS),
    ),
    "sort": (lambda x: jnp.sort(x, 1), (X,)),
    "strided": (lambda x: x[:, ::2, 1::2], (X,)),
    "take_along_rows": (lambda x, n: jnp.take_along_axis(x, n[:, :2, None], 1), (X, COUNTS)),
}


def check(fn: Callable[..., jax.Array], inputs: tuple[np.ndarray, ...], batch: str | int) -> None:
    names = tuple(f"input_{i}" for i in range(len(inputs)))
    traced = program(
        lambda _, *x: fn(*x), {}, *inputs, input_names=names, output_names=("y",), batch=batch
    )
    traced = passes.standard(traced)
    (found,) = interpreted(onnx.write(traced), *inputs).values()
    (expected,) = evaluated(traced, *inputs).values()
    assert found.dtype == expected.dtype
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [*CASES, *MORE])
def test_a_program_of_one_primitive_runs_in_onnx_runtime(name: str) -> None:
    fn, inputs = (CASES | MORE)[name]
    if name != "dynamic_slice":  # its bounds are of the batch, which JAX wants as a number
        check(fn, inputs, "batch")
    check(fn, inputs, len(inputs[0]))


@settings(max_examples=25)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 9), st.integers(0, 9)),
        min_size=1,
        max_size=6,
    ),
    batch=st.sampled_from(["batch", 3]),
)
def test_a_program_of_several_steps_equals_jax(
    steps: list[tuple[str, int, int]], batch: str | int
) -> None:
    def run(x: jax.Array) -> jax.Array:
        values = [x]
        for name, first, second in steps:
            values.append(
                STEPS[name](values[-1 - first % min(2, len(values))], values[second % len(values)])
            )
        return values[-1]

    check(run, (X,), batch)
