"""Losses by name. A new one is a `Loss` in this folder and its place in `LOSSES`."""

from slim.distill.losses.attention import attention_kl, attention_mse
from slim.distill.losses.decoupled import decoupled
from slim.distill.losses.features import attention_transfer, cosine, l2
from slim.distill.losses.logits import soft_targets
from slim.distill.losses.loss import Kind, Loss
from slim.distill.losses.relational import rkd_angle, rkd_distance, similarity_preserving
from slim.distill.losses.top_k import TopK, soft_targets_top_k, top_k

LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        soft_targets,
        soft_targets_top_k,
        decoupled,
        l2,
        cosine,
        attention_transfer,
        attention_mse,
        attention_kl,
        rkd_distance,
        rkd_angle,
        similarity_preserving,
    )
}

__all__ = ["LOSSES", "Kind", "Loss", "TopK", "top_k"]
