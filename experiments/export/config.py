"""What the stage `export` is told."""

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from experiments.schema import Schema, one_of
from slim.export import TARGETS

AUTO = "auto"
DYNAMIC = "dynamic"
PRECISIONS = (AUTO, *dict.fromkeys(p for each in TARGETS.values() for p in each.precisions))
"""What some target can be written in."""


def _number(value: Any) -> Any:
    """Flags give text: where `batch` was "dynamic", a number comes as its digits."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class ExportConfig(Schema):
    """Where a model is to run, and how near to JAX it must be there.

    Attributes:
        targets: names of `slim.export.TARGETS`, each an artefact.
        precision: of all artefacts, one that each of the targets lists; "auto" is the integers of a
            quantized model where a target lists them, and the first float precision that it lists
            otherwise. Of a float model integers are made as the stage `quantize` does by default.
        preprocessing: whether the artefact takes bytes, as images are stored, and scales them;
            otherwise it takes pixels in [0, 1], or token ids. Pixels' mean and deviation are inside
            in any case.
        batch: examples in a call; "dynamic": any number, of targets that can.
        examples: of the evaluation split, the first, on which artefacts are held against JAX.
        tolerance: the greatest difference of a logit from JAX's, as a share of the greatest
            absolute logit; None: as the precision has it in `experiments.export.parity.LIMITS`.
        agreement: the least share of the examples that get the same label; None: likewise.
        full_integer: whether in int8 what stands between the sites that the recipe quantized, such
            as sums and pools, is rounded too: runtimes stay on integers only so.
        calibration_batches: of training, from which integers of a float model get their ranges, and
            what `full_integer` rounds.
        latency_rounds: samples of each latency; 0: nothing is timed.
        latency_batches: examples in the calls that are timed.
        latency_threads: that compute them; 0 is all there are. Memory is of the first.
    """

    targets: Annotated[tuple[Annotated[str, one_of(TARGETS)], ...], Field(min_length=1)] = (
        "stablehlo",
    )
    precision: Annotated[str, one_of(PRECISIONS)] = AUTO
    preprocessing: bool = False
    batch: Annotated[
        Annotated[int, Field(ge=1)] | Literal["dynamic"], pydantic.BeforeValidator(_number)
    ] = "dynamic"
    examples: Annotated[int, Field(ge=1)] = 256
    tolerance: Annotated[float, Field(ge=0)] | None = None
    agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    full_integer: bool = True
    calibration_batches: Annotated[int, Field(ge=1)] = 4
    latency_rounds: Annotated[int, Field(ge=0)] = 30
    latency_batches: tuple[Annotated[int, Field(ge=1)], ...] = (1, 32)
    latency_threads: tuple[Annotated[int, Field(ge=0)], ...] = (1, 0)
