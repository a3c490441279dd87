r"""Narrower experts, of the decoder that `configs/brown_moe.py` trains.

    python -m experiments.main --config=configs/brown_moe_narrow.py --workdir=runs/brown_moe_narrow

Three quarters of the parameters are left, all of the cut out of the experts' hidden units: those
go first whose removal changes the loss least, to first order, the same places in every expert of a
layer. Then a quarter of an epoch trains what is left. On two cores a minute and a half.

Needs the trained model in `runs/brown_moe/experts.safetensors`; `configs/brown_moe.py` says how.
Arguments: `smoke`, for seconds: there the decoder is trained first.
"""

from ml_collections import ConfigDict

from configs.brown_moe import FINETUNE, shared, trained
from experiments import recipe


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    return recipe.config(
        name="brown_moe_narrow",
        stages=("trained", "shrink", "finetune", "evaluate"),
        trained=trained(args.smoke),
        shrink={
            "keep_ratio": 0.98 if args.smoke else 0.75,
            "budget": "params",
            "rules": (
                {"pattern": "*/experts/gate:*", "round_to": 8},
                {"pattern": "*", "keep": 1.0},
            ),
            "batches": 2 if args.smoke else 16,
        },
        finetune=FINETUNE,
        **shared(args.smoke),
    )
