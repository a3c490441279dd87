"""Every primitive that can be said in LiteRT's operators, against JAX, in the interpreter."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.export import litert, passes
from slim.export.litert.rules import RULES
from slim.export.program import program
from tests.slim.export import primitives
from tests.slim.export.litert.interpreted import interpreted
from tests.slim.export.primitives import CASES, RANDOM, X, composed

pytest.importorskip("ai_edge_litert")

rng = np.random.default_rng(0)
check = partial(primitives.check, litert.write, interpreted)


@pytest.mark.parametrize("name", CASES)
def test_a_program_of_one_primitive_runs_in_the_interpreter(name: str) -> None:
    for batch in primitives.batches(name):
        check(*CASES[name], batch)


def test_every_rule_has_a_case() -> None:
    assert primitives.without_case(RULES, CASES) == set()


@settings(max_examples=25)
@given(steps=RANDOM, batch=st.sampled_from(["batch", 3]))
def test_a_program_of_several_steps_equals_jax(
    steps: list[tuple[str, int, int]], batch: str | int
) -> None:
    check(composed(steps), (X,), batch)


@pytest.mark.parametrize("batch", ["batch", 3])
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("column", [0, 1])
def test_every_second_row_and_column_is_a_part_of_a_block(batch, row: int, column: int) -> None:
    """XNNPACK has no slices with strides."""
    x = rng.normal(size=(3, 6, 8, 5)).astype(np.float32)
    fn = lambda _, x: x[:, row::2, column::2]  # noqa: E731
    model = litert.write(passes.standard(program(fn, (), x, batch=batch)))
    assert "STRIDED_SLICE" not in litert.operators(model)
    np.testing.assert_array_equal(interpreted(model, x)["logits"], fn((), x))
