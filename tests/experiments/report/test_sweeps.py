"""A sweep's rows: means and deviations over seeds, the best on top."""

import pytest
from matplotlib.collections import PathCollection

from experiments import report
from experiments.report.layout import markdown
from experiments.report.plots.costs import sweep_costs
from experiments.report.plots.seeds import seeds_figure
from experiments.report.sweeps import deviation, sweep_rows, sweep_tables
from tests.experiments.report import known

TABLE = """\
| model | seeds | top-1 | points | F1 | params | MACs | b1 | b128 |
| :-- | --: | --: | --: | --: | --: | --: | --: | --: |
| train | 2 | 91.63% ± 0.14% | +0.00 | 91.53% ± 0.14% | 272 k | 31.0 M | 1.00x | 1.00x |
| taylor | 2 | 91.22% ± 0.28% | -0.41 ± 0.14 | 91.12% ± 0.28% | 84.5 k | 9.62 M | 0.31x | 0.31x |
| magnitude | 1 | 90.12% | -1.41 | 90.02% | 81.7 k | 9.31 M | 0.30x | 0.30x |
"""


def test_recipes_of_one_name_share_a_row_and_the_best_stands_below_the_baseline():
    first, more, robustness = sweep_tables(known.sweep())
    assert first.caption == "Models, on 10,000 examples"
    assert markdown(first) == TABLE.strip()
    assert more.rows[1][:4] == ("taylor", "0.253", "3.12%", "97.50%")
    assert robustness.header == ("condition", "train", "taylor", "magnitude")
    assert robustness.rows[0] == ("clean", "91.63%", "91.22%", "90.12%")


def test_each_seed_is_compared_with_its_own_baseline():
    baseline, taylor, _ = sweep_rows(known.sweep())
    assert taylor.gains == pytest.approx((0.9102 - 0.9153, 0.9142 - 0.9173))
    assert baseline.gains == (0.0, 0.0)


def test_the_deviation_is_that_of_a_sample():
    assert deviation([1.0, 2.0, 3.0]) == 1.0
    assert deviation([1.0, 3.0]) == pytest.approx(2**0.5)
    assert deviation([5.0]) == 0.0


def test_the_table_of_a_sweep_fits_a_terminal():
    text = report.sweep_table(known.sweep())
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("Models, on") == 1  # in one piece


def test_a_recipe_may_be_called_as_the_baseline_is():
    sweep = known.sweep({("train", 0): 0.9})
    assert [row[0] for row in sweep_tables(sweep)[0].rows] == ["train", "train"]


def test_means_are_drawn_with_their_deviations_and_every_seed():
    axes, *_ = seeds_figure(known.sweep()).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "train",
        "taylor",
        "magnitude",
    ]
    assert axes.yaxis_inverted()
    means = [bars.lines[0].get_xdata()[0] for bars in axes.containers]
    assert means == pytest.approx([91.63, 91.22, 90.12])
    (segment,) = axes.containers[1].lines[2][0].get_segments()
    assert segment[:, 0] == pytest.approx([91.22 - 0.2828, 91.22 + 0.2828], abs=1e-3)
    seeds = [c.get_offsets().tolist() for c in axes.collections if isinstance(c, PathCollection)]
    assert [[x for x, _ in dots] for dots in seeds] == [
        pytest.approx([91.53, 91.73]),
        pytest.approx([91.02, 91.42]),
        pytest.approx([90.12]),
    ]


def test_the_costs_of_a_sweep_are_means_too():
    left, *_ = sweep_costs(known.sweep()).axes
    sizes, top1 = zip(*left.collections[-1].get_offsets().tolist(), strict=True)
    assert top1 == pytest.approx((91.63, 91.22, 90.12))
    assert sizes[1] == pytest.approx(1_095_000 * 0.31 / 2**20)
