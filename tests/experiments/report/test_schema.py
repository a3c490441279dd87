"""`report.json`: what is read is what was written; anything else is refused by name."""

import json
import math
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from experiments import report
from experiments.logs import jsonl
from experiments.report import schema
from tests.experiments.report import known


def edited(tmp_path, change):
    """The known report on disk after `change` of its JSON."""
    fields = json.loads(report.to_json(known.report()))
    change(fields)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(fields))
    return path


@pytest.mark.parametrize(
    ("document", "read"),
    [
        (known.report(), report.read),
        (known.cut_report(), report.read),
        (known.sweep(), report.read_sweep),
    ],
)
def test_the_round_trip_is_exact(tmp_path, document, read):
    path = tmp_path / "document.json"
    path.write_text(report.to_json(document))
    assert read(path) == document
    assert report.to_json(read(path)) == path.read_text()


def test_the_json_is_strict_and_a_list_of_numbers_is_one_line():
    text = report.to_json(known.report())
    json.loads(text, parse_constant=pytest.fail)
    assert '"steps": [ 500, 1000 ]' in text


def test_numbers_that_are_not_finite_are_null_and_read_as_nan(tmp_path):
    curve = report.Curve(steps=(1,), values=(math.inf,))
    lost = known.stage("lost", "train", known.measures("lost", loss=math.nan), curves={"l": curve})
    document = known.report()
    document = document.model_copy(update={"stages": (*document.stages, lost)})
    path = tmp_path / "report.json"
    path.write_text(report.to_json(document))
    stage = report.read(path).stages[-1]
    assert json.loads(path.read_text())["stages"][-1]["measures"]["loss"] is None
    assert math.isnan(stage.measures.loss)
    assert math.isnan(stage.curves["l"].values[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(version=2), r"version = 2; this code reads version 1"),
        (lambda r: r.pop("version"), r"version = None"),
        (lambda r: r.pop("machine"), r"machine: Field required"),
        (lambda r: r["stages"][1]["measures"].pop("top1"), r"stages\.1\.measures\.top1: Field req"),
        (lambda r: r["stages"][0].pop("key"), r"stages\.0\.key: Field required"),
        (lambda r: r["stages"][0].update(time=1), r"stages\.0\.time: Extra inputs"),
        (lambda r: r["stages"][0].update(reused="no"), r"stages\.0\.reused: .*boolean"),
        (lambda r: r["stages"][0].update(checkpoint="/a/b"), r"'/a/b' is absolute; .*relative"),
        (
            lambda r: r["stages"][2]["curves"]["train/loss"]["steps"].pop(),
            r"stages\.2\.curves\.train/loss: .*1 steps and 2 values",
        ),
        (lambda r: r.update(baseline="evaluate"), r"'evaluate' is no stage with measures: train, "),
        (lambda r: r["stages"].append(r["stages"][0]), r"train: this name is there twice"),
        (lambda r: r.update(created="2026-01-02T03:04:05"), r"created: .*timezone"),
    ],
)
def test_a_report_that_does_not_fit_is_refused(tmp_path, change, message):
    path = edited(tmp_path, change)
    with pytest.raises(ValueError, match=rf"report\.json[\s\S]*{message}"):
        report.read(path)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1'])
def test_what_is_no_report_at_all_is_refused(tmp_path, text):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"report\.json(: version = None| is not JSON)"):
        report.read(path)


def test_a_sweep_that_has_a_recipe_twice_or_lacks_a_baseline_is_refused():
    fields = dict(known.sweep())
    with pytest.raises(ValueError, match="magnitude, seed 0: this name is there twice"):
        report.Sweep(**fields | {"results": (fields["results"][0],) * 2})
    with pytest.raises(ValueError, match="baselines has none of seed 1"):
        report.Sweep(**fields | {"baselines": {0: known.measures("train")}})
    with pytest.raises(ValueError, match="results"):
        report.Sweep(**fields | {"results": ()})


def test_kernels_of_a_stage_that_the_report_has_not_are_refused():
    fields = dict(known.cut_report())
    with pytest.raises(ValueError, match=r"stage 'shrink' has kernels .* params/block/kernel"):
        report.Report(**fields | {"kernels": known.SHORTER})


def test_the_final_model_is_no_comparison_from_scratch():
    found = known.cut_report()
    assert (found.final, found.scratch) == ("finetune", ("scratch",))
    assert (known.report().final, known.report().scratch) == ("finetune", ())


def test_a_recipe_is_kept_as_json_has_it():
    recipe = ConfigDict({"betas": (0.9, 0.999), "clip": math.inf, "nested": {"on": True}}).to_dict()
    document = report.Report(**dict(known.report()) | {"recipe": recipe})
    assert document.recipe == {"betas": [0.9, 0.999], "clip": "inf", "nested": {"on": True}}


def test_the_committed_json_schema_is_that_of_the_code():
    path = Path(schema.__file__).with_name("report.schema.json")
    assert path.read_text() == schema.json_schema(), f"write json_schema() to {path.name} again"


def test_this_machine_names_what_the_numbers_depend_on():
    machine = report.this_machine()
    assert (machine.backend, machine.devices, machine.processes) == ("cpu", 8, 1)
    assert machine.cores >= 1
    assert machine.packages.keys() >= {"jax", "flax", "numpy"}


def test_curves_are_thinned_from_the_last_value_backwards():
    records = [jsonl.Record(step, 0.0, "train", {"loss": step / 8}) for step in range(1, 11)]
    other = jsonl.Record(11, 0.0, "finetune", {"loss": 0.0})
    assert report.curves([*records, other], "train", points=5)["loss"].steps == (2, 4, 6, 8, 10)
    assert report.curves(records, "train", points=4)["loss"].steps == (1, 4, 7, 10)
    assert report.curves(records, "train")["loss"].values == tuple(s / 8 for s in range(1, 11))
    assert report.curves(records, "finetune") == {}


def test_curves_have_the_digits_of_float32():
    record = jsonl.Record(1, 0.0, "train", {"loss": 0.30000001192092896, "top1": math.nan})
    found = report.curves([record], "train")
    assert found["loss"].values == (0.3,)
    assert math.isnan(found["top1"].values[0])
