"""Recipes: every default can be overridden, what cannot run is refused, keys say what changed."""

from pathlib import Path

import pytest

from experiments import recipe
from experiments.schema import ConfigError

FIELDS = {
    "name": "test",
    "data": {"name": "digits", "batch_size": 64, "eval_batch_size": 64},
    "model": {"name": "mlp", "hidden": (8,)},
    "stages": ("train", "prune", "evaluate"),
    "evaluate": {"batch_size": 64},
}
CONFIGS = sorted(path for path in Path("configs").glob("*.py") if path.stem != "__init__")


def resolved(devices=1, **changes):
    return recipe.resolve({**FIELDS, **changes}, devices)


def test_the_config_holds_every_field_of_every_section():
    config = recipe.config(**FIELDS)
    assert config.train.lr == 0.1
    assert config.prune.keep_ratio == 0.3
    assert config.mesh.fsdp == 1
    assert config.model.dropout == 0.0
    assert config.is_locked


def test_a_config_resolves_to_what_its_fields_do():
    assert recipe.resolve(recipe.config(**FIELDS), 1).as_dict() == resolved().as_dict() | {
        "model": {"name": "mlp", "hidden": [8], "dropout": 0.0}
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sead": 1}, r"config: unknown name 'sead'; did you mean 'seed'\?"),
        ({"seed": -1}, r"seed = -1: Input should be greater than or equal to 0"),
        ({"stages": ()}, r"stages = \(\)"),
        ({"stages": ("train", "prun")}, r"stages: unknown name 'prun'; did you mean 'prune'\?"),
        ({"stages": ("prune",)}, r"'prune' needs a model.*put train or load before it"),
        ({"stages": ("train", "train")}, r"'train' stands twice.*kind = 'train'"),
        ({"train": {"lrr": 1.0}}, r"train: unknown name 'lrr'; did you mean 'lr'\?"),
        ({"train": {"optimizer": "sdg"}}, r"train\.optimizer.*unknown name 'sdg'.*'sgd'"),
        ({"prune": {"keep_ratio": 1.3}}, r"prune\.keep_ratio = 1\.3"),
        (
            {"prune": {"score": "wanda"}},
            r"prune\.score.*unknown name 'wanda'.*Known: gradient_norm",
        ),
        ({"prune": {"begin": 0.8, "end": 0.7}}, r"prune: begin = 0\.8 must be below end = 0\.7"),
        ({"prune": {"keep": "best"}}, r"prune: keep = 'best' would hand on the densest"),
        ({"model": {"name": "mpl"}}, r"model.*'mpl'.*'mlp'"),
        ({"model": {"name": "mlp", "width": 3}}, r"model.*'width'"),
        ({"mesh": {"fsdp": 3}}, r"mesh: .*does not make 4, the number of devices"),
        (
            {"data": {"name": "digits", "batch_size": 6}},
            r"data\.batch_size = 6.*divisible by the 4",
        ),
        ({"train": {"accumulate": 32}}, r"train\.accumulate = 32.*batch_size = 64"),
        ({"evaluate": {"batch_size": 6}}, r"evaluate\.batch_size = 6"),
        ({"finetune": {"lrr": 1.0}}, r"finetune: unknown name 'lrr'"),
        ({"tune": {"kind": "finetun"}}, r"tune\.kind: unknown name 'finetun'"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused(changes, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        resolved(4, **changes)


def test_a_stage_may_have_a_name_of_its_own():
    made = resolved(stages=("train", "again", "evaluate"), again={"kind": "finetune", "lr": 0.5})
    assert [(stage.name, stage.kind) for stage in made.stages][1] == ("again", "finetune")
    assert made.stages[1].config.lr == 0.5


def test_keys_change_from_the_stage_on_that_changed():
    keys = resolved().keys("data")
    later = resolved(prune={"keep_ratio": 0.5}).keys("data")
    assert keys["train"] == later["train"]
    assert keys["prune"] != later["prune"]
    assert keys["evaluate"] != later["evaluate"]


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"model": {"name": "mlp", "hidden": (9,)}}, {"precision": "bfloat16"}]
)
def test_keys_of_all_stages_change_with_what_they_share(changes):
    keys, others = resolved().keys("data"), resolved(**changes).keys("data")
    assert not set(keys.values()) & set(others.values())
    assert not set(keys.values()) & set(resolved().keys("other data").values())


@pytest.mark.parametrize(
    ("devices", "changes"),
    [(1, {"name": "another"}), (1, {"run": {"log_steps": 1}}), (4, {"mesh": {"fsdp": 2}})],
)
def test_keys_do_not_change_with_what_changes_no_result(devices, changes):
    assert resolved().keys("data") == resolved(devices, **changes).keys("data")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", (False, 16, 0.5)), ("smoke", (True, 16, 0.5)), ("width=8,rate=1", (False, 8, 1.0))],
)
def test_arguments_are_typed(text, expected):
    found = recipe.arguments(text, smoke=False, width=16, rate=0.5)
    assert (found.smoke, found.width, found.rate) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smok", r"unknown name 'smok'; did you mean 'smoke'\? Known: smoke, width"),
        ("width=wide", r"config argument width = 'wide': Input should be a valid integer"),
        ("smoke=3", r"config argument smoke = '3'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        recipe.arguments(text, smoke=False, width=16)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("argument", ["", ":smoke"])
def test_every_config_resolves(path, argument):
    made = recipe.resolve(recipe.load(f"{path}{argument}"), devices=1)
    assert made.settings.name == path.stem


def test_overrides_name_fields_by_dots():
    config = recipe.config(**FIELDS)
    changed = recipe.overridden(config, {"prune.keep_ratio": 0.5, "name": "half"})
    assert (changed.prune.keep_ratio, changed.name) == (0.5, "half")
    assert config.prune.keep_ratio == 0.3
    for wrong in ({"prune.keep_ration": 0.5}, {"prune.keep_ratio": "half"}):
        with pytest.raises(ConfigError, match="sweep"):
            recipe.overridden(config, wrong)


def test_a_sweep_must_name_its_recipes(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def sweep():\n    yield {'name': 'a'}\n    yield {'name': 'a'}\n")
    with pytest.raises(ConfigError, match="name of its own: 'a'"):
        recipe.sweep_of(file)
    file.write_text("")
    with pytest.raises(ConfigError, match=r"no function sweep\(\)"):
        recipe.sweep_of(file)
