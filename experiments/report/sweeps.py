"""The rows of a sweep: one a recipe, over all of its seeds."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.measure import Measures
from experiments.report.deciding import PERPLEXITY, deciding
from experiments.report.layout import Table
from experiments.report.quantities import count, digits, percent, ratio, size
from experiments.report.schema import Sweep
from experiments.report.tables import LOADS, robustness_tables


class SweepRow(NamedTuple):
    """A recipe, or the baseline (whose `results` are one a seed, as a recipe's).

    Attributes:
        name: of the recipe, or of the stage that made the baseline.
        results: the final model of each seed.
        gains: by how much their deciding score is better than the same seed's baseline's.
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
    """The baseline, then the recipes from the best mean of the deciding score to the worst."""
    baselines = tuple(sweep.baselines.values())
    score = deciding(baselines[0])
    rows = []
    for name in dict.fromkeys(result.name for result in sweep.results):
        results = [result for result in sweep.results if result.name == name]
        gains = (score.gain(r.measures, sweep.baselines[r.seed]) for r in results)
        rows.append(SweepRow(name, tuple(r.measures for r in results), tuple(gains)))
    rows.sort(key=lambda row: row.mean(score.of), reverse=score.criterion.higher)
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
    language = deciding(first) == PERPLEXITY
    quality: list[Column] = [
        ("top-1", lambda row: _spread(row.values(lambda m: m.top1), percent)),
        ("points", lambda row: _spread(row.gains, lambda gain: f"{100 * gain:+.2f}")),
        ("F1", lambda row: _spread(row.values(lambda m: m.macro_f1), percent)),
    ]
    calibration: list[Column] = [("ECE", lambda row: _spread(row.values(lambda m: m.ece), percent))]
    active: list[Column] = []
    if language:
        quality = [
            ("perplexity", lambda row: _spread(row.values(lambda m: m.perplexity), digits)),
            ("better by", lambda row: _spread(row.gains, lambda gain: f"{gain:+.2f}")),
            ("bits/byte", lambda row: _spread(row.values(lambda m: m.bits_per_byte), digits)),
        ]
        calibration = [("top-1", lambda row: _spread(row.values(lambda m: m.top1), percent))]
        active = [("active", lambda row: count(row.mean(lambda m: m.active_parameters)))]
    groups: dict[str, list[Column]] = {
        f"Models, on {first.samples:,} {'tokens' if language else 'examples'}": [
            *seeds,
            *quality,
            ("params", lambda row: count(row.mean(lambda m: m.parameters))),
            *active,
            ("MACs", lambda row: count(row.mean(lambda m: m.macs))),
            ("b1", lambda row: ratio(row.mean(lambda m: m.latency_b1_ratio))),
            (large, lambda row: ratio(row.mean(lambda m: m.latency_batch_ratio))),
        ],
        "More on quality, size, compute of one example, memory": [
            ("loss", lambda row: _spread(row.values(lambda m: m.loss), digits)),
            *calibration,
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
    if routed := [row for row in rows if not math.isnan(row.mean(lambda m: m.max_violation))]:
        tables.append(_loads(routed))
    robustness = [(row.name, _mean_robustness(row.results)) for row in rows]
    return [*tables, *robustness_tables(robustness, first.robustness_images)]


def _loads(rows: Sequence[SweepRow]) -> Table:
    """How even the loads of experts are, in means over the seeds."""
    columns: list[Column] = [
        ("max violation", lambda row: _spread(row.values(lambda m: m.max_violation), digits)),
        ("of the worst layer", lambda row: digits(row.mean(lambda m: m.max_violation_worst))),
        ("entropy", lambda row: digits(row.mean(lambda m: m.load_entropy))),
        ("dropped", lambda row: percent(row.mean(lambda m: m.dropped_share))),
    ]
    shown = tuple((row.name, *(show(row) for _, show in columns)) for row in rows)
    return Table(LOADS, ("model", *(title for title, _ in columns)), shown)


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
