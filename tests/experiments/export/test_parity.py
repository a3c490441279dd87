"""What differs is measured, and found where it begins."""

import jax
import numpy as np
import pytest

from experiments.export.parity import Limits, Parity, compare, first_difference
from slim.export import program
from slim.export.program import run as step

X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
W = np.eye(3, dtype=np.float32) * 2


def made():
    def fn(w, x):
        return jax.lax.tanh(jax.lax.exp(x @ w) + 1.0)

    return program(fn, W, X)


def test_differences_are_those_of_the_definition():
    found, expected = np.array([[1.0, 5.0], [2.0, 1.0]]), np.array([[1.0, 2.0], [2.0, -4.0]])
    assert compare(found, expected) == Parity(5.0, 2.0, 4.0, 1.0)
    assert compare(expected[:, ::-1], expected).agreement == 0.0
    assert compare(found[:1], expected).max_error == np.inf


def test_what_is_not_finite_passes_no_limit():
    wrong = compare(np.array([[np.nan, 1.0]]), np.array([[0.5, 1.0]]))
    assert not wrong.within(Limits(1e9, 0.0))
    assert compare(X, X).within(Limits(0.0, 1.0))


@pytest.mark.parametrize("op", ["dot_general", "exp", "add", "tanh"])
def test_the_first_node_that_an_artefact_has_otherwise_is_found(op):
    whole = made()

    def run(short):
        """An artefact that adds 1 to the results of one operation."""
        known = dict(short.constants) | {short.inputs[0][1]: X}
        for node in short.nodes:
            found = step(node, [known[value] for value in node.ins], {})
            known |= {
                v: np.asarray(x) + (node.op == op) for v, x in zip(node.outs, found, strict=True)
            }
        return {name: known[value] for name, value in short.outputs}

    found = first_difference(whole, {"input": X}, run, 1e-3)
    assert found is not None
    assert found.op == op


def test_what_is_alike_has_no_first_difference():
    whole = made()
    assert first_difference(whole, {"input": X}, lambda p: {"value": p(X)[0]}, 1e-6) is None


def test_examples_of_another_shape_are_an_error():
    with pytest.raises(ValueError, match="input 'input' has shape"):
        made()(np.zeros((2, 4), np.float32))
