"""Pruning: score x distribution x schedule x structure, each a separate choice.

    choose_masks(Evidence(params), keep=0.3, score=SCORES["l2"], distribution=DISTRIBUTIONS["erk"])
    sparsify(optax.adam(1e-3), schedule=SCHEDULES["cubic"](0.3, Window(0, 1000, 100)))
    keep_masks(optax.adam(1e-4), masks)

* A *score* (`SCORES`) says what a weight or a unit is worth, from `Evidence`.
* A *distribution* (`DISTRIBUTIONS`) spreads one keep ratio over the tensors.
* A *structure* (`STRUCTURES`) says which weights are kept or removed together.
* A *schedule* (`SCHEDULES`) says how much is kept at which step and when masks are renewed.

Masks are bool arrays in the structure and shapes of the parameters, True where kept. `sparsify`
grows them in the optimizer's state during training, `find_masks` takes them out of that state,
`keep_masks` holds them fixed for fine-tuning; under both, removed weights are exactly 0.
"""

from slim.prune.choose import choose_masks
from slim.prune.distributions import DISTRIBUTIONS, Distribution
from slim.prune.evidence import Evidence
from slim.prune.masks import (
    apply_masks,
    count_kept,
    density,
    full_masks,
    prunable,
    straight_through,
)
from slim.prune.regrow import Regrow
from slim.prune.schedules import (
    SCHEDULES,
    Schedule,
    Window,
    cosine,
    cubic,
    one_shot,
    periodic,
    progressive,
)
from slim.prune.scores import SCORES, Score, score_weights
from slim.prune.sparsify import SparsifyState, find_masks, keep_masks, sparsify
from slim.prune.structures import STRUCTURES, Structure

__all__ = [
    "DISTRIBUTIONS",
    "SCHEDULES",
    "SCORES",
    "STRUCTURES",
    "Distribution",
    "Evidence",
    "Regrow",
    "Schedule",
    "Score",
    "SparsifyState",
    "Structure",
    "Window",
    "apply_masks",
    "choose_masks",
    "cosine",
    "count_kept",
    "cubic",
    "density",
    "find_masks",
    "full_masks",
    "keep_masks",
    "one_shot",
    "periodic",
    "progressive",
    "prunable",
    "score_weights",
    "sparsify",
    "straight_through",
]
