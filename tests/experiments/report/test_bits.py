"""The pictures of mixed precision: bits per layer, and the front."""

import pytest

from experiments import report
from experiments.report.bits import Best, Foretold, Measured, Mixed
from experiments.report.plots.bits import bits_figure, pareto_figure


def measured(bits, loss):
    return Measured(kl=loss, loss=-loss, cost=bits * 128.0, bits=bits, bytes=bits * 128)


SITES = {
    "params/stem/kernel": {"int8": measured(8, 0.0)},
    "body": {"int4": measured(4, 0.5), "int8": measured(8, 0.125)},
    "dot_general at model.py:3": {"int8": Measured(kl=0.0, loss=0.0, cost=0.0, bits=None, bytes=0)},
}
FORMATS = {"params/stem/kernel": "int8", "body": "int4", "dot_general at model.py:3": "int8"}
BEST = Best(cost=1536.0, loss=0.5, formats=FORMATS)
CHEAP, DEAR = Foretold(cost=1536.0, loss=0.5), Foretold(cost=2048.0, loss=0.125)
MIXED = Mixed(
    budget="bytes", by="kl", limit=1600.0, widest=2048.0, sites=SITES, best=BEST,
    front=(CHEAP, DEAR),
)  # fmt: skip


def test_a_bar_for_the_bits_and_bytes_of_every_site_with_weights():
    left, right = bits_figure(MIXED).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["stem", "body"]
    widths = [[bar.get_width() for bar in bars] for bars in (*left.containers, *right.containers)]
    assert widths == [[8, 8], [8, 4], [1, 1], [1, 0.5]]
    assert [text.get_text() for text in left.texts] == ["8", "4"]
    assert [text.get_text() for text in right.texts] == ["1", "0.5"]


def test_the_front_marks_what_was_chosen():
    (axes,) = pareto_figure(MIXED).axes
    front, limit = axes.lines
    assert (list(front.get_xdata()), list(front.get_ydata())) == ([1.5, 2.0], [0.5, 0.125])
    assert list(limit.get_xdata()) == [1.5625, 1.5625]
    (point,) = axes.collections
    assert point.get_offsets().tolist() == [[1.5, 0.5]]
    assert axes.texts[0].get_text() == "chosen: 75.0% of the widest"
    assert axes.get_yscale() == "linear"


@pytest.mark.parametrize(("last", "scale"), [(0.02, "log"), (0.0, "linear")])
def test_losses_of_other_magnitudes_are_drawn_by_their_logarithms(last, scale):
    dear = DEAR.model_copy(update={"loss": last})
    (axes,) = pareto_figure(MIXED.model_copy(update={"front": (CHEAP, dear)})).axes
    assert axes.get_yscale() == scale


def test_the_front_goes_through_what_was_chosen():
    between = Best(cost=1792.0, loss=0.25, formats=FORMATS)
    (axes,) = pareto_figure(MIXED.model_copy(update={"best": between})).axes
    assert list(axes.lines[0].get_xdata()) == [1.5, 1.75, 2.0]
    assert list(axes.lines[0].get_ydata()) == [0.5, 0.25, 0.125]


def test_without_weights_there_is_no_picture_of_bits(tmp_path):
    product = "dot_general at model.py:3"
    alone = MIXED.model_copy(
        update={
            "sites": {product: SITES[product]},
            "best": Best(cost=0.0, loss=0.0, formats={product: "int8"}),
        }
    )
    report.write_mixed(alone, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mixed.json", "pareto.png"}
