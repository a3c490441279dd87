"""A plan that fits is described, one that does not is refused, on a machine without any TPU."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments import recipe
from experiments.compiled import report, step, table
from experiments.compiled.topology import topology
from experiments.schema import ConfigError

ROOT = Path(__file__).parents[3]

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu compiles for TPUs, and is in the extra `tpu`",
)


def made(width: int, devices: int, **mesh: int) -> recipe.Recipe:
    """A recipe that trains two layers of a width."""
    values = recipe.config(
        name="wide",
        data={"name": "digits", "batch_size": 512, "eval_batch_size": 512},
        model={"name": "mlp", "hidden": (width, width)},
        mesh=mesh,
        stages=("train", "prune"),
    )
    return recipe.resolve(values, devices)


def decoder(devices: int, mesh: dict[str, int], **model: object) -> recipe.Recipe:
    """A recipe that trains a decoder of two layers, with all that saves memory."""
    sizes = {"width": 256, "depth": 2, "heads": 2, "hidden": 256, "expert_hidden": 256}
    saving = {"remat": True, "attention_block": 64, "expert_parts": 2, "vocabulary_parts": 2}
    values = recipe.config(
        name="decoder",
        precision="bfloat16",
        data={"name": "random_tokens", "length": 128, "vocabulary": 512, "batch_size": 8,
              "eval_batch_size": 8},
        model={"name": "deepseek", **sizes, **saving, **model},
        mesh={**mesh, "rules": ({"pattern": "*", "split": "deepseek"},)},
        stages=("train",),
    )  # fmt: skip
    return recipe.resolve(values, devices)


@pytest.fixture
def compiled():
    """The report of a recipe on a topology, by XLA's own defaults."""

    def of(planned: recipe.Recipe, name: str) -> report.CompiledReport:
        where = topology(name)
        found = step.make(planned, step.find_stage(planned, None), where.devices)
        return report.compile_report(found, where, planned.settings.name, "0")

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield of
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def report_of(compiled):
    """That of `made`."""
    return lambda width, name, **mesh: compiled(
        made(width, len(topology(name).devices), **mesh), name
    )


@needs_libtpu
def test_a_decoder_on_eight_chips_sends_tokens_to_experts_and_gathers_by_no_sum(compiled):
    found = compiled(decoder(8, {"fsdp": 2, "expert": 4}), "v5e:2x4")
    memory = found.memory
    assert 0 < memory.parameters < memory.optimizer + memory.parameters < memory.peak
    assert memory.peak < memory.available
    sent = {exchange.kind: exchange.bytes for exchange in found.exchanges}
    # At the least all experts' matrices, in bfloat16, and the tokens that go to two experts each.
    assert sent["all-gather"] > 2 * 8 * 3 * 256 * 256 // 4
    assert sent["ragged-all-to-all"] > 128 * 2 * 256 * 2
    # What is left of gathers by sums are the counts of the tokens of each expert.
    assert sent.get("all-reduce for all-gather", 0) < 1024
    assert found.misaligned == ()


@needs_libtpu
def test_a_small_model_on_eight_chips(report_of):
    found = report_of(256, "v5e:2x4", fsdp=4)
    sizes = {"in": 64 * 256, "mid": 256 * 256, "out": 256 * 10, "bias": 256 + 256 + 10}
    assert found.parameters == sum(sizes.values())
    assert found.mesh == {"data": 2, "fsdp": 4, "tensor": 1, "expert": 1}
    # All but the last bias, of 10, are in four parts; the momentum likewise, and two scalars.
    memory = found.memory
    assert memory.parameters == 4 * ((sum(sizes.values()) - 10) // 4 + 10)
    assert memory.parameters <= memory.optimizer <= memory.parameters + 16
    assert memory.parameters + memory.optimizer < memory.arguments < memory.peak < 2**24
    # Three products of each layer but the first, whose inputs need no gradient.
    products = 2 * 512 * (3 * (sizes["mid"] + sizes["out"]) + 2 * sizes["in"])
    assert products / 8 < found.flops < 1.1 * products / 8
    sent = {exchange.kind: exchange.sent for exchange in found.exchanges}
    assert sent["all-reduce"] > 0
    seconds = found.seconds
    assert seconds.step == max(seconds.compute, seconds.memory, seconds.interconnect)
    assert found.misaligned == found.unknown_loops == ()


def launched(directory: Path, width: int, *given: str) -> subprocess.CompletedProcess[str]:
    """`launch/compile.py` of a perceptron of two layers; its report is under `directory`/out."""
    config = directory / "wide.py"
    config.write_text(
        "from experiments import recipe\n\n\n"
        "def get_config(text=''):\n"
        "    return recipe.config(name='wide', stages=('train',),\n"
        f"        model={{'name': 'mlp', 'hidden': ({width}, {width})}},\n"
        "        data={'name': 'digits', 'batch_size': 512, 'eval_batch_size': 512})\n"
    )
    return subprocess.run(
        [sys.executable, "launch/compile.py", f"--config={config}", f"--out={directory / 'out'}",
         *given],
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip


def written(directory: Path) -> table.Reports:
    """What `launched` wrote."""
    return table.Reports.model_validate_json((directory / "out" / "compiled.json").read_text())


@needs_libtpu
def test_a_plan_that_does_not_fit_says_by_how_much(tmp_path):
    done = launched(tmp_path, 40_000, "--topology=v5e:2x4")
    assert done.returncode == 5, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: train does not fit v5e:2x4: needs ")
    assert "mesh.fsdp" in done.stderr
    (refused,) = written(tmp_path).refused
    assert refused.reason.startswith("needs ")
    assert " GiB of 15.75 GiB a chip, " in refused.reason
    assert f"does not fit: {refused.reason}" in (tmp_path / "out" / "compiled.md").read_text()


@needs_libtpu
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--topology=v5e:2x2 --mesh=fsdp=8", "fsdp 8 .* does not make 4, the number of devices"),
        ("--topology=v5e:2x4 --mesh=expret=2", "--mesh: unknown name 'expret'; did you mean"),
    ],
    ids=["topology too small", "no axis"],
)
def test_a_mesh_that_is_none_of_the_topology_is_refused(tmp_path, given, message):
    done = launched(tmp_path, 16, *given.split())
    assert done.returncode == 2, done.stderr
    assert re.search(f"^error: .*{message}", done.stderr)
    assert not (tmp_path / "out").exists()


