"""A recipe runs to a report, and runs again only from where it changed."""

import jax
import numpy as np
import pytest

from experiments import recipe, report, runner
from experiments.preemption import Preempted, Preemption
from experiments.schema import ConfigError
from experiments.weights import keep, safetensors_store
from slim import paths

FIELDS = {
    "name": "test",
    "data": {"name": "digits", "batch_size": 64, "eval_batch_size": 64},
    "model": {"name": "mlp", "hidden": (16,)},
    "stages": ("train", "prune", "finetune", "evaluate"),
    "train": {"epochs": 1, "lr": 0.05},
    "prune": {"epochs": 0.5, "keep_ratio": 0.25, "updates": 3},
    "finetune": {"epochs": 0.25},
    "evaluate": {
        "batch_size": 64,
        "latency_rounds": 2,
        "robustness_images": 64,
        "attacks": ("fgsm",),
        "epsilons": (8.0,),
        "corruptions": ("contrast",),
    },
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


def run(workdir, *, pages="", **changes):
    made = recipe.resolve({**FIELDS, **changes}, jax.device_count())
    return runner.run(made, workdir, Preemption(), command="test", pages=workdir / pages)


@pytest.fixture(scope="module")
def first(workdir):
    return run(workdir)


def test_the_report_has_a_row_for_every_model(first, workdir):
    assert list(first.models) == ["train", "prune", "finetune"]
    assert first.baseline == "train"
    assert not any(stage.reused for stage in first.stages)
    assert report.read(workdir / "report.json") == first
    assert (workdir / "report.md").exists()


def test_pruning_removes_what_it_says_and_fine_tuning_keeps_it_removed(first):
    rows = first.models
    kernels = rows["train"].parameters - 16 - 10  # all but the biases
    for name in ("prune", "finetune"):
        removed = rows["train"].nonzero_parameters - rows[name].nonzero_parameters
        assert removed == pytest.approx(0.75 * kernels, abs=26)
    assert rows["finetune"].nonzero_parameters == rows["prune"].nonzero_parameters


def test_a_second_run_does_nothing_again(first, workdir):
    again = run(workdir)
    assert all(stage.reused for stage in again.stages)
    assert again.models == first.models


def test_a_run_that_changes_a_later_stage_reuses_the_earlier_ones(first, workdir):
    changed = run(workdir, finetune={"epochs": 0.25, "lr": 0.001})
    assert [s.name for s in changed.stages if s.reused] == ["train", "prune"]
    assert changed.models["prune"].top1 == first.models["prune"].top1
    assert changed.models["finetune"].loss != first.models["finetune"].loss


def test_a_kept_network_can_be_loaded(first, workdir, tmp_path):
    run(workdir)  # the report of the first recipe
    file = tmp_path / "network.safetensors"
    keep.keep(workdir, "finetune", file)
    _, metadata = safetensors_store.load(file)
    assert metadata["measures"]["top1"] == first.models["finetune"].top1
    loaded = run(tmp_path / "run", stages=("load", "evaluate"), load={"file": str(file)})
    assert loaded.models["load"].loss == pytest.approx(first.models["finetune"].loss, rel=1e-6)


def test_a_quantized_network_is_kept_at_its_bits_and_measured_again(first, tmp_path):
    small = run(
        tmp_path,
        stages=("train", "shrink", "quantize", "evaluate"),
        shrink={"keep_ratio": 0.6},
        quantize={"weights": "int4", "batches": 1},
    ).models["quantize"]
    assert small.parameters < 0.7 * first.models["train"].parameters
    file = tmp_path / "network.safetensors"
    keep.keep(tmp_path, "quantize", file)
    header = len(safetensors_store.load(file)[1]["plans"][-1]) + 20_000
    assert small.size_bytes < file.stat().st_size < small.size_bytes + header
    loaded = run(tmp_path / "run", stages=("load", "evaluate"), load={"file": str(file)})
    for measure in ("loss", "top1", "size_bytes", "parameters", "nonzero_parameters", "macs"):
        assert getattr(loaded.models["load"], measure) == getattr(small, measure), measure
    with pytest.raises(ConfigError, match="finetune: needs float weights, and those that were loa"):
        run(tmp_path / "run", stages=("load", "finetune"), load={"file": str(file)})


def test_a_network_of_another_model_is_refused(first, workdir, tmp_path):
    file = tmp_path / "network.safetensors"
    keep.keep(workdir, "train", file)
    with pytest.raises(
        ConfigError, match=r"load\.file.*has shape \(16, 10\), and \(24, 10\) in the rec"
    ):
        run(
            tmp_path / "run",
            stages=("load", "evaluate"),
            load={"file": str(file)},
            model={"name": "mlp", "hidden": (24,)},
        )
    with pytest.raises(ConfigError, match=r"load\.file = 'nothing': no such file"):
        run(tmp_path / "run", stages=("load", "evaluate"), load={"file": "nothing"})


def test_a_stop_between_stages_loses_nothing(first, workdir, monkeypatch):
    preemption = Preemption()
    answers = iter([False, True])
    monkeypatch.setattr(preemption, "reached", lambda: next(answers))
    made = recipe.resolve(FIELDS, jax.device_count())
    with pytest.raises(Preempted, match="before prune"):
        runner.run(made, workdir, preemption, command="test", pages=workdir)


def test_a_damaged_result_is_made_again(first, workdir, caplog):
    stage = next(stage for stage in first.stages if stage.name == "train")
    model = workdir / stage.checkpoint
    victim = max((f for f in model.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-7])
    again = run(workdir)
    assert "is damaged" in caplog.text
    assert victim.name in caplog.text
    assert [s.name for s in again.stages if not s.reused] == ["train"]


def test_the_same_seed_gives_the_same_bits(first, workdir, tmp_path):
    other = run(tmp_path)
    for stage, again in zip(first.stages[:-1], other.stages[:-1], strict=True):
        assert stage.key == again.key
        before, after = (
            paths.flatten(_variables(directory / stage.checkpoint))
            for directory in (workdir, tmp_path)
        )
        assert before.keys() == after.keys()
        for path, leaf in before.items():
            np.testing.assert_array_equal(leaf, after[path])


def _variables(checkpoint):
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(checkpoint.absolute())


def test_a_recipe_without_evaluate_gives_no_report(workdir):
    assert run(workdir, stages=("train",)) is None


SHRINK = {
    "stages": ("train", "prune", "shrink", "again", "finetune", "scratch", "evaluate"),
    "scratch": {"kind": "train", "epochs": 0.25},
    "shrink": {"keep_ratio": 0.6, "budget": "params"},
    "again": {"kind": "shrink", "keep_ratio": 0.6, "budget": "macs", "score": "l1"},
}


@pytest.fixture(scope="module")
def shrunk(first, workdir):
    return run(workdir, pages="shrunk", **SHRINK)


def test_shrinking_meets_its_budget_and_shows_in_every_measure(shrunk):
    rows = shrunk.models
    assert rows["shrink"].parameters <= 0.6 * rows["prune"].parameters
    assert rows["again"].macs <= 0.6 * rows["shrink"].macs
    for before, after in (("prune", "shrink"), ("shrink", "again")):
        for name in ("parameters", "nonzero_parameters", "size_bytes", "macs", "flops"):
            assert getattr(rows[after], name) < getattr(rows[before], name), name


def test_fine_tuning_a_shrunk_model_keeps_its_masks(shrunk):
    rows = shrunk.models
    assert rows["finetune"].parameters == rows["again"].parameters
    assert rows["finetune"].nonzero_parameters == rows["again"].nonzero_parameters
    assert rows["finetune"].loss < rows["again"].loss


def test_training_after_a_cut_starts_anew_at_the_same_sizes(shrunk):
    rows = shrunk.models
    assert rows["scratch"].parameters == rows["finetune"].parameters
    assert rows["scratch"].nonzero_parameters > rows["finetune"].nonzero_parameters


def test_the_report_has_the_widths_after_every_cut(shrunk, workdir):
    assert list(shrunk.kernels) == ["params/hidden1/kernel", "params/head/kernel"]
    assert shrunk.kernels["params/hidden1/kernel"] == (64, 16)
    cuts = {stage.name: stage.kernels for stage in shrunk.stages if stage.kernels is not None}
    assert list(cuts) == ["shrink", "again"]
    for name, kernels in cuts.items():
        (_, width), head = kernels["params/hidden1/kernel"], kernels["params/head/kernel"]
        assert head == (width, 10)
        assert shrunk.models[name].parameters == 64 * width + width + 10 * width + 10
    assert "![Widths](widths.png)" in (workdir / "shrunk" / "report.md").read_text()
    assert (workdir / "shrunk" / "widths.png").exists()


def test_the_page_of_a_cut_network_compares_it_with_scratch(shrunk, workdir):
    assert (shrunk.final, shrunk.scratch) == ("finetune", ("scratch",))
    page = (workdir / "shrunk" / "report.md").read_text()
    assert page.startswith("# test\n\n**finetune** against train: top-1 ")
    assert "\n\nTrained from scratch at the same size (**scratch**): top-1 " in page


def test_a_run_without_a_cut_has_no_widths(first):
    assert first.kernels == {}
    assert all(stage.kernels is None for stage in first.stages)


def test_the_picture_that_a_stage_left_stands_in_the_report(first, workdir):
    changes = {
        "stages": ("train", "sensitivity", "later", "evaluate"),
        "sensitivity": {"keep_ratios": (0.5,), "images": 64, "batches": 1},
        "later": {"kind": "sensitivity", "keep_ratios": (0.5,), "images": 64, "score": "l1"},
    }
    run(workdir, pages="sensitive", **changes)
    page = (workdir / "sensitive" / "report.md").read_text()
    for stage, copy in (("sensitivity", "sensitivity.png"), ("later", "later_sensitivity.png")):
        (made,) = (workdir / "stages").glob(f"{stage}-*/sensitivity.png")
        assert (workdir / "sensitive" / copy).read_bytes() == made.read_bytes()
        assert f"]({copy})" in page


def test_a_shrunk_model_is_rebuilt_from_its_files(shrunk, workdir):
    again = run(workdir, **SHRINK, evaluate={**FIELDS["evaluate"], "latency_rounds": 3})
    assert [s.name for s in again.stages if not s.reused] == ["evaluate"]
    for name, row in again.models.items():
        assert row.loss == shrunk.models[name].loss


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"select": [{"pattern": "conv*", "prune": True}]},
            r"prune\.select: .*'conv\*' matches no parameter",
        ),
        ({"structure": "block_16x16"}, r"prune\.structure = 'block_16x16': .*block"),
        (
            {"sparsity_schedule": "progressive", "updates": 2},
            r"prune\.sparsity_schedule = 'progressive': window .* too short",
        ),
    ],
)
def test_pruning_that_cannot_be_is_refused_before_it_trains(first, workdir, section, message):
    with pytest.raises(ConfigError, match=message):
        run(workdir, stages=("train", "prune"), prune=section)


def test_a_budget_out_of_reach_is_refused(first, workdir):
    with pytest.raises(
        ConfigError, match=r"shrink\.keep_ratio = 0\.5 of the macs: .* out of reach"
    ):
        run(workdir, stages=("train", "shrink"), shrink={"keep_ratio": 0.5, "min_width": 16})
    with pytest.raises(ConfigError, match=r"shrink\.rules: width rule 'conv\*' matches no"):
        run(workdir, stages=("train", "shrink"), shrink={"rules": [{"pattern": "conv*"}]})
