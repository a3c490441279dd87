"""`report.md` and `sweep.md` as text."""

import json
from collections.abc import Iterable
from pathlib import PurePosixPath

from experiments.report.deciding import PERPLEXITY, deciding
from experiments.report.exports import EXPORT_NOTE, export_tables
from experiments.report.layout import Table, markdown
from experiments.report.schema import Machine, Report, Sweep
from experiments.report.sweeps import has_seeds, sweep_rows, sweep_tables
from experiments.report.tables import comparison, headline, model_tables, stage_table
from experiments.report.widths import FOLDED_FROM, width_tables

NOTES = """\
Loss is the mean cross-entropy in nats, F1 the mean over classes, ECE the expected calibration
error. Size is that of all variables as their types store them, zeros included. MACs and FLOPs are
derived from the program, for one example. Latency is of a compiled call after warm-up, the models
timed in turn; its ratio is to the baseline's, below 1 is faster. Memory is arguments, results and
temporaries of the compiled call."""

SWEEP_NOTE = """\
Points are top-1's percentage points over the baseline of the same seed; b1 and the like are the
latencies at batch 1 and so on as ratios, since each recipe was timed in its own run, in turn with
its baseline."""

LANGUAGE_NOTE = """\
Perplexity is exp(loss), of one choice of tokens; bits per byte are of the text, and can be compared
with those of another. Active are the parameters that one token meets. An expert's violation is how
far its load is above the mean of its layer, as a share of that mean."""

SWEEP_LANGUAGE_NOTE = """\
Better by is by how much the perplexity is below the baseline's of the same seed; b1 and the like
are the latencies at batch 1 and so on as ratios, each timed in turn with its run's own baseline."""

SEEDS_NOTE = """\
Values are means over the seeds, with the sample standard deviation where they differ."""

WIDTHS_NOTE = """\
Every parameter that feeds a contraction, in program order, before any cut and after."""


def report_page(
    report: Report,
    pictures: Iterable[tuple[str, str]],
    widths: str | None = None,
    stages: Iterable[tuple[str, str]] = (),
) -> str:
    """The page of a run.

    Args:
        report: what to tell.
        pictures: caption and file name, relative to the page.
        widths: the file name of the picture of widths, where a stage cut the model.
        stages: what stages left to show: captions and Markdown.
    """
    models, baseline, final = report.models, report.baseline, report.final
    language = deciding(models[baseline]) == PERPLEXITY
    notes = [NOTES, *([LANGUAGE_NOTE] if language else [])]
    lines = [] if final == baseline else [headline(final, baseline, models)]
    lines += [comparison(name, final, baseline, models) for name in report.scratch]
    cut = [] if widths is None else ["## Widths", WIDTHS_NOTE, f"![Widths]({widths})"]
    cut += [_folded(table) for table in width_tables(report)]
    exported = [*_sections(export_tables(report.stages)), EXPORT_NOTE]
    exports = ["## Exports", *exported] if len(exported) > 1 else []
    left = [part for caption, shown in stages for part in (f"## {caption}", shown)]
    return _page(
        report.name,
        [*lines, *_sections(model_tables(models)), " ".join(notes)],
        pictures,
        cut,
        exports,
        left,
        ["## Stages", markdown(stage_table(report.stages))],
        ["## How to reproduce it", *_reproduce(report.command, report.machine)],
        ["<details><summary>The resolved recipe</summary>", _json(report.recipe), "</details>"],
    )


def sweep_page(sweep: Sweep, pictures: Iterable[tuple[str, str]]) -> str:
    """The page of a sweep; arguments as for `report_page`."""
    language = deciding(next(iter(sweep.baselines.values()))) == PERPLEXITY
    notes = [NOTES, *([LANGUAGE_NOTE, SWEEP_LANGUAGE_NOTE] if language else [SWEEP_NOTE])]
    notes += [SEEDS_NOTE] if has_seeds(sweep_rows(sweep)) else []
    return _page(
        sweep.name,
        [*_sections(sweep_tables(sweep)), " ".join(notes)],
        pictures,
        ["## Recipes", markdown(_recipes(sweep))],
        ["## How to reproduce it", *_reproduce(sweep.command, sweep.machine)],
    )


def _recipes(sweep: Sweep) -> Table:
    """What each recipe changes, and its page with each seed."""
    rows = []
    for name in dict.fromkeys(result.name for result in sweep.results):
        results = [result for result in sweep.results if result.name == name]
        changes = {k: v for k, v in results[0].overrides.items() if k not in ("name", "seed")}
        links = (f"[seed {r.seed}]({_beside(r.report)})" for r in results)
        rows.append((name, f"`{json.dumps(changes)}`", ", ".join(links)))
    return Table("Recipes", ("recipe", "changes", "report"), tuple(rows), False)


def _folded(table: Table) -> str:
    """A table under its caption, shown only when asked for if it is long."""
    if len(table.rows) < FOLDED_FROM:
        return f"**{table.caption}**\n\n{markdown(table)}"
    return f"<details><summary>{table.caption}</summary>\n\n{markdown(table)}\n\n</details>"


def _page(
    title: str, top: list[str], pictures: Iterable[tuple[str, str]], *sections: list[str]
) -> str:
    shown = [f"![{caption}]({file})" for caption, file in pictures]
    rest = [paragraph for section in sections for paragraph in section]
    return "\n\n".join([f"# {title}", *top, *shown, *rest]) + "\n"


def _sections(tables: Iterable[Table]) -> list[str]:
    return [part for table in tables for part in (f"**{table.caption}**", markdown(table))]


def _reproduce(command: str, machine: Machine) -> list[str]:
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    devices = f"{machine.devices} {machine.device_kind} ({machine.backend})"
    where = (
        f"Made on {machine.platform}, {devices}, {machine.cores} cores, "
        f"{machine.processes} process{'es' if machine.processes > 1 else ''}, "
        f"Python {machine.python}, {packages}."
    )
    return [f"```sh\n{command}\n```", where]


def _beside(report: str) -> str:
    """The page that was written with a `report.json`."""
    return str(PurePosixPath(report).with_name("report.md"))


def _json(value: object) -> str:
    return f"```json\n{json.dumps(value, indent=2)}\n```"
