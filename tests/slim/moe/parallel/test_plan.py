"""The plan against filling the buffers row by row."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from slim.moe.parallel.plan import plan, regrouped


@given(
    counts=arrays.arrays(np.int32, (3, 6), elements=st.integers(0, 4)),
    room=st.integers(1, 30),
    most=st.integers(1, 9),
)
def test_buffers_are_filled_row_by_row(counts, room, most):
    made = plan(jnp.asarray(counts), room, most)
    kept, filled = np.zeros_like(counts), np.zeros(3, np.int32)
    for sender in range(3):
        for receiver in range(3):
            assert made.moves.put[sender, receiver] == filled[receiver]
            assert made.moves.take[sender, receiver] == counts[sender, : 2 * receiver].sum()
            sent = 0
            for expert in (2 * receiver, 2 * receiver + 1):
                for _ in range(counts[sender, expert]):
                    if sent < most and filled[receiver] < room:
                        kept[sender, expert] += 1
                        filled[receiver] += 1
                        sent += 1
            assert made.moves.size[sender, receiver] == sent
    np.testing.assert_array_equal(made.kept, kept)


@given(counts=arrays.arrays(np.int32, (3, 4), elements=st.integers(0, 3)))
def test_regrouping_is_a_stable_sort_and_its_inverse(counts):
    rows = 40
    second = np.tile(np.arange(4), 3).repeat(counts.ravel())
    total = second.size
    expected = np.concatenate([np.argsort(second, kind="stable"), np.arange(total, rows)])
    order = regrouped(jnp.asarray(counts), rows)
    np.testing.assert_array_equal(order, expected)
    np.testing.assert_array_equal(regrouped(jnp.asarray(counts.T), rows)[order], np.arange(rows))
