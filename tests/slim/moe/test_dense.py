"""Experts that all compute equal the reference, by matmuls alone."""

import chex
import jax.numpy as jnp
import pytest

from slim.moe.dense import dense
from slim.moe.mixture import reference
from tests.slim.moe.test_mixture import EXPERTS, ROUTINGS, both_passes, inputs


@pytest.mark.parametrize("name", ROUTINGS)
def test_equals_the_reference_in_both_passes(name):
    experts = jnp.asarray(ROUTINGS[name], jnp.int32)
    given = inputs(experts.shape[1])
    chex.assert_trees_all_close(
        both_passes(dense())(experts, given),
        both_passes(reference())(experts, given),
        rtol=1e-5,
        atol=1e-5,
    )


def test_nothing_is_sorted_gathered_or_scattered():
    experts = jnp.asarray(ROUTINGS["distinct"], jnp.int32)
    program = str(both_passes(dense()).trace(experts, inputs(2)).jaxpr)
    assert "dot_general" in program
    assert not [name for name in ("sort", "gather", "scatter") if name in program]


def test_arguments_that_do_not_belong_together_are_refused():
    weights, x, gates = inputs(2)
    with pytest.raises(ValueError, match="gates has shape"):
        dense()(weights, x, jnp.zeros((len(x), 1), jnp.int32), gates)
    assert weights.gate.shape[0] == EXPERTS
