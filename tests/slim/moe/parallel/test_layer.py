"""Experts over a mesh against the per-token reference, forward and gradients."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from slim.moe.experts import Experts
from slim.moe.mixture import reference
from slim.moe.parallel import AXES, Axes, expert_parallel

TOKENS, WIDTH, HIDDEN, EXPERTS, K = 32, 4, 8, 8, 2


def mesh(*shape):
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 4)


@functools.cache
def operands():
    random = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(random.normal(size=shape, scale=0.5), jnp.float32)

    inward = (EXPERTS, WIDTH, HIDDEN)
    weights = Experts(normal(*inward), normal(*inward), normal(EXPERTS, HIDDEN, WIDTH))
    return weights, normal(TOKENS, WIDTH), jnp.abs(normal(TOKENS, K)), normal(TOKENS, WIDTH)


def random_routing(seed=0):
    random = np.random.default_rng(seed)
    return np.argsort(random.random((TOKENS, EXPERTS)), axis=1)[:, :K]


ROUTINGS = {
    "random": random_routing(),
    "all to one expert": np.stack([np.full(TOKENS, 5), random_routing()[:, 0] % 5], axis=1),
    "all to one pair": np.tile([7, 6], (TOKENS, 1)),
    "ties": np.tile([0, 1], (TOKENS, 1)),
    "none to some": random_routing() % 2 + np.array([0, 4]),
}


def with_gradients(mix):
    """A jitted `mix` with the gradients of its inner product with fixed numbers."""

    def value(weights, x, gates, experts, direction):
        y, dropped = mix(weights, x, experts, gates)
        return jnp.vdot(y, direction), (y, dropped)

    both = jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True))

    def call(experts, gates=None):
        weights, x, default, direction = operands()
        gates = default if gates is None else gates
        experts = jnp.asarray(experts, jnp.int32)
        (_, (y, dropped)), gradients = both(weights, x, gates, experts, direction)
        return jax.device_get((y, gradients)), int(dropped)

    return call


expected = with_gradients(reference())

CASES = {
    "8 experts axes": ((1, 1, 1, 8), {}),
    "4 with data": ((2, 1, 1, 4), {"exchange": "all_to_all"}),
    "4 with tensor": ((1, 1, 2, 4), {"gathered": "hidden"}),
    "2 with fsdp and tensor": ((1, 2, 2, 2), {}),
    "2 with hidden gathered": ((1, 2, 2, 2), {"exchange": "all_to_all", "gathered": "hidden"}),
    "in two parts": ((1, 2, 2, 2), {"parts": 2}),
}


@pytest.fixture(scope="module", params=CASES)
def spread(request):
    shape, settings = CASES[request.param]
    return with_gradients(expert_parallel(mesh(*shape), buffer_factor=None, **settings))


@pytest.mark.parametrize("routing", ROUTINGS)
def test_equals_the_reference_however_tokens_are_routed(spread, routing):
    results, dropped = spread(ROUTINGS[routing])
    chex.assert_trees_all_close(results, expected(ROUTINGS[routing])[0], rtol=1e-5, atol=1e-5)
    assert dropped == 0


def room_for(experts, groups, devices, room, most):
    """Which of `(tokens, k)` find room, row by row in the order that rows are sent."""
    kept = np.zeros(experts.shape, bool)
    tokens = np.arange(TOKENS).reshape(groups, devices, -1)
    for group in tokens:
        filled = np.zeros(devices, int)
        for sender in group:
            sent = np.zeros(devices, int)
            rows = [(experts[t, j], t, j) for t in sender for j in range(K)]
            for expert, t, j in sorted(rows, key=lambda row: row[0]):
                to = expert // (EXPERTS // devices)
                if filled[to] < room and sent[to] < most:
                    kept[t, j] = True
                    filled[to] += 1
                    sent[to] += 1
    return kept.astype(np.float32)


@pytest.mark.parametrize(
    ("exchange", "room", "most"), [("all_gather", 10, 8), ("all_to_all", 12, 3)]
)
@pytest.mark.parametrize("routing", ["random", "all to one expert"])
def test_what_a_small_buffer_drops_is_counted_and_alone_missing(exchange, room, most, routing):
    # 32 tokens over 8 devices: 8 rows each, so a buffer of ceil(1.25 * 8) rows.
    mix = expert_parallel(mesh(2, 1, 1, 4), exchange=exchange, buffer_factor=1.25)
    experts = ROUTINGS[routing]
    kept = room_for(experts, groups=2, devices=4, room=room, most=most)
    (y, (weights, x, gates)), dropped = with_gradients(mix)(experts)
    assert dropped == (kept == 0).sum() > 0
    (wanted_y, (wanted_weights, wanted_x, wanted_gates)), _ = expected(
        experts, operands()[2] * kept
    )
    wanted = (wanted_y, wanted_weights, wanted_x, wanted_gates * kept)
    chex.assert_trees_all_close((y, weights, x, gates), wanted, rtol=1e-5, atol=1e-5)


def test_in_a_scan_over_layers_with_rematerialization():
    experts = jnp.asarray(np.stack([random_routing(1), random_routing(2)]), jnp.int32)

    def two_layers(mix):
        @jax.checkpoint
        def layer(x, this):
            weights, experts = this
            y, dropped = mix(weights, x, experts, operands()[2])
            return x + jnp.tanh(y), dropped

        def value(weights, x):
            stacked = jax.tree.map(lambda w: jnp.stack([w, w[::-1]]), weights)
            x, dropped = jax.lax.scan(layer, x, (stacked, experts))
            return jnp.vdot(x, operands()[3]), dropped

        gradients, dropped = jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))(*operands()[:2])
        return jax.device_get(gradients), dropped.tolist()

    gradients, dropped = two_layers(expert_parallel(mesh(1, 2, 2, 2)))
    chex.assert_trees_all_close(gradients, two_layers(reference())[0], rtol=1e-5, atol=1e-5)
    assert dropped == [0, 0]


def test_weights_and_tokens_keep_their_precision():
    weights, x, gates, _ = operands()
    weights, x = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (weights, x))
    experts = jnp.asarray(random_routing(), jnp.int32)
    mix = expert_parallel(mesh(1, 2, 2, 2))

    def value(weights, x, gates):
        y, dropped = mix(weights, x, experts, gates)
        assert (y.dtype, dropped.dtype) == (jnp.bfloat16, jnp.int32)
        return y.sum()

    gradients = jax.eval_shape(jax.grad(value, argnums=(0, 1, 2)), weights, x, gates)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradients, (weights, x, gates))


def test_for_a_tpu_it_lowers_to_the_native_collectives():
    mix = expert_parallel(mesh(1, 2, 1, 4), exchange="ragged_all_to_all", backend="ragged")
    weights, x, gates, _ = operands()
    experts = jnp.asarray(random_routing(), jnp.int32)

    def value(weights, x):
        return mix(weights, x, experts, gates)[0].sum()

    traced = jax.jit(jax.value_and_grad(value, argnums=(0, 1))).trace(weights, x)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    # There and back, forward and backward; three gathers of weights, and one of group sizes.
    assert text.count("@ragged_all_to_all") == 4
    assert text.count('"stablehlo.all_gather"') == 4
    assert text.count('"stablehlo.reduce_scatter"') == 3
    assert "stablehlo.scatter" not in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exchange": "gather"}, "exchange: unknown name 'gather'"),
        ({"backend": "rag"}, "backend: unknown name 'rag'; did you mean 'ragged'"),
        ({"buffer_factor": 0.0}, "buffer_factor is 0.0; allowed: above 0"),
        ({"gathered": "experts"}, "gathered is 'experts'; allowed: 'width', 'hidden'"),
        ({"parts": 0}, "parts is 0; allowed: at least 1"),
        ({"axes": Axes(expert="experts")}, "axes.expert is 'experts'; allowed: one of the mesh's"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        expert_parallel(mesh(1, 2, 2, 2), **settings)


@pytest.mark.parametrize(
    ("shape", "gathered", "sizes", "message"),
    [
        ((1, 1, 1, 8), "width", (32, 4, 8, 4), "experts is 4; allowed: a multiple of 8"),
        ((2, 2, 1, 2), "width", (20, 4, 8, 4), "tokens is 20; .*8, the .*data x fsdp x expert"),
        ((1, 1, 4, 2), "width", (32, 4, 6, 4), "hidden is 6; .*4, the devices .* tensor;"),
        ((1, 2, 2, 2), "hidden", (32, 4, 6, 4), "hidden is 6; .*4, the .* tensor x fsdp"),
        ((1, 4, 1, 2), "width", (32, 6, 8, 4), "width is 6; .*4, the devices .* fsdp"),
    ],
)
def test_sizes_that_the_mesh_does_not_divide_are_refused(shape, gathered, sizes, message):
    tokens, width, hidden, count = sizes
    mix = expert_parallel(mesh(*shape), gathered=gathered)
    array = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    inward = array((count, width, hidden))
    weights = Experts(inward, inward, array((count, hidden, width)))
    experts = jax.ShapeDtypeStruct((tokens, K), jnp.int32)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(mix, weights, array((tokens, width)), experts, array((tokens, K)))


def test_parts_that_do_not_divide_a_devices_tokens_are_refused():
    weights, x, gates, _ = operands()
    mix = expert_parallel(mesh(1, 2, 2, 2), parts=3)
    with pytest.raises(ValueError, match="parts is 3; allowed: a divisor of the 8 tokens of"):
        jax.eval_shape(mix, weights, x, random_routing().astype(np.int32), gates)
