"""`report.md` and `sweep.md` as text."""

import json
from collections.abc import Iterable
from pathlib import PurePosixPath

from experiments.report.layout import Table, markdown
from experiments.report.schema import Machine, Report, Sweep
from experiments.report.tables import headline, model_tables, stage_table

NOTES = """\
Loss is the mean cross-entropy in nats, F1 the mean over classes, ECE the expected calibration
error. Size is that of all variables as their types store them, zeros included. MACs and FLOPs are
derived from the program, for one image. Latency is of a compiled call after warm-up, the models
timed in turn; its ratio is to the baseline's, below 1 is faster. Memory is arguments, results and
temporaries of the compiled call."""

SWEEP_NOTE = """\
Each recipe was timed in its own run, in turn with the baseline: compare the ratios, not the
milliseconds."""


def report_page(report: Report, pictures: Iterable[tuple[str, str]]) -> str:
    """The page of a run.

    Args:
        report: what to tell.
        pictures: caption and file name, relative to the page.
    """
    *_, last = report.models
    lines = [] if last == report.baseline else [headline(last, report.baseline, report.models)]
    return _page(
        report.name,
        [*lines, *_sections(model_tables(report.models)), NOTES],
        pictures,
        ["## Stages", markdown(stage_table(report.stages))],
        ["## How to reproduce it", *_reproduce(report.command, report.machine)],
        ["<details><summary>The resolved recipe</summary>", _json(report.recipe), "</details>"],
    )


def sweep_page(sweep: Sweep, pictures: Iterable[tuple[str, str]]) -> str:
    """The page of a sweep; arguments as for `report_page`."""
    rows = [
        (result.name, f"`{json.dumps(result.overrides)}`", f"[report]({_beside(result.report)})")
        for result in sweep.results
    ]
    recipes = Table("Recipes", ("recipe", "changes", "report"), tuple(rows), False)
    return _page(
        sweep.name,
        [*_sections(model_tables(sweep.models)), f"{NOTES} {SWEEP_NOTE}"],
        pictures,
        ["## Recipes", markdown(recipes)],
        ["## How to reproduce it", *_reproduce(sweep.command, sweep.machine)],
    )


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
