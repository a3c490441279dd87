"""Writes the model for other runtimes, and holds each artefact against JAX: errors, speed, memory.

export/TARGET/README.md     the artefact's card
export/TARGET/model.onnx    the artefact, by its target's suffix; of StableHLO the folder itself
export.json                 what was found
"""

import hashlib
import json
import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments import report
from experiments.export import files, programs, speed
from experiments.export.card import CARD, Source, card
from experiments.export.checked import Checked, check_parity
from experiments.export.config import AUTO, DYNAMIC, ExportConfig
from experiments.export.places import PLACES, missing
from experiments.network import Network, Variables, count, prepare
from experiments.runtimes.runtime import all_threads
from experiments.schema import ConfigError, refused
from experiments.stages import quantize
from experiments.stages.quantize_config import QuantizeConfig
from experiments.stages.stage import Context, Model, Result, Stage
from slim import paths
from slim.export import TARGETS, Program

LOG = logging.getLogger("slim")

FOLDER = "export"
OWN, FLOAT, XLA = "own", "float", "xla"
"""The artefact, and what it is timed in turn with."""


class Made(NamedTuple):
    """An artefact that was written.

    Attributes:
        target: what for.
        precision: of what it computes.
        program: what it was written from.
        path: of what its runtime loads.
        size: bytes of all its files.
    """

    target: str
    precision: str
    program: Program
    path: Path
    size: int


def run(context: Context, config: ExportConfig, model: Model | None) -> Result:
    """Writes, compares, times and describes an artefact for each target.

    Raises:
        ConfigError: the model has weights that are not finite, or operations that a target lacks;
            or an artefact is not what JAX computes.
    """
    assert model is not None
    if config.precision in programs.INTEGERS and not model.quantized:
        model = _quantized(context, config, model)
    if jax.process_index() != 0:
        return Result()
    network = context.network.shrunk(model.plans)
    variables: Variables = jax.device_get(model.variables)
    examples = context.dataset.eval.gather(
        np.arange(min(config.examples, len(context.dataset.eval)))
    )
    checked = Checked(network, variables, *examples, preprocessing=config.preprocessing)
    calibration = _calibration(context, config) if network.quantized else None
    source = _source(context, config, network, variables)
    metadata = source.metadata(_measures(context))
    with (
        tempfile.TemporaryDirectory(prefix="slim_export_") as scratch,
        files.folders(context.directory / FOLDER, config.targets) as folders,
    ):
        originals = _Originals(context, config, Path(scratch))
        exports = []
        for target in config.targets:
            with refused(context.name):
                made = _write(
                    target, config, network, variables, folders[target], metadata, calibration
                )
            export = _export(context, config, checked, made, originals, folders[target])
            (folders[target] / CARD).write_text(card(source, export, made.program))
            exports.append(export)
            _log(context.name, export)
    report.write_exports(report.Exports(exports=tuple(exports)), context.directory)
    return Result()


def _quantized(context: Context, config: ExportConfig, model: Model) -> Model:
    """The model of integers, as the stage `quantize` makes it by default."""
    # TensorRT has no zero points.
    symmetric = "tensorrt" in config.targets
    section = QuantizeConfig(batches=config.calibration_batches, symmetric=symmetric)
    if config.precision == "int4":  # of weights alone: runtimes have no products of such data
        section = section.model_copy(update={"weights": "int4", "activations": "float"})
    found = quantize.run(context, section, model)
    assert found.model is not None
    return found.model


def _calibration(context: Context, config: ExportConfig) -> list[np.ndarray] | None:
    """Training examples as the artefact takes them, a batch each; None if nothing wants them."""
    if not config.full_integer:
        return None
    batches = context.dataset.batches(context.stage_seed)
    found = [next(batches)["input"] for _ in range(config.calibration_batches)]
    return found if config.preprocessing else [np.asarray(prepare(each)) for each in found]


def _write(
    target: str,
    config: ExportConfig,
    network: Network,
    variables: Variables,
    folder: Path,
    metadata: Mapping[str, str],
    calibration: Sequence[np.ndarray] | None = None,
    precision: str | None = None,
) -> Made:
    """An artefact in a folder.

    Raises:
        ValueError: see `run`.
    """
    precision = precision or programs.precision_of(target, config.precision, network)
    program = programs.build(
        target,
        precision,
        network,
        variables,
        batch=config.batch,
        preprocessing=config.preprocessing,
        calibration=calibration,
    )
    content = TARGETS[target].write(program, metadata=metadata)
    path, size = files.write_artefact(content, folder, TARGETS[target].suffix)
    return Made(target, precision, program, path, size)


class _Originals:
    """The float model that the recipe began with, for each runtime, written when asked for."""

    def __init__(self, context: Context, config: ExportConfig, scratch: Path) -> None:
        """Into a folder `scratch`."""
        first = next(iter(context.earlier.values()))()
        self._network = context.network.shrunk(first.plans)
        self._variables: Variables = jax.device_get(first.variables)
        self._config, self._scratch = config, scratch
        self._made: dict[str, Path | None] = {}

    def path(self, target: str) -> Path | None:
        """What its runtime loads; None where a target has no float32 file."""
        if target not in self._made:
            self._made[target] = self._write(target)
        return self._made[target]

    def _write(self, target: str) -> Path | None:
        if "float32" not in TARGETS[target].precisions:
            return None
        made = _write(
            target,
            self._config,
            self._network,
            self._variables,
            self._scratch / target,
            {},
            precision="float32",
        )
        return made.path


