"""Recipes: every default can be overridden, what cannot run is refused, keys say what changed."""

from pathlib import Path

import pytest

from experiments import recipe
from experiments.schema import ConfigError
from experiments.stages.distillation import teacher

FIELDS = {
    "name": "test",
    "data": {"name": "digits", "batch_size": 64, "eval_batch_size": 64},
    "model": {"name": "mlp", "hidden": (8,)},
    "stages": ("train", "prune", "evaluate"),
    "evaluate": {"batch_size": 64},
}
CONFIGS = sorted(path for path in Path("configs").glob("*.py") if path.stem != "__init__")


TEXTS = {"name": "rotten_tomatoes", "length": 16, "batch_size": 64, "eval_batch_size": 64}
BERT = {"name": "bert", "size": "tiny"}


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
        ({"stages": ("prune",)}, r"'prune' needs a model.*put train or load or distill before it"),
        (
            {"stages": ("train", "quantize", "finetune")},
            r"'finetune' needs float weights, and 'quantize' before it .* epochs trains",
        ),
        ({"stages": ("train", "train")}, r"'train' stands twice.*kind = 'train'"),
        ({"train": {"lrr": 1.0}}, r"train: unknown name 'lrr'; did you mean 'lr'\?"),
        ({"train": {"optimizer": "sdg"}}, r"train\.optimizer.*unknown name 'sdg'.*'sgd'"),
        ({"prune": {"keep_ratio": 1.3}}, r"prune\.keep_ratio = 1\.3"),
        ({"prune": {"score": "wands"}}, r"prune\.score.*unknown name 'wands'.*mean 'wanda'"),
        ({"prune": {"score": "wanda"}}, r"prune: score = 'wanda'.*'cubic' must be 'one_shot'"),
        (
            {"prune": {"score": "random", "sparsity_schedule": "one_shot", "begin": 0.5}},
            r"prune: score = 'random' is measured once.*begin = 0\.5 must be 0",
        ),
        ({"prune": {"score": "apoz"}}, r"prune: score = 'apoz' rates whole units.*'shrink'"),
        ({"prune": {"structure": "2:3"}}, r"prune\.structure.*unknown name '2:3'.*mean '2:4'"),
        ({"prune": {"keep_ratio": 0.0}}, r"prune\.keep_ratio = 0\.0.*greater than 0"),
        ({"shrink": {"keep_ratio": 0.0}}, r"shrink\.keep_ratio = 0\.0.*greater than 0"),
        ({"shrink": {"keep_ratio": 1.1}}, r"shrink\.keep_ratio = 1\.1.*less than or equal to 1"),
        ({"shrink": {"min_width": 0}}, r"shrink\.min_width = 0.*greater than or equal to 1"),
        (
            {"shrink": {"rules": [{"pattern": "*", "min_width": 0}]}},
            r"shrink\.rules\.0\.min_width = 0.*greater than or equal to 1",
        ),
        ({"shrink": {"budget": "mac"}}, r"shrink\.budget.*unknown name 'mac'.*mean 'macs'"),
        (
            {"shrink": {"budget": "latency", "distribution": "uniform"}},
            r"shrink: distribution = 'uniform' must be 'global' where budget = 'latency'",
        ),
        ({"shrink": {"latency_keeps": (1.0,)}}, r"shrink\.latency_keeps\.0 = 1\.0.*less than 1"),
        ({"depth": {"keep_ratio": 1.5}}, r"depth\.keep_ratio = 1\.5.*less than or equal to 1"),
        ({"depth": {"budget": "latency"}}, r"depth\.budget.*unknown name.*blocks, macs, params"),
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "mlp"}}, r"model\.name = 'mlp' .*, text; choose one of bert"),
        ({"data": FIELDS["data"]}, r"model\.name = 'bert' .*, image; choose one of mlp"),
        ({"model": {"name": "bert", "size": "big"}}, r"BERT: unknown name 'big'"),
        (
            {"evaluate": {"attacks": ("fgsm",)}},
            r"evaluate\.attacks = \('fgsm',\): attacks are of images, and rotten_tomatoes has tex",
        ),
        (
            {
                "stages": ("train", "last"),
                "last": {"kind": "evaluate", "corruptions": ("contrast",)},
            },
            r"last\.corruptions = \('contrast',\): corruptions are of images",
        ),
        (
            {"data": {**TEXTS, "augment": ({"name": "flip"},)}},
            r"data: augment = .* is for images, and rotten_tomatoes has texts",
        ),
    ],
)
def test_what_is_done_to_images_is_refused_of_texts(changes, message):
    with pytest.raises(ConfigError, match=message):
        resolved(**{"data": TEXTS, "model": BERT, **changes})


