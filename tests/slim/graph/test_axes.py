"""The algebra against its meaning: an axis is the row-major list of its atoms' indices."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim.graph import axes
from slim.graph.axes import atom, factors, freeze, leaves, product, terms, total, unify


def why():
    return "test"


def meaning(axis):
    """For each index of the axis, the set of (atom, index in it) that it is made of."""
    axis = axis.find()
    if axis.kind == "atom":
        return [frozenset([(axis, i)]) if axis.size > 1 else frozenset() for i in range(axis.size)]
    if axis.kind == "sum":
        return [entry for part in axis.parts for entry in meaning(part)]
    out = [frozenset()]
    for part in axis.parts:
        out = [a | b for a in out for b in meaning(part)]
    return out


def sizes(parts):
    return [part.size for part in parts]


def test_products_refine_to_a_common_product():
    a, b = product(atom(8), atom(64)), product(atom(4), atom(128))
    unify(a, b, why)
    assert sizes(factors(a)) == sizes(factors(b)) == [4, 2, 64]
    assert meaning(a) == meaning(b)


def test_sums_refine_to_a_common_sum():
    a, b = total(atom(3), atom(5)), total(atom(4), atom(4))
    unify(a, b, why)
    assert sizes(terms(a)) == [3, 1, 4]
    assert meaning(a) == meaning(b)


def test_a_sum_of_equal_parts_is_a_product_with_one_inner_axis():
    inner = atom(4)
    a, b = total(atom(4), atom(4), atom(4)), product(atom(3), inner)
    unify(a, b, why)
    assert {leaf.find() for leaf in leaves(a)} == {inner.find()}
    assert not axes.is_frozen(inner)


def test_a_cut_inside_a_factor_cuts_the_inner_axis():
    heads = product(atom(2), atom(6))
    unify(heads, total(atom(8), atom(4)), why)
    assert sizes(terms(heads)) == [2, 4, 2, 4] or sizes(terms(heads)) == [6, 2, 4]
    assert not any(leaf.reasons for leaf in leaves(heads))


def test_what_has_no_common_refinement_freezes():
    a, b = product(atom(2), atom(3)), product(atom(3), atom(2))
    unify(a, b, why)
    assert axes.is_frozen(a)
    assert axes.is_frozen(b)
    assert leaves(a)[0].reasons[0]() == "test"


def test_frozen_spreads_to_what_it_becomes_and_to_its_parts():
    a, b = atom(6), product(atom(2), atom(3))
    freeze(a, why)
    unify(b, a, why)
    assert axes.is_frozen(b)
    c = atom(6)
    freeze(c, why)
    axes.split_sum(c, 2)
    assert axes.is_frozen(c)


def test_axes_of_size_one_never_unify():
    a, b = atom(1), atom(1)
    unify(a, b, why)
    assert a.find() is not b.find()


@st.composite
def axis_of(draw, size, depth=2):
    if depth and size > 1 and draw(st.booleans()):
        if draw(st.booleans()):
            outer = draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
            if 1 < outer < size:
                return product(
                    draw(axis_of(outer, depth - 1)), draw(axis_of(size // outer, depth - 1))
                )
        else:
            first = draw(st.integers(1, size - 1))
            return total(draw(axis_of(first, depth - 1)), draw(axis_of(size - first, depth - 1)))
    return atom(size)


@given(st.data())
@pytest.mark.parametrize("size", [6, 12, 24])
def test_unified_axes_mean_the_same_or_are_frozen(size, data):
    group = [data.draw(axis_of(size)) for _ in range(3)]
    for other in group[1:]:
        unify(group[0], other, why)
    alive = [{leaf for leaf in leaves(axis) if not leaf.reasons} for axis in group]

    def visible(axis):
        return [{(leaf, i) for leaf, i in entry if not leaf.reasons} for entry in meaning(axis)]

    assert alive[0] == alive[1] == alive[2]
    assert visible(group[0]) == visible(group[1]) == visible(group[2])


@given(st.data())
def test_splits_keep_the_meaning(data):
    axis = data.draw(axis_of(12))
    parts = axes.split_sum(axis, data.draw(st.integers(0, 12)))
    assert parts is not None
    assert meaning(parts[0]) + meaning(parts[1]) == meaning(axis)
    halves = axes.split_product(axis, data.draw(st.sampled_from([1, 2, 3, 4, 6, 12])))
    if halves is not None:
        pairs = [a | b for a in meaning(halves[0]) for b in meaning(halves[1])]
        assert pairs == meaning(axis)
        assert math.prod(sizes(halves)) == 12
