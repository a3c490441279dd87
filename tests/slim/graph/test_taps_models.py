"""Taps of whole models: against what Flax captures, and what quantization leaves of them."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from slim import models
from slim.graph import match, tapped, taps, trace
from slim.graph.taps import KINDS
from slim.models.bert import BertConfig, MaskedLM, SentenceEmbedding, SequenceClassification
from slim.models.vit import ViT
from slim.prune import residual_blocks
from slim.quant import Activations, Policy, Rule, assign, calibrate, simulate
from slim.quant.numerics import fake_quantize
from tests.slim.graph.exactness import random_like

IMAGES = random_like(jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32), seed=1)
IDS = np.random.default_rng(0).integers(0, 50, (2, 6)).astype(np.int32)
MASK = (np.arange(6) < np.array([[6], [4]])).astype(np.int32)
CONFIG = BertConfig(width=8, depth=2, heads=2, hidden=12, vocabulary=50, positions=8, dropout=0.0)

VIT = ViT(width=8, depth=2, heads=2, num_classes=3, patch_size=4)
HEADS = [
    SequenceClassification(CONFIG, num_classes=4),
    MaskedLM(CONFIG),
    SentenceEmbedding(CONFIG),
]


def prepare(module, *inputs):
    """The function of a Linen model's variables, the same with all captured, and the variables."""
    shapes = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), *inputs)

    def captured(variables, *inputs):
        outputs, state = module.apply(
            variables, *inputs, train=False, capture_intermediates=True, mutable=["intermediates"]
        )
        return outputs, state["intermediates"]

    return partial(module.apply, train=False), captured, random_like(shapes)


def results(captured, *path):
    """What the captured module at `path` gave."""
    for name in path:
        captured = captured[name]
    return captured["__call__"][0]


def test_of_vit():
    fn, captured, variables = prepare(VIT, IMAGES)
    graph = trace(fn, variables, IMAGES)
    hidden = [*match(graph, "*/attention/*", "block"), *match(graph, "*", "end")]
    weights, scores = match(graph, "*", "attention"), match(graph, "*", "scores")
    assert weights == ("params/block1/attention", "params/block2/attention")
    names = [*hidden, *weights, *scores, "params/block2/mlp1/kernel:data", "params/head/kernel"]
    outputs, found = jax.jit(tapped(graph, names))(variables, IMAGES)
    expected, seen = jax.jit(captured)(variables, IMAGES)
    chex.assert_trees_all_equal(outputs, expected)
    blocks = [results(seen, "block1"), results(seen, "block2")]
    assert len(hidden) == 3
    chex.assert_trees_all_equal([found[name] for name in hidden[1:]], blocks)
    chex.assert_trees_all_equal(found[names[-2]], results(seen, "block2", "norm2"))
    chex.assert_trees_all_close(
        found[names[-1]] + variables["params"]["head"]["bias"], outputs, rtol=1e-6
    )
    for block, of, before in zip(("block1", "block2"), weights, scores, strict=True):
        query, key = (results(seen, block, "attention", name) for name in ("query", "key"))
        by_hand = jnp.einsum("bqhd,bkhd->bhqk", query, key) / 2
        chex.assert_trees_all_close(found[before], by_hand, rtol=1e-5, atol=1e-6)
        check_attention(found[before], found[of])


def check_attention(scores, weights):
    chex.assert_equal_shape([scores, weights])
    chex.assert_trees_all_close(weights, jax.nn.softmax(scores), rtol=1e-6)
    chex.assert_trees_all_close(weights.sum(-1), jnp.ones(weights.shape[:-1]), rtol=1e-6)


@pytest.mark.parametrize("model", HEADS, ids=lambda model: type(model).__name__)
def test_of_bert(model):
    """The last layer's output, too, whatever the head does with it."""
    fn, captured, variables = prepare(model, IDS, MASK)
    graph = trace(fn, variables, IDS, MASK)
    hidden = [*match(graph, "*/attention/*", "block"), *match(graph, "*", "end")]
    weights, scores = match(graph, "*", "attention"), match(graph, "*", "scores")
    assert weights == ("params/layer_0/attention", "params/layer_1/attention")
    names = [*hidden, *weights, *scores]
    outputs, found = jax.jit(tapped(graph, names))(variables, IDS, MASK)
    expected, seen = jax.jit(captured)(variables, IDS, MASK)
    chex.assert_trees_all_equal(outputs, expected)
    layers = [results(seen, name) for name in ("embeddings", "layer_0", "layer_1")]
    chex.assert_trees_all_equal([found[name] for name in hidden], layers)
    for of, before in zip(weights, scores, strict=True):
        check_attention(found[before], found[of])
        assert (found[of][1, ..., 4:] == 0).all()


