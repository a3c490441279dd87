"""Knowledge distillation: loss x layers x schedule, each a separate choice.

    LOSSES["soft_targets"].value(logits, teacher_logits, temperature=4.0)
    layer_loss(LAYER_MAPS["uniform"](3, 6), (), LOSSES["l2"].value, hidden, teacher_hidden)

* A *loss* (`LOSSES`) compares a value of the student with one of the teacher: logits, features,
  attention or hidden states.
* A *layer map* (`LAYER_MAPS`) says which layer of the teacher a layer of the student learns from.
* A *projection* (`init_projection`, `project`) makes a student's features as wide as the teacher's.
* A *schedule* (`SCHEDULES`) gives a temperature or a weight in the mixture by step.
"""

from slim.distill.layers import LAYER_MAPS, LayerMap, fixed, layer_loss
from slim.distill.losses import LOSSES, Kind, Loss, TopK, top_k
from slim.distill.projections import Projection, init_projection, project
from slim.distill.schedules import SCHEDULES, Schedule, check_mixture, check_temperature

__all__ = [
    "LAYER_MAPS",
    "LOSSES",
    "SCHEDULES",
    "Kind",
    "LayerMap",
    "Loss",
    "Projection",
    "Schedule",
    "TopK",
    "check_mixture",
    "check_temperature",
    "fixed",
    "init_projection",
    "layer_loss",
    "project",
    "top_k",
]
