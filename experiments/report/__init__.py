"""What a run ends in: a table in the terminal, `report.json`, `report.md` and pictures.

    report = Report(name=..., command=..., recipe=config.to_dict(), machine=this_machine(), ...)
    write(report, workdir)
    print(table(report))

`report.json` is read back by `read`; everything else is made from a `Report` alone.
"""

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from experiments.report.adaptive import Adaptive
from experiments.report.bits import Mixed
from experiments.report.curves import curves
from experiments.report.deciding import deciding
from experiments.report.dynamic import Dynamic, dynamic_table
from experiments.report.exports import export_tables
from experiments.report.layout import markdown, terminal
from experiments.report.machine import this_machine
from experiments.report.pages import report_page, sweep_page
from experiments.report.plots.adaptive import adaptive_figure
from experiments.report.plots.bits import bits_figure, pareto_figure
from experiments.report.plots.costs import report_costs, sweep_costs
from experiments.report.plots.curves import training_curves
from experiments.report.plots.dynamic import dynamic_figure, shares_figure
from experiments.report.plots.seeds import seeds_figure
from experiments.report.plots.sensitivity import sensitivity_figure
from experiments.report.plots.style import style
from experiments.report.plots.widths import widths_figure
from experiments.report.schema import (
    Curve,
    Document,
    Export,
    ExportCalls,
    Exports,
    Machine,
    Report,
    Result,
    Shape,
    Stage,
    Sweep,
    read,
    read_exports,
    read_sweep,
)
from experiments.report.sweeps import has_seeds, sweep_rows, sweep_tables
from experiments.report.tables import model_tables
from experiments.report.widths import cuts, kernels
from slim.prune import Sensitivity

EXPORTS = "export.json"
"""What `write_exports` writes; `read_exports` reads it."""

SENSITIVITY = "sensitivity.json"
"""What `write_sensitivity` writes; `Sensitivity.from_json` reads it."""

__all__ = [
    "EXPORTS",
    "SENSITIVITY",
    "Adaptive",
    "Curve",
    "Dynamic",
    "Export",
    "ExportCalls",
    "Exports",
    "Machine",
    "Mixed",
    "Report",
    "Result",
    "Shape",
    "Stage",
    "Sweep",
    "curves",
    "kernels",
    "read",
    "read_exports",
    "read_sweep",
    "sweep_table",
    "table",
    "this_machine",
    "write",
    "write_adaptive",
    "write_dynamic",
    "write_exports",
    "write_mixed",
    "write_sensitivity",
    "write_sweep",
]


def table(report: Report) -> str:
    """The measures of a run's models and artefacts, for a terminal of 100 columns."""
    return terminal([*model_tables(report.models), *export_tables(report.stages)])


def sweep_table(sweep: Sweep) -> str:
    """The measures of the baseline and of every recipe's final models, for 100 columns."""
    return terminal(sweep_tables(sweep))


def write(report: Report, directory: Path | str, left: Mapping[str, Path] | None = None) -> None:
    """Writes `report.json`, `report.md` and its pictures, each whole or not at all.

    The pictures are `costs.png`; `curves.png` where a stage logged a loss, an accuracy or a
    learning rate; `widths.png` where one cut the model; and a copy of each in `left`.

    Args:
        report: what to write.
        directory: where to.
        left: pictures that stages left, by the names of their copies without the suffix; and
            tables, Markdown that stands in the page.
    """
    left = left or {}
    drawn = {name: path for name, path in left.items() if path.suffix == ".png"}
    score = deciding(report.models[report.baseline])
    costs = f"{score.name} against size, FLOPs and latency"
    pictures = {costs: ("costs.png", report_costs(report))}
    if (figure := training_curves(report.stages)) is not None:
        pictures["Training curves"] = ("curves.png", figure)
    files = {"report.json": to_json(report).encode()}
    files |= {file: _png(figure) for file, figure in pictures.values()}
    widths = "widths.png" if cuts(report) else None
    if widths is not None:
        files[widths] = _png(widths_figure(report))
    files |= {f"{name}.png": path.read_bytes() for name, path in drawn.items()}
    page = report_page(
        report,
        [(caption, file) for caption, (file, _) in pictures.items()],
        widths,
        [
            (name, f"![{name}]({name}.png)" if name in drawn else path.read_text().strip())
            for name, path in left.items()
        ],
    )
    _write(files | {"report.md": page.encode()}, Path(directory))


def write_sweep(sweep: Sweep, directory: Path | str) -> None:
    """Writes `sweep.json`, `sweep.md` and `sweep.png`, each whole or not at all.

    Where a recipe ran with several seeds, `seeds.png` too.
    """
    score = deciding(next(iter(sweep.baselines.values())))
    costs = f"{score.name} against size, FLOPs and latency"
    pictures = {costs: ("sweep.png", sweep_costs(sweep))}
    if has_seeds(sweep_rows(sweep)):
        pictures[f"{score.name} over seeds"] = ("seeds.png", seeds_figure(sweep))
    files = {"sweep.json": to_json(sweep).encode()}
    files |= {file: _png(figure) for file, figure in pictures.values()}
    page = sweep_page(sweep, [(caption, file) for caption, (file, _) in pictures.items()])
    _write(files | {"sweep.md": page.encode()}, Path(directory))


def write_sensitivity(sensitivity: Sensitivity, score: str, directory: Path | str) -> None:
    """Writes `sensitivity.json` and `sensitivity.png`, each whole or not at all.

    Args:
        sensitivity: of the metric minus the loss.
        score: the name of the score that the estimates are sums of.
        directory: where to.
    """
    files = {
        "sensitivity.png": _png(sensitivity_figure(sensitivity, score)),
        SENSITIVITY: sensitivity.to_json().encode(),
    }
    _write(files, Path(directory))


def write_mixed(mixed: Mixed, directory: Path) -> None:
    """Writes `mixed.json`, `bits.png` and `pareto.png`, each whole or not at all.

    Where no site has weights there are no bits to show.
    """
    files = {"mixed.json": to_json(mixed).encode(), "pareto.png": _png(pareto_figure(mixed))}
    if any(each.bits is not None for each in mixed.chosen.values()):
        files["bits.png"] = _png(bits_figure(mixed))
    _write(files, directory)


def write_dynamic(found: Dynamic, directory: Path) -> None:
    """Writes `dynamic.json`, `table.md` and two pictures, each whole or not at all."""
    table = dynamic_table(found)
    files = {
        "dynamic.json": to_json(found).encode(),
        "dynamic.png": _png(dynamic_figure(found)),
        "shares.png": _png(shares_figure(found)),
        "table.md": f"{table.caption}.\n\n{markdown(table)}\n".encode(),
    }
    _write(files, directory)


def write_adaptive(adaptive: Adaptive, directory: Path) -> None:
    """Writes `adaptive.json` and `adaptive.png`, each whole or not at all."""
    files = {
        "adaptive.json": to_json(adaptive).encode(),
        "adaptive.png": _png(adaptive_figure(adaptive)),
    }
    _write(files, directory)


def write_exports(exports: Exports, directory: Path) -> None:
    """Writes `export.json`, whole or not at all."""
    _write({EXPORTS: to_json(exports).encode()}, directory)


def to_json(document: Document) -> str:
    """Indented JSON with each list of numbers on one line."""
    text = document.model_dump_json(indent=2)
    return re.sub(r"\[\n[^\[\]{}\"]*\]", lambda m: re.sub(r"\s+", " ", m[0]), text) + "\n"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _write(files: dict[str, bytes], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        temporary = directory / f".{name}.tmp"
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / name)
