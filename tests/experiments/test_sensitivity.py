"""A recipe measures what each group is worth, and cuts by it."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from experiments import recipe, runner
from experiments.preemption import Preemption
from experiments.report.plots.sensitivity import sensitivity_figure
from experiments.schema import ConfigError
from experiments.stages import evidence
from slim.prune import Sensitivity
from slim.prune.sensitivity import Point

FIELDS = {
    "name": "test",
    "data": {"name": "digits", "batch_size": 64, "eval_batch_size": 64},
    "model": {"name": "mlp", "hidden": (24, 16)},
    "stages": ("train", "sensitivity", "shrink", "evaluate"),
    "train": {"epochs": 1, "lr": 0.05},
    "sensitivity": {"keep_ratios": (0.75, 0.25), "images": 100, "batches": 2},
    "shrink": {"distribution": "sensitivity", "keep_ratio": 0.6, "batches": 2},
    "evaluate": {
        "batch_size": 64,
        "latency_rounds": 2,
        "robustness_images": 64,
        "attacks": ("fgsm",),
        "epsilons": (8.0,),
        "corruptions": ("contrast",),
    },
}
SHORT = {
    "stages": ("train", "sensitivity"),
    "train": {"epochs": 0.1},
    "sensitivity": FIELDS["sensitivity"] | {"score": "l1"},
    "shrink": FIELDS["shrink"] | {"keep_ratio": 0.85, "budget": "params"},
}
GROUPS = {"params/hidden1/kernel:1": 24, "params/hidden2/kernel:1": 16}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


def run(workdir, **changes):
    made = recipe.resolve({**FIELDS, **changes}, jax.device_count())
    return runner.run(made, workdir, Preemption(), command="test", pages=workdir)


@pytest.fixture(scope="module")
def first(workdir):
    return run(workdir)


@pytest.fixture(scope="module")
def directory(first, workdir):
    (found,) = (workdir / "stages").glob("sensitivity-*")
    return found


@pytest.fixture(scope="module")
def measured(directory):
    return Sensitivity.from_json((directory / "sensitivity.json").read_text())


def test_the_stage_measures_every_group_at_every_ratio(measured):
    assert measured.sizes == GROUPS
    for name, (wide, narrow) in measured.curves.items():
        assert (wide.keep, narrow.keep) == (0.75, 0.25)
        assert (wide.width, narrow.width) == (0.75 * GROUPS[name], 0.25 * GROUPS[name])
        assert measured.baseline > narrow.metric
        assert 0 < wide.estimate < narrow.estimate


def test_the_stage_leaves_a_picture_and_no_model(first, directory):
    assert (directory / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    assert list(first.models) == ["train", "shrink"]


def test_the_cut_meets_its_budget(first):
    assert first.models["shrink"].macs <= 0.6 * first.models["train"].macs


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The workdir of a short run of both stages, and a list as long as the loss was traced often.

    Its score needs no gradients: all these losses are measurements.
    """
    workdir, traced = tmp_path_factory.mktemp("short"), []
    loss = evidence.loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "loss", lambda *args: traced.append(args) or loss(*args))
        run(workdir, **SHORT)
    return workdir, traced


def test_the_loss_of_all_masked_models_is_one_program(short):
    assert len(short[1]) == 1


@pytest.fixture
def file(short, tmp_path):
    """What was measured, in a copy of the short run at `tmp_path`."""
    shutil.copytree(short[0], tmp_path, dirs_exist_ok=True)
    (found,) = tmp_path.glob("stages/sensitivity-*/sensitivity.json")
    return found


def test_the_cut_follows_the_measurement(file, tmp_path):
    measured = Sensitivity.from_json(file.read_text())
    spared, cut = measured.curves
    drops = {spared: 1.0, cut: 0.0}
    curves = {
        name: tuple(
            dataclasses.replace(point, metric=measured.baseline - drops[name]) for point in points
        )
        for name, points in measured.curves.items()
    }
    file.write_text(dataclasses.replace(measured, curves=curves).to_json())
    run(tmp_path, **SHORT | {"stages": (*SHORT["stages"], "shrink")})
    (record,) = tmp_path.glob("stages/shrink-*/result.json")
    (plan,) = json.loads(record.read_text())["plans"]
    assert json.loads(plan)["keep"].keys() == {cut}


def test_a_recipe_without_the_measurement_is_refused():
    for stages in (("train", "shrink"), ("train", "shrink", "sensitivity")):
        with pytest.raises(ConfigError, match="'shrink' needs a stage of kind 'sensitivity'"):
            recipe.resolve({**FIELDS, "stages": stages}, jax.device_count())


def test_a_measurement_at_other_sizes_is_refused(first, workdir):
    with pytest.raises(
        ConfigError,
        match=r"shrink\.distribution = 'sensitivity': .*'params/hidden\d/kernel:1' was measured",
    ):
        run(
            workdir,
            stages=("train", "sensitivity", "cut", "shrink"),
            cut={"kind": "shrink", "keep_ratio": 0.7, "distribution": "uniform", "score": "l1"},
        )


def test_a_damaged_measurement_is_refused(file, tmp_path):
    file.write_text(file.read_text()[:-9])
    with pytest.raises(ConfigError, match=r"shrink: .*sensitivity\.json cannot be read"):
        run(tmp_path, **SHORT | {"stages": (*SHORT["stages"], "shrink")})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"score": "wands"}, r"sensitivity\.score.*unknown name 'wands'.*'wanda'"),
        ({"keep_ratios": (0.5, 1.0)}, r"sensitivity\.keep_ratios\.1 = 1\.0"),
        ({"keep_ratios": ()}, r"sensitivity\.keep_ratios = \(\)"),
        ({"images": 0}, r"sensitivity\.images = 0"),
    ],
)
def test_bad_fields_are_refused(section, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        recipe.resolve({**FIELDS, "sensitivity": section}, jax.device_count())


def test_the_picture_has_a_row_a_group_and_a_number_a_cell():
    points = (Point(0.5, 4, -0.75, 0.125), Point(0.25, 2, -0.25, 3e-5))
    curves = {"params/a/kernel:1": points, "b": points}
    figure = sensitivity_figure(Sensitivity(-0.5, {"params/a/kernel:1": 8, "b": 8}, curves), "l1")
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["a/kernel:1  (8)", "b  (8)"]
    assert [text.get_text() for text in left.texts] == ["0.25", "-0.25"] * 2
    assert [text.get_text() for text in right.texts] == ["0.12", "3e-05"] * 2
    # What pruning improves has the colour of what it leaves alone.
    np.testing.assert_allclose(left.images[0].get_array(), [[0.25, 0.0]] * 2)