def _export(
    context: Context,
    config: ExportConfig,
    checked: Checked,
    made: Made,
    originals: _Originals,
    folder: Path,
) -> report.Export:
    """What is known of an artefact, after it was held against JAX and timed."""
    runtime = PLACES[made.target].runtime
    file = str(Path(FOLDER) / made.target / made.path.relative_to(folder))
    nothing = math.nan
    known = report.Export(
        target=made.target,
        precision=made.precision,
        file=file,
        size_bytes=made.size,
        runtime=runtime,
        examples=0,
        max_error=nothing,
        mean_error=nothing,
        largest=nothing,
        agreement=nothing,
        top1=nothing,
        top1_jax=nothing,
        peak_memory_bytes=nothing,
        peak_memory_float_bytes=nothing,
        peak_memory_xla_bytes=nothing,
    )
    if runtime is None:
        return known
    found = check_parity(context.name, config, checked, made, runtime)
    known = known.model_copy(update=found)
    if not config.latency_rounds:
        return known
    return known.model_copy(update=_timed(config, checked, made, runtime, originals))


def _timed(
    config: ExportConfig, checked: Checked, made: Made, runtime: str, originals: _Originals
) -> dict[str, object]:
    """Times and memory, in turn with the float original's."""
    size = None if config.batch == DYNAMIC else int(config.batch)
    places = {
        OWN: (runtime, made.path),
        FLOAT: (runtime, originals.path(made.target)),
        XLA: (PLACES["stablehlo"].runtime, originals.path("stablehlo")),
    }
    if places[FLOAT] == places[XLA]:
        del places[XLA]
    artefacts = {
        name: speed.Loadable(by, path, size)
        for name, (by, path) in places.items()
        if by is not None and path is not None
    }
    threads = tuple(dict.fromkeys(number or all_threads() for number in config.latency_threads))
    found = speed.measure(
        artefacts,
        {programs.INPUT: checked.inputs},
        threads=threads,
        batches=config.latency_batches if size is None else (size,),
        rounds=config.latency_rounds,
    )
    own, original = found[OWN], found.get(FLOAT)
    xla = found.get(XLA, original)

    def over(other: speed.Measured | None, at: tuple[int, int]) -> float:
        return math.nan if other is None else own.calls[at].ratio(other.calls[at])

    def memory(of: speed.Measured | None) -> float:
        return math.nan if of is None else of.peak_bytes

    return {
        "peak_memory_bytes": own.peak_bytes,
        "peak_memory_float_bytes": memory(original),
        "peak_memory_xla_bytes": memory(xla),
        "calls": tuple(
            report.ExportCalls(
                threads=at[0],
                batch=at[1],
                median_s=latency.median_s,
                p90_s=latency.p90_s,
                over_float=over(original, at),
                over_xla=over(xla, at),
            )
            for at, latency in own.calls.items()
        ),
    }


def _measures(context: Context) -> dict[str, float]:
    """The scores of the model before this stage, where a stage `evaluate` was done before it."""
    if "evaluate" not in context.directories:
        return {}
    record = json.loads((context.directories["evaluate"] / "result.json").read_text())
    rows = {row["name"]: row for row in record["measures"]}
    row = rows.get(next(reversed(context.earlier)), {})
    numbers = ("loss", "top1", "macro_f1", "perplexity")
    return {name: float(row[name]) for name in numbers if row.get(name) is not None}


def _source(
    context: Context, config: ExportConfig, network: Network, variables: Variables
) -> Source:
    first, *others = context.earlier
    kinds = {name: context.recipe.get(name, {}).get("kind", name) for name in (first, *others)}
    made = [f"`{name}`, a stage of kind `{kind}`" for name, kind in kinds.items() if name != first]
    if config.precision in programs.INTEGERS:
        made.append(f"{config.precision}, calibrated on {config.calibration_batches} batches")
    if network.quantized and config.full_integer:
        made.append(
            "what stands between quantized products is on integers too, where the target has them, "
            f"by its ranges on {config.calibration_batches} batches"
        )
    digest = hashlib.sha256(json.dumps(context.recipe, sort_keys=True).encode())
    for path, leaf in paths.flatten(variables).items():
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return Source(
        recipe=context.recipe,
        stage=context.name,
        digest=digest.hexdigest()[:12],
        parameters=count(network.weights(variables)),
        made=tuple(made),
        takes=programs.takes(network, config.preprocessing),
    )


def _log(name: str, export: report.Export) -> None:
    LOG.info(
        "%s: %s %s, %.3g MB; run by %s, the greatest error is %.2g of %.3g, labels agree on %.2f%%",
        name,
        export.target,
        export.precision,
        export.size_bytes / 1e6,
        export.runtime or "nothing here",
        export.max_error,
        export.largest,
        100 * export.agreement,
    )


def _check(config: ExportConfig, earlier: tuple[str, ...], name: str) -> None:
    """Refuses what no target can do, before anything runs."""
    del earlier
    for target in config.targets:
        of = TARGETS[target]
        if config.targets.count(target) > 1:
            raise ConfigError(f"{name}.targets: {target!r} stands twice; leave one out")
        if absent := missing(target):
            raise ConfigError(
                f"{name}.targets: {target!r} needs {', '.join(absent)}, which is not installed: "
                f"pip install -e '.[{of.extra}]'"
            )
        if config.batch == DYNAMIC and not of.dynamic_batch:
            raise ConfigError(
                f"{name}.batch = {DYNAMIC!r}: {target!r} has no dynamic batch; set batch = 1, or "
                "another number"
            )
        if config.precision not in (AUTO, *of.precisions):
            raise ConfigError(
                f"{name}.precision = {config.precision!r}: {target!r} is written in "
                f"{', '.join(of.precisions)}; choose one of them, or {AUTO!r}"
            )


STAGE = Stage(
    ExportConfig, run, needs_model=True, needs_floats=False, check=_check, of_language=True
)
