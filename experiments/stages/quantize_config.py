"""What the stage `quantize` may be told."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from experiments.schema import Schema, one_of
from experiments.stages.auto import AutoConfig
from experiments.stages.distillation.config import Distillation
from experiments.stages.mixed import MixedConfig
from experiments.train import TrainConfig
from slim import quant
from slim.quant import TRAINED, Activations, Policy, Rule, Weights
from slim.quant.numerics import FORMATS, WEIGHT_RANGES
from slim.quant.observers import OBSERVERS
from slim.quant.precision import FLOAT
from slim.quant.state import Smoothing

SMOOTHINGS: Mapping[str, Callable[..., Smoothing]] = {
    "none": lambda *calibration: {},
    "smoothquant": quant.smoothquant,
    "awq": quant.awq,
}

SAME = "same"

Format = Annotated[str, one_of((*FORMATS, FLOAT))]


class FormatRule(Schema):
    """Formats of the sites that match a path pattern; first match wins."""

    pattern: str
    weights: Format = "int8"
    activations: Format = "int8"


class QuantizeConfig(TrainConfig):
    """Calibration, and with `epochs` training of the rounded model, from which integers are made.

    Formats are names of `slim.quant.numerics.FORMATS`, or `float`.

    Attributes:
        epochs: passes over the training split in quantization-aware training; 0: none, only
            calibration (post-training quantization).
        lr: the peak learning rate of that training, if there is one.
        weights: the format of weights.
        activations: the format of the data that enters a product.
        rules: other formats for some sites, before those.
        edges: at least this format for the first and the last site; `same`: as any other.
        products: of both operands of a product of two activations (attention).
        granularity: what weights share a scale: those of an output `channel`, or of the `tensor`.
        group: so many weights along the summed dimension share a scale; 0: as `granularity` says.
        weight_range: how weights' scales are chosen; of `slim.quant.numerics.WEIGHT_RANGES`.
        observer: how activations' scales are found; of `slim.quant.observers.OBSERVERS`.
        symmetric: activations have no zero point.
        batches: training batches to calibrate on.
        fold: batch norms are first folded into the products before them.
        rounding: of weights without training: to the `nearest`, or by `gptq`.
        smoothing: `smoothquant`: the range of inputs is moved into the weights; `awq`: weights of
            large inputs get finer steps, for float activations; `none`.
        correct_bias: the mean error of each output channel in calibration is taken off.
        reestimate: the batch statistics of the quantized model are measured anew, if not folded.
        mix: each site gets one of several formats of weights, as `mixed` says; `weights` is unused.
        mixed: which formats, and what they may cost.
        adapt: each site gets the format that this device computes fastest within a tolerance, as
            `auto` says; `weights` is unused.
        auto: which formats, and what they may lose.
        trained: how scales are trained; of `slim.quant.TRAINED`.
        freeze_batch_norm: training leaves batch statistics, and dropout, as in evaluation.
        distillation: the loss of that training has terms of a teacher, if one is named there.
    """

    epochs: Annotated[float, Field(ge=0)] = 0.0
    lr: Annotated[float, Field(gt=0)] = 0.01
    weights: Format = "int8"
    activations: Format = "int8"
    rules: tuple[FormatRule, ...] = ()
    edges: Annotated[str, one_of((*FORMATS, FLOAT, SAME))] = "int8"
    products: Format = FLOAT
    granularity: Literal["channel", "tensor"] = "channel"
    group: Annotated[int, Field(ge=0)] = 0
    weight_range: Annotated[str, one_of(WEIGHT_RANGES)] = "mse"
    observer: Annotated[str, one_of(OBSERVERS)] = "mse"
    symmetric: bool = False
    batches: Annotated[int, Field(ge=1)] = 8
    fold: bool = True
    rounding: Literal["nearest", "gptq"] = "nearest"
    smoothing: Annotated[str, one_of(SMOOTHINGS)] = "none"
    correct_bias: bool = False
    reestimate: bool = False
    mix: bool = False
    mixed: MixedConfig = MixedConfig()
    adapt: bool = False
    auto: AutoConfig = AutoConfig()
    trained: Annotated[str, one_of(TRAINED)] = "lsq"
    freeze_batch_norm: bool = True
    distillation: Distillation = Distillation()

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "QuantizeConfig":
        if self.distillation.teacher and not self.epochs:
            raise ValueError(
                f"distillation.teacher = {self.distillation.teacher!r} teaches in training, and "
                "epochs = 0: set epochs, or leave the teacher out"
            )
        if self.epochs and self.rounding != "nearest":
            raise ValueError(
                f"rounding = {self.rounding!r} chooses integers, which training (epochs = "
                f"{self.epochs:g}) would choose anew; set epochs = 0 or rounding = 'nearest'"
            )
        if self.correct_bias and self.rounding != "nearest":
            raise ValueError(
                "correct_bias = True measures the error of rounding to the nearest, which rounding "
                f"= {self.rounding!r} does not make: set one of them the other way"
            )
        if self.smoothing == "awq" and self.activations != FLOAT:
            raise ValueError(
                f"smoothing = 'awq' is for weights alone: activations = {self.activations!r} must "
                "be 'float'; for integers of both use 'smoothquant'"
            )
        if self.smoothing == "smoothquant" and FLOAT in (self.activations, self.weights):
            raise ValueError(
                "smoothing = 'smoothquant' moves the range of activations into weights: neither "
                f"activations = {self.activations!r} nor weights = {self.weights!r} may be 'float'"
            )
        if self.epochs and self.fold and not self.freeze_batch_norm:
            raise ValueError(
                "freeze_batch_norm = False trains batch statistics, and fold = True leaves none: "
                "set one of them the other way"
            )
        if self.mix and self.adapt:
            raise ValueError(
                "mix = True and adapt = True both choose the formats: set one of them to False"
            )
        if self.reestimate and self.fold:
            raise ValueError(
                "reestimate = True measures batch statistics, and fold = True leaves none: set one "
                "of them to False"
            )
        return self

    @property
    def candidates(self) -> tuple[str, ...]:
        """The formats of weights that are tried."""
        if self.mix:
            return self.mixed.formats
        return self.auto.formats if self.adapt else (self.weights,)

    def policy(self, weights: str) -> Policy:
        """What the library calls it, with a format of weights; a cast is of activations too."""
        is_cast = weights != FLOAT and FORMATS[weights].is_cast
        activations = weights if is_cast else self.activations
        edges = None
        if self.edges != SAME:
            edges = self._rule("*", self.edges, FLOAT if self.activations == FLOAT else self.edges)
        rules = [self._rule(rule.pattern, rule.weights, rule.activations) for rule in self.rules]
        return Policy(
            (*rules, self._rule("*", weights, activations)),
            edges=edges,
            products=self._activations(self.products),
        )

    def _rule(self, pattern: str, weights: str, activations: str) -> Rule:
        granularity = self.group or self.granularity
        of_weights = Weights(weights, granularity, self.weight_range) if weights != FLOAT else None
        return Rule(pattern, of_weights, self._activations(activations))

    def _activations(self, format: str) -> Activations | None:
        return None if format == FLOAT else Activations(format, self.observer, self.symmetric)
