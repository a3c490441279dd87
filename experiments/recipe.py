"""A recipe: the resolved config, its stages in order, and what makes it impossible.

A config file calls `config(...)` with what it wants to set; the result holds every field with its
default, so that any of them can be overridden from the command line. `resolve` checks it all and
gives the typed `Recipe`.
"""

import dataclasses
import hashlib
import json
import pathlib
import runpy
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import ml_collections
import pydantic
from pydantic import Field

import slim
from experiments import build
from experiments import mesh as meshes
from experiments.data.config import DataConfig
from experiments.data.info import IMAGE, LANGUAGE, Modality
from experiments.measure import EvaluateConfig
from experiments.schema import ConfigError, Schema, overridable, parse, plain, unknown_name
from experiments.stages import STAGES, Stage
from experiments.stages.distill import DistillConfig
from experiments.train import RunConfig, TrainConfig
from slim import models

# Part of every key: raised when what is stored for a stage changes its form.
STORE_VERSION = 1

AFTERWARDS = ("export",)
"""Stages whose sections each config has, so that `--only` can run them, with overrides, later."""
EMPTY: Mapping[str, Any] = {}


class Settings(Schema):
    """What all stages of a recipe share.

    Attributes:
        name: of the recipe, in reports.
        seed: of initialization, the order of batches and all random keys.
        precision: a name of `experiments.precision.PRECISIONS`.
        data: the data set and its batches.
        model: `name`, one of `slim.models.MODELS`, and that model's options.
        mesh: the grid of devices.
        run: how often to save and show.
        stages: the names of the stages in order. A name is that of its kind, or any other if its
            section has a field `kind`.
    """

    name: Annotated[str, Field(pattern=r"^[\w.=+-]+$")]
    seed: Annotated[int, Field(ge=0)] = 0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    data: DataConfig
    model: dict[str, Any]
    mesh: meshes.MeshConfig = meshes.MeshConfig()
    run: RunConfig = RunConfig()
    stages: Annotated[tuple[str, ...], Field(min_length=1)]


