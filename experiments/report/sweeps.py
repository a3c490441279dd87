"""The rows of a sweep: one a recipe, over all of its seeds."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.measure import Measures
from experiments.report.layout import Table
from experiments.report.quantities import count, digits, percent, ratio, size
from experiments.report.schema import Sweep
from experiments.report.tables import robustness_tables


class SweepRow(NamedTuple):
    """A recipe, or the baseline (whose `results` are one a seed, as a recipe's).

    Attributes:
        name: of the recipe, or of the stage that made the baseline.
        results: the final model of each seed.
        gains: their top-1 minus that of the same seed's baseline.
    """

    name: str
    results: tuple[Measures, ...]
    gains: tuple[float, ...]

    def values(self, measure: Callable[[Measures], float]) -> list[float]:
        """One measure of each seed."""
        return [measure(result) for result in self.results]

    def mean(self, measure: Callable[[Measures], float]) -> float:
        """One measure, its mean over the seeds."""
        return float(np.mean(self.values(measure)))


Column = tuple[str, Callable[[SweepRow], str]]


def sweep_rows(sweep: Sweep) -> list[SweepRow]:
    """The baseline, then the recipes from the highest mean top-1 to the lowest."""
    baselines = tuple(sweep.baselines.values())
    rows = []
    for name in dict.fromkeys(result.name for result in sweep.results):
        results = [result for result in sweep.results if result.name == name]
        gains = (r.measures.top1 - sweep.baselines[r.seed].top1 for r in results)
        rows.append(SweepRow(name, tuple(r.measures for r in results), tuple(gains)))
    rows.sort(key=lambda row: row.mean(_top1), reverse=True)
    return [SweepRow(baselines[0].name, baselines, (0.0,) * len(baselines)), *rows]


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation; 0 of one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def has_seeds(rows: Sequence[SweepRow]) -> bool:
    """Whether any recipe ran with more than one seed."""
    return any(len(row.results) > 1 for row in rows)


def sweep_tables(sweep: Sweep) -> list[Table]:
    """The measures of the baseline and of every recipe: quality and cost, more, robustness."""
    rows = sweep_rows(sweep)
    first = rows[0].results[0]
    large = f"b{first.batch_size}"
    seeds: list[Column] = [("seeds", lambda row: str(len(row.results)))] if has_seeds(rows) else []
    groups: dict[str, list[Column]] = {
        f"Models, on {first.samples:,} examples": [
            *seeds,
            ("top-1", lambda row: _spread(row.values(_top1), percent)),
            ("points", lambda row: _spread(row.gains, lambda gain: f"{100 * gain:+.2f}")),
            ("F1", lambda row: _spread(row.values(lambda m: m.macro_f1), percent)),
            ("params", lambda row: count(row.mean(lambda m: m.parameters))),
            ("MACs", lambda row: count(row.mean(lambda m: m.macs))),
            ("b1", lambda row: ratio(row.mean(lambda m: m.latency_b1_ratio))),
            (large, lambda row: ratio(row.mean(lambda m: m.latency_batch_ratio))),
        ],
        "More on quality, size, compute of one example, memory": [
            ("loss", lambda row: _spread(row.values(lambda m: m.loss), digits)),
            ("ECE", lambda row: _spread(row.values(lambda m: m.ece), percent)),
            ("agrees", lambda row: _spread(row.values(lambda m: m.agreement), percent)),
            ("non-zero", lambda row: count(row.mean(lambda m: m.nonzero_parameters))),
            ("size", lambda row: size(row.mean(lambda m: m.size_bytes))),
            ("FLOPs", lambda row: count(row.mean(lambda m: m.flops))),
            (f"{large} memory", lambda row: size(row.mean(lambda m: m.peak_memory_bytes))),
        ],
    }
    tables = [
        Table(
            caption,
            ("model", *(title for title, _ in columns)),
            tuple((row.name, *(show(row) for _, show in columns)) for row in rows),
        )
        for caption, columns in groups.items()
    ]
    robustness = [(row.name, _mean_robustness(row.results)) for row in rows]
    return [*tables, *robustness_tables(robustness, first.robustness_images)]


def _top1(measures: Measures) -> float:
    return measures.top1


def _spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """The mean, and the deviation where the values differ."""
    mean = show(float(np.mean(values)))
    if len(set(values)) == 1:
        return mean
    return f"{mean} ± {show(deviation(values)).removeprefix('+')}"


def _mean_robustness(results: Sequence[Measures]) -> dict[str, float]:
    """Over the seeds that were tried under a condition."""
    names = dict.fromkeys(name for result in results for name in result.robustness)
    return {
        name: float(np.mean([r.robustness[name] for r in results if name in r.robustness]))
        for name in names
    }
