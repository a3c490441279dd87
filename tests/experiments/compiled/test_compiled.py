"""A plan that fits is described, one that does not is refused, on a machine without any TPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments import recipe
from experiments.compiled import report, step
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


@pytest.fixture
def report_of():
    """The report of `made` on a topology, by XLA's own defaults."""

    def compiled(width: int, name: str, **mesh: int) -> report.CompiledReport:
        where = topology(name)
        planned = made(width, len(where.devices), **mesh)
        found = step.make(planned, step.find_stage(planned, None), where.devices)
        return report.compile_report(found, where, "wide", "0")

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield compiled
    jax.config.update("jax_disable_most_optimizations", before)


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


@needs_libtpu
def test_a_plan_that_does_not_fit_says_by_how_much(report_of):
    with pytest.raises(report.DoesNotFit) as refused:
        report_of(40_000, "v5e:2x4")
    assert str(refused.value).startswith("train does not fit v5e:2x4: needs ")
    assert " GiB of 15.75 GiB a chip, " in str(refused.value)
    assert "mesh.fsdp" in str(refused.value)


@needs_libtpu
def test_shards_that_fill_no_tile_fail_when_strict(tmp_path):
    # A layer of 896 columns in 64 parts: 14 of them, which no tile has.
    config, out = tmp_path / "wide.py", tmp_path / "out"
    config.write_text(
        "from experiments import recipe\n\n\n"
        "def get_config(text=''):\n"
        "    return recipe.config(name='wide', model={'name': 'mlp', 'hidden': (896, 896)},\n"
        "        data={'name': 'digits', 'batch_size': 512, 'eval_batch_size': 512},\n"
        "        stages=('train',))\n"
    )
    env = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    flags = [f"--config={config}", "--topology=v5p:4x4x4", "--mesh=fsdp=64", f"--out={out}"]
    done = subprocess.run(
        [sys.executable, "launch/compile.py", *flags, "--strict"],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 6, done.stderr
    assert "Gathers that became sums over all devices" in done.stdout
    assert done.stderr == "error: --strict: gathers that became sums of all devices: 1\n"
    assert (out / "compiled.md").read_text() == done.stdout
    found = report.CompiledReport.model_validate_json((out / "compiled.json").read_text())
    assert len(found.misaligned) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "write GENERATION:SHAPE"),
        ("v5:2x4", "unknown name 'v5'; did you mean 'v5"),
        ("v5p:2x4", "a v5p pod has 3 axes, as in v5p:4x4x4"),
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
