"""Computing only what an input needs: early exits, depth and width chosen at run time.

    fn = with_exits(graph, names, head)                 any network, classifiers at `names` inside
    loss = exit_loss(logits, labels, weights, loss)     trained jointly, or afterwards (`frozen`)
    fn = skip_layers(graph, layers)                     LayerSkip's layer dropout
    segments = split_outputs(trace(fn, params, *inputs))
    exited = simulate(criterion, setting, logits)       who leaves where, from all logits
    run = Batched(segments, criterion, sizes)           many examples, in full batches
    fn = conditional(segments, criterion)               one example, one program (or `Looped`)

* A *criterion* (`CRITERIA`) says at each exit who leaves; its thresholds may be learned
  (`fit_thresholds`).
* A *measure* (`MEASURES`) tells of a text's difficulty from its tokens: `fit_complexity`,
  `fit_plan` and `assign` choose its layers before anything is computed, `routed` runs them.
* A *cascade* (`fit_rule`, `cascaded`) asks a full network where a light one is unsure.
* *Nested* widths (`nest`, `narrow`, `sandwich_loss`) share one set of weights; `choose_variant`
  picks a width, or anything else that was measured, by a latency target.
"""

from slim.dynamic.adaptive import Choice, Variant, choose_variant
from slim.dynamic.calibration import calibrated, fit_temperature
from slim.dynamic.cascade import (
    Answer,
    Rule,
    cascade_cost,
    cascade_curve,
    cascaded,
    fit_rule,
    simulate_cascade,
)
from slim.dynamic.complexity import (
    Complexity,
    fit_complexity,
    fit_weights,
    measure_complexity,
    score_complexity,
)
from slim.dynamic.criteria import CRITERIA, Criterion
from slim.dynamic.execute import Batched, Call
from slim.dynamic.exit_plan import ExitPlan
from slim.dynamic.exits import EXIT_WEIGHTS, exit_loss, init_exits, with_exits
from slim.dynamic.heads import POOLINGS, Head, exit_head
from slim.dynamic.layer_dropout import layer_rates, skip_layers
from slim.dynamic.layer_plan import LayerPlan, assign, by_importance, prefixes
from slim.dynamic.measures import MEASURES, Measure
from slim.dynamic.nested_plan import NestedPlan
from slim.dynamic.packing import packed, packs, routed
from slim.dynamic.planner import (
    Outcome,
    fit_plan,
    outcome,
    plan_by_shares,
    shares_within,
    shuffled,
)
from slim.dynamic.simulate import Exited, simulate
from slim.dynamic.single import Looped, conditional
from slim.dynamic.slimmable import (
    Nested,
    at_ratio,
    distilled_in_place,
    narrow,
    nest,
    nested_depths,
    own_statistics,
    sandwich_loss,
    sort_units,
)
from slim.dynamic.taken import only_taken
from slim.dynamic.thresholds import fit_thresholds
from slim.dynamic.vocabulary import Vocabulary, read_vocabulary

__all__ = [
    "CRITERIA",
    "EXIT_WEIGHTS",
    "MEASURES",
    "POOLINGS",
    "Answer",
    "Batched",
    "Call",
    "Choice",
    "Complexity",
    "Criterion",
    "ExitPlan",
    "Exited",
    "Head",
    "LayerPlan",
    "Looped",
    "Measure",
    "Nested",
    "NestedPlan",
    "Outcome",
    "Rule",
    "Variant",
    "Vocabulary",
    "assign",
    "at_ratio",
    "by_importance",
    "calibrated",
    "cascade_cost",
    "cascade_curve",
    "cascaded",
    "choose_variant",
    "conditional",
    "distilled_in_place",
    "exit_head",
    "exit_loss",
    "fit_complexity",
    "fit_plan",
    "fit_rule",
    "fit_temperature",
    "fit_thresholds",
    "fit_weights",
    "init_exits",
    "layer_rates",
    "measure_complexity",
    "narrow",
    "nest",
    "nested_depths",
    "only_taken",
    "outcome",
    "own_statistics",
    "packed",
    "packs",
    "plan_by_shares",
    "prefixes",
    "read_vocabulary",
    "routed",
    "sandwich_loss",
    "score_complexity",
    "shares_within",
    "shuffled",
    "simulate",
    "simulate_cascade",
    "skip_layers",
    "sort_units",
    "with_exits",
]
