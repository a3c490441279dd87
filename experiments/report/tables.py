"""What the tables of a report hold."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from experiments.measure import Measures
from experiments.report.deciding import PERPLEXITY, deciding
from experiments.report.layout import Table
from experiments.report.quantities import count, digits, duration, percent, ratio, size
from experiments.report.quantities import milliseconds as _ms
from experiments.report.schema import Stage

NOTHING = "–"

Column = tuple[str, Callable[[Measures], str]]

LOADS = "Experts: how even their loads are over the evaluation set, means over layers"
LOAD_COLUMNS: Sequence[Column] = (
    ("max violation", lambda m: digits(m.max_violation)),
    ("of the worst layer", lambda m: digits(m.max_violation_worst)),
    ("entropy", lambda m: digits(m.load_entropy)),
    ("dropped", lambda m: percent(m.dropped_share)),
)


def model_tables(models: Mapping[str, Measures]) -> list[Table]:
    """The measures of models by name: quality and cost, more on cost, robustness."""
    first, *_ = models.values()
    large = f"b{first.batch_size}"
    language = deciding(first) == PERPLEXITY
    quality: list[Column] = [
        ("F1", lambda m: percent(m.macro_f1)),
        ("ECE", lambda m: percent(m.ece)),
    ]
    active: list[Column] = []
    if language:
        quality = [
            ("perplexity", lambda m: digits(m.perplexity)),
            ("bits/byte", lambda m: digits(m.bits_per_byte)),
        ]
        active = [("active", lambda m: count(m.active_parameters))]
    groups: dict[str, list[Column]] = {
        f"Models, on {first.samples:,} {'tokens' if language else 'examples'}": [
            ("loss", lambda m: digits(m.loss)),
            ("top-1", lambda m: percent(m.top1)),
            *quality,
            ("agrees", lambda m: percent(m.agreement)),
            ("params", lambda m: count(m.parameters)),
            *active,
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
    routed = {name: m for name, m in models.items() if not math.isnan(m.max_violation)}
    if routed:
        tables.append(_table(LOADS, routed, LOAD_COLUMNS))
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
    score = deciding(big)
    return (
        f"**{name}** against {baseline}: {score.title} {score.show(score.of(small))} "
        f"({score.change(score.of(small) - score.of(big))}), {costs}."
    )


def comparison(name: str, final: str, baseline: str, models: Mapping[str, Measures]) -> str:
    """One sentence: what a model that was trained from new weights reaches beside the final one."""
    fresh, small = models[name], models[final]
    same = fresh.parameters == small.parameters < models[baseline].parameters
    of = "at the same size" if same else f"with {count(fresh.parameters)} parameters"
    score = deciding(fresh)
    changes = (
        f"{score.change(score.of(fresh) - score.of(models[other]))} against {other}"
        for other in (final, baseline)
    )
    return (
        f"Trained from scratch {of} (**{name}**): {score.title} {score.show(score.of(fresh))} "
        f"({', '.join(changes)})."
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
