"""Every primitive that can be said in ONNX's operators, against JAX, in ONNX Runtime."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from slim.export import onnx
from slim.export.onnx.rules import RULES
from tests.slim.export import primitives
from tests.slim.export.onnx.interpreted import interpreted
from tests.slim.export.primitives import CASES, COUNTS, RANDOM, X, composed

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

check = partial(primitives.check, onnx.write, interpreted)

MORE: dict[str, tuple[Callable[..., jax.Array], tuple[np.ndarray, ...]]] = {
    "argsort": (lambda x: jnp.argsort(x, -1), (X,)),
    "bits": (lambda n: (n & 3) ^ (n | 1) & ~n, (COUNTS,)),
    "choose": (lambda x, n: jnp.where(n[..., None] == 1, x, 0.0), (X, COUNTS)),
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
    "tan": (jnp.tan, (X,)),
    "take_along_rows": (lambda x, n: jnp.take_along_axis(x, n[:, :2, None], 1), (X, COUNTS)),
}


@pytest.mark.parametrize("name", [*CASES, *MORE])
def test_a_program_of_one_primitive_runs_in_onnx_runtime(name: str) -> None:
    for batch in primitives.batches(name):
        check(*(CASES | MORE)[name], batch)


def test_every_rule_has_a_case() -> None:
    assert primitives.without_case(RULES, CASES | MORE) == set()


@settings(max_examples=25)
@given(steps=RANDOM, batch=st.sampled_from(["batch", 3]))
def test_a_program_of_several_steps_equals_jax(
    steps: list[tuple[str, int, int]], batch: str | int
) -> None:
    check(composed(steps), (X,), batch)
