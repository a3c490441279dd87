"""Runs a recipe's stages in order, each only if its result is not there already."""

import dataclasses
import logging
import os
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import jax

from experiments import build, processes, report
from experiments import mesh as meshes
from experiments.data import sets
from experiments.data.dataset import Dataset
from experiments.logs import METRICS, jsonl
from experiments.measure import Measures
from experiments.network import Network
from experiments.precision import PRECISIONS
from experiments.preemption import Preempted, Preemption
from experiments.recipe import PlannedStage, Recipe
from experiments.schema import ConfigError
from experiments.stages import Context, Model
from experiments.workdir import Finished
from slim import paths
from slim.graph import Plan
from slim.models.deepseek.compress import ExpertPlan
from slim.prune import DepthPlan

LOG = logging.getLogger("slim")

Shapes = dict[str, report.Shape]


def run(
    recipe: Recipe,
    workdir: Path,
    preemption: Preemption,
    *,
    command: str,
    pages: Path,
    only: str | None = None,
) -> report.Report | None:
    """Runs a recipe to its end and writes its report.

    Args:
        recipe: what to run.
        workdir: where the results of stages are kept, for this and other recipes.
        preemption: whether to stop early.
        command: what was typed, for the report.
        pages: where the report goes.
        only: the one stage that may run; those before it must be done, and of those after it the
            report has what is done. None: all may.

    Returns:
        The report; None where no stage measured anything.

    Raises:
        Preempted: SIGTERM came; what was reached is saved.
        ConfigError: the data set is absent, a stage cannot do what its config says, or one before
            `only` is not done.
    """
    dataset = sets.load(recipe.settings.data)
    keys = recipe.keys(dataset.fingerprint)
    context = dataclasses.replace(
        shared_context(recipe, dataset, preemption), cache=workdir / "cache"
    )
    entries: list[report.Stage] = []
    rows: dict[str, Measures] = {}
    shapes: dict[str, Shapes] = {}
    shown: dict[str, Path] = {}
    model: Model | None = None
    waiting = only
    for planned in recipe.stages:
        if preemption.reached():
            raise Preempted(f"stopped before {planned.name}")
        directory = workdir / "stages" / f"{planned.name}-{keys[planned.name]}"
        context = dataclasses.replace(context, name=planned.name, directory=directory)
        finished = Finished(directory)
        reused = finished.exists()
        processes.wait_for_all(f"{planned.name} looked up")
        if only not in (None, planned.name) and not reused:
            if waiting is None:
                continue
            raise ConfigError(
                f"--only={only}: {workdir} has no result of {planned.name!r}, which comes before, "
                "with this config; run it without --only, or give the config that was run"
            )
        waiting = None if planned.name == only else waiting
        if reused:
            LOG.info("%s: reused from %s", planned.name, directory)
        else:
            LOG.info("%s: running in %s", planned.name, directory)
            _run(planned, context, model, finished)
        if finished.has_model():
            load = partial(finished.model, context.network, meshes.replicated(context.mesh))
            model = load()
            shapes[planned.name] = _shapes(context.network, model)
            context = dataclasses.replace(context, earlier={**context.earlier, planned.name: load})
        directories = {**context.directories, planned.kind: directory}
        context = dataclasses.replace(context, directories=directories)
        rows |= {row.name: row for row in finished.measures()}
        entries.append(_entry(planned, keys[planned.name], reused, finished, pages))
        shown |= _shown(planned.name, directory)
    if jax.process_index() != 0 or not rows:
        return None
    before, cuts = _kernels(context.network, shapes)
    made = report.Report(
        name=recipe.settings.name,
        command=command,
        recipe=recipe.as_dict(),
        machine=report.this_machine(),
        baseline=next(iter(rows)),
        stages=tuple(
            e.model_copy(update={"measures": rows.get(e.name), "kernels": cuts.get(e.name)})
            for e in entries
        ),
        kernels=before,
    )
    report.write(made, pages, shown)
    return made


