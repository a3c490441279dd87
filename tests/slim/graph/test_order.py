"""Groups that are not ordered may be permuted, in every way that real models couple axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.dynamic.slimmable import at_ratio, narrow, nest, sort_units
from slim.graph import groups, make_plan, replay, shrink, trace
from slim.graph.order import ordered_groups
from tests.slim.graph.exactness import assert_close, random_like
from tests.slim.graph.programs import PROGRAMS


def assert_nested(name):
    """Permuting changes nothing, and the first units are the pruned network's."""
    make, *_ = PROGRAMS[name]
    fn, shapes, like = make()
    params, x = random_like(shapes), random_like(like, seed=1)
    graph = trace(fn, params, x)
    rng = np.random.default_rng(2)
    free = [group for group in groups(graph) if group.name not in ordered_groups(graph)]
    scores = {group.name: rng.random(group.size) for group in free}
    widths = at_ratio(scores, 0.5)
    nested = nest(graph, scores, [widths])
    kept = {name: np.argsort(-scores[name])[:width] for name, width in widths.items()}
    pruned = make_plan(graph, kept)

    def both(params):
        moved = sort_units(nested, params)
        plan = nested.plans[0]
        return [
            (fn(params, x), fn(moved, x)),
            (
                replay(graph, pruned)(shrink(pruned, params), x),
                replay(graph, plan)(narrow(plan, moved), x),
            ),
        ]

    for expected, got in jax.jit(both)(params):
        assert_close(got, expected, 1e-5)


FEW = ["fused_qkv_split", "rotary_halves", "channel_shuffle", "scanned_layers"]


@pytest.mark.parametrize("name", FEW)
def test_the_others_may_be_permuted(name):
    assert_nested(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(PROGRAMS) - set(FEW)))
def test_the_others_may_be_permuted_everywhere(name):
    assert_nested(name)


TABLE = np.arange(4, dtype=np.float32)
WEIGHTS = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (lambda h: h * TABLE, "a constant of shape .* varies along it"),
        (lambda h: h * jnp.arange(4.0), "iota at .*: it counts the indices"),
        (lambda h: jnp.cumsum(h, axis=1), "cumsum at .*: later indices see earlier ones"),
        (lambda h: jax.checkpoint(lambda y: y * TABLE)(h), "varies along it"),
        (lambda h: jax.lax.scan(lambda c, row: (c, row * TABLE), 0, h)[1], "varies along it"),
    ],
)
def test_what_orders_a_group(between, reason):
    def fn(p, x):
        return between(x @ p["a"]) @ p["b"]

    graph = trace(fn, WEIGHTS, jnp.ones((5, 3)))
    assert list(ordered_groups(graph)) == ["a:1"]
    with pytest.raises(ValueError, match=f"'a:1' cannot be sorted by importance: .*{reason}"):
        nest(graph, {"a:1": np.arange(4.0)}, [{"a:1": 2}])


@pytest.mark.parametrize(
    "between", [lambda h: h * np.full(4, 2, np.float32), lambda h: h * np.float32(3), jax.nn.gelu]
)
def test_what_does_not(between):
    def fn(p, x):
        return between(x @ p["a"]) @ p["b"]

    assert ordered_groups(trace(fn, WEIGHTS, jnp.ones((5, 3)))) == {}