def test_of_resnet():
    model = models.create("resnet20", num_classes=3, width=4)
    fn, captured, variables = prepare(model, IMAGES)
    graph = trace(fn, variables, IMAGES)
    convolution = "params/stage2_block1/conv2/kernel"
    stage = "params/stage2_block1/conv1/kernel:data"
    (end,) = match(graph, "*", "end")
    # The old emitter (see tests/conftest.py) fuses, and so rounds, loops of two programs otherwise.
    options = {"xla_cpu_use_fusion_emitters": True} if jax.__version__.startswith("0.10.") else None
    compiled = partial(jax.jit, compiler_options=options)
    outputs, found = compiled(tapped(graph, [convolution, stage, end]))(variables, IMAGES)
    expected, seen = compiled(captured)(variables, IMAGES)
    chex.assert_trees_all_equal(outputs, expected)
    chex.assert_trees_all_equal(found[convolution], results(seen, "stage2_block1", "conv2"))
    chex.assert_trees_all_equal(found[stage], results(seen, "stage1_block3"))
    chex.assert_trees_all_equal(found[end], results(seen, "stage3_block3"))


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (VIT, (IMAGES,)),
        (HEADS[0], (IDS, MASK)),
        (models.create("resnet20", num_classes=3, width=4), (IMAGES,)),
        (models.create("mlp", num_classes=3, hidden=(8, 8)), (IMAGES,)),
        (models.create("mobilenet_v2", num_classes=3), (np.zeros((1, 32, 32, 3), np.float32),)),
    ],
    ids=["vit", "bert", "resnet", "mlp", "mobilenet"],
)
def test_blocks_are_those_that_can_be_left_out(module, inputs):
    fn, _, variables = prepare(module, *inputs)
    graph = trace(fn, variables, *inputs)
    found = [tap.of for tap in taps(graph).values() if tap.kind == "block"]
    assert found == [block.name for block in residual_blocks(graph)]


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.MultiHeadDotProductAttention(2, name="attention")(x)
        x = nn.LayerNorm(name="norm")(x + y)
        return x + nn.Dense(4, name="dense")(x)


class Nnx(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.dense = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        x = self.norm(x + self.attention(x))
        return x + self.dense(x)


def test_linen_and_nnx_give_the_same_arrays():
    x = random_like(jax.ShapeDtypeStruct((2, 5, 4), jnp.float32))
    params = random_like(jax.eval_shape(Linen().init, jax.random.key(0), x))["params"]
    linen = trace(lambda p, x: Linen().apply({"params": p}, x), params, x)
    graphdef, state = nnx.split(Nnx())
    nnx.replace_by_pure_dict(state, params)
    other = trace(lambda state, x: nnx.merge(graphdef, state)(x), state, x)
    names = [name for name in taps(linen) if not name.startswith("dot_general")]
    assert {taps(linen)[name].kind for name in names} == set(KINDS) - {"named"}
    outputs, found = jax.jit(tapped(linen, names))(params, x)
    expected, seen = jax.jit(tapped(other, names))(state, x)
    chex.assert_trees_all_close(outputs, expected, rtol=1e-6, atol=1e-6)
    for name, value in found.items():
        # NNX's attention has one dimension more, for groups of queries: here there is one group.
        chex.assert_trees_all_close(seen[name].reshape(value.shape), value, rtol=1e-5, atol=1e-6)


def test_a_quantized_function_is_tapped_before():
    """Products of activations too are known in the tapped function, by their lines of code."""

    def fn(params, x):
        return Linen().apply({"params": params}, x)

    x = random_like(jax.ShapeDtypeStruct((2, 5, 4), jnp.float32))
    params = random_like(jax.eval_shape(Linen().init, jax.random.key(0), x))["params"]
    graph = trace(fn, params, x)
    int8 = Activations("int8", symmetric=True)
    policy = Policy((Rule("*", activations=int8),), edges=None, products=int8)
    sites = assign(graph, policy)
    scales = calibrate(graph, sites, params, [(x,)])
    names = [name for name in taps(graph) if name.startswith(("attention", "dense"))]
    quantized = simulate(trace(tapped(graph, names), params, x), sites), simulate(graph, sites)
    (outputs, found), expected = jax.jit(lambda *args: [each(*args) for each in quantized])(
        params, scales, x
    )
    chex.assert_trees_all_equal(outputs, expected)
    assert list(found) == sorted(names)
    check_attention(found["attention:scores"], found["attention"])
    name = "dense/kernel"
    data, kernel = (
        fake_quantize(value, *scales[name][role], "int8")
        for value, role in ((found[f"{name}:data"], "data"), (params["dense"]["kernel"], "weights"))
    )
    chex.assert_trees_all_close(found[name], data @ kernel, rtol=1e-5, atol=1e-5)
