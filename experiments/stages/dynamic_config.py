"""The section of a stage that tries a network with exits."""

from typing import Annotated

import pydantic
from pydantic import Field

from experiments.schema import Schema, one_of
from slim.dynamic import CRITERIA

SCORES = tuple(name for name, criterion in CRITERIA.items() if criterion.score is not None)


class DynamicConfig(Schema):
    """What is tried, and how finely.

    Attributes:
        model: the stage that gave the network its exits; by default the last one with a model.
        full: what all are compared with, and what the dual model asks where `light` is unsure: an
            earlier stage, or a file of `experiments.weights.keep`; by default the first stage.
        light: the light network of the dual model, likewise; none by default.
        criteria: of leaving early; names of `slim.dynamic.CRITERIA`.
        learned: criteria whose thresholds are learned too, one for each exit.
        complexity: whether depth chosen from a text's complexity is tried.
        tolerances: how much of the full network's accuracy may be lost, 0.01 for a point; at each
            one setting of everything is chosen and timed.
        batch_size: examples in a full batch.
        examples: of the evaluation split, the first; all by default.
        singles: how many of them are timed one by one too.
        latency_rounds: samples of each time.
    """

    model: str = ""
    full: str = ""
    light: str = ""
    criteria: tuple[Annotated[str, one_of(CRITERIA)], ...] = (
        "confidence",
        "entropy",
        "patience",
        "random",
    )
    learned: tuple[Annotated[str, one_of(SCORES)], ...] = ("confidence",)
    complexity: bool = False
    tolerances: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)] = (
        0.0,
        0.004,
        0.008,
        0.016,
        0.032,
    )
    batch_size: Annotated[int, Field(ge=1)] = 32
    examples: Annotated[int, Field(ge=2)] | None = None
    singles: Annotated[int, Field(ge=1)] = 32
    latency_rounds: Annotated[int, Field(ge=1)] = 5

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "DynamicConfig":
        for field in ("criteria", "learned", "tolerances"):
            value = getattr(self, field)
            if len(set(value)) < len(value):
                raise ValueError(f"{field} = {value!r}: each may be there once")
        if not (self.criteria or self.learned or self.complexity or self.light):
            raise ValueError(
                "criteria, learned, complexity and light are all left out: name one to try"
            )
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the batches that are compiled: the full one, and down to an eighth for what is left.

        >>> DynamicConfig(batch_size=32).sizes, DynamicConfig(batch_size=3).sizes
        ((4, 8, 16, 32), (1, 3))
        """
        return tuple(sorted({size for part in (8, 4, 2, 1) if (size := self.batch_size // part)}))
