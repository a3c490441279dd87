"""Sparse mixtures of experts: many experts' parameters, few experts' work for each token.

    router = ROUTERS["sigmoid"](8, groups=8, groups_kept=4)
    routing = router.route(x @ kernel, bias)                   x (tokens, width)
    bias = update_bias(bias, load(routing, 256))            after a step, in training

* A *router* (`ROUTERS`) gives each token k experts and their gates; or experts choose tokens
  (`expert_choice`, `mix_by_choice`).
* *Balance*: a bias updated without gradients (`update_bias`), auxiliary losses
  (`AUXILIARY_LOSSES`), noise (`jittered`, `noisy_logits`).
* *Load*: how tokens spread over experts (`load`, `load_statistics`).
* *Experts*: the weights (`Experts`) and who computes them, a `Mix`: `dropless`, by one of
  `BACKENDS` (`backend_for` a platform), or `buckets`, both equal to `reference`.
* *Expert parallelism*, a `Mix` over a mesh of devices, is `slim.moe.parallel`.
* *Compression* of experts is `slim.moe.compress`.
"""

from slim.moe.balance import AUXILIARY_LOSSES, AuxiliaryLoss, update_bias
from slim.moe.choice import Choice, capacity, expert_choice, mix_by_choice
from slim.moe.experts import Experts
from slim.moe.grouped import BACKENDS, backend_for
from slim.moe.load import (
    dropped_share,
    gate_load,
    load,
    load_entropy,
    load_statistics,
    max_violation,
)
from slim.moe.mixture import Mix, buckets, dropless, reference
from slim.moe.noise import jittered, noisy_logits
from slim.moe.routing import ROUTERS, Router, Routing

__all__ = [
    "AUXILIARY_LOSSES",
    "BACKENDS",
    "ROUTERS",
    "AuxiliaryLoss",
    "Choice",
    "Experts",
    "Mix",
    "Router",
    "Routing",
    "backend_for",
    "buckets",
    "capacity",
    "dropless",
    "dropped_share",
    "expert_choice",
    "gate_load",
    "jittered",
    "load",
    "load_entropy",
    "load_statistics",
    "max_violation",
    "mix_by_choice",
    "noisy_logits",
    "reference",
    "update_bias",
]
