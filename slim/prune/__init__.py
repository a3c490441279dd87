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

Whole channels, heads and hidden units (the groups of `slim.graph`) are cut by a plan:

    graph = trace(fn, params, x)
    scores = score_groups(SCORES["taylor"], evidence, groups(graph))
    widths = fit_widths(scores, width_costs(graph)["macs"], target, default=Limits(round_to=8))
    plan = plan_widths(graph, scores, widths)

after which `slim.graph`'s `shrink(plan, params)` and `replay(graph, plan)` are the small model.
`measure_sensitivity` gives a distribution that knows what each group is worth to the model,
`measure_latency` and `fit_latency` widths for this device. `residual_blocks`, `drop_blocks` and
`drop_params` take out whole blocks. `measure_gradients` and `measure_activations` give `Evidence`.
"""

from slim.prune.activations import measure_activations
from slim.prune.choose import choose_masks
from slim.prune.costs import width_costs
from slim.prune.depth import Block, DepthPlan, drop_blocks, drop_params, residual_blocks
from slim.prune.distributions import DISTRIBUTIONS, Distribution
from slim.prune.evidence import Evidence
from slim.prune.gradients import measure_gradients
from slim.prune.latency import LatencyTable, fit_latency, measure_latency
from slim.prune.masks import (
    apply_masks,
    count_kept,
    density,
    full_masks,
    prunable,
    straight_through,
)
from slim.prune.normalisations import NORMALISATIONS
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
from slim.prune.scores import SCORES, Score, score_groups, score_weights
from slim.prune.sensitivity import Sensitivity, by_sensitivity, measure_sensitivity
from slim.prune.sparsify import SparsifyState, find_masks, keep_masks, sparsify
from slim.prune.structures import STRUCTURES, Structure, block, contracted_axes, n_m
from slim.prune.widths import GROUP_DISTRIBUTIONS, Limits, fit_widths, plan_widths

__all__ = [
    "DISTRIBUTIONS",
    "GROUP_DISTRIBUTIONS",
    "NORMALISATIONS",
    "SCHEDULES",
    "SCORES",
    "STRUCTURES",
    "Block",
    "DepthPlan",
    "Distribution",
    "Evidence",
    "LatencyTable",
    "Limits",
    "Regrow",
    "Schedule",
    "Score",
    "Sensitivity",
    "SparsifyState",
    "Structure",
    "Window",
    "apply_masks",
    "block",
    "by_sensitivity",
    "choose_masks",
    "contracted_axes",
    "cosine",
    "count_kept",
    "cubic",
    "density",
    "drop_blocks",
    "drop_params",
    "find_masks",
    "fit_latency",
    "fit_widths",
    "full_masks",
    "keep_masks",
    "measure_activations",
    "measure_gradients",
    "measure_latency",
    "measure_sensitivity",
    "n_m",
    "one_shot",
    "periodic",
    "plan_widths",
    "progressive",
    "prunable",
    "residual_blocks",
    "score_groups",
    "score_weights",
    "sparsify",
    "straight_through",
    "width_costs",
]
