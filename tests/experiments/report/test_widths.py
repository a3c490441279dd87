"""Widths before and after cuts: which parameters, the table, the picture."""

import jax
import jax.numpy as jnp
import pytest

from experiments.report import kernels
from experiments.report.plots.widths import widths_figure
from experiments.report.widths import cuts, kept, width_tables
from slim import graph
from tests.experiments.report import known


def scanned(params, x):
    """A stack of layers with biases between two others, the first used last in tree order."""

    def layer(x, each):
        return jax.nn.relu(x @ each["kernel"] + each["bias"]), None

    x, _ = jax.lax.scan(layer, x @ params["stem"]["kernel"], params["body"])
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def test_kernels_are_what_feeds_contractions_in_program_order():
    params = {
        "body": {"bias": jnp.zeros((4, 8)), "kernel": jnp.zeros((4, 8, 8))},
        "head": {"bias": jnp.zeros(2), "kernel": jnp.zeros((8, 2))},
        "stem": {"kernel": jnp.zeros((3, 8))},
    }
    traced = graph.trace(scanned, params, jnp.zeros((1, 3)))
    assert kernels(traced) == ("stem/kernel", "body/kernel", "head/kernel")


def test_a_table_for_each_cut_says_what_became_of_every_kernel():
    shrink, depth = width_tables(known.cut_report())
    assert shrink.caption == "shrink: 3.63 k to 696 parameters in kernels"
    assert shrink.rows == (
        ("stem/kernel", "3×3×1×16", "3×3×1×8", "50.00%"),
        ("block/kernel", "3×3×16×16", "3×3×8×4", "12.50%"),
        ("stack/kernel", "4×16×16", "4×8×8", "25.00%"),
        ("head/kernel", "16×10", "8×10", "50.00%"),
        ("all kernels", "3.63 k", "696", "19.16%"),
    )
    assert depth.rows[1] == ("block/kernel", "3×3×16×16", "removed", "0.00%")
    assert depth.rows[2] == ("stack/kernel", "4×16×16", "3×8×8", "18.75%")


def test_a_run_without_a_cut_has_no_widths():
    assert cuts(known.report()) == {}
    assert width_tables(known.report()) == []


def test_bars_show_the_shares_after_each_cut_and_the_last_shapes():
    figure = widths_figure(known.cut_report())
    left, right = figure.axes
    before, shrink, depth = left.containers
    assert [bar.get_width() for bar in before] == [100.0] * 4
    for bars, after in ((shrink, known.THINNER), (depth, known.SHORTER)):
        shares = kept(known.KERNELS, after).values()
        assert [bar.get_width() for bar in bars] == pytest.approx([100 * s for s in shares])
        assert all(b.get_zorder() <= a.get_zorder() for b, a in zip(before, bars, strict=True))
    assert [bar.get_width() for bar in right.containers[2]] == [0.072, 0.0, 0.192, 0.08]
    assert [label.get_text() for label in left.get_yticklabels()] == [
        "stem",
        "block",
        "stack",
        "head",
    ]
    (beside,) = right.child_axes
    assert [label.get_text() for label in beside.get_yticklabels()] == [
        "3×3×1×16 → 3×3×1×8",
        "3×3×16×16 → removed",
        "4×16×16 → 3×8×8",
        "16×10 → 8×10",
    ]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["before", "shrink", "depth"]


def test_a_row_has_the_same_height_among_few_kernels_and_many():
    many = {f"params/layer{i}/kernel": (8, 8) for i in range(60)}
    cut = known.cut_report().stages[1].model_copy(update={"kernels": dict.fromkeys(many, (4, 4))})
    few = known.cut_report()
    wide = few.model_copy(update={"stages": (few.stages[0], cut), "kernels": many})
    heights = [widths_figure(each).get_size_inches()[1] for each in (few, wide)]
    assert heights[1] - heights[0] == pytest.approx(56 * 0.17)
