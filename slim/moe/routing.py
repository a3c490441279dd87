"""Routers: which experts a token goes to, and how much each of them counts.

    router = ROUTERS["sigmoid"](8, groups=8, groups_kept=4)       DeepSeek-V3's
    routing = router.route(x @ kernel, bias)

A token's affinity to every expert is a function of its logits. It takes the k experts of highest
affinity + bias, of the best groups only where there are groups (an expert group lives on one node,
so few nodes see a token), and their gates are the affinities without the bias. A new router is a
function that returns a `Router`, and its place in `ROUTERS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.paths import unknown_name


class Routing(NamedTuple):
    """Where tokens go. The leading dimensions are those of the logits.

    Attributes:
        experts: `(tokens, k)` int32, distinct in a row, the first chosen first.
        gates: `(tokens, k)` float32, the weight of each in the output.
        scores: `(tokens, experts)` float32, the affinities before any bias, all experts': what
            auxiliary losses read.
    """

    experts: jax.Array
    gates: jax.Array
    scores: jax.Array


def highest(scores: jax.Array, k: int) -> jax.Array:
    """The indices of the k highest along the last dimension, distinct: `(..., k)` int32.

    The highest first, of equal ones the lower index. As `jax.lax.top_k`, except that XLA partitions
    this over the other dimensions: for that one it gathers the scores of all devices.
    """
    # What is taken goes below even minus infinity, which so is never taken twice.
    left = jnp.maximum(jax.lax.stop_gradient(scores), jnp.finfo(scores.dtype).min)
    indices = jnp.arange(scores.shape[-1])
    found = []
    for _ in range(k):
        found.append(jnp.argmax(left, axis=-1, keepdims=True).astype(jnp.int32))
        left = jnp.where(indices == found[-1], -jnp.inf, left)
    return jnp.concatenate(found, axis=-1)


def take(scores: jax.Array, indices: jax.Array) -> jax.Array:
    """The scores `(..., experts)` at the indices `(..., k)`: `(..., k)`.

    Compares and sums rather than gathers, so that the gradient has no scatter-add.
    """
    chosen = indices[..., None] == jnp.arange(scores.shape[-1])
    return jnp.where(chosen, scores[..., None, :], 0).sum(-1)


def _top_two(scores: jax.Array) -> jax.Array:
    return take(scores, highest(scores, min(2, scores.shape[-1]))).sum(-1)


def _best(scores: jax.Array) -> jax.Array:
    return scores.max(-1)


GROUP_SCORES: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "top_two": _top_two,
    "best": _best,
}
"""What a group is worth, from `(..., groups, experts in it)` to `(..., groups)`: the sum of its two
best (DeepSeek-V3) or its best (DeepSeek-V2)."""


@dataclass(frozen=True)
class Router:
    """Group-limited top-k of affinities.

    Invariants: 1 <= k; 1 <= groups_kept <= groups; scale > 0. The number of experts comes with the
    logits and is checked there (`check`).

    Attributes:
        name: its place in `ROUTERS`.
        affinity: logits `(..., experts)` float32 -> affinities of the same shape, none negative.
        k: how many experts a token goes to.
        normalize: whether a token's gates are divided by their sum.
        scale: what all gates are multiplied by.
        groups: into how many runs of equal length the experts are divided.
        groups_kept: how many groups a token may choose from.
        group_score: what a group is worth, from `GROUP_SCORES`.
    """

    name: str
    affinity: Callable[[jax.Array], jax.Array]
    k: int
    normalize: bool
    scale: float = 1.0
    groups: int = 1
    groups_kept: int = 1
    group_score: str = "top_two"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k is {self.k}; a token needs at least 1 expert")
        if not self.scale > 0:
            raise ValueError(f"scale is {self.scale}; allowed: above 0")
        if self.groups < 1:
            raise ValueError(f"groups is {self.groups}; allowed: 1 or more, 1 for no groups")
        if not 1 <= self.groups_kept <= self.groups:
            raise ValueError(
                f"groups_kept is {self.groups_kept}; allowed: 1 to groups = {self.groups}"
            )
        if self.group_score not in GROUP_SCORES:
            raise ValueError(unknown_name("group_score", self.group_score, GROUP_SCORES))

    def check(self, experts: int) -> None:
        """Refuse a number of experts that this router cannot choose from.

        Raises:
            ValueError: fewer experts than k, not divisible by groups, or fewer than k in the
                groups kept.
        """
        if self.k > experts:
            raise ValueError(f"k is {self.k}; allowed: at most the {experts} experts there are")
        if experts % self.groups:
            raise ValueError(
                f"groups is {self.groups}; it must divide the {experts} experts evenly"
            )
        reached = experts // self.groups * self.groups_kept
        if self.k > reached:
            raise ValueError(
                f"k is {self.k}; groups_kept = {self.groups_kept} of {self.groups} groups of "
                f"{experts // self.groups} hold {reached} experts: lower k or keep more groups"
            )

    def route(self, logits: jax.Array, bias: jax.Array | None = None) -> Routing:
        """The experts of each token. Computes in float32, whatever the dtype of the logits.

        Of equal scores the one of lower index wins, among experts as among groups. Gradients reach
        the logits by `gates` and `scores`; the choice has none, nor has the bias.

        Args:
            logits: `(tokens, experts)`, or with more leading dimensions.
            bias: `(experts,)` added to the affinities for the choice alone; minus infinity closes
                an expert, as long as k stay open in the groups that are kept.

        Raises:
            ValueError: the number of experts does not fit (see `check`).

        >>> logits = jnp.array([[0.0, 1.0, 2.0, 3.0]])
        >>> softmax(2).route(logits).experts
        Array([[3, 2]], dtype=int32)
        >>> softmax(2).route(logits, jnp.array([9.0, 0.0, 0.0, 0.0])).experts
        Array([[0, 3]], dtype=int32)
        """
        self.check(logits.shape[-1])
        scores = self.affinity(logits.astype(jnp.float32))
        biased = scores if bias is None else scores + bias.astype(jnp.float32)
        experts = highest(self._open(biased), self.k)
        gates = take(scores, experts)
        if self.normalize:
            gates = _normalized(gates)
        return Routing(experts, gates * self.scale, scores)

    def _open(self, biased: jax.Array) -> jax.Array:
        """Minus infinity outside the groups kept: zero would beat a negative biased score."""
        if self.groups_kept == self.groups:
            return biased
        grouped = biased.reshape(*biased.shape[:-1], self.groups, -1)
        kept = highest(GROUP_SCORES[self.group_score](grouped), self.groups_kept)
        is_kept = (kept[..., None] == jnp.arange(self.groups)).any(-2)
        return jnp.where(is_kept[..., None], grouped, -jnp.inf).reshape(biased.shape)


@jax.custom_jvp
def _normalized(gates: jax.Array) -> jax.Array:
    return gates / (gates.sum(-1, keepdims=True) + 1e-20)


@_normalized.defjvp
def _normalized_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """The quotient's own rule squares the sum: not a number where all gates are nearly zero."""
    (gates,), (change,) = primals, tangents
    normalized = _normalized(gates)
    total = gates.sum(-1, keepdims=True) + 1e-20
    return normalized, (change - normalized * change.sum(-1, keepdims=True)) / total


