"""The score that a report compares models by, and how it is written and drawn."""

import math
from collections.abc import Callable
from typing import NamedTuple

from experiments.data.info import IMAGE, LANGUAGE
from experiments.evaluation import CRITERIA, Criterion
from experiments.measure import Measures
from experiments.report.quantities import digits, percent, points


class Deciding(NamedTuple):
    """A criterion in words.

    Attributes:
        criterion: says which direction is better.
        name: what captions call it.
        title: what tables call it.
        axis: what pictures call it.
        factor: what pictures multiply it by.
        show: a value.
        change: a difference, new minus old.
    """

    criterion: Criterion
    name: str
    title: str
    axis: str
    factor: float
    show: Callable[[float], str]
    change: Callable[[float], str]

    def of(self, measures: Measures) -> float:
        """The score of a model."""
        return float(getattr(measures, self.criterion.name))

    def gain(self, new: Measures, old: Measures) -> float:
        """How much better a model is, above 0 if it is."""
        return self.criterion.gain(self.of(new), self.of(old))


ACCURACY = Deciding(
    CRITERIA[IMAGE], "Accuracy", "top-1", "Top-1 accuracy (%)", 100.0, percent, points
)
PERPLEXITY = Deciding(
    CRITERIA[LANGUAGE],
    "Perplexity",
    "perplexity",
    "Perplexity",
    1.0,
    digits,
    lambda change: f"{'+' if change >= 0 else '-'}{digits(abs(change))}",
)


def deciding(measures: Measures) -> Deciding:
    """That of the data that a model was measured on."""
    return ACCURACY if math.isnan(measures.perplexity) else PERPLEXITY
