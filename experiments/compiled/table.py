"""Compiled steps and plans that do not fit, as a table beside each other and as JSON."""

import math
from collections.abc import Sequence
from pathlib import Path

from experiments.compiled.report import CompiledReport, Described, Plan, Refused
from experiments.report.quantities import count, duration, milliseconds, size


class Reports(Described):
    """`python launch/compile.py --out=DIRECTORY` writes them as compiled.json."""

    compiled: tuple[CompiledReport, ...] = ()
    """Plans that fit, by chips."""
    refused: tuple[Refused, ...] = ()
    """Plans that do not."""


def add(plan: CompiledReport | Refused, directory: Path) -> None:
    """Writes compiled.json and compiled.md, with what is there already of other plans.

    Of the same recipe, stage, topology, mesh and batch size the last counts.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "compiled.json"
    before = Reports.model_validate_json(file.read_text()) if file.exists() else Reports()
    known: tuple[CompiledReport | Refused, ...] = (*before.compiled, *before.refused)
    every = [*(old for old in known if _key(old) != _key(plan)), plan]
    every.sort(key=lambda each: (each.name, each.stage, _chips(each), _key(each)))
    reports = Reports(
        compiled=tuple(each for each in every if isinstance(each, CompiledReport)),
        refused=tuple(each for each in every if isinstance(each, Refused)),
    )
    file.write_text(reports.model_dump_json(indent=2) + "\n")
    pages = [table(each) for each in reports.compiled]
    if len(every) > 1 or reports.refused:
        pages = [overview(every), *("#" + page for page in pages)]
    (directory / "compiled.md").write_text("\n\n".join(pages) + "\n")


def overview(plans: Sequence[CompiledReport | Refused]) -> str:
    """Plans beside each other, in Markdown."""
    made = ", ".join(sorted({f"JAX {p.jax} and libtpu {p.libtpu}" for p in plans}))
    lines = [
        f"# {', '.join(dict.fromkeys(p.name for p in plans))}: {len(plans)} "
        f"plan{'s' if len(plans) > 1 else ''}",
        "",
        f"Compiled by {made}, without a TPU. Of each device, a step; the least time is where "
        "computing, memory and interconnect overlap, each at its peak.",
        "",
        "| topology | chips | mesh | rows | parameters and optimizer | peak | FLOPs | sent "
        "| least time | bound by |",
        "| :-- | --: | :-- | --: | --: | --: | --: | --: | --: | :-- |",
    ]
    for plan in plans:
        row = [plan.topology, str(_chips(plan)), _mesh(plan), str(plan.batch_size)]
        if isinstance(plan, Refused):
            row += [f"does not fit: {plan.reason}", *[""] * 5]
        else:
            memory, seconds = plan.memory, plan.seconds
            row += [
                size(memory.parameters + memory.optimizer),
                f"{size(memory.peak)} of {size(memory.available)}",
                count(plan.flops),
                size(sum(each.sent for each in plan.exchanges)),
                milliseconds(seconds.step),
                plan.bound,
            ]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def table(report: CompiledReport) -> str:
    """The report in Markdown."""
    memory, seconds = report.memory, report.seconds
    rows = [
        ("parameters, in all", count(report.parameters)),
        ("parameters", size(memory.parameters)),
        ("optimizer state", size(memory.optimizer)),
        ("activations and other temporaries", size(memory.temporaries)),
        ("peak", f"{size(memory.peak)} of {size(memory.available)}"),
        ("FLOPs", count(report.flops)),
        ("traffic with main memory", size(report.traffic)),
    ]
    lines = [
        f"# {report.name}: {report.stage} on {report.topology}",
        "",
        f"Mesh: {_mesh(report)}; {report.batch_size} rows a step. Compiled in "
        f"{duration(report.compile_s)} and {size(report.host_memory)} of memory by JAX "
        f"{report.jax} and libtpu {report.libtpu}, without a TPU.",
        "",
        "| of each device, a step | |",
        "| :-- | --: |",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        "| exchange | times | bytes | sent |",
        "| :-- | --: | --: | --: |",
        *(f"| {e.kind} | {e.times} | {size(e.bytes)} | {size(e.sent)} |" for e in report.exchanges),
        "",
        f"Least time of a step, bound by {report.bound}:",
        "",
        "| compute | memory | interconnect | overlapping | one after the other |",
        "| --: | --: | --: | --: | --: |",
        "| "
        + " | ".join(
            milliseconds(s)
            for s in (
                seconds.compute,
                seconds.memory,
                seconds.interconnect,
                seconds.step,
                seconds.apart,
            )
        )
        + " |",
    ]
    if report.misaligned:
        lines += [
            "",
            "Gathers that became sums over all devices, because a shard is no multiple of a tile "
            "(8 rows or 128 columns; keep to 16 rows); split another dimension, or over fewer:",
            "",
            *(f"- {each}" for each in report.misaligned),
        ]
    if report.unknown_loops:
        lines += ["", f"Counted once, their trips unknown: {', '.join(report.unknown_loops)}."]
    return "\n".join(lines)


def _mesh(plan: Plan) -> str:
    """The axes that there are several devices on.

    >>> _mesh(Plan(name="", stage="", topology="", mesh={"data": 1, "fsdp": 2, "expert": 4},
    ...     batch_size=8, jax="", libtpu=""))
    'fsdp 2 x expert 4'
    """
    return " x ".join(f"{name} {n}" for name, n in plan.mesh.items() if n > 1) or "one device"


def _chips(plan: Plan) -> int:
    return math.prod(plan.mesh.values())


def _key(plan: Plan) -> tuple[str, str, str, str, int]:
    return plan.name, plan.stage, plan.topology, _mesh(plan), plan.batch_size
