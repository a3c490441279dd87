"""What a distillation loss is: a function of a student's value and a teacher's."""

import inspect
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax

Kind = Literal["logits", "top_k", "features", "attention", "hidden"]


class Loss(NamedTuple):
    """A pure function `value(student, teacher, **settings)` -> float32 scalar.

    It is computed in float32 from inputs of any floating dtype, passes gradients to the student
    only, and is 0, with a finite gradient, where student and teacher agree. Values of kind

    * `logits` are `(batch, ..., classes)`;
    * `top_k` are a student's logits and the `TopK` that `top_k` makes of a teacher's;
    * `features` are maps `(batch, height, width, channels)`;
    * `attention` are scores or probabilities `(batch, heads, queries, keys)`;
    * `hidden` are `(batch, length, width)`: embeddings and the outputs of layers.

    Attributes:
        name: its name in `LOSSES`.
        compares: the kinds of value it is for.
        value: the function. `settings` are its keywords. Three mean the same in every loss and may
            be traced: `temperature`, positive; `labels`, `(batch, ...)`, integers; and `mask` of
            the value's leading axes, 0 for the examples `(batch,)` or tokens `(batch, length)`
            that do not count, whatever stands there. ValueError names what does not fit.
    """

    name: str
    compares: tuple[Kind, ...]
    value: Callable[..., jax.Array]

    @property
    def settings(self) -> tuple[str, ...]:
        """The keywords that `value` takes.

        >>> from slim.distill import LOSSES
        >>> LOSSES["soft_targets"].settings
        ('temperature', 'mask')
        """
        parameters = inspect.signature(self.value).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
