"""What a report holds: `report.json`, version 1, and its reader.

`report.schema.json` beside this file says the same to readers in other languages; `json_schema`
makes it. JSON knows no NaN and no infinity: both are `null` and read as NaN.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import AwareDatetime, BeforeValidator, Field, JsonValue

from experiments.measure import Measures
from experiments.schema import Schema

VERSION: Literal[1] = 1

R = TypeVar("R", bound="Document")


def _nan_for_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _nan_for_null(item) for key, item in value.items()}
    return math.nan if value is None else value


def _jsonable(value: Any) -> Any:
    """The value as it will be read back from JSON."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _relative(path: str) -> str:
    if PurePosixPath(path).is_absolute():
        raise ValueError(f"{path!r} is absolute; give it relative to the run's directory")
    return path


Number = Annotated[float, BeforeValidator(_nan_for_null, json_schema_input_type=float | None)]
Row = Annotated[Measures, BeforeValidator(_nan_for_null)]
Recipe = Annotated[dict[str, JsonValue], BeforeValidator(_jsonable)]
RelativePath = Annotated[str, BeforeValidator(_relative)]
Shape = tuple[int, ...]


def _refuse_duplicates(names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)}: this name is there twice; names must differ")


class Section(Schema):
    """A part of a report; the string under a field documents it in the JSON Schema too."""

    model_config = pydantic.ConfigDict(use_attribute_docstrings=True)


class Curve(Section):
    """One scalar over a stage's steps."""

    steps: Annotated[tuple[int, ...], Field(min_length=1)]
    values: tuple[Number, ...]

    @pydantic.model_validator(mode="after")
    def _as_long(self) -> "Curve":
        if len(self.steps) != len(self.values):
            raise ValueError(f"{len(self.steps)} steps and {len(self.values)} values")
        return self


class ExportCalls(Section):
    """Calls of an artefact, timed in turn with those of the float original."""

    threads: int
    batch: int
    """Examples in a call."""
    median_s: Number
    """Seconds of a call after warm-up: the median."""
    p90_s: Number
    """The same: the 90th percentile."""
    over_float: Number
    """The same over the float original's in the same runtime: median of the quotients of calls
    timed side by side; below 1 is faster; NaN where the runtime does not have it."""
    over_xla: Number
    """The same over the float original's as XLA compiles it."""


class Export(Section):
    """An artefact, beside what JAX computes."""

    target: str
    """A name of `slim.export.TARGETS`."""
    precision: str
    """Of what it computes."""
    file: RelativePath
    """Relative to the report's directory."""
    size_bytes: int
    """Of all its files."""
    runtime: str | None
    """What ran it; None where nothing here can."""
    examples: int
    """Of the evaluation split, on which it was compared; 0 where nothing ran it."""
    max_error: Number
    """The greatest difference from JAX's logits of the same model."""
    mean_error: Number
    """The mean of the absolute differences."""
    largest: Number
    """The greatest absolute value of JAX's logits: what errors are small against."""
    agreement: Number
    """Share of the examples that get the same label as from JAX."""
    top1: Number
    """Share whose label got the largest logit from the artefact."""
    top1_jax: Number
    """The same from JAX."""
    peak_memory_bytes: Number
    """The most that a process of its own had resident while it ran the artefact, by one thread."""
    peak_memory_float_bytes: Number
    """The same of the float original in the same runtime."""
    peak_memory_xla_bytes: Number
    """The same of the float original in JAX."""
    calls: tuple[ExportCalls, ...] = ()
    """By threads and batch."""


class Stage(Section):
    """One stage of the recipe and the model that it left."""

    name: str
    kind: str
    key: str
    """The hash of all that the stage's result depends on."""
    reused: bool
    """Whether the result was there already."""
    seconds: float
    """How long the stage took when it ran."""
    checkpoint: RelativePath | None
    """Relative to the report's directory."""
    measures: Row | None
    """None where the stage left no new model."""
    curves: dict[str, Curve] = Field(default_factory=dict)
    """What was logged in training, by name, thinned."""
    kernels: dict[str, Shape] | None = None
    """The shapes of the report's kernels that are left; None where the stage changed none."""
    exports: tuple[Export, ...] = ()
    """The artefacts that the stage wrote."""


class Machine(Section):
    """Where the run took place."""

    platform: str
    """The operating system and processor architecture."""
    backend: str
    """JAX's platform: cpu, gpu, tpu."""
    device_kind: str
    devices: int
    """Of all processes together."""
    processes: int
    cores: int
    """Processor cores that this process may use."""
    python: str
    packages: dict[str, str]
    """The versions of the packages that decide the numbers."""


