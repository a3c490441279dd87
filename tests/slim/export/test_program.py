"""Programs equal the functions that they are of, for any batch."""

import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.export import passes, stablehlo
from slim.export.any_batch import any_batch
from slim.export.fake_quant import fake_quant
from slim.export.program import Program, program
from slim.models.bert import Bert, BertConfig
from slim.models.resnet import CifarResNet
from slim.models.vit import ViT

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(2, 16, 16, 3)).astype(np.float32)
IDS = rng.integers(0, 50, (2, 8)).astype(np.int32)
MODELS = {
    "resnet": (CifarResNet(8, 10, width=4), (IMAGES,)),
    "vit": (ViT(width=16, depth=1, heads=2, num_classes=10, patch_size=8), (IMAGES,)),
    "bert": (
        Bert(BertConfig(width=16, depth=1, heads=2, hidden=32, vocabulary=50, positions=8)),
        (IDS, np.ones_like(IDS)),
    ),
}
X = rng.normal(size=(3, 4)).astype(np.float32)
W = rng.normal(size=(4, 4)).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_traced_for_any_batch_equals_jax(name: str) -> None:
    model, inputs = MODELS[name]
    variables = model.init(jax.random.key(0), *inputs, train=False)

    def fn(variables, *x):
        return model.apply(variables, *x, train=False)

    made = program(fn, variables, *inputs, input_names=("input", "mask")[: len(inputs)])
    clean = passes.standard(made)
    assert len(clean.nodes) < len(made.nodes)
    (found,) = jax.jit(lambda *x: clean(*x))(*inputs)
    chex.assert_trees_all_close(found, fn(variables, *inputs), rtol=1e-5, atol=1e-5)


def test_scans_are_unrolled_and_calls_opened() -> None:
    def fn(kernels, x):
        def body(x, kernel):
            x = jax.nn.relu(x @ kernel)
            return x, x.sum(-1)

        return jax.lax.scan(body, x, kernels, reverse=True)

    kernels = np.stack([W, 2 * W])
    made = program(fn, kernels, X, output_names=("last", "sums"))
    assert not {"scan", "pjit", "jit", "custom_jvp_call"} & {node.op for node in made.nodes}
    chex.assert_trees_all_close(made(X), fn(jnp.asarray(kernels), X), rtol=1e-6)


def rounded() -> Program:
    def fn(w, x):
        w = fake_quant(w, np.full((1, 4), 0.05, np.float32), None, "int8")
        zero = np.array([[8]], np.int32)
        return fake_quant(x, np.array([[0.1]], np.float32), zero, "uint8") @ w

    return passes.standard(program(fn, W, X))


def test_a_fake_quant_is_one_node_even_of_a_constant() -> None:
    made = rounded()
    marks = [node for node in made.nodes if node.op == "fake_quant"]
    assert [(m.params["format"], m.params["axis"]) for m in marks] == [("int8", 1), ("uint8", None)]
    x = (np.clip(np.round(X / np.float32(0.1)) + 8, 0, 255) - 8) * np.float32(0.1)
    w = np.clip(np.round(W / np.float32(0.05)), -128, 127) * np.float32(0.05)
    chex.assert_trees_all_close(made(X)[0], x @ w, rtol=1e-5, atol=1e-6)


def test_wrong_inputs_are_refused() -> None:
    made = rounded()
    with pytest.raises(ValueError, match="'input' has shape"):
        made(X[:, :2])
    with pytest.raises(ValueError, match="2 inputs for a program of 1"):
        made(X, X)
    with pytest.raises(ValueError, match="input_names"):
        program(lambda w, x: x @ w, W, X, input_names=("a", "b"))


def test_the_artefact_runs_in_a_fresh_process(tmp_path: Path) -> None:
    for name, data in stablehlo.write(rounded(), metadata={"recipe": "r"}).items():
        (tmp_path / name).write_bytes(data)
    np.save(tmp_path / "x", X)
    code = (
        "import sys, json, pathlib, numpy as np, jax\n"
        "at = pathlib.Path(sys.argv[1])\n"
        "run = jax.export.deserialize(bytearray((at / 'program.jax_export').read_bytes()))\n"
        "count = len(json.loads((at / 'metadata.json').read_text())['parameters'])\n"
        "leaves = [np.load(at / f'{i}.npy') for i in range(count)]\n"
        "np.save(at / 'y', run.call(leaves, np.load(at / 'x.npy'))[0])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    expected = rounded()(X)[0]
    chex.assert_trees_all_close(np.load(tmp_path / "y.npy"), expected, rtol=1e-6)
    chex.assert_trees_all_close(stablehlo.load(tmp_path)(X)[0], expected, rtol=1e-6)


def test_a_parameter_that_is_not_finite_is_refused_by_name() -> None:
    made = program(lambda v, x: x @ v["kernel"], {"kernel": W * np.nan}, X)
    with pytest.raises(ValueError, match="kernel"):
        stablehlo.write(made)


def test_branches_inside_are_for_any_batch_too() -> None:
    def fn(w, x):
        whole = jax.lax.platform_dependent(x, cpu=lambda x: x @ w, default=lambda x: x @ (2 * w))
        return whole[: len(x), :2]

    made = any_batch(lambda n: program(fn, W, X, batch=n))
    assert [str(size) for size in made.types[made.outputs[0][1]].shape] == ["batch", "2"]
    exported = stablehlo.write(made)
    assert exported
    chex.assert_trees_all_close(made(X)[0], (X @ W)[:, :2], rtol=1e-6)