def _softmax(logits: jax.Array) -> jax.Array:
    return jax.nn.softmax(logits, axis=-1)


def softmax(
    k: int,
    *,
    normalize: bool = False,
    scale: float = 1.0,
    groups: int = 1,
    groups_kept: int = 1,
    group_score: str = "best",
) -> Router:
    """Probabilities over all experts: Switch (arXiv:2101.03961), DeepSeek-V2 (arXiv:2405.04434).

    With `normalize` the gates are the softmax over the k chosen, as GShard's (arXiv:2006.16668).
    Arguments as the attributes of `Router`.
    """
    return Router("softmax", _softmax, k, normalize, scale, groups, groups_kept, group_score)


def sigmoid(
    k: int,
    *,
    normalize: bool = True,
    scale: float = 2.5,
    groups: int = 1,
    groups_kept: int = 1,
    group_score: str = "top_two",
) -> Router:
    """An affinity for each expert by itself: DeepSeek-V3 (arXiv:2412.19437, section 2.1.2).

    V3 has 256 experts, k = 8, groups = 8, groups_kept = 4. Arguments as the attributes of `Router`.
    """
    return Router("sigmoid", jax.nn.sigmoid, k, normalize, scale, groups, groups_kept, group_score)


ROUTERS: Mapping[str, Callable[..., Router]] = {"softmax": softmax, "sigmoid": sigmoid}
"""By name; each is a function `(k, **options) -> Router`."""