class Document(Section):
    """A versioned file."""

    version: Literal[1] = VERSION
    """Of this schema; a reader refuses another."""
    created: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))


class Exports(Document):
    """What a stage wrote for other runtimes: `export.json`, in whose directory the files are."""

    exports: tuple[Export, ...]


class Report(Document):
    """A run of one recipe."""

    name: str
    """The recipe's name."""
    command: str
    """What to type to run it again."""
    recipe: Recipe
    """The resolved config."""
    machine: Machine
    baseline: str
    """The name of the stage whose model the others are compared with."""
    stages: tuple[Stage, ...]
    kernels: dict[str, Shape] = Field(default_factory=dict)
    """The shapes of the parameters that feed a contraction before any cut, by path in program
    order; none where no stage changed a shape."""

    @pydantic.model_validator(mode="after")
    def _has_its_baseline(self) -> "Report":
        _refuse_duplicates([stage.name for stage in self.stages])
        if self.baseline not in self.models:
            raise ValueError(
                f"baseline = {self.baseline!r} is no stage with measures: {', '.join(self.models)}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _kernels_are_known(self) -> "Report":
        for stage in self.stages:
            if unknown := sorted((stage.kernels or {}).keys() - self.kernels.keys()):
                raise ValueError(
                    f"stage {stage.name!r} has kernels that the report has not: "
                    f"{', '.join(unknown)}"
                )
        return self

    @property
    def models(self) -> dict[str, Measures]:
        """The measured models by the name of the stage that left them, in order."""
        return {s.name: s.measures for s in self.stages if s.measures is not None}

    @property
    def scratch(self) -> tuple[str, ...]:
        """The models that were trained from new weights after others: for comparison."""
        trained = (stage.name for stage in self.stages if stage.kind == "train")
        return tuple(name for name in trained if name in self.models and name != self.baseline)

    @property
    def final(self) -> str:
        """The model that the recipe ends in."""
        return [name for name in self.models if name not in self.scratch][-1]


class Result(Section):
    """One recipe of a sweep with one seed, and the model that it ends in."""

    name: str
    """The recipe's; those of one name differ in their seeds alone."""
    seed: int
    overrides: Recipe
    """What this recipe changes in the common config."""
    report: RelativePath
    """Its `report.json`, relative to the sweep's directory."""
    measures: Row


class Sweep(Document):
    """Several recipes compared: `sweep.json`."""

    name: str
    command: str
    machine: Machine
    baselines: dict[int, Row]
    """The model that all are compared with, by seed."""
    results: Annotated[tuple[Result, ...], Field(min_length=1)]

    @pydantic.model_validator(mode="after")
    def _results_differ(self) -> "Sweep":
        _refuse_duplicates([f"{result.name}, seed {result.seed}" for result in self.results])
        if lost := {result.seed for result in self.results} - self.baselines.keys():
            raise ValueError(f"baselines has none of seed {', '.join(map(str, sorted(lost)))}")
        return self


def read(path: Path | str) -> Report:
    """Reads a `report.json`.

    Raises:
        ValueError: it is not a report of this version; every field that is missing, unknown or of
            another type is named.
    """
    return _read(Report, Path(path))


def read_sweep(path: Path | str) -> Sweep:
    """Reads a `sweep.json`; raises `ValueError` as `read` does."""
    return _read(Sweep, Path(path))


def read_exports(path: Path | str) -> Exports:
    """Reads an `export.json`; raises `ValueError` as `read` does."""
    return _read(Exports, Path(path))


def _read(schema: type[R], path: Path) -> R:
    text = path.read_bytes()
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    version = fields.get("version") if isinstance(fields, dict) else None
    if version != VERSION:
        raise ValueError(
            f"{path}: version = {version!r}; this code reads version {VERSION}: "
            "use the code that wrote it, or run the command again"
        )
    try:
        return schema.model_validate_json(text)
    except pydantic.ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, e['loc'])) or schema.__name__}: {e['msg']}"
            for e in error.errors()
        ]
        raise ValueError("\n".join([f"{path} does not fit version {VERSION}:", *lines])) from None


def json_schema() -> str:
    """The JSON Schema of `report.json`, as it stands in `report.schema.json`."""
    return json.dumps(Report.model_json_schema(), indent=2) + "\n"
