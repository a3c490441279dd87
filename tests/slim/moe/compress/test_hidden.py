"""What `slim.graph` finds in a mixture, and what `permute_hidden` adds to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.graph import frozen_groups, groups, make_plan, replay, shrink, trace
from slim.moe.compress import permute_hidden
from slim.moe.experts import Experts
from slim.moe.grouped import BACKENDS
from slim.moe.mixture import dropless
from slim.moe.routing import sigmoid
from tests.slim.graph.exactness import assert_exact
from tests.slim.moe.compress import mixtures

ROUTER = sigmoid(3, groups=2, groups_kept=1)


def params():
    mixture, x = mixtures.make()
    return {"kernel": mixture.kernel, "experts": mixture.experts._asdict()}, x


def one_hot(params, x):
    """Every expert computes every token."""
    gate, up, down = (params["experts"][name] for name in Experts._fields)
    routing = ROUTER.route(x @ params["kernel"])
    combined = jnp.einsum(
        "tk,tke->te", routing.gates, jax.nn.one_hot(routing.experts, gate.shape[0])
    )
    hidden = jax.nn.silu(jnp.einsum("tw,ewh->teh", x, gate)) * jnp.einsum("tw,ewh->teh", x, up)
    return jnp.einsum("te,teh,ehw->tw", combined, hidden, down)


def mixed(mix):
    def call(params, x):
        routing = ROUTER.route(x @ params["kernel"])
        return mix(Experts(**params["experts"]), x, routing.experts, routing.gates)[0]

    return call


def members(found):
    return [{(m.path, m.dim) for m in group.members} for group in found]


HIDDEN = {("experts/down", 1), ("experts/gate", 2), ("experts/up", 2)}
NUMBER = {("experts/down", 0), ("experts/gate", 0), ("experts/up", 0)}


def test_of_one_hot_experts_the_graph_cuts_their_width_and_their_number():
    given, x = params()
    graph = trace(one_hot, given, x)
    assert members(groups(graph)) == [NUMBER, HIDDEN]
    assert set().union(*members(frozen_groups(graph))) >= {("kernel", 1)}
    assert_exact(one_hot, given, x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_every_backend_the_graph_cuts_the_width(backend):
    given, x = params()
    graph = trace(mixed(dropless(backend)), given, x)
    assert members(groups(graph)) == [HIDDEN]
    assert set().union(*members(frozen_groups(graph))) > NUMBER


def test_the_graph_cuts_each_expert_where_its_units_matter_least():
    given, x = params()
    fn = mixed(dropless("blocks"))
    experts = Experts(**given["experts"])
    importance = jnp.linalg.norm(experts.down, axis=2)
    sorted_ = {**given, "experts": permute_hidden(experts, jnp.argsort(-importance))._asdict()}
    np.testing.assert_allclose(jax.jit(fn)(sorted_, x), jax.jit(fn)(given, x), atol=1e-6)

    graph = trace(fn, given, x)
    plan = make_plan(graph, {groups(graph)[0].name: range(3)})
    stays = importance >= jnp.sort(importance)[:, -3:-2]
    masked = {**given["experts"], "down": jnp.where(stays[..., None], experts.down, 0)}
    np.testing.assert_allclose(
        jax.jit(replay(graph, plan))(shrink(plan, sorted_), x),
        jax.jit(fn)({**given, "experts": masked}, x),
        atol=1e-6,
    )
