"""What the tables of a report hold."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from experiments.measure import Measures
from experiments.report.layout import Table
from experiments.report.quantities import count, digits, duration, percent, points, ratio, size
from experiments.report.quantities import milliseconds as _ms
from experiments.report.schema import Stage

NOTHING = "–"

Column = tuple[str, Callable[[Measures], str]]


def model_tables(models: Mapping[str, Measures]) -> list[Table]:
    """The measures of models by name: quality and cost, more on cost, robustness."""
    first, *_ = models.values()
    large = f"b{first.batch_size}"
    groups: dict[str, list[Column]] = {
        f"Models, on {first.samples:,} examples": [
            ("loss", lambda m: digits(m.loss)),
            ("top-1", lambda m: percent(m.top1)),
            ("F1", lambda m: percent(m.macro_f1)),
            ("ECE", lambda m: percent(m.ece)),
            ("agrees", lambda m: percent(m.agreement)),
            ("params", lambda m: count(m.parameters)),
            ("non-zero", lambda m: count(m.nonzero_parameters)),
            ("size", lambda m: size(m.size_bytes)),
            ("MACs", lambda m: count(m.macs)),
            ("latency b1", lambda m: f"{_ms(m.latency_b1_median_s)} {ratio(m.latency_b1_ratio)}"),
        ],
        f"More on latency at batch 1 and {first.batch_size}, compute of one example, memory": [
            ("b1 p90", lambda m: _ms(m.latency_b1_p90_s)),
            (f"{large} median", lambda m: _ms(m.latency_batch_median_s)),
            (f"{large} p90", lambda m: _ms(m.latency_batch_p90_s)),
            (f"{large} ratio", lambda m: ratio(m.latency_batch_ratio)),
            ("FLOPs", lambda m: count(m.flops)),
            ("by XLA", lambda m: count(m.xla_flops)),
            (f"{large} memory", lambda m: size(m.peak_memory_bytes)),
        ],
    }
    tables = [_table(caption, models, columns) for caption, columns in groups.items()]
    robustness = [(name, m.robustness) for name, m in models.items()]
    return [*tables, *robustness_tables(robustness, first.robustness_images)]


def headline(name: str, baseline: str, models: Mapping[str, Measures]) -> str:
    """One sentence: what a model costs and knows, compared with its baseline."""
    small, big = models[name], models[baseline]
    quotients = {
        "parameters": _over(small.parameters, big.parameters),
        "non-zero": _over(small.nonzero_parameters, big.nonzero_parameters),
        "bytes": _over(small.size_bytes, big.size_bytes),
        "MACs": _over(small.macs, big.macs),
        "latency at batch 1": small.latency_b1_ratio,
        f"at batch {small.batch_size}": small.latency_batch_ratio,
    }
    costs = ", ".join(f"{ratio(value)} {what}" for what, value in quotients.items())
    return (
        f"**{name}** against {baseline}: top-1 {percent(small.top1)} "
        f"({points(small.top1 - big.top1)}), {costs}."
    )


def comparison(name: str, final: str, baseline: str, models: Mapping[str, Measures]) -> str:
    """One sentence: what a model that was trained from new weights reaches beside the final one."""
    fresh, small = models[name], models[final]
    same = fresh.parameters == small.parameters < models[baseline].parameters
    of = "at the same size" if same else f"with {count(fresh.parameters)} parameters"
    return (
        f"Trained from scratch {of} (**{name}**): top-1 {percent(fresh.top1)} "
        f"({points(fresh.top1 - small.top1)} against {final}, "
        f"{points(fresh.top1 - models[baseline].top1)} against {baseline})."
    )


def _over(small: float, big: float) -> float:
    return small / big if big else math.nan


def robustness_tables(
    models: Sequence[tuple[str, Mapping[str, float]]], images: int
) -> list[Table]:
    """The top-1 of models by condition, one row a condition: they are many, their names long.

    No table where nothing was attacked or corrupted.
    """
    conditions = dict.fromkeys(name for _, found in models for name in found)
    if not conditions.keys() - {"clean"}:
        return []
    rows = [(name, *(_under(name, found) for _, found in models)) for name in conditions]
    caption = f"Robustness: top-1 on {images:,} images, attacked or corrupted"
    return [Table(caption, ("condition", *(name for name, _ in models)), tuple(rows))]


def _under(condition: str, found: Mapping[str, float]) -> str:
    return percent(found[condition]) if condition in found else NOTHING


def stage_table(stages: Iterable[Stage]) -> Table:
    """What ran, how long it took, and where its result lies."""
    rows = [
        (
            stage.name,
            stage.kind,
            f"{duration(stage.seconds)}{', reused' if stage.reused else ''}",
            stage.key,
            stage.checkpoint or NOTHING,
        )
        for stage in stages
    ]
    return Table("Stages", ("stage", "kind", "time", "key", "checkpoint"), tuple(rows), False)


def _table(caption: str, models: Mapping[str, Measures], columns: Sequence[Column]) -> Table:
    rows = [(name, *(show(m) for _, show in columns)) for name, m in models.items()]
    return Table(caption, ("model", *(title for title, _ in columns)), tuple(rows))
