"""Trains, compresses, measures and reports, as a config says.

    python -m experiments.main --config=configs/quickstart.py --workdir=runs/quickstart
    python -m experiments.main --config=configs/quickstart.py:smoke --config.train.lr=0.03 --dry_run

Exit codes: 0 done; 2 the config or the flags are wrong; 3 the loss is not finite; 4 another process
uses the workdir; 74 a file could not be written (a full disk); 75 SIGTERM came and the run is
saved: the same command goes on.
"""

import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from absl import logging as absl_logging

from experiments import command, dry_run, platform, recipe, report, runner, workdir
from experiments.data import sets
from experiments.divergence import Diverged
from experiments.measure import Measures
from experiments.preemption import Preempted, Preemption
from experiments.recipe import Recipe
from experiments.schema import ConfigError

EXIT_CODES: dict[type[Exception], int] = {
    ConfigError: 2,
    Diverged: 3,
    workdir.Busy: 4,
    OSError: 74,
    Preempted: 75,
}

_WORKDIR = flags.DEFINE_string("workdir", None, "Where results go; the same one goes on.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what would run and what it takes, and stop.")
_SWEEP = flags.DEFINE_bool("sweep", False, "Run all recipes that the config's sweep() yields.")
_ONLY = flags.DEFINE_string("only", None, "Run this stage alone, on what --workdir has of others.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "Address of process 0, of several.")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Which of them this is.")


def main(argv: Sequence[str]) -> None:
    """Runs what the flags say; what goes wrong becomes one line and an exit code."""
    try:
        _main(argv)
    except tuple(EXIT_CODES) as error:
        code = next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
        print(f"{'stopped' if code == 75 else 'error'}: {error}", file=sys.stderr)
        sys.exit(code)


def _main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise ConfigError(f"{argv[1]!r} is not a flag: write --name=value")
    config = command.config()
    absl_logging.set_verbosity(absl_logging.WARNING)  # libraries
    logging.getLogger("slim").setLevel(logging.INFO)
    platform.configure()
    if _COORDINATOR.value is not None:
        jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    if _ONLY.value is not None:
        config = recipe.with_stage(config, _ONLY.value)
    overrides = _overrides()
    recipes = {
        name: recipe.resolve(recipe.overridden(config, changes), jax.device_count())
        for name, changes in overrides.items()
    }
    for made in recipes.values():
        dry_run.check_model(made, sets.info(made.settings.data))
    if _DRY_RUN.value:
        print("\n\n".join(dry_run.describe(made) for made in recipes.values()))
        return
    if _WORKDIR.value is None:
        raise ConfigError("--workdir is missing: name a directory for the results")
    directory = Path(_WORKDIR.value)
    with workdir.locked(directory), Preemption() as preemption:
        if _SWEEP.value:
            _run_sweep(recipes, overrides, directory, preemption)
        else:
            _run_one(recipes[""], directory, directory, preemption)


def _overrides() -> dict[str, dict[str, Any]]:
    """What each recipe of this run changes in the config, by key; nothing, outside a sweep."""
    if not _SWEEP.value:
        return {"": {}}
    return recipe.sweep_of(command.config_file())


def _run_one(
    made: Recipe, directory: Path, pages: Path, preemption: Preemption
) -> report.Report | None:
    result = runner.run(
        made, directory, preemption, command=_command(), pages=pages, only=_ONLY.value
    )
    if result is not None:
        print(report.table(result))
        print(f"\nreport: {pages / 'report.md'}")
    return result


def _run_sweep(
    recipes: dict[str, Recipe],
    overrides: dict[str, dict[str, Any]],
    directory: Path,
    preemption: Preemption,
) -> None:
    """Runs the recipes of a sweep in order, over one store of stages, into one table."""
    reports = {}
    for key, made in recipes.items():
        found = _run_one(made, directory, directory / key, preemption)
        if found is not None:
            reports[key] = found
    if not reports:
        return
    baselines: dict[int, Measures] = {}
    for key, found in reports.items():
        baselines.setdefault(recipes[key].settings.seed, found.models[found.baseline])
    sweep = report.Sweep(
        name=directory.name,
        command=_command(),
        machine=next(iter(reports.values())).machine,
        baselines=baselines,
        results=tuple(
            report.Result(
                name=overrides[key]["name"],
                seed=recipes[key].settings.seed,
                overrides=overrides[key],
                report=f"{key}/report.json",
                measures=found.models[found.final],
            )
            for key, found in reports.items()
        ),
    )
    report.write_sweep(sweep, directory)
    print(report.sweep_table(sweep))


def _command() -> str:
    return shlex.join(["python", "-m", "experiments.main", *sys.argv[1:]])


if __name__ == "__main__":
    app.run(main, flags_parser=command.parse)
