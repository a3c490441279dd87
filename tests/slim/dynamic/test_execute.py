"""What runs fewer segments gives what the oracle says, to the bit: arithmetic here is exact."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.dynamic import CRITERIA, Batched, Looped, conditional, simulate
from slim.dynamic.alike import signature
from slim.graph import split_outputs, trace
from tests.slim.dynamic.networks import DEPTH, network, segments

SETTINGS = {
    "confidence": jnp.float32(0.8),
    "entropy": jnp.linspace(0.9, 0.1, DEPTH),
    "patience": jnp.int32(1),
    "random": (jax.random.key(0), jnp.float32(0.4)),
    "fixed": np.random.default_rng(0).integers(0, DEPTH, 53).astype(np.int32),
}
SIZES = (1, 2, 4, 8)


def oracle(name, setting):
    fn, params, inputs = network()
    return simulate(CRITERIA[name], setting, jax.jit(fn)(params, *inputs))


@pytest.fixture(scope="module")
def batched():
    runs = {name: Batched(segments(), CRITERIA[name], SIZES) for name in SETTINGS}
    return lambda name, setting, *inputs: runs[name](network()[1], setting, *inputs)


@pytest.mark.parametrize("name", SETTINGS)
def test_batches_give_what_the_oracle_says(name, batched):
    *_, inputs = network()
    exited, calls = batched(name, SETTINGS[name], *inputs)
    expected = oracle(name, SETTINGS[name])
    chex.assert_trees_all_equal(exited, jax.tree.map(np.asarray, expected))
    assert len(np.unique(exited.exit)) >= 3
    # Everyone who gets so far is run once, in full batches until the inputs end.
    for i in range(DEPTH):
        own = [call for call in calls if call.segment == i]
        assert sum(call.examples for call in own) == (exited.exit >= i).sum()
        full = [call for call in own if call.examples == SIZES[-1]]
        assert len(full) >= len(own) - 3
    padding = sum(call.size - call.examples for call in calls)
    assert padding <= 0.1 * sum(call.examples for call in calls)


def test_nothing_is_compiled_twice_and_alike_segments_share(batched):
    *_, inputs = network()
    run = Batched(segments(), CRITERIA["confidence"], (4, 8))
    run.compile(network()[1], 0.8, *inputs)
    ((programs,),) = (run._kept.values(),)
    steps = set(programs.steps.values())
    # The first, those alike, the last: for each of two sizes.
    assert len(steps) == 6
    compiled = [step._cache_size() for step in steps]
    for setting, count in itertools.product((0.5, 0.99), (53, 3)):
        run(network()[1], setting, *(each[:count] for each in inputs))
    assert [step._cache_size() for step in steps] == compiled


def test_of_few_examples_and_one_size(batched):
    fn, params, inputs = network()
    for count in (1, 5):
        some = [each[:count] for each in inputs]
        exited, calls = Batched(segments(), CRITERIA["confidence"], (4,))(params, 0.8, *some)
        expected = simulate(CRITERIA["confidence"], 0.8, fn(params, *some))
        chex.assert_trees_all_equal(exited, jax.tree.map(np.asarray, expected))
        assert {call.size for call in calls} == {4}


def test_the_signature_of_segments():
    _, params, inputs = network()
    first, *middle, last = map(signature, segments().at(params, *inputs))
    assert len(set(middle)) == 1
    assert len({first, middle[0], last}) == 3


@pytest.mark.parametrize(
    ("name", "count"), [("confidence", 1), ("confidence", 4), ("patience", 1), ("random", 4)]
)
def test_in_one_program(name, count):
    """Both forms; a batch goes on until all of it has left."""
    fn, params, inputs = network()
    chain = conditional(segments(), CRITERIA[name])
    looped = Looped(segments(), CRITERIA[name])

    @jax.jit
    def every(params, setting, *inputs):
        packed = looped.pack(params, *inputs)
        return [
            simulate(CRITERIA[name], setting, fn(params, *inputs)),
            chain(params, setting, *inputs),
            looped(packed, setting, *inputs),
        ]

    seen = set()
    for start in range(0, 12, count):
        some = [each[start : start + count] for each in inputs]
        expected, *found = every(params, SETTINGS[name], *some)
        for each in found:
            chex.assert_trees_all_equal(each, expected)
        seen.update(expected.exit.tolist())
    assert len(seen) >= 2


def test_segments_behind_the_exit_do_not_run():
    """What is not needed is not computed, in either form: callbacks count the rounds."""
    ran = []

    def counted(x):
        ran.append(1)
        return x

    def fn(params, x):
        logits = []
        for layer in params["layers"]:
            x = x @ layer["kernel"]
            x = jax.pure_callback(counted, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
            logits.append(x @ layer["exit"])
        return tuple(logits)

    _, params, _ = network()
    x = np.ones((1, 4), np.float32)
    parts = split_outputs(trace(fn, params, x))
    chain, looped = (form(parts, CRITERIA["fixed"]) for form in (conditional, Looped))
    for form, given in ((chain, params), (looped, looped.pack(params, x))):
        jitted = jax.jit(form)
        for exit in range(DEPTH):
            ran.clear()
            assert jitted(given, exit, x).exit.tolist() == [exit]
            assert len(ran) == exit + 1


def test_refusals():
    _, params, (ids, mask) = network()
    with pytest.raises(ValueError, match=r"sizes = \(8, 4\): give ascending"):
        Batched(segments(), CRITERIA["fixed"], (8, 4))
    run = Batched(segments(), CRITERIA["fixed"])
    with pytest.raises(ValueError, match=r"inputs of shapes \[\(53, 6\), \(52, 6\)\]"):
        run(params, 1, ids, mask[:-1])

    def coupled(p, x):
        mean, x = x.mean(0), x @ p
        return x + mean, x @ p + mean

    p, x = np.eye(4, dtype=np.float32), np.ones((3, 4), np.float32)
    parts = split_outputs(trace(coupled, p, x))
    with pytest.raises(ValueError, match=r"float32\[4\] crosses into segment '1'.*re-packed"):
        Batched(parts, CRITERIA["fixed"])(p, 1, x)
    with pytest.raises(ValueError, match="no two neighbours after the first"):
        Looped(parts, CRITERIA["fixed"]).pack(p, x)
