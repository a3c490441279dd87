"""Batches of a data set, in an order that a seed and a step decide.

Grain shuffles, repeats and batches *indices*, since it costs microseconds per element; what the
indices stand for is gathered once a batch.
"""

import dataclasses
import math
import sys
from functools import cached_property, lru_cache

import grain
import numpy as np

from experiments.data import buckets
from experiments.data.info import DataInfo
from experiments.data.sources import Source

Batch = dict[str, np.ndarray]

_DECODE_THREADS = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)
"""Batches of records are decoded ahead, in threads."""
_NO_THREADS = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training and an evaluation split, ready to be batched.

    Training batches: inputs, labels int32 (batch,), and which examples of the split they are, int32
    (batch,), under `input`, `label` and `index`. Inputs are pixels uint8 (batch, height, width,
    channels) or token ids int32 (batch, length); labels of language are (batch, length) too. The
    batch of step s is a pure function of (seed, s), whatever the number of processes: process p of
    P gets rows [p B/P, (p+1) B/P) of the global batch of B rows. Every epoch is another permutation
    with each example exactly once; it runs on over batch borders, so that nothing is dropped: a
    batch may hold the end of an epoch and the start of the next.

    With `buckets` the same holds, and a batch of texts is as long as the shortest bucket that fits
    all of its rows, in all processes. An epoch's order is such that the batches within it have
    texts of one bucket each, in no order; see `epoch_order`.

    Attributes:
        info: what is known without the data.
        train: the training examples.
        eval: the evaluation examples.
        batch_size: rows of a training batch over all processes.
        eval_batch_size: likewise of an evaluation batch.
        fingerprint: changes when the examples do; part of the key of every stage's result.
        buckets: lengths of batches of texts, ascending, beside that of `info.input_shape`; () for
            that one alone.
        bytes_per_token: of the evaluation split's text, where there is any.
    """

    info: DataInfo
    train: Source
    eval: Source
    batch_size: int
    eval_batch_size: int
    fingerprint: str
    buckets: tuple[int, ...] = ()
    bytes_per_token: float = math.nan

    @property
    def steps_per_epoch(self) -> float:
        """Training steps in which each example is seen once: a fraction where B divides not."""
        return len(self.train) / self.batch_size

    def batches(
        self, seed: int, *, process_index: int = 0, process_count: int = 1, start: int = 0
    ) -> grain.DatasetIterator:
        """Training batches without end, from step `start` on.

        The iterator has `get_state()` and `set_state(state)`; the state is a small dict of ints.

        Raises:
            ValueError: the batch does not divide among the processes.
        """
        iterator = iter(
            self._training_steps(seed, process_index, process_count).to_iter_dataset(
                _read_options(self.train)
            )
        )
        grain.experimental.set_next_index(iterator, start)
        return iterator

    def batch_at(
        self, seed: int, step: int, *, process_index: int = 0, process_count: int = 1
    ) -> Batch:
        """The batch that `batches(seed, ...)` yields at `step`, without those before it."""
        return self._training_steps(seed, process_index, process_count)[step]

    def eval_batches(
        self, batch_size: int | None = None, *, process_index: int = 0, process_count: int = 1
    ) -> grain.DatasetIterator:
        """The evaluation split once, in a fixed order, as batches of one number of rows.

        That is the split's own order; with `buckets` the longest texts come first, and the first
        batch is as long as `info.input_shape` says, whatever its texts.

        Args:
            batch_size: rows over all processes; None: `eval_batch_size`.
            process_index: this process.
            process_count: among so many, which get the same number of batches each.

        Returns:
            An iterator of batches as in training, with `weight` float32 (batch,): 1 for an example,
            0 for a row of zeros that fills up the last batch.

        Raises:
            ValueError: the batch does not divide among the processes.
        """
        batch_size = batch_size or self.eval_batch_size
        rows = _rows_of_process(batch_size, process_index, process_count)
        total = len(self.eval)
        order = np.arange(total)
        if self.buckets:
            order = np.argsort(-self._eval_lengths, kind="stable")

        def gather(batch: int) -> Batch:
            first = batch * batch_size
            length = None
            if self.buckets and batch:
                length = self._eval_lengths[order[first : first + batch_size]].max()
            places = first + process_index * rows + np.arange(rows)
            real = places < total
            found = _gather(self.eval, np.where(real, order[places % total], 0), length)
            for values in found.values():
                values[~real] = 0
            return {**found, "weight": real.astype(np.float32)}

        steps = grain.MapDataset.range(-(-total // batch_size)).map(gather)
        return iter(steps.to_iter_dataset(_read_options(self.eval)))

    def _training_steps(
        self, seed: int, process_index: int, process_count: int
    ) -> grain.MapDataset[Batch]:
        """One element a step: this process's rows."""
        rows = _rows_of_process(self.batch_size, process_index, process_count)
        if self.buckets:
            return self._bucketed_steps(
                seed, slice(process_index * rows, (process_index + 1) * rows)
            )
        # A process's batches are cut first and then dealt out in turn, so that none looks up
        # another's indices: batch s P + p of B/P rows is the p-th part of step s.
        indices = grain.MapDataset.range(len(self.train)).seed(seed).shuffle().repeat()
        parts = indices.batch(rows, batch_fn=np.asarray)
        return parts[process_index::process_count].map(lambda part: _gather(self.train, part))

    def _bucketed_steps(self, seed: int, mine: slice) -> grain.MapDataset[Batch]:
        """One element a step: some of its rows, as long as all of them need."""
        lengths, size = self._train_lengths, len(self.train)

        @lru_cache(maxsize=2)  # a batch may need two
        def order(epoch: int) -> np.ndarray:
            return buckets.epoch_order(lengths, self.batch_size, seed, epoch)

        def gather(step: int) -> Batch:
            start = step * self.batch_size
            stop = start + self.batch_size
            indices = np.concatenate(
                [
                    order(epoch)[max(0, start - epoch * size) : stop - epoch * size]
                    for epoch in range(start // size, -(-stop // size))
                ]
            )
            return _gather(self.train, indices[mine], lengths[indices].max())

        return grain.MapDataset.range(sys.maxsize).map(gather)

    @cached_property
    def _train_lengths(self) -> np.ndarray:
        return buckets.padded_lengths(self.train, (*self.buckets, *self.info.input_shape))

    @cached_property
    def _eval_lengths(self) -> np.ndarray:
        return buckets.padded_lengths(self.eval, (*self.buckets, *self.info.input_shape))


def _gather(source: Source, indices: np.ndarray, length: int | None = None) -> Batch:
    """Examples of a source, texts cut to a length where one is given."""
    inputs, labels = source.gather(indices)
    if length is not None:
        inputs = inputs[:, :length]
    return {"input": inputs, "label": labels, "index": indices.astype(np.int32)}


def _read_options(source: Source) -> grain.ReadOptions:
    return _NO_THREADS if source.in_memory else _DECODE_THREADS


def _rows_of_process(batch_size: int, process_index: int, process_count: int) -> int:
    """How many of a global batch's rows one process has."""
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index = {process_index}: must be in [0, {process_count})")
    rows, rest = divmod(batch_size, process_count)
    if rest:
        raise ValueError(
            f"batch size {batch_size} does not divide among {process_count} processes; "
            f"use {rows * process_count or process_count} or {(rows + 1) * process_count}"
        )
    return rows
