"""Exits on networks that know nothing of them, their losses, and layers skipped at random."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim import models
from slim.dynamic import (
    CRITERIA,
    EXIT_WEIGHTS,
    Batched,
    exit_head,
    exit_loss,
    init_exits,
    layer_rates,
    simulate,
    skip_layers,
    with_exits,
)
from slim.graph import match, split_outputs, trace
from slim.models.bert import BertConfig, SequenceClassification
from slim.models.vit import ViT
from tests.slim.graph.exactness import random_like

KEY = jax.random.key(0)
IDS = np.random.default_rng(0).integers(0, 50, (5, 6)).astype(np.int32)
MASK = (np.arange(6) < np.array([[6], [4], [2], [5], [6]])).astype(np.int32)
CONFIG = BertConfig(width=8, depth=3, heads=2, hidden=12, vocabulary=50, positions=8, dropout=0.0)
BERT = SequenceClassification(CONFIG, num_classes=4)


def variables(module, *inputs):
    return random_like(jax.eval_shape(lambda: module.init(KEY, *inputs, train=False)))


@pytest.fixture(scope="module")
def bert():
    """(graph, the taps after each layer but the last, parameters with exits, function)."""
    network = variables(BERT, IDS, MASK)
    graph = trace(lambda v, *inputs: BERT.apply(v, *inputs, train=False), network, IDS, MASK)
    names = match(graph, "*/layer_*/attention/*", "block")[1:]
    head = exit_head(4, pooling="mean", pooler=True)
    params = {"network": network, "exits": init_exits(graph, names, head, KEY)}
    return graph, names, params, with_exits(graph, names, head, mask=lambda ids, mask: mask)


def test_exits_of_bert(bert):
    """Against heads by hand on what Flax captures."""
    _, _, params, fn = bert
    logits = jax.jit(fn)(params, IDS, MASK)
    whole, seen = jax.jit(
        lambda v: BERT.apply(v, IDS, MASK, train=False, capture_intermediates=True)
    )(params["network"])
    chex.assert_trees_all_equal(logits[-1], whole)
    weights = MASK[..., None] / MASK.sum(1)[:, None, None]
    for i in range(2):
        (hidden,) = seen["intermediates"][f"layer_{i}"]["__call__"]
        own = params["exits"][f"exit_{i + 1}"]
        x = (hidden * weights).sum(1)
        for name, then in (("pooler", np.tanh), ("classifier", lambda x: x)):
            x = then(x @ own[name]["kernel"] + own[name]["bias"])
        chex.assert_trees_all_close(logits[i], x, rtol=1e-5, atol=1e-6)


def test_early_exit_of_bert(bert):
    """Each segment reads one layer and one exit; batches give what all logits give."""
    _, _, params, fn = bert
    segments = split_outputs(trace(fn, params, IDS, MASK))
    for i, part in enumerate(segments.at(params, IDS, MASK)):
        parts = {path.split("/")[2] for path in part.params if path.startswith("network")}
        assert {name for name in parts if "layer" in name} == {f"layer_{i}"}
        exits = {path.split("/")[1] for path in part.params if path.startswith("exits")}
        assert exits == ({f"exit_{i + 1}"} if i < 2 else set())
    # Between examples: two leave at the first exit, one or two of the others at the second.
    logits = jax.jit(fn)(params, IDS, MASK)
    scores = np.sort([CRITERIA["confidence"].score(each) for each in logits[:-1]])
    setting = np.append((scores[:, 2] + scores[:, 3]) / 2, -np.inf).astype(np.float32)
    expected = simulate(CRITERIA["confidence"], setting, logits)
    assert len(np.unique(expected.exit)) >= 2
    exited, _ = Batched(segments, CRITERIA["confidence"], (2,))(params, setting, IDS, MASK)
    np.testing.assert_array_equal(exited.exit, expected.exit)
    chex.assert_trees_all_close(exited.logits, np.asarray(expected.logits), rtol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_who_learns_from_an_exit(bert, frozen):
    """Jointly the path to it; afterwards the exit alone; what is behind it never."""
    graph, names, params, _ = bert
    fn = with_exits(graph, names, exit_head(4, pooler=True), frozen=frozen)
    grads = jax.jit(jax.grad(lambda p: fn(p, IDS, MASK)[0].sum()))(params)
    moved = {
        **{name: grads["exits"][name] for name in grads["exits"]},
        **grads["network"]["params"],
    }
    moved = {name for name, tree in moved.items() if any(np.any(x) for x in jax.tree.leaves(tree))}
    assert moved == ({"exit_1"} if frozen else {"exit_1", "embeddings", "layer_0"})


def test_exits_of_a_convolutional_network():
    images = random_like(jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32), seed=1)
    module = models.create("resnet8", num_classes=3, width=4)
    network = variables(module, images)
    graph = trace(lambda v, x: module.apply(v, x, train=False), network, images)
    names = match(graph, "*stage[23]_block1/conv1*", "data")
    head = exit_head(3)
    params = {"network": network, "exits": init_exits(graph, names, head, KEY)}
    logits = jax.jit(with_exits(graph, names, head))(params, images)
    assert [each.shape for each in logits] == [(2, 3)] * 3
    assert [params["exits"][f"exit_{i}"]["classifier"]["kernel"].shape[0] for i in (1, 2)] == [4, 8]


def test_losses():
    logits = [jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 5.0]]), jnp.array([[7.0, 11.0]])]
    total = exit_loss(logits, jnp.array([1]), EXIT_WEIGHTS["linear"](3), lambda x, y: x[0, y[0]])
    np.testing.assert_allclose(total, (2 + 2 * 5 + 3 * 11) / 6, rtol=1e-6)
    for weights in EXIT_WEIGHTS.values():
        for count in (1, 2, 7):
            assert len(weights(count)) == count
            assert sum(weights(count)) == pytest.approx(1)
            assert list(weights(count)) == sorted(weights(count))


def test_rates_of_layers():
    rates = layer_rates(5, 0.2)
    np.testing.assert_allclose(rates, 0.2 * (2 ** (np.arange(5) / 4) - 1), rtol=1e-6)
    run = jax.jit(lambda step: layer_rates(5, 0.2, step=step, steps=101))
    np.testing.assert_array_equal(run(0), np.zeros(5))
    np.testing.assert_allclose(run(100), rates, rtol=1e-6)
    np.testing.assert_allclose(run(50), rates * (2**0.5 - 1), rtol=1e-5)


@pytest.fixture(scope="module")
def skipping():
    module = ViT(width=8, depth=2, heads=2, num_classes=3, patch_size=4)
    images = random_like(jax.ShapeDtypeStruct((64, 8, 8, 3), jnp.float32), seed=1)
    network = variables(module, images[:1])
    graph = trace(lambda v, x: module.apply(v, x, train=False), network, images)
    blocks = match(graph, "*", "block")
    return network, images, graph, [blocks[:2], blocks[2:]]


def test_skipped_layers(skipping):
    """An example's output is the network's without the layers that it skipped."""
    network, images, graph, layers = skipping
    run = jax.jit(skip_layers(graph, layers))
    full = jax.jit(graph.fn)(network, images)
    chex.assert_trees_all_equal(run(network, jnp.zeros(2), KEY, images), full)
    # A layer whose outgoing kernels are 0 adds nothing.
    without = jax.tree.map(jnp.array, network)
    for name in ("attention/out", "mlp2"):
        inside = without["params"]["block2"]
        for part in name.split("/"):
            inside = inside[part]
        inside.update(jax.tree.map(jnp.zeros_like, dict(inside)))
    shallow = jax.jit(graph.fn)(without, images)
    found = run(network, jnp.array([0.0, 0.5]), KEY, images)
    kept = jnp.abs(found - full).max(-1) < 1e-5
    skipped = jnp.abs(found - shallow).max(-1) < 1e-5
    assert (kept ^ skipped).all()
    assert 16 < kept.sum() < 48
    chex.assert_trees_all_close(
        run(network, jnp.array([0.0, 1.0]), KEY, images), shallow, rtol=1e-5
    )
    one = jax.jit(skip_layers(graph, layers, whole_batch=True))
    together = one(network, jnp.array([0.0, 0.5]), KEY, images)
    kept = jnp.abs(together - full).max(-1) < 1e-5
    assert kept.all() or not kept.any()


def test_refusals(skipping, bert):
    network, images, graph, layers = skipping
    with pytest.raises(ValueError, match=r"rates of shape \(3,\) for 2 layers"):
        skip_layers(graph, layers)(network, jnp.zeros(3), KEY, images)
    with pytest.raises(ValueError, match=r"layer 0: .* is a result; give taps of kind 'block'"):
        skip_layers(graph, [match(graph, "*mlp1*", "result")])
    with pytest.raises(ValueError, match=r"rate = 1.0 must be in \[0, 1\)"):
        layer_rates(3, 1.0)
    with pytest.raises(ValueError, match=r"pooling: unknown name 'last'.*Known: first, mean"):
        exit_head(3, pooling="last")
    maps, tokens = jnp.zeros((2, 4, 4, 8)), jnp.zeros((2, 4, 8))
    with pytest.raises(ValueError, match=r"pooling 'first' of a hidden state \(2, 4, 4, 8\)"):
        exit_head(3, pooling="first").apply({}, maps)
    with pytest.raises(ValueError, match=r"mask \(2, 5\) on a hidden state \(2, 4, 8\)"):
        exit_head(3).apply({}, tokens, jnp.zeros((2, 5)))
    with pytest.raises(ValueError, match="2 weights for the logits of 1 exits"):
        exit_loss([jnp.zeros((1, 2))], jnp.zeros(1, int), (0.5, 0.5), lambda *_: 0.0)
    with pytest.raises(ValueError, match="no tap is named"):
        with_exits(bert[0], ["layer_0"], exit_head(3))
