"""The stage `export`: artefacts that are what JAX computes, or none at all."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import recipe, report
from experiments.export import places
from experiments.schema import ConfigError
from slim.export import TARGETS, Unsupported, litert, stablehlo
from slim.models import bert
from tests.experiments import jobs

RESNET = {"name": "resnet8", "width": 4}
FAST = {"examples": 12, "latency_rounds": 0}
RUNTIMES = ("stablehlo", "litert", "onnx", "openvino")
INTEGERS = 0.2  # of the greatest logit, in networks that have hardly been trained


def exported(made, model=None, **section):
    """The directory of the stage and the one artefact that it wrote."""
    directory = made.leave("export", {"finetune": model or made.model}, **{**FAST, **section})
    (found,) = report.read_exports(directory / report.EXPORTS).exports
    return directory, found


def in_all_runtimes(made, model=None, **section):
    """The artefacts for all runtimes that are installed."""
    targets = tuple(name for name in RUNTIMES if not places.missing(name))
    section = {**FAST, "targets": targets, **section}
    directory = made.leave("export", {"finetune": model or made.model}, **section)
    found = report.read_exports(directory / report.EXPORTS).exports
    assert tuple(each.target for each in found) == section["targets"]
    return found


def agrees(found, error=1e-4):
    """Whether an artefact is what JAX computes, on all examples."""
    return (
        found.examples == FAST["examples"]
        and found.max_error <= error * found.largest
        and found.agreement == 1
        and found.top1 == found.top1_jax
    )


def test_an_artefact_lies_beside_its_card_and_its_record(stages):
    directory, found = exported(stages())
    assert agrees(found)
    assert (found.target, found.precision, found.runtime) == ("stablehlo", "float32", "jax")
    folder = directory / found.file
    files = [path for path in folder.iterdir() if path.name != "README.md"]
    assert found.size_bytes == sum(path.stat().st_size for path in files)
    assert {path.name for path in directory.iterdir()} == {"export", "export.json"}
    described = json.loads((folder / stablehlo.METADATA).read_text())
    assert json.loads(described["metadata"]["slim.recipe"])["name"] == "test"
    images = jobs.stripes().eval.inputs[:3]
    np.testing.assert_allclose(
        stablehlo.load(folder)(images.astype(np.float32) / 255)[0],
        stages().network.predict(stages().model.variables, images.astype(np.float32) / 255),
        rtol=1e-4,
        atol=1e-5,
    )


def test_its_card_runs_with_nothing_but_jax_and_numpy(stages):
    directory, found = exported(stages())
    page = (directory / found.file / "README.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    for text in ("# test: stablehlo, float32", "| input ", "| `logits` |", "of JAX", "12 examples"):
        assert text in page
    none = "import sys; sys.modules.update(slim=None, experiments=None, flax=None)\n"
    run = [sys.executable, "-c", f"{none}{code}\nprint(logits.shape)"]
    done = subprocess.run(run, cwd=directory / found.file, capture_output=True, text=True)
    assert done.stdout == "(1, 4)\n", done.stderr


def test_bytes_go_in_where_preprocessing_is_inside(stages):
    directory, found = exported(stages(), preprocessing=True)
    assert agrees(found)
    images = jobs.stripes().eval.inputs[:5]
    (logits,) = stablehlo.load(directory / found.file)(images)
    assert images.dtype == np.uint8
    assert logits.shape == (5, 4)


def test_calls_are_timed_beside_the_float_originals(stages):
    made = stages()
    small = made.run("shrink", keep_ratio=0.5)
    times = {"latency_rounds": 2, "latency_batches": (1, 3), "latency_threads": (1,)}
    _, found = exported(made, small, **times)
    assert agrees(found)
    assert [(calls.threads, calls.batch) for calls in found.calls] == [(1, 1), (1, 3)]
    for calls in found.calls:
        assert 0 < calls.median_s <= calls.p90_s
        assert calls.over_float == calls.over_xla > 0
    assert min(found.peak_memory_bytes, found.peak_memory_float_bytes) > 2**24


def test_a_batch_of_a_number_takes_that_number(stages):
    directory, found = exported(stages(), batch=5)
    assert agrees(found)
    with pytest.raises(ValueError, match="shape"):
        stablehlo.load(directory / found.file)(np.zeros((4, 8, 8, 1), np.float32))


@pytest.mark.parametrize("weights", [pytest.param("int8", marks=pytest.mark.slow), "int4"])
def test_integers_are_kept_as_they_are(stages, weights):
    made = stages()
    small = made.run("quantize", batches=2, weights=weights, edges="same")
    directory, found = exported(made, small)
    assert agrees(found)
    kept = [np.load(path) for path in (directory / found.file).glob("*.npy")]
    packed = 64 * 16 // (1 if weights == "int8" else 2)
    assert packed in [each.size for each in kept if each.dtype.itemsize == 1]
    assert 64 * 16 not in [each.size for each in kept if each.dtype == np.float32]


@pytest.mark.parametrize(
    ("kind", "section"),
    [
        pytest.param("prune", {"epochs": 0.2, "keep_ratio": 0.5}, marks=pytest.mark.slow),
        ("shrink", {"keep_ratio": 0.5}),
        pytest.param("distill", {"epochs": 0.2, "teacher": "train"}, marks=pytest.mark.slow),
        pytest.param(
            "exits",
            {"epochs": 0.2, "taps": ("*stage[23]_block1/conv1/kernel:data",), "skip": 0},
            marks=pytest.mark.slow,
        ),
        pytest.param("slimmable", {"epochs": 0.2}, marks=pytest.mark.slow),
        pytest.param("quantize", {"batches": 1}, marks=pytest.mark.slow),
    ],
)
def test_what_stages_make_of_a_network_is_exported(stages, kind, section):
    made = stages(RESNET)
    for found in in_all_runtimes(made, made.run(kind, **section)):
        exact = kind != "quantize" or found.target == "stablehlo"
        assert agrees(found, 1e-4 if exact else INTEGERS), found


def test_texts_are_exported(stages, monkeypatch):
    monkeypatch.setitem(bert.CONFIGS, "tiny", jobs.BERT)
    made = stages({"name": "bert", "size": "tiny"}, dataset=jobs.words())
    assert all(map(agrees, in_all_runtimes(made)))


@pytest.mark.parametrize("precision", ["int8", pytest.param("int4", marks=pytest.mark.slow)])
def test_integers_of_a_float_model_are_made_on_the_way(stages, precision):
    made = stages(RESNET)
    taking = tuple(n for n in RUNTIMES if precision in TARGETS[n].precisions)
    targets = tuple(name for name in taking if not places.missing(name))
    for found in in_all_runtimes(made, precision=precision, targets=targets):
        assert found.precision == precision
        assert found.examples == FAST["examples"]
        assert found.max_error <= INTEGERS * found.largest
        assert found.agreement >= 0.9


def test_tensorrt_gets_what_is_symmetric(stages):
    if absent := places.missing("tensorrt"):
        pytest.skip(f"{', '.join(absent)} is not installed")
    made = stages(RESNET)
    directory, found = exported(made, targets=("tensorrt",), precision="int8")
    assert found.precision == "int8"
    assert (directory / found.file).with_name("build.sh").exists()


def test_experts_in_integers_are_refused(stages):
    made = stages(jobs.DECODER, dataset=jobs.language())
    with pytest.raises(ConfigError, match=r"experts in integers are not exported"):
        exported(made, precision="int8")


@pytest.mark.parametrize("batch", ["dynamic", pytest.param(4, marks=pytest.mark.slow)])
def test_experts_are_exported_as_dense_ones(stages, batch):
    made = stages(jobs.DECODER, dataset=jobs.language())
    directory, found = exported(made, batch=batch)
    assert agrees(found)
    small = made.run("experts", keep=2, batches=1)
    assert all(map(agrees, in_all_runtimes(made, small, batch=batch)))
    assert b"sort" not in (directory / found.file / stablehlo.MODULE).read_bytes()


@pytest.mark.parametrize("target", ["litert", "onnx", "openvino"])
@pytest.mark.parametrize("quantized", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_other_runtimes_compute_what_jax_does(stages, target, quantized):
    if absent := places.missing(target):
        pytest.skip(f"{', '.join(absent)} is not installed")
    made = stages(RESNET)
    model = made.run("quantize", batches=2) if quantized else None
    _, found = exported(made, model, targets=(target,))
    assert found.precision == ("int8" if quantized else "float32")
    assert agrees(found, 0.05 if quantized else 1e-4)


def test_full_integer_rounds_what_stands_between_sites(stages):
    pytest.importorskip("ai_edge_litert")
    made = stages(RESNET)
    model = made.run("quantize", batches=2)
    counts = {}
    for full in (True, False):
        directory, found = exported(
            made, model, targets=("litert",), full_integer=full, calibration_batches=2
        )
        assert agrees(found, 0.2)
        codes = litert.operators((directory / found.file).read_bytes())
        counts[full] = codes.count("QUANTIZE") + codes.count("DEQUANTIZE")
        card = (directory / found.file).with_name("README.md").read_text()
        assert ("what stands between quantized products is on integers too" in card) == full
    assert counts[True] == 2  # the image, the pooled features, whose product is of floats
    assert counts[False] > 6


def test_weights_that_are_not_finite_are_refused_by_their_path(stages):
    made = stages()
    params = made.model.variables["params"]
    broken = {**params, "head": {**params["head"], "bias": jnp.full(4, jnp.nan)}}
    model = made.model._replace(variables={**made.model.variables, "params": broken})
    with pytest.raises(ConfigError, match="params/head/bias has numbers that are not finite"):
        exported(made, model)
    assert [path for path in made.directory.rglob("*") if path.is_file()] == []


def test_the_first_process_alone_writes(stages, monkeypatch):
    made = stages()
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    directory = made.leave("export", {"finetune": made.model}, **FAST)
    assert [path for path in directory.rglob("*") if path.is_file()] == []


def failing(monkeypatch, write, target="stablehlo"):
    monkeypatch.setitem(TARGETS, target, TARGETS["stablehlo"]._replace(write=write))


def test_a_writer_that_fails_midway_leaves_nothing(stages, monkeypatch):
    from experiments.export import places

    def write(program, **metadata):
        raise Unsupported("sin", "model.py:3", "second")

    failing(monkeypatch, write, "second")
    monkeypatch.setitem(places.PLACES, "second", places.PLACES["stablehlo"])
    made = stages()
    with pytest.raises(ConfigError, match=r"cannot express primitive 'sin' \(model.py:3\)"):
        exported(made, targets=("stablehlo", "second"))
    assert [path for path in made.directory.rglob("*") if path.is_file()] == []
    assert list((made.directory / "export").iterdir()) == []


def test_what_differs_from_jax_fails_the_stage_at_its_first_node(stages, monkeypatch):
    def write(program, *, metadata=None):
        nodes = tuple(
            node._replace(op="min", primitive=jax.lax.min_p) if node.op == "max" else node
            for node in program.nodes
        )
        changed = type(program)(**{**vars(program), "nodes": nodes})
        return stablehlo.write(changed, metadata=metadata)

    failing(monkeypatch, write)
    made = stages()
    with pytest.raises(
        ConfigError, match=r"differs from JAX.*first value that differs is that of 'max'"
    ):
        exported(made)
    assert list((made.directory / "export").iterdir()) == []


def test_weights_that_differ_are_named(stages, monkeypatch):
    def write(program, *, metadata=None):
        wrong = {value for value, name in program.names.items() if "hidden2/kernel" in name}
        assert wrong
        constants = {
            value: 2 * each if value in wrong else each for value, each in program.constants.items()
        }
        changed = type(program)(**{**vars(program), "constants": constants})
        return stablehlo.write(changed, metadata=metadata)

    failing(monkeypatch, write)
    made = stages()
    with pytest.raises(ConfigError, match=r"'dot_general' of params/hidden2/kernel \(.*\.py:\d+"):
        exported(made)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"targets": ("onxx",)}, "unknown name 'onxx'"),
        ({"targets": ("stablehlo", "stablehlo")}, "'stablehlo' stands twice"),
        ({"precision": "int3"}, "unknown name 'int3'"),
        ({"batch": 0}, "greater than or equal to 1"),
        ({"tolerance": -1.0}, "greater than or equal to 0"),
    ],
)
def test_a_wrong_section_is_refused_before_anything_runs(section, message):
    with pytest.raises(ConfigError, match=message):
        resolved(section)


def resolved(section):
    fields = {"name": "x", "data": {"name": "digits", "batch_size": 8}, "model": {"name": "mlp"}}
    stages = ("train", "export")
    return recipe.resolve({**fields, "stages": stages, "export": section}, 1)


def test_what_a_target_lacks_is_refused_before_anything_runs(monkeypatch):
    from experiments.export import places

    fixed = TARGETS["stablehlo"]._replace(dynamic_batch=False, extra="apples")
    monkeypatch.setitem(TARGETS, "fixed", fixed)
    monkeypatch.setitem(places.PLACES, "fixed", places.Place("jax", ()))
    with pytest.raises(ConfigError, match=r"'fixed' has no dynamic batch; set batch = 1"):
        resolved({"targets": ("fixed",)})
    assert resolved({"targets": ("fixed",), "batch": 2}).stages[-1].config.batch == 2
    with pytest.raises(ConfigError, match="'stablehlo' is written in float32, int8, int4; choose"):
        resolved({"targets": ("stablehlo",), "precision": "float16"})
    monkeypatch.setitem(places.PLACES, "fixed", places.Place("jax", ("no_such_package",)))
    with pytest.raises(ConfigError, match=r"needs no_such_package.*pip install -e '.\[apples\]'"):
        resolved({"targets": ("fixed",), "batch": 2})
