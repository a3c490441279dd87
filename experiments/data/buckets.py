"""Texts of similar lengths in one batch, which is then no longer than they are."""

from collections.abc import Sequence

import numpy as np

from experiments.data.sources import Source

_CHUNK = 4096
"""Texts looked at at a time."""


def padded_lengths(source: Source, allowed: Sequence[int]) -> np.ndarray:
    """The shortest of some lengths that fits a text, for each text of a source: int64 (n,).

    Args:
        source: of texts, each a row of ids that ends in zeros.
        allowed: ascending; the last is what the source pads to.
    """
    lengths = []
    for start in range(0, len(source), _CHUNK):
        ids, _ = source.gather(np.arange(start, min(start + _CHUNK, len(source))))
        lengths.append(ids.shape[1] - (ids[:, ::-1] != 0).argmax(1))
    return np.asarray(allowed)[np.searchsorted(allowed, np.concatenate(lengths))]


def epoch_order(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """The examples of an epoch, int64 (n,), so that each of its batches has those of one length.

    A shuffle; then those in whole batches are sorted by length, cut into batches, and the batches
    shuffled. So at most one batch for each length has others too, and the one that is shared with
    the epoch before or after.

    Args:
        lengths: of the examples, (n,).
        batch_size: rows of a batch; batches are cut from the start of epoch 0, without a break.
        seed: at least 0.
        epoch: its number.

    >>> epoch_order(np.array([4, 8, 8, 4, 8, 4]), batch_size=2, seed=0, epoch=0)
    array([3, 5, 0, 2, 4, 1])
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    first = -epoch * len(order) % batch_size
    batches = max(0, (len(order) - first) // batch_size)
    whole = slice(first, first + batches * batch_size)
    by_length = order[whole][np.argsort(lengths[order[whole]], kind="stable")]
    order[whole] = random.permutation(by_length.reshape(batches, batch_size)).reshape(-1)
    return order
