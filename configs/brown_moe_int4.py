r"""Experts in INT4, of the decoder that `configs/brown_moe.py` trains.

    python -m experiments.main --config=configs/brown_moe_int4.py --workdir=runs/brown_moe_int4
    python -m experiments.main --config=configs/brown_moe_int4.py --sweep \
        --workdir=runs/brown_moe_int4

All routed experts' weights are rounded to 4 bits after training, 32 along the summed dimension with
a scale; all else stays float. On two cores half a minute.

Needs the trained model in `runs/brown_moe/experts.safetensors`; `configs/brown_moe.py` says how.
Arguments: `smoke`, for seconds: there the decoder is trained first. With `--sweep`: 8 bits, and 4
with a scale for each output, for 32 weights and for 16.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs.brown_moe import shared, trained
from experiments import recipe


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    return recipe.config(
        name="brown_moe_int4",
        stages=("trained", "quantize", "evaluate"),
        trained=trained(args.smoke),
        quantize={
            "weights": "float",
            "activations": "float",
            "edges": "same",
            "rules": (_experts("int4"),),
            "group": 16 if args.smoke else 32,
            "batches": 1,
        },
        **shared(args.smoke),
    )


def sweep() -> Iterator[dict[str, Any]]:
    """Bits and groups; a group of 0 is an output of an expert."""
    yield {"name": "int8", "quantize.rules": (_experts("int8"),), "quantize.group": 0}
    for group in (0, 32, 16):
        yield {"name": f"int4_{group or 'channel'}", "quantize.group": group}


def _experts(format: str) -> dict[str, str]:
    return {"pattern": "*/experts/*", "weights": format, "activations": "float"}
