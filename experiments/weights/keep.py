r"""Keeps the network of a finished run as one safetensors file, for other recipes to start from.

    python -m experiments.weights.keep --run=runs/fashion_resnet20 --stage=train \
        --file=experiments/baselines/fashion_resnet20.safetensors

The file's metadata say where it came from: the command, the resolved recipe, the stage's measures,
and the cuts and quantization that made the network of the recipe's model. The stage `load` reads
it.
"""

from collections.abc import Sequence
from pathlib import Path

import orbax.checkpoint as ocp
from absl import app, flags, logging

from experiments import report
from experiments.of_run import RUN, STAGE
from experiments.schema import unknown_name
from experiments.weights import safetensors_store
from experiments.workdir import Finished

_FILE = flags.DEFINE_string("file", None, "Where to.", required=True)


def keep(workdir: Path, stage: str | None, file: Path) -> None:
    """Writes the network that `stage` of the run in `workdir` left; None: the recipe's last.

    Raises:
        ConfigError: the report has no such stage.
        ValueError: there is no report, or the stage left no network.
    """
    found = report.read(workdir / "report.json")
    entries = {entry.name: entry for entry in found.stages}
    stage = found.final if stage is None else stage
    if stage not in entries:
        raise unknown_name("--stage", stage, entries)
    entry = entries[stage]
    if entry.checkpoint is None or entry.measures is None:
        raise ValueError(f"--stage={stage}: it left no measured network")
    checkpoint = (workdir / entry.checkpoint).absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(checkpoint)
    metadata = {
        "command": found.command,
        "stage": stage,
        "recipe": found.recipe,
        "plans": [plan.to_json() for plan in Finished(checkpoint.parent).plans()],
        "machine": found.machine.model_dump(mode="json"),
        "measures": {"top1": entry.measures.top1, "macro_f1": entry.measures.macro_f1},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    safetensors_store.save(file, tree["variables"], metadata)


def main(argv: Sequence[str]) -> None:
    """Reads the flags."""
    del argv
    logging.set_verbosity(logging.WARNING)  # libraries
    keep(Path(RUN.value), STAGE.value, Path(_FILE.value))
    print(f"{_FILE.value}: {Path(_FILE.value).stat().st_size} bytes")


if __name__ == "__main__":
    app.run(main)