def test_texts_are_not_attacked_by_default_and_images_are():
    of_texts = recipe.config(**{**FIELDS, "data": TEXTS, "model": BERT})
    assert of_texts.evaluate.attacks == of_texts.evaluate.corruptions == ()
    assert len(recipe.config(**FIELDS).evaluate.attacks) > 1
    assert recipe.resolve(of_texts, 1).settings.data.length == 16


def test_keys_of_recipes_of_images_are_what_they_were_before_there_were_texts():
    """So that results that were kept stay valid; another is right only with a new version."""
    expected = {"train": "36fea81cb554", "prune": "a5aff85dfabb", "evaluate": "15142ea2e13d"}
    assert resolved().keys("data") == expected


def test_keys_of_recipes_of_texts_change_with_buckets_alone():
    fields = {**FIELDS, "data": TEXTS, "model": BERT}
    plain, empty, short = (
        recipe.resolve({**fields, "data": {**TEXTS, **buckets}}, 1).keys("data")
        for buckets in ({}, {"buckets": ()}, {"buckets": (8,)})
    )
    assert plain == empty
    assert not set(plain.values()) & set(short.values())


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
def test_every_config_resolves(path, argument, monkeypatch):
    # A teacher in a run's folder is there once another recipe has run.
    check = teacher.check
    monkeypatch.setattr(
        teacher, "check", lambda name, *rest: name.startswith("runs/") or check(name, *rest)
    )
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


SWEEPS = {
    "yield {'prune.keep_ratio': 0.5}": "must give each recipe a name",
    "yield {'name': 'a'}; yield {'name': 'a'}": "name of its own: 'a' stands 2 times",
    "yield {'name': 'a'}; yield {'name': 'a', 'seed': 1}": "must each have another `seed`",
    "yield {'name': 'a', 'seed': 1}; yield {'name': 'a', 'seed': 1}": "have another `seed`",
    "yield {'name': 'a', 'seed': 0, 'train.lr': 0.1}; yield {'name': 'a', 'seed': 1}": (
        "differ in nothing else"
    ),
    "yield {'name': 'a_s1'}; yield {'name': 'a', 'seed': 0}; yield {'name': 'a', 'seed': 1}": (
        "names two recipes 'a_s1'"
    ),
}


@pytest.mark.parametrize("body", SWEEPS)
def test_a_sweep_must_name_its_recipes(tmp_path, body):
    file = tmp_path / "x.py"
    file.write_text(f"def sweep():\n    {body}\n")
    with pytest.raises(ConfigError, match=SWEEPS[body]):
        recipe.sweep_of(file)


def test_a_config_without_a_sweep_has_none(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("")
    with pytest.raises(ConfigError, match=r"no function sweep\(\)"):
        recipe.sweep_of(file)


def test_recipes_of_one_name_are_told_apart_by_their_seeds(tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        "def sweep():\n"
        "    yield {'name': 'once', 'seed': 7}\n"
        "    for seed in range(2):\n"
        "        yield {'name': 'often', 'seed': seed, 'train.lr': 0.1}\n"
    )
    assert recipe.sweep_of(file) == {
        "once": {"name": "once", "seed": 7},
        "often_s0": {"name": "often", "seed": 0, "train.lr": 0.1},
        "often_s1": {"name": "often", "seed": 1, "train.lr": 0.1},
    }
    changed = recipe.overridden(recipe.config(**FIELDS), recipe.sweep_of(file)["often_s1"])
    assert (changed.name, changed.seed, changed.train.lr) == ("often", 1, 0.1)


def test_the_section_of_a_stage_that_is_left_out_is_kept_for_overrides():
    values = recipe.config(**{**FIELDS, "stages": ("train",), "finetune": {"epochs": 3.0}})
    put_in = recipe.overridden(values, {"stages": ("train", "finetune")})
    assert recipe.resolve(put_in, devices=1).stages[-1].config.epochs == 3.0
