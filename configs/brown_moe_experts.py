r"""Half of the experts, pruned or merged, of the decoder that `configs/brown_moe.py` trains.

    python -m experiments.main --config=configs/brown_moe_experts.py:prune \
        --workdir=runs/brown_moe_prune
    python -m experiments.main --config=configs/brown_moe_experts.py:merge \
        --workdir=runs/brown_moe_merge
    python -m experiments.main --config=configs/brown_moe_experts.py --sweep \
        --workdir=runs/brown_moe_experts

Of 16 experts in each of three layers 8 are left. The least used go, by the sum of their gates over
32 batches: in balance all experts have as many tokens. Or each becomes a part of that of the most
used which the router wants for the same tokens (M-SMoE), their hidden units aligned first. Then a
quarter of an epoch trains what is left. On two cores a minute and a half.

Needs the trained model in `runs/brown_moe/experts.safetensors`; `configs/brown_moe.py` says how.
Arguments: `prune` (the default) or `merge`; `smoke`, for seconds: there the decoder is trained
first. With `--sweep` both, with 12, 8 and 4 experts left.

Li et al., Merge, then compress, 2023, https://arxiv.org/abs/2310.01334.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs.brown_moe import FINETUNE, shared, trained
from experiments import recipe


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, prune=False, merge=False, smoke=False)
    return recipe.config(
        name="brown_moe_experts",
        stages=("trained", "experts", "finetune", "evaluate"),
        trained=trained(args.smoke),
        experts={
            "method": "merge" if args.merge else "prune",
            "keep": 2 if args.smoke else 8,
            "batches": 2 if args.smoke else 32,
        },
        finetune=FINETUNE,
        **shared(args.smoke),
    )


def sweep() -> Iterator[dict[str, Any]]:
    """Three sizes, each cut in both ways."""
    for method in ("prune", "merge"):
        for keep in (12, 8, 4):
            yield {
                "name": f"{method}_{keep}",
                "experts.method": method,
                "experts.keep": keep,
            }
