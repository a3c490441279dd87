"""The kinds of stages a recipe may have. A new one is a file here and its place in `STAGES`."""

from collections.abc import Mapping

from experiments.stages import (
    adaptive,
    depth,
    distill,
    dynamic,
    evaluate,
    exits,
    experts,
    export,
    finetune,
    load,
    prune,
    quantize,
    sensitivity,
    shrink,
    slimmable,
    train,
)
from experiments.stages.stage import Context, Model, Result, Stage

STAGES: Mapping[str, Stage] = {
    "train": train.STAGE,
    "load": load.STAGE,
    "prune": prune.STAGE,
    "sensitivity": sensitivity.STAGE,
    "shrink": shrink.STAGE,
    "depth": depth.STAGE,
    "experts": experts.STAGE,
    "finetune": finetune.STAGE,
    "distill": distill.STAGE,
    "quantize": quantize.STAGE,
    "exits": exits.STAGE,
    "dynamic": dynamic.STAGE,
    "slimmable": slimmable.STAGE,
    "adaptive": adaptive.STAGE,
    "evaluate": evaluate.STAGE,
    "export": export.STAGE,
}

__all__ = ["STAGES", "Context", "Model", "Result", "Stage"]
