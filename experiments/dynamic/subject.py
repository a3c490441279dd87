"""What is tried: the examples, and what the networks say of all of them, computed once."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.data import buckets
from experiments.data.dataset import Dataset
from experiments.data.info import TEXT
from experiments.dynamic.batches import straight
from experiments.dynamic.crossed import crossed, halves
from slim import graph
from slim.dynamic import CRITERIA, Batched, Exited, conditional
from slim.graph import Segment, Segments, split_outputs, trace

PyTree = Any


class Net(NamedTuple):
    """A function of variables and inputs, as they are stored, with its variables.

    Attributes:
        name: of the stage that made it.
        fn: `fn(variables, inputs)` -> logits, or those of all exits.
        variables: on one device.
    """

    name: str
    fn: Callable[[PyTree, Any], Any]
    variables: PyTree


class Bucket(NamedTuple):
    """Examples of one shape: their numbers `(n,)`, ascending, and inputs `(n, ...)`."""

    numbers: np.ndarray
    inputs: np.ndarray


def by_length(dataset: Dataset, examples: int | None) -> tuple[tuple[Bucket, ...], np.ndarray]:
    """The first examples of the evaluation split, texts in the data's buckets, and all labels."""
    count = min(len(dataset.eval), examples or len(dataset.eval))
    inputs, labels = dataset.eval.gather(np.arange(count))
    if dataset.info.modality != TEXT:
        return (Bucket(np.arange(count), inputs),), labels
    allowed = (*dataset.buckets, *dataset.info.input_shape)
    lengths = buckets.padded_lengths(dataset.eval, allowed)[:count]
    found = []
    for length in sorted(set(lengths.tolist())):
        numbers = np.flatnonzero(lengths == length)
        found.append(Bucket(numbers, inputs[numbers, :length]))
    return tuple(found), labels


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """Networks and the examples that they are tried on.

    Attributes:
        model: gives the logits of all exits.
        full: gives those that all are compared with.
        light: of the dual model, or None.
        buckets: the examples, by shape.
        labels: of all, `(examples,)`.
        sizes: of batches.
    """

    model: Net
    full: Net
    light: Net | None
    buckets: tuple[Bucket, ...]
    labels: np.ndarray
    sizes: tuple[int, ...]

    @cached_property
    def half(self) -> np.ndarray:
        """Which half each example is in."""
        return halves(len(self.labels))

    def fitted_on(self, half: int) -> np.ndarray:
        """The numbers of the examples that what is tried on a half is fitted on."""
        return np.flatnonzero(self.half != half)

    @cached_property
    def segments(self) -> Segments:
        """The network with exits, cut at them."""
        return split_outputs(trace(self.model.fn, self.model.variables, self.buckets[0].inputs[:1]))

    @cached_property
    def batched(self) -> Mapping[str, Batched]:
        """The executor of every criterion, whose programs all its settings share."""
        return {
            name: Batched(self.segments, crossed(criterion), self.sizes)
            for name, criterion in CRITERIA.items()
        }

    @cached_property
    def conditional(self) -> Mapping[str, Callable[..., Exited]]:
        """The same for examples one by one."""
        return {
            name: jax.jit(conditional(self.segments, crossed(criterion)))
            for name, criterion in CRITERIA.items()
        }

    @cached_property
    def logits(self) -> np.ndarray:
        """Of all exits: `(exits, examples, classes)`."""
        return np.stack(self._answers(self.model))

    @cached_property
    def full_logits(self) -> np.ndarray:
        """`(examples, classes)`."""
        (logits,) = self._answers(self.full)
        return logits

    @cached_property
    def light_logits(self) -> np.ndarray:
        """`(examples, classes)`."""
        assert self.light is not None
        (logits,) = self._answers(self.light)
        return logits

    def one_by_one(self, numbers: np.ndarray) -> list[Bucket]:
        """Some examples, each in a bucket of its own."""
        found = {}
        for bucket in self.buckets:
            for row, number in enumerate(bucket.numbers.tolist()):
                found[number] = Bucket(bucket.numbers[row : row + 1], bucket.inputs[row : row + 1])
        return [found[number] for number in numbers.tolist()]

    def right(self, logits: np.ndarray) -> np.ndarray:
        """Whether the likeliest class is the label: bool `(..., examples)`."""
        found: np.ndarray = logits.argmax(-1) == self.labels
        return found

    @cached_property
    def macs(self) -> np.ndarray:
        """Multiply-accumulates up to each exit, the exits before it too: `(exits, examples)`."""

        def upto(inputs: Any) -> np.ndarray:
            parts = self.segments.at(self.model.variables, inputs)
            return np.cumsum([_segment_macs(part) for part in parts])

        return self._of_buckets(upto)

    def net_macs(self, net: Net) -> np.ndarray:
        """Multiply-accumulates of a network for each example: `(examples,)`."""
        return self._of_buckets(
            lambda inputs: np.asarray(graph.cost(trace(net.fn, net.variables, inputs)).macs)
        )

    def _of_buckets(self, value: Callable[[Any], np.ndarray]) -> np.ndarray:
        columns = {}
        for bucket in self.buckets:
            shape = (1, *bucket.inputs.shape[1:])
            found = value(jax.ShapeDtypeStruct(shape, bucket.inputs.dtype))
            columns.update(dict.fromkeys(bucket.numbers.tolist(), found))
        return np.stack([columns[number] for number in range(len(self.labels))], -1)

    def _answers(self, net: Net) -> Sequence[np.ndarray]:
        """Of each output what all examples get."""
        program = jax.jit(lambda variables, inputs: _as_tuple(net.fn(variables, inputs)))
        parts = [straight(program, net.variables, b.inputs, self.sizes) for b in self.buckets]
        order = np.argsort(np.concatenate([bucket.numbers for bucket in self.buckets]))
        return [np.concatenate(each)[order] for each in zip(*parts, strict=True)]


def _as_tuple(outputs: Any) -> tuple[Any, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _segment_macs(part: Segment) -> int:
    run = trace(part.run, list(part.params.values()), list(part.takes))
    return graph.cost(run).macs
