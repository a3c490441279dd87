"""A decoder with fewer experts in every layer: which they are, and its variables with them.

    logits = router_logits(model, variables, ids)
    seen = {name: use_of(config, variables, name, each, load) for name, each in logits.items()}
    plan = plan_pruning(seen, 8, config.groups)                or plan_merging(seen, logits, 8)
    small = prune(variables, plan)                             or merge(variables, plan, seen)
    DeepSeek(replace(config, **plan.sizes))                    the decoder that takes them

All layers keep equally many. A *mixture* is what the variables have at one path: the experts of all
scanned layers, `sparse/mlp`, or of a layer that predicts ahead, `ahead_0/layer/mlp`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from slim.graph.stored_json import Fields, Stored, exactly, row, table
from slim.models.deepseek.config import DeepSeekConfig
from slim.models.deepseek.model import DeepSeek
from slim.moe.compress import (
    Mixture,
    choose_experts,
    group_experts,
    logit_similarity,
    merge_experts,
    prune_experts,
)
from slim.moe.experts import Experts
from slim.moe.routing import Routing
from slim.paths import flatten, unflatten

PyTree = Any
Layers = tuple[tuple[tuple[int, ...], ...], ...]
ByMixture = Mapping[str, jax.Array]
"""Arrays by mixture, each with its layers first."""


@dataclass(frozen=True)
class ExpertPlan(Stored):
    """What the experts of each layer become.

    Attributes:
        merged: whether the router goes on choosing among all experts and is led to what they
            became; else it chooses among those that are left.
        parts: by mixture, of each layer and each expert that is left, those that it was before.

    >>> ExpertPlan(False, {"sparse/mlp": (((0,), (3,)), ((1,), (2,)))}).sizes
    {'experts': 2}
    """

    KIND: ClassVar[str] = "experts"
    FIELDS: ClassVar[Fields] = {
        "merged": exactly(bool),
        "parts": table(row(row(row(exactly(int))))),
    }

    merged: bool
    parts: Mapping[str, Layers]

    @property
    def sizes(self) -> dict[str, Any]:
        """The fields of `DeepSeekConfig` that are others then."""
        left = len(next(iter(self.parts.values()))[0])
        return {"merged" if self.merged else "experts": left}

    def assignment(self, mixture: str) -> np.ndarray:
        """Of a plan that merges, what each expert becomes a part of: int32 `(layers, experts)`."""
        layers = self.parts[mixture]
        found = np.zeros((len(layers), sum(map(len, layers[0]))), np.int32)
        for layer, parts in enumerate(layers):
            for part, members in enumerate(parts):
                found[layer, list(members)] = part
        return found


def router_logits(model: DeepSeek, variables: PyTree, ids: jax.Array) -> dict[str, jax.Array]:
    """Routers' logits over the tokens of some texts, by mixture: `(layers, tokens, experts)`.

    Args:
        model: the decoder.
        variables: its `params`, and `router` if it has that; nothing of them moves.
        ids: int32 `(batch, length)`.
    """
    # In training those that predict ahead run too.
    _, sown = model.apply(variables, ids, train=True, method="states", mutable=["logits"])
    found = {}
    for path, logits in flatten(sown["logits"]).items():
        layers = logits if logits.ndim == 4 else logits[None]
        found[path.removesuffix("/logits")] = layers.reshape(len(layers), -1, layers.shape[-1])
    return found


def use_of(
    config: DeepSeekConfig,
    variables: PyTree,
    mixture: str,
    logits: jax.Array,
    counted: Callable[[Routing, int], jax.Array],
) -> jax.Array:
    """How much the experts of a mixture are used: `(layers, experts)`.

    Args:
        config: of the decoder.
        variables: its variables, of which the biases of the choice are read.
        mixture: its name.
        logits: of `router_logits`.
        counted: `slim.moe.load`, the tokens that chose an expert, or `gate_load`, their gates.
    """
    router, bias = config.make_router(), _flat(variables).get(f"router/{mixture}/bias")
    layers = []
    for layer, each in enumerate(logits):
        own = None if bias is None else bias.reshape(len(logits), -1)[layer]
        layers.append(counted(router.route(each, own), config.experts))
    return jnp.stack(layers)


def plan_pruning(use: ByMixture, keep: int, groups: int = 1) -> ExpertPlan:
    """The most used experts of each layer are left, as many of each of the router's groups.

    Raises:
        ValueError: as `choose_experts`.

    >>> plan_pruning({"sparse/mlp": jnp.array([[7, 0, 9, 8]])}, 2).parts
    {'sparse/mlp': (((2,), (3,)),)}
    """
    kept = {name: choose_experts(each, keep, groups).tolist() for name, each in use.items()}
    return ExpertPlan(
        merged=False,
        parts={
            name: tuple(tuple((expert,) for expert in layer) for layer in layers)
            for name, layers in kept.items()
        },
    )


def plan_merging(use: ByMixture, logits: ByMixture, keep: int, groups: int = 1) -> ExpertPlan:
    """The most used experts of each layer take those in that the router wants for the same tokens.

    Raises:
        ValueError: as `group_experts`.
    """

    def layer(logits: jax.Array, use: jax.Array) -> tuple[tuple[int, ...], ...]:
        parts = np.asarray(group_experts(logit_similarity(logits), use, keep, groups))
        return tuple(tuple(np.flatnonzero(parts == part).tolist()) for part in range(keep))

    return ExpertPlan(
        merged=True,
        parts={
            name: tuple(layer(*both) for both in zip(logits[name], each, strict=True))
            for name, each in use.items()
        },
    )


def prune(variables: PyTree, plan: ExpertPlan) -> PyTree:
    """The variables without the experts that a plan leaves out, and what routers have of them."""
    flat = _flat(variables)
    for name, layers in plan.parts.items():
        kept = jnp.asarray([[expert for (expert,) in layer] for layer in layers])
        mixture = _mixture(flat, name)
        stacked = mixture.kernel.ndim == 3
        small = (
            jax.vmap(prune_experts)(mixture, kept) if stacked else prune_experts(mixture, kept[0])
        )
        flat[f"params/{name}/router/kernel"] = small.kernel
        if small.bias is not None:
            flat[f"router/{name}/bias"] = small.bias
        flat |= _of_experts(name, small.experts)
    return unflatten(flat)


def merge(variables: PyTree, plan: ExpertPlan, use: ByMixture) -> PyTree:
    """The variables with the experts merged, weighted by their use; on the host.

    Routers stay; `router` has the `assignment` of their choices beside the biases.
    """
    flat = _flat(variables)
    for name in plan.parts:
        experts, assignment = _mixture(flat, name).experts, plan.assignment(name)
        stacked = experts.gate.ndim == 4
        if not stacked:
            experts = jax.tree.map(lambda leaf: leaf[None], experts)
        layers = [
            merge_experts(Experts(*leaves), own, loads)
            for *leaves, own, loads in zip(*experts, assignment, use[name], strict=True)
        ]
        whole = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
        led = jnp.asarray(assignment)
        if not stacked:
            whole, led = jax.tree.map(lambda leaf: leaf[0], (whole, led))
        flat[f"router/{name}/assignment"] = led
        flat |= _of_experts(name, whole)
    return unflatten(flat)


def _flat(variables: PyTree) -> dict[str, Any]:
    return flatten(dict(variables))


def _mixture(flat: Mapping[str, Any], name: str) -> Mixture:
    return Mixture(
        flat[f"params/{name}/router/kernel"],
        flat.get(f"router/{name}/bias"),
        Experts(*(flat[f"params/{name}/experts/{each}"] for each in Experts._fields)),
    )


def _of_experts(name: str, experts: Experts) -> dict[str, jax.Array]:
    return {f"params/{name}/experts/{key}": leaf for key, leaf in experts._asdict().items()}