@dataclasses.dataclass(frozen=True)
class PlannedStage:
    """A stage of a recipe: its name, its kind and its checked config."""

    name: str
    kind: str
    config: Schema

    @property
    def stage(self) -> Stage:
        """The kind's functions."""
        return STAGES[self.kind]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A checked config."""

    settings: Settings
    stages: tuple[PlannedStage, ...]

    def as_dict(self) -> dict[str, Any]:
        """All fields, as plain JSON."""
        sections = {
            stage.name: {"kind": stage.kind, **stage.config.model_dump(mode="json")}
            for stage in self.stages
        }
        return {**self.settings.model_dump(mode="json"), **sections}

    def keys(self, fingerprint: str) -> dict[str, str]:
        """A hash for each stage of all that its result depends on: 12 hexadecimal digits by name.

        That is its own config, the model, precision, seed, the data's fingerprint and training
        settings, and the stages before it; not the mesh, nor how often is saved or shown.

        Args:
            fingerprint: the data set's.
        """
        settings = self.settings.model_dump(mode="json")
        shared = {name: settings[name] for name in ("seed", "precision", "model")}
        # Splits and decoding are in the fingerprint.
        data = {name: settings["data"][name] for name in ("batch_size", "augment")}
        if settings["data"]["buckets"]:  # what is without them keeps its key
            data["buckets"] = settings["data"]["buckets"]
        before: str = _digest(STORE_VERSION, slim.__version__, shared, data, fingerprint)
        keys = {}
        for stage in self.stages:
            config = stage.config.model_dump(mode="json")
            if not config.get("anneal_biases", True):  # likewise
                del config["anneal_biases"]
            before = _digest(before, stage.name, stage.kind, stage.stage.version, config)
            keys[stage.name] = before
        return keys


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def config(**fields: Any) -> ml_collections.ConfigDict:
    """The config of a recipe: the given fields, and the defaults of all others, locked.

    Raises:
        ConfigError: a field that does not fit.
    """
    recipe = _typed(fields)
    full = overridable(recipe.settings)
    if recipe.settings.model.get("name") in models.MODELS:
        full["model"] = {**models.options(full["model"]["name"]), **full["model"]}
    chosen = {stage.name for stage in recipe.stages}
    # Sections of stages that are left out stay, for sweeps and overrides that put them in.
    left_out = (
        _planned(name, section, recipe.settings.data.modality)
        for name, section in {**dict.fromkeys(AFTERWARDS, EMPTY), **fields}.items()
        if name not in Settings.model_fields and name not in chosen
    )
    for stage in (*recipe.stages, *left_out):
        full[stage.name] = overridable(stage.config)
        if stage.kind != stage.name:
            full[stage.name]["kind"] = stage.kind
    return ml_collections.ConfigDict(full).lock()


def resolve(values: Mapping[str, Any] | ml_collections.ConfigDict, devices: int) -> Recipe:
    """The typed recipe of a config, after all checks that need no data.

    Args:
        values: as `config` makes them.
        devices: how many the mesh is laid over.

    Raises:
        ConfigError: naming the field, its value and what is allowed.
    """
    recipe = _typed(plain(values))
    build.check(recipe.settings.model, recipe.settings.data.modality)
    _check_modality(recipe)
    _check_order(recipe)
    _check_batches(recipe, devices)
    return recipe


def _typed(fields: Mapping[str, Any]) -> Recipe:
    names = plain(fields.get("stages", ()))
    known = Settings.model_fields.keys()
    shared = {name: value for name, value in fields.items() if name in known}
    settings = parse(Settings, shared, "")
    for name, section in fields.items():
        if name in known or name in names:
            continue
        # The section of a stage that is left out this time must be right all the same.
        if name not in STAGES and not (isinstance(section, Mapping) and "kind" in section):
            raise unknown_name("config", name, {*known, *names, *STAGES})
        _planned(name, section, settings.data.modality)
    stages = tuple(
        _planned(name, fields.get(name, {}), settings.data.modality) for name in settings.stages
    )
    return Recipe(settings, stages)


def _planned(name: str, section: Any, modality: Modality) -> PlannedStage:
    if not isinstance(section, Mapping | ml_collections.ConfigDict):
        raise ConfigError(f"{name} = {section!r}: a stage's section is a dict of its fields")
    section = plain(section)
    kind = section.pop("kind", name)
    if kind not in STAGES:
        where = "stages" if kind == name else f"{name}.kind"
        raise unknown_name(where, kind, STAGES)
    if modality != IMAGE:
        section = {**dict.fromkeys(STAGES[kind].for_images, ()), **section}
    return PlannedStage(name, kind, parse(STAGES[kind].config, section, name))


def _check_modality(recipe: Recipe) -> None:
    data = recipe.settings.data
    if data.modality == IMAGE:
        return
    if data.modality == LANGUAGE:
        fitting = ", ".join(kind for kind, stage in STAGES.items() if stage.of_language)
        for stage in recipe.stages:
            if not stage.stage.of_language:
                raise ConfigError(
                    f"stages: {stage.name!r} is of kind {stage.kind!r}, which takes no model of "
                    f"language, and {data.name} is language; leave it out; these do: {fitting}"
                )
    for stage in recipe.stages:
        for field in stage.stage.for_images:
            if value := getattr(stage.config, field):
                raise ConfigError(
                    f"{stage.name}.{field} = {value!r}: {field} are of images, and {data.name} has "
                    f"{data.modality.noun}s; leave it out, or set it to ()"
                )


def _check_order(recipe: Recipe) -> None:
    has_model = False
    names: set[str] = set()
    kinds: set[str] = set()
    models: list[str] = []
    integers: str | None = None
    ended: str | None = None
    for stage in recipe.stages:
        if integers and stage.stage.needs_floats:
            raise ConfigError(
                f"stages: {stage.name!r} needs float weights, and {integers!r} before it made them "
                f"integers; put it before {integers!r}, whose field epochs trains what is quantized"
            )
        if ended and stage.stage.needs_model and stage.stage.needs_floats:
            raise ConfigError(
                f"stages: {stage.name!r} would change the network inside what {ended!r} before it "
                f"made of it; put it before {ended!r}"
            )
        if not (stage.stage.needs_model or stage.stage.needs_floats):
            integers = ended = None
        if stage.stage.quantizes:
            integers = stage.name
        if stage.stage.ends:
            ended = stage.name
        if stage.name in names:
            raise ConfigError(
                f"stages: {stage.name!r} stands twice; give the second another name, and its "
                f"section the field kind = {stage.kind!r}"
            )
        names.add(stage.name)
        if stage.stage.needs_model and not has_model:
            makers = " or ".join(k for k, s in STAGES.items() if not s.needs_model)
            raise ConfigError(
                f"stages: {stage.name!r} needs a model, and no stage before it makes one; "
                f"put {makers} before it"
            )
        stage.stage.check(stage.config, tuple(models), stage.name)
        for kind in stage.stage.requires(stage.config):
            if kind not in kinds:
                raise ConfigError(
                    f"stages: {stage.name!r} needs a stage of kind {kind!r} before it; put "
                    f"one there, or change what the section {stage.name!r} asks for"
                )
        kinds.add(stage.kind)
        models.append(stage.name)
        has_model = True


def _check_batches(recipe: Recipe, devices: int) -> None:
    settings = recipe.settings
    grid = meshes.shape(settings.mesh, devices)
    meshes.check_batch(settings.data.batch_size, grid, "data.batch_size")
    meshes.check_batch(settings.data.eval_batch_size, grid, "data.eval_batch_size")
    for stage in recipe.stages:
        if isinstance(stage.config, TrainConfig):
            data, field = settings.data, "data"
            if isinstance(stage.config, DistillConfig) and stage.config.corpus is not None:
                data, field = stage.config.corpus, f"{stage.name}.corpus"
                meshes.check_batch(data.batch_size, grid, f"{field}.batch_size")
            parts = stage.config.accumulate
            devices = meshes.batch_parts(grid)
            if data.batch_size % (parts * devices):
                raise ConfigError(
                    f"{stage.name}.accumulate = {parts}: {field}.batch_size = "
                    f"{data.batch_size} must be divisible by accumulate times the "
                    f"{devices} devices of the mesh axes {' x '.join(meshes.BATCH_AXES)}"
                )
        elif isinstance(stage.config, EvaluateConfig):
            meshes.check_batch(stage.config.batch_size, grid, f"{stage.name}.batch_size")


def arguments(text: str, **defaults: Any) -> Any:
    """The typed arguments that follow a config's name: `configs/x.py:smoke,width=8`.

    A bare word sets a switch; all others are `name=value`, of the type of their default.

    Args:
        text: what follows the colon; may be empty.
        **defaults: the arguments that the config knows, with bool, int, float or str defaults.

    Raises:
        ConfigError: an argument that the config does not know, or of another type.

    >>> arguments("smoke,width=8", smoke=False, width=16)
    ArgumentsConfig(smoke=True, width=8)
    """
    given: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if name not in defaults:
            raise unknown_name("config argument", name, defaults)
        given[name] = value if equals else "true"
    fields: dict[str, Any] = {name: (type(value), value) for name, value in defaults.items()}
    # Command-line words are text: this one schema converts them.
    schema = pydantic.create_model("ArgumentsConfig", __base__=Schema, __config__=None, **fields)
    try:
        return schema.model_validate(given, strict=False)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(
            f"config argument {problem['loc'][0]} = {problem['input']!r}: {problem['msg']}"
        ) from None


def with_stage(values: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
    """A config whose stages have `name` among them: as they are, or with it after the last."""
    stages = tuple(values.stages)
    return values if name in stages else overridden(values, {"stages": (*stages, name)})


def load(file: str) -> ml_collections.ConfigDict:
    """The config of a file and its arguments, `configs/x.py:smoke`, without any override."""
    path, _, text = file.partition(":")
    made: ml_collections.ConfigDict = runpy.run_path(path)["get_config"](text)
    return made


def sweep_of(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The recipes that `sweep()` in a config file yields: by key, dotted field names to values.

    Each has a `name`; one that is given with several seeds makes one row of the sweep's table, the
    mean over them, and differs in nothing else:

        for seed in range(3):
            yield {"name": "taylor", "seed": seed, "shrink.score": "taylor"}

    The key, which its report's directory is called by, is the name, and of several seeds the name
    and the seed: `taylor_s0`.

    Raises:
        ConfigError: the file has no `sweep`, or what it yields has no names, or the same one twice
            and not for another seed.
    """
    scope = runpy.run_path(str(path))
    if "sweep" not in scope:
        raise ConfigError(f"{path} has no function sweep() that yields overrides")
    named: dict[str, list[dict[str, Any]]] = {}
    for overrides in scope["sweep"]():
        if "name" not in overrides:
            raise ConfigError(f"{path}: sweep() must give each recipe a name: {overrides!r}")
        named.setdefault(overrides["name"], []).append(dict(overrides))
    found: dict[str, dict[str, Any]] = {}
    for name, recipes in named.items():
        seeds = {recipe.get("seed") for recipe in recipes}
        rests = [{k: v for k, v in recipe.items() if k != "seed"} for recipe in recipes]
        if len(recipes) > 1 and (
            None in seeds or len(seeds) < len(recipes) or any(r != rests[0] for r in rests)
        ):
            raise ConfigError(
                f"{path}: sweep() must give each recipe a name of its own: {name!r} stands "
                f"{len(recipes)} times; recipes of one name must each have another `seed`, and "
                "differ in nothing else"
            )
        for each in recipes:
            key = f"{name}_s{each['seed']}" if len(recipes) > 1 else name
            if key in found:
                raise ConfigError(f"{path}: sweep() names two recipes {key!r}; rename one")
            found[key] = each
    return found


def overridden(
    values: ml_collections.ConfigDict, overrides: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """A copy of a config with some fields changed.

    Args:
        values: the config.
        overrides: dotted field names to values: `{"prune.keep_ratio": 0.5}`.

    Raises:
        ConfigError: a field that the config does not have, or a value of another type.
    """
    changed = values.copy_and_resolve_references()
    try:
        changed.update_from_flattened_dict(dict(overrides))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"sweep(): {error}") from None
    return changed
