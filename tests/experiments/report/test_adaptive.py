"""The picture of variants and policies."""

import numpy as np

from experiments.report.adaptive import Adaptive, Calls, Phase, Service, VariantRow
from experiments.report.plots.adaptive import adaptive_figure


def row(top1, *milliseconds):
    calls = tuple(
        Calls(size=size, median_s=each / 1e3, p90_s=each / 1e3)
        for size, each in zip((1, 64), milliseconds, strict=True)
    )
    return VariantRow(top1=top1, parameters=1, macs=1, calls=calls)


def service(top1, in_time):
    return Service(
        top1=top1, batches=1, batches_in_time=in_time, examples_in_time=in_time, p99_s=1.0,
        changes=0, shares={},
    )  # fmt: skip


def test_accuracy_is_drawn_against_measured_time_and_what_was_in_time():
    record = Adaptive(
        target_s=0.05,
        examples=9,
        load=(Phase(rate=9.0, seconds=1.0),),
        variants={"keep_1": row(0.9, 2.0, 40.0), "keep_0.5": row(0.8, 1.0, 20.0)},
        policies={"adaptive": service(0.875, 1.0), "always keep_1": service(0.9, 0.5)},
    )
    assert Adaptive.model_validate_json(record.model_dump_json()) == record
    points = [
        [[2.0, 90.0], [1.0, 80.0]],
        [[40.0, 90.0], [20.0, 80.0]],
        [[100.0, 87.5], [50.0, 90.0]],
    ]
    panels = adaptive_figure(record).axes
    for axes, expected in zip(panels, points, strict=True):
        (scatter,) = axes.collections
        np.testing.assert_allclose(scatter.get_offsets(), expected)
    assert panels[2].get_xlabel() == "Served within 50 ms (%)"
    assert [text.get_text() for text in panels[0].texts] == ["keep_1", "keep_0.5"]
