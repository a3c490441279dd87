"""Mixtures made smaller: experts removed, merged, narrowed, or made into one dense perceptron.

    kept = choose_experts(load, 8, groups=4)
    mixture = prune_experts(Mixture(kernel, bias, experts), kept)

All take and give one layer's arrays. `slim.graph` by itself finds the experts' hidden width, in
every backend, as one group for all experts of a layer (`permute_hidden` first). Their number it
finds where all experts compute all tokens; where tokens are sorted it freezes it, as it always
freezes the router's columns, for a router picks among them. That is what this package is for.
"""

from slim.moe.compress.dense import concatenate_experts
from slim.moe.compress.hidden import align_hidden, permute_hidden
from slim.moe.compress.merge import group_experts, logit_similarity, merge_experts, remapped
from slim.moe.compress.prune import Mixture, choose_experts, prune_experts

__all__ = [
    "Mixture",
    "align_hidden",
    "choose_experts",
    "concatenate_experts",
    "group_experts",
    "logit_similarity",
    "merge_experts",
    "permute_hidden",
    "prune_experts",
    "remapped",
]
