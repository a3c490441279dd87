import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from slim.prune import (
    DISTRIBUTIONS,
    SCORES,
    STRUCTURES,
    Evidence,
    Regrow,
    Window,
    apply_masks,
    choose_masks,
    count_kept,
    cubic,
    density,
    find_masks,
    full_masks,
    keep_masks,
    one_shot,
    periodic,
    sparsify,
    straight_through,
)
from slim.prune.regrow import swap

INPUTS = jax.random.normal(jax.random.key(0), (64, 16))
TARGETS = jnp.sin(INPUTS @ jax.random.normal(jax.random.key(1), (16, 4)))


def lenient(inner):
    """Optax's own optimizers mix dtypes, which this suite's strict promotion refuses."""

    def update(*args, **kwargs):
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(*args, **kwargs)

    return optax.GradientTransformationExtraArgs(inner.init, update)


ADAM = lenient(optax.adam(0.01))


def init_params(dtype=jnp.float32):
    first, second = jax.random.split(jax.random.key(2))
    return {
        "first": {
            "kernel": jax.random.normal(first, (16, 32), dtype) / 4,
            "bias": jnp.zeros(32, dtype),
        },
        "second": {
            "kernel": jax.random.normal(second, (32, 4), dtype) / 6,
            "bias": jnp.zeros(4, dtype),
        },
    }


def loss(params):
    dtype = params["first"]["kernel"].dtype
    hidden = jnp.tanh(INPUTS.astype(dtype) @ params["first"]["kernel"] + params["first"]["bias"])
    outputs = hidden @ params["second"]["kernel"] + params["second"]["bias"]
    return jnp.mean(jnp.square(outputs - TARGETS.astype(dtype)))


def train(tx, params, steps, forward=lambda params, state: params):
    """Params, state, number of compilations, and what each step left."""

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: loss(forward(p, state)))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state, history = jax.jit(tx.init)(params), []
    for _ in range(steps):
        params, state = step(params, state)
        history.append((params, state))
    assert step._cache_size() == 1
    return params, state, history


def kernels(tree):
    return {name: tree[name]["kernel"] for name in ("first", "second")}


@pytest.mark.parametrize(
    "inner", [ADAM, lenient(optax.adamw(0.01, weight_decay=0.1)), optax.sgd(0.1, momentum=0.9)]
)
def test_follows_the_schedule_with_exact_zeros(inner):
    schedule = cubic(0.25, Window(2, 10, 2))
    params, _, history = train(sparsify(inner, schedule=schedule), init_params(), 14)
    total = 16 * 32 + 32 * 4
    for step, (after, state) in enumerate(history):
        due = [s for s in range(step + 1) if schedule.due(s)]
        keep = float(schedule.keep(due[-1])) if due else 1.0
        masks = find_masks(state)
        assert count_kept(kernels(masks))[0] == round(keep * total)
        assert masks["first"]["bias"].all()
        chex.assert_trees_all_equal(after, apply_masks(masks, after))
    nonzero = sum(int((kernel != 0).sum()) for kernel in kernels(params).values())
    assert nonzero == round(0.25 * total)
    assert loss(params) < loss(init_params())


def test_half_precision_parameters_land_on_zero_too():
    # Updates in float32 on bfloat16 parameters, and the other way round.
    for dtype, update_dtype in [(jnp.bfloat16, jnp.float32), (jnp.float32, jnp.bfloat16)]:
        params = init_params(dtype)
        grads = jax.tree.map(lambda p, d=update_dtype: jnp.full(p.shape, 0.3, d), params)
        tx = sparsify(optax.sgd(0.1), schedule=one_shot(0.5, Window()))
        updates, state = jax.jit(tx.update)(grads, tx.init(params), params)
        with jax.numpy_dtype_promotion("standard"):
            params = optax.apply_updates(params, updates)
        chex.assert_trees_all_equal(params, apply_masks(find_masks(state), params))
        assert params["first"]["kernel"].dtype == dtype


def test_removed_weights_get_no_gradient():
    masks = choose_masks(Evidence(init_params()), 0.3)
    _, state, _ = train(keep_masks(ADAM, masks), init_params(), 5)
    moments = state.inner[0].mu
    assert not jax.tree.reduce(
        jnp.logical_or, jax.tree.map(lambda mask, mu: (mu[~mask] != 0).any(), masks, moments)
    )


def test_keep_masks_keeps_them():
    masks = choose_masks(Evidence(init_params()), 0.3, distribution=DISTRIBUTIONS["uniform"])
    params, state, _ = train(keep_masks(ADAM, masks), init_params(), 10)
    chex.assert_trees_all_equal(find_masks(state), masks)
    chex.assert_trees_all_equal(params, apply_masks(masks, params))
    assert loss(params) < loss(apply_masks(masks, init_params()))


def test_full_masks_change_nothing():
    params = init_params()
    dense, _, _ = train(ADAM, params, 5)
    masked, _, _ = train(keep_masks(ADAM, full_masks(params)), params, 5)
    chex.assert_trees_all_close(masked, dense, rtol=1e-4, atol=1e-7)


def test_state_keeps_its_sharding_and_may_be_donated():
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

    def place(leaf):
        spec = PartitionSpec("fsdp", "tensor") if leaf.ndim == 2 else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    tx = sparsify(ADAM, schedule=cubic(0.25, Window(0, 4, 2)))

    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params = init_params()
    state = tx.init(params)
    expected, expected_state = params, state
    for _ in range(6):
        expected, expected_state = jax.jit(step)(expected, expected_state)
    params, state = jax.tree.map(place, params), jax.tree.map(place, state)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, (params, state))
    donating = jax.jit(step, donate_argnums=(0, 1), out_shardings=shardings)
    for _ in range(6):
        params, state = donating(params, state)
    chex.assert_trees_all_close(params, expected, atol=1e-5)
    chex.assert_trees_all_equal(find_masks(state), find_masks(expected_state))


