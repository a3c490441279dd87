"""The artefacts of a run, as `report.md` and their cards show them."""

import math
from collections.abc import Iterable, Mapping

from experiments.report.layout import Table
from experiments.report.quantities import milliseconds, percent, ratio, size
from experiments.report.schema import Export, Stage

NOTHING = "–"

EXPORT_NOTE = """\
Errors are of the logits, beside what JAX computes of the same model on the same examples; agrees is
the share of the examples that get the same label. Calls are timed in turn, each artefact in a
process of its own; over float is the time over the float original's in the same runtime, over XLA
over the float original's in JAX, below 1 is faster. Memory is the most that such a process had
resident while it computed by one thread."""


def export_tables(stages: Iterable[Stage]) -> list[Table]:
    """For each stage that exported: what the artefacts are, and what their calls take."""
    return [
        table
        for stage in stages
        if stage.exports
        for table in (_parity(stage.name, stage.exports), *calls_tables(stage.name, stage.exports))
    ]


def errors(export: Export) -> Mapping[str, str]:
    """How near an artefact is to JAX, by what is said of it."""
    if export.runtime is None:
        names = ("max error", "mean error", "agrees", "top-1", "of JAX")
        return dict.fromkeys(names, NOTHING)
    return {
        "max error": f"{export.max_error:.2g}",
        "mean error": f"{export.mean_error:.2g}",
        "agrees": percent(export.agreement),
        "top-1": percent(export.top1),
        "of JAX": percent(export.top1_jax),
    }


def calls_tables(caption: str, exports: Iterable[Export]) -> list[Table]:
    """Times and memory; none where no artefact was timed."""
    rows = [
        (
            f"{_name(export)}, {calls.threads} threads, batch {calls.batch}"
            if calls.threads > 1
            else f"{_name(export)}, 1 thread, batch {calls.batch}",
            milliseconds(calls.median_s),
            milliseconds(calls.p90_s),
            _known(calls.over_float),
            _known(calls.over_xla),
            NOTHING if math.isnan(export.peak_memory_bytes) else size(export.peak_memory_bytes),
        )
        for export in exports
        for calls in export.calls
    ]
    header = ("artefact", "median", "p90", "over float", "over XLA", "memory")
    return [Table(f"{caption}: calls", header, tuple(rows))] if rows else []


def _parity(stage: str, exports: tuple[Export, ...]) -> Table:
    examples = max(export.examples for export in exports)
    rows = tuple(
        (
            _name(export),
            export.runtime or "none here",
            size(export.size_bytes),
            *errors(export).values(),
            export.file,
        )
        for export in exports
    )
    header = ("artefact", "run by", "size", *errors(exports[0]), "file")
    return Table(f"{stage}: artefacts beside JAX, on {examples:,} examples", header, rows, False)


def _name(export: Export) -> str:
    return f"{export.target} {export.precision}"


def _known(value: float) -> str:
    return NOTHING if math.isnan(value) else ratio(value)