@needs_libtpu
def test_shards_that_fill_no_tile_fail_when_strict(tmp_path):
    # A layer of 896 columns in 64 parts: 14 of them, which no tile has.
    done = launched(tmp_path, 896, "--topology=v5p:4x4x4", "--mesh=fsdp=64", "--strict")
    assert done.returncode == 6, done.stderr
    assert "Gathers that became sums over all devices" in done.stdout
    assert done.stderr == "error: --strict: gathers that became sums of all devices: 1\n"
    assert (tmp_path / "out" / "compiled.md").read_text() == done.stdout
    (found,) = written(tmp_path).compiled
    assert len(found.misaligned) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "write GENERATION:SHAPE"),
        ("v5:2x4", "unknown name 'v5'; did you mean 'v5"),
        ("v5p:2x4", "a v5p pod has 3 axes, as in v5p:4x4x4"),
        ("v5p:32x32x32", "32768 chips; the largest slice of v5p has 6144: choose at most as many"),
        pytest.param("v5p:3x3x3", "libtpu knows no such slice: INVALID", marks=needs_libtpu),
    ],
)
def test_topologies_that_are_none(name, message):
    with pytest.raises(ConfigError, match=message):
        topology(name)


def test_without_libtpu_the_command_that_installs_it_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "jax\[tpu\]==\d'):
        topology("v5e:2x4")


def test_the_stage_whose_step_follows_from_the_config():
    assert step.find_stage(made(16, 8), None).name == "train"
    assert step.find_stage(made(16, 8), "train").kind == "train"
    with pytest.raises(ConfigError, match="--stage=prune: what it trains follows from the stages"):
        step.find_stage(made(16, 8), "prune")
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        step.find_stage(made(16, 8), "trian")


def example(topology: str, chips: int, **fields: object) -> report.CompiledReport:
    """A report of round numbers."""
    memory = dict.fromkeys(report.Memory.model_fields, 2**30)
    seconds = dict.fromkeys(report.Times.model_fields, 1.0)
    return report.CompiledReport(
        name="wide", stage="train", topology=topology, mesh={"data": 1, "fsdp": chips},
        batch_size=chips, jax="1", libtpu="2", compile_s=3.0, host_memory=2**30, parameters=4,
        memory=report.Memory(**memory), flops=5, traffic=6, exchanges=(),
        seconds=report.Times(**seconds), bound="memory", misaligned=(), unknown_loops=(), **fields,
    )  # fmt: skip


def test_plans_stand_beside_each_other_by_chips_and_the_last_of_one_counts(tmp_path):
    large, small = example("v5p:4x4x8", 128), example("v5p:4x4x4", 64)
    kept = {name: getattr(small, name) for name in report.Plan.model_fields}
    refused = report.Refused(**kept, reason="needs 2 GiB of 1 GiB a chip, 1 GiB over")
    for plan in (large, refused):
        table.add(plan, tmp_path)
    lines = (tmp_path / "compiled.md").read_text().splitlines()
    assert lines[0] == "# wide: 2 plans"
    rows = [line for line in lines if line.startswith("| v5p")]
    assert "does not fit: needs 2 GiB" in rows[0]
    assert rows[1].startswith("| v5p:4x4x8 | 128 | fsdp 128 | 128 | 2.00 GiB |")
    table.add(small, tmp_path)
    read = table.Reports.model_validate_json((tmp_path / "compiled.json").read_text())
    assert read == table.Reports(compiled=(small, large))


@pytest.mark.parametrize(
    ("mesh", "model", "message"),
    [
        ({"fsdp": 4, "expert": 4}, {}, "mesh: .* does not make 8, the number of devices"),
        ({"fsdp": 2, "expert": 4}, {"experts": 6}, "6 experts cannot be divided over expert = 4"),
        ({"fsdp": 2, "expert": 4}, {"groups": 3}, "groups is 3; it must divide the 8 experts"),
        ({"fsdp": 2, "expert": 4}, {"active": 9}, "k is 9; allowed: at most the 8 experts"),
    ],
    ids=["topology too small", "experts", "groups", "k above E"],
)
def test_what_does_not_divide_is_refused_before_anything_is_compiled(mesh, model, message):
    def made() -> step.Step:
        planned = decoder(8, mesh, **model)
        return step.make(planned, step.find_stage(planned, None), jax.devices()[:8])

    with pytest.raises(ConfigError, match=message):
        made()