@pytest.mark.parametrize(
    "regrow", [Regrow(SCORES["gradient_norm"], 0.3, end=20), Regrow(SCORES["random"], 0.3)]
)
def test_regrow_swaps_weights_and_keeps_their_number(regrow):
    tx = sparsify(
        optax.sgd(0.05),
        schedule=periodic(0.25, Window(0, 20, 5)),
        distribution=DISTRIBUTIONS["erk"],
        regrow=regrow,
        key=jax.random.key(5),
    )
    _, _, history = train(tx, init_params(), 16)
    masks = [find_masks(state) for _, state in history]
    densities = density(masks[0])
    for before, after, step in zip(masks, masks[1:], range(1, len(masks)), strict=False):
        assert density(after) == densities
        moved = sum(
            int((b & ~a).sum()) for b, a in zip(*map(jax.tree.leaves, (before, after)), strict=True)
        )
        assert (moved > 0) == (step % 5 == 0)
    for params, state in history:
        chex.assert_trees_all_equal(params, apply_masks(find_masks(state), params))


def test_rigl_grows_the_steepest_of_the_removed():
    mask = jnp.array([True] * 4 + [False] * 4)
    magnitude = jnp.array([0.1, 4.0, 3.0, 0.2, 0, 0, 0, 0])
    gradient = jnp.array([0.0, 9.0, 9.0, 0.0, 1.0, 3.0, 2.0, 0.5])
    after = swap(mask, magnitude, gradient, 0.5)
    np.testing.assert_array_equal(jnp.flatnonzero(after), [1, 2, 5, 6])
    # A dropped weight whose gradient is the steepest comes straight back.
    after = swap(mask, magnitude, gradient.at[0].set(7.0), 0.5)
    np.testing.assert_array_equal(jnp.flatnonzero(after), [0, 1, 2, 5])


def test_the_share_swapped_decays_by_a_cosine():
    regrow = Regrow(SCORES["gradient_norm"], 0.3, end=100)
    np.testing.assert_allclose(
        [regrow.share(step) for step in (0, 50, 100, 200)], [0.3, 0.15, 0, 0], atol=1e-7
    )


def test_dense_training_through_the_masks():
    tx = sparsify(lenient(optax.adam(0.02)), schedule=periodic(0.25, Window(0, 40, 2)), dense=True)
    params, state, _ = train(
        tx, init_params(), 40, lambda params, state: straight_through(find_masks(state), params)
    )
    masks = find_masks(state)
    assert sum(int((kernel == 0).sum()) for kernel in kernels(params).values()) == 0
    first = choose_masks(Evidence(init_params()), 0.25)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), masks, first)))
    assert loss(apply_masks(masks, params)) < loss(apply_masks(first, init_params()))


def test_straight_through_is_exact_and_passes_every_gradient():
    params = {"w": jnp.array([1e8, 1.0, -2.0])}
    masks = {"w": jnp.array([True, False, True])}
    value, gradient = jax.value_and_grad(
        lambda p: jnp.square(straight_through(masks, p)["w"]).sum()
    )(params)
    assert value == 1e16 + 4
    np.testing.assert_array_equal(gradient["w"], 2 * jnp.array([1e8, 0.0, -2.0]))


def test_masks_are_found_in_a_nested_state():
    params = init_params()
    tx = optax.MultiSteps(keep_masks(optax.adam(0.1), full_masks(params)), every_k_schedule=2)
    chex.assert_trees_all_equal(find_masks(tx.init(params)), full_masks(params))


def test_no_or_several_masks_are_refused():
    params = init_params()
    with pytest.raises(ValueError, match="0 SparsifyStates"):
        find_masks(optax.adam(0.1).init(params))
    twice = optax.chain(*[keep_masks(optax.adam(0.1), full_masks(params))] * 2)
    with pytest.raises(ValueError, match="2 SparsifyStates"):
        find_masks(twice.init(params))


def test_extra_arguments_reach_the_inner_optimizer():
    params = init_params()
    inner = lenient(optax.contrib.reduce_on_plateau())
    tx = keep_masks(inner, full_masks(params))
    tx.update(params, tx.init(params), params, value=jnp.float32(1.0))


def test_bad_choices_are_refused_before_the_first_step():
    schedule = one_shot(0.5, Window())
    with pytest.raises(ValueError, match=r"'fisher' needs Evidence\.squared_grads"):
        sparsify(optax.sgd(0.1), schedule=schedule, score=SCORES["fisher"])
    with pytest.raises(ValueError, match="unstructured"):
        sparsify(
            optax.sgd(0.1),
            schedule=schedule,
            structure=STRUCTURES["2:4"],
            regrow=Regrow(SCORES["random"], 0.3),
        )
    with pytest.raises(ValueError, match="matches no parameter"):
        sparsify(optax.sgd(0.1), schedule=schedule, select=[("nothing/*", False)]).init(
            init_params()
        )
    with pytest.raises(ValueError, match=r"Evidence.key: pass jax.random.key"):
        sparsify(optax.sgd(0.1), schedule=schedule, score=SCORES["random"]).init(init_params())
    tx = sparsify(optax.sgd(0.1), schedule=schedule)
    with pytest.raises(ValueError, match="pass params"):
        tx.update(init_params(), tx.init(init_params()))