def shared_context(
    recipe: Recipe,
    dataset: Dataset,
    preemption: Preemption,
    devices: Sequence[jax.Device] | None = None,
) -> Context:
    """What all stages of a recipe share; name, directory and cache are the run's.

    Args:
        recipe: what to run.
        dataset: on which.
        preemption: whether to stop early.
        devices: those of the mesh; None: all.
    """
    settings = recipe.settings
    precision = PRECISIONS[settings.precision]
    mesh = meshes.build(settings.mesh, devices)
    return Context(
        name="",
        directory=Path(),
        seed=settings.seed,
        network=build.network(settings.model, dataset.info, precision, mesh),
        data=settings.data,
        dataset=dataset,
        precision=precision,
        mesh=mesh,
        layout=settings.mesh,
        run=settings.run,
        preemption=preemption,
        recipe=recipe.as_dict(),
        earlier={},
        directories={},
        cache=Path(),
    )


def _run(planned: PlannedStage, context: Context, model: Model | None, finished: Finished) -> None:
    if planned.stage.needs_floats and model is not None and model.quantized:
        raise ConfigError(
            f"{planned.name}: needs float weights, and those that were loaded are integers; start "
            "from the network before its quantization"
        )
    started = time.monotonic()
    context.directory.mkdir(parents=True, exist_ok=True)
    result = planned.stage.run(context, planned.config, model)
    # Training counts the time of the processes before it that were stopped.
    seconds = time.monotonic() - started if result.seconds is None else result.seconds
    finished.write(result, seconds)
    processes.wait_for_all(f"{planned.name} written")


def _entry(
    planned: PlannedStage, key: str, reused: bool, finished: Finished, pages: Path
) -> report.Stage:
    """A stage in the report, its measures and kernels still to come."""
    metrics = finished.directory / METRICS
    model = os.path.relpath(finished.directory / "model", pages)
    exports = finished.directory / report.EXPORTS
    return report.Stage(
        name=planned.name,
        kind=planned.kind,
        key=key,
        reused=reused,
        seconds=finished.seconds(),
        checkpoint=model if finished.has_model() else None,
        measures=None,
        curves=report.curves(jsonl.read(metrics), planned.name) if metrics.exists() else {},
        exports=_exports(exports, pages) if exports.exists() else (),
    )


def _exports(record: Path, pages: Path) -> tuple[report.Export, ...]:
    """The artefacts of a stage, their files relative to the report."""
    return tuple(
        each.model_copy(update={"file": os.path.relpath(record.parent / each.file, pages)})
        for each in report.read_exports(record).exports
    )


def _shapes(network: Network, model: Model) -> Shapes:
    """Of the variables as floats, after the cuts of width and depth alone."""
    cut = network.shrunk(
        plan for plan in model.plans if isinstance(plan, Plan | DepthPlan | ExpertPlan)
    )
    return {path: tuple(leaf.shape) for path, leaf in paths.flatten(cut.abstract()).items()}


def _kernels(uncut: Network, shapes: dict[str, Shapes]) -> tuple[Shapes, dict[str, Shapes]]:
    """The kernels of the first model, and what is left of them by the stage that changed it.

    Args:
        uncut: the recipe's network.
        shapes: of all variables, by the stage that left them.
    """
    first = next(iter(shapes.values()), {})
    changed = {
        name: found
        for (_, before), (name, found) in pairwise(shapes.items())
        if found not in (before, first)
    }
    if not changed:
        return {}, {}
    fed = report.kernels(uncut.graph())

    def of(found: Shapes) -> Shapes:
        return {path: found[path] for path in fed if path in found}

    return of(first), {name: of(found) for name, found in changed.items()}


def _shown(stage: str, directory: Path) -> dict[str, Path]:
    """The pictures and tables that a stage left, by names that no other stage's have."""
    found = sorted(path for path in directory.glob("*") if path.suffix in (".png", ".md"))
    return {p.stem if p.stem == stage else f"{stage}_{p.stem}": p for p in found}
