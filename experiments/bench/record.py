"""What every bench ends in: a table in the terminal and the same rows in a JSON file.

A bench is `python -m experiments.bench.NAME`; its results are committed as
`experiments/bench/results/NAME.json`, with the machine and the versions that gave them.
"""

import importlib.metadata
import json
import operator
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
PEERS = ("torch", "torch-pruning", "transformers", "qwix")
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
}


@dataclass(frozen=True)
class Row:
    """One measurement, beside its peer's where it has one.

    Attributes:
        name: what was measured.
        ours: the figure of what is examined.
        peer: the figure of what it is compared with, in the same unit; None without one.
        goal: what is promised, `<= 1.05`, `>= 0.97` or `== 0`, of the ratio, or of `ours` without
            a peer; empty for a figure that promises nothing.
        unit: of `ours` and `peer`.
        paired: the ratio where samples were taken side by side, which is steadier than the
            quotient of the two figures; None for that quotient.

    Raises:
        ValueError: the goal is not a comparison with a number, or the peer's figure is zero.

    >>> Row("start", ours=1.5, peer=3.0, goal="<= 0.6", unit="s").met
    True
    """

    name: str
    ours: float
    peer: float | None = None
    goal: str = ""
    unit: str = ""
    paired: float | None = None

    def __post_init__(self) -> None:
        if self.peer == 0:
            raise ValueError(f"{self.name}: peer = 0 has no ratio; leave it out and judge `ours`")
        _ = self.met

    @property
    def ratio(self) -> float | None:
        """`ours / peer`; None without a peer."""
        if self.peer is None:
            return None
        return self.ours / self.peer if self.paired is None else self.paired

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if not self.goal:
            return None
        sign, _, bound = self.goal.partition(" ")
        try:
            compare, limit = _COMPARISONS[sign], float(bound)
        except (KeyError, ValueError):
            allowed = ", ".join(f"'{known} NUMBER'" for known in _COMPARISONS)
            raise ValueError(f"goal = {self.goal!r} must be one of {allowed}, or empty") from None
        return bool(compare(self.ours if self.ratio is None else self.ratio, limit))


def record(name: str, rows: Sequence[Row], directory: Path = RESULTS) -> None:
    """Prints the rows and writes them, with machine and versions, to `directory/name.json`."""
    print(table(rows))
    content = {
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in PACKAGES},
            **{package: importlib.metadata.version(package) for package in PEERS if _has(package)},
        },
        "command": f"python -m experiments.bench.{name}",
        "rows": [_entry(row) for row in rows],
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def _has(package: str) -> bool:
    return bool(importlib.metadata.packages_distributions().get(package.replace("-", "_")))


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text.

    >>> rows = [Row("step", 2.0, 4.0, "<= 0.9", "ms"), Row("differing bits", 0, None, "== 0")]
    >>> print(table(rows))
    name            ours  peer  unit  ratio  goal    met
    step               2     4  ms    0.500  <= 0.9  yes
    differing bits     0     -  -         -  == 0    yes
    """
    verdict = {True: "yes", False: "NO", None: "-"}
    cells = [("name", "ours", "peer", "unit", "ratio", "goal", "met")]
    for row in rows:
        peer = "-" if row.peer is None else f"{row.peer:.4g}"
        ratio = "-" if row.ratio is None else f"{row.ratio:.3f}"
        ours, unit, goal = f"{row.ours:.4g}", row.unit or "-", row.goal or "-"
        cells.append((row.name, ours, peer, unit, ratio, goal, verdict[row.met]))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numbers = {1, 2, 4}
    lines = [
        "  ".join(
            cell.rjust(width) if index in numbers else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """The processor, its cores that this process may use, memory, and JAX's devices."""
    devices = jax.devices()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
    }


def _processor() -> str:
    """The processor's name as Linux has it, elsewhere as Python does."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _entry(row: Row) -> dict[str, Any]:
    """A row as JSON: figures to four digits, only what it has."""
    figures = {"ours": row.ours, "peer": row.peer, "ratio": row.ratio}
    entry: dict[str, Any] = {"name": row.name}
    entry |= {key: None if x is None else float(f"{x:.4g}") for key, x in figures.items()}
    entry |= {"goal": row.goal, "met": row.met}
    return entry | ({"unit": row.unit} if row.unit else {})
