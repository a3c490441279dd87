"""What a stage that distils may be told."""

from typing import Annotated

import pydantic
from pydantic import Field

from experiments.schema import Schema, one_of
from slim.distill import LAYER_MAPS, LOSSES, SCHEDULES, Schedule, check_mixture, check_temperature

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class TermConfig(Schema):
    """One comparison of student and teacher.

    Attributes:
        loss: a name of `slim.distill.LOSSES`.
        weight: what it is multiplied by.
        taps: path patterns of the values that are compared, of all of `slim.graph.taps`, such as
            `*/attention:scores`; those of several patterns one after the other, each in the order
            of the program; () for the logits.
        teacher_taps: those of the teacher, if they have other names there; () for the same.
        skip: so many of the values found are left out at the front.
        count: so many of the rest are taken; None: all.
        layers: which of the teacher's values each of the student's learns from; of
            `slim.distill.LAYER_MAPS`.
        project: where the teacher's are of another width, a projection of the student's is trained.
        k: the teacher's likeliest classes that `soft_targets_top_k` compares.
        settings: keywords of the loss, such as `alpha` and `beta` of `decoupled`.
    """

    loss: Annotated[str, one_of(LOSSES)]
    weight: Positive = 1.0
    taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()
    skip: Annotated[int, Field(ge=0)] = 0
    count: Annotated[int, Field(ge=1)] | None = None
    layers: Annotated[str, one_of(LAYER_MAPS)] = "uniform"
    project: bool = False
    k: Annotated[int, Field(ge=1)] = 8
    settings: dict[str, float] = Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "TermConfig":
        loss = LOSSES[self.loss]
        of_logits = bool({"logits", "top_k"}.intersection(loss.compares))
        if of_logits == bool(self.taps):
            need = "compares logits: leave taps out" if of_logits else "needs taps to compare"
            raise ValueError(f"loss = {self.loss!r}, taps = {self.taps}: it {need}")
        allowed = {*loss.settings} - {"mask", "labels", "temperature"}
        for name in self.settings:
            if name not in allowed:
                raise ValueError(
                    f"settings: loss {self.loss!r} has no {name!r}; it has "
                    f"{', '.join(sorted(allowed)) or 'none'} (temperature is a field of the stage)"
                )
        return self


class Distillation(Schema):
    """A loss (1 - m) CE(labels) + m sum of weight x term, for a mixture m.

    Attributes:
        teacher: an earlier stage, or a file of `experiments.weights.keep`, whose model may be
            another than the recipe's.
        terms: what is compared; by default the softened predictions.
        temperature: that softens predictions, at the start.
        temperature_end: at the end of training; None: the same.
        temperature_schedule: how it gets there; of `slim.distill.SCHEDULES`.
        mixture: the terms' share of the loss, at the start; 1: no label is looked at.
        mixture_end: at the end of training; None: the same.
        mixture_schedule: how it gets there.
        cache_mib: the teacher's values are computed once and kept on disk, if no augmentation
            changes the inputs and they take at most so many MiB; 0: in every step. Values of taps
            are kept as float16.
    """

    teacher: str = ""
    terms: Annotated[tuple[TermConfig, ...], Field(min_length=1)] = (
        TermConfig(loss="soft_targets"),
    )
    temperature: Positive = 4.0
    temperature_end: Positive | None = None
    temperature_schedule: Annotated[str, one_of(SCHEDULES)] = "linear"
    mixture: Share = 0.9
    mixture_end: Share | None = None
    mixture_schedule: Annotated[str, one_of(SCHEDULES)] = "linear"
    cache_mib: Annotated[int, Field(ge=0)] = 4096

    @property
    def without_labels(self) -> bool:
        """Whether the mixture stays at 1."""
        return self.mixture == 1 and self.mixture_end in (None, 1)

    def temperatures(self, steps: int) -> Schedule:
        """The temperature in the course of `steps`."""
        schedule = _schedule(
            self.temperature_schedule, self.temperature, self.temperature_end, steps
        )
        check_temperature(schedule)
        return schedule

    def mixtures(self, steps: int) -> Schedule:
        """The mixture in the course of `steps`."""
        schedule = _schedule(self.mixture_schedule, self.mixture, self.mixture_end, steps)
        check_mixture(schedule)
        return schedule


def _schedule(name: str, first: float, last: float | None, steps: int) -> Schedule:
    if last is None or name == "constant":
        return SCHEDULES["constant"](first)
    return SCHEDULES[name](first, last, end=steps)
