import dataclasses
import itertools
import json

import chex
import numpy as np
import pytest

from experiments.data import buckets
from experiments.data.dataset import Dataset
from experiments.data.info import TEXT, DataInfo
from experiments.data.sources import ArraySource, RecordSource

from .conftest import Records

TRAIN, EVAL, BATCH = 22, 10, 8
LENGTH, BUCKETS = 9, (3, 5)
ORDER = [11, 20, 6, 17, 8, 3, 18, 9]  # of the fifth batch of seed 3


def arrays(size):
    """Example i has the label i, and an image filled with i."""
    labels = np.arange(size, dtype=np.int32)
    return np.broadcast_to(labels.astype(np.uint8)[:, None, None, None], (size, 2, 3, 1)), labels


def in_memory(size):
    return ArraySource(*arrays(size))


def on_disk(size):
    images, labels = arrays(size)
    records = [
        {"image": image, "label": label} for image, label in zip(images, labels, strict=True)
    ]
    return RecordSource(Records(records), ("image", "label"))


def of_images(source):
    info = DataInfo("x", (2, 3, 1), TRAIN, (), TRAIN, EVAL, (0.5,), (0.5,), "here")
    return Dataset(info, source(TRAIN), source(EVAL), BATCH, 4, "0")


def words(size):
    """Example i has the label i, and a text of 1 to 9 tokens, all of them i + 1."""
    labels = np.arange(size, dtype=np.int32)
    there = np.arange(LENGTH) <= (labels * 5 % LENGTH)[:, None]
    return ArraySource(np.where(there, labels[:, None] + 1, 0).astype(np.int32), labels)


def of_texts(buckets=BUCKETS):
    info = DataInfo("x", (LENGTH,), TRAIN, (), TRAIN, EVAL, (), (), "here", TEXT)
    return Dataset(info, words(TRAIN), words(EVAL), BATCH, 4, "0", buckets)


IMAGES = {"in memory": lambda: of_images(in_memory), "on disk": lambda: of_images(on_disk)}
DATASETS = {**IMAGES, "bucketed": of_texts}


@pytest.fixture(params=DATASETS)
def dataset(request):
    return DATASETS[request.param]()


@pytest.fixture(params=IMAGES)
def images(request):
    return IMAGES[request.param]()


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def labels(batches):
    return np.concatenate([batch["label"] for batch in batches])


def test_every_epoch_has_each_example_once_in_another_order(dataset):
    order = labels(take(dataset.batches(0), 11))  # four epochs: 88 = 4 x 22
    epochs = order.reshape(4, TRAIN)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(TRAIN), (4, 1)))
    assert len({tuple(epoch) for epoch in [*epochs, np.arange(TRAIN)]}) == 5


def test_neighbouring_seeds_share_no_epoch(dataset):
    epochs = [labels(take(dataset.batches(seed), 11)).reshape(4, TRAIN) for seed in range(4)]
    assert len({tuple(epoch) for epoch in np.concatenate(epochs)}) == 16


def test_a_batch_has_images_with_their_labels(images):
    batch = images.batch_at(0, 0)
    chex.assert_shape(batch["input"], (BATCH, 2, 3, 1))
    assert (batch["input"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(batch["input"][:, 0, 0, 0], batch["label"])


def test_the_order_never_changes(images):
    """Figures that are committed depend on it."""
    assert images.batch_at(3, 4)["label"].tolist() == ORDER


def test_a_batch_says_which_examples_it_has(dataset):
    for batch in take(dataset.batches(0), 3):
        np.testing.assert_array_equal(batch["index"], batch["label"])  # as `arrays` made them
        assert batch["index"].dtype == np.int32


def test_the_same_seed_gives_the_same_batches(dataset):
    chex.assert_trees_all_equal(take(dataset.batches(3), 6), take(dataset.batches(3), 6))
    assert np.any(labels(take(dataset.batches(3), 1)) != labels(take(dataset.batches(4), 1)))


@pytest.mark.parametrize("process_count", [1, 2])
def test_batch_at_is_the_iterators(dataset, process_count):
    process = {"process_index": process_count - 1, "process_count": process_count}
    for step, batch in enumerate(take(dataset.batches(1, **process), 7)):
        chex.assert_trees_all_equal(dataset.batch_at(1, step, **process), batch)


def test_starts_at_any_step(dataset):
    chex.assert_trees_all_equal(
        take(dataset.batches(1, start=5), 3), take(dataset.batches(1), 8)[5:]
    )


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_together_see_what_one_sees(dataset, process_count):
    parts = [
        take(dataset.batches(5, process_index=p, process_count=process_count), 6)
        for p in range(process_count)
    ]
    joined = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    chex.assert_trees_all_equal(joined, take(dataset.batches(5), 6))


def test_goes_on_from_a_saved_state_as_if_never_stopped(dataset):
    iterator = dataset.batches(2)
    take(iterator, 4)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = take(iterator, 5)
    resumed = dataset.batches(2)
    next(resumed)
    resumed.set_state(state)
    chex.assert_trees_all_equal(take(resumed, 5), expected)


@pytest.mark.parametrize(("batch_size", "process_count"), [(4, 1), (4, 2), (12, 2), (5, 1)])
def test_evaluation_has_each_example_once_and_pads_the_last_batch(
    images, batch_size, process_count
):
    parts = [
        list(images.eval_batches(batch_size, process_index=p, process_count=process_count))
        for p in range(process_count)
    ]
    batches = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert len(batches) == -(-EVAL // batch_size)
    for batch in batches:
        chex.assert_shape([batch["input"], batch["label"]], [(batch_size, 2, 3, 1), (batch_size,)])
    weights = np.concatenate([batch["weight"] for batch in batches])
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, np.arange(len(weights)) < EVAL)
    for name in ("label", "index"):
        found = np.concatenate([batch[name] for batch in batches])
        np.testing.assert_array_equal(found[:EVAL], np.arange(EVAL))
        assert not np.any(found[EVAL:])
    assert not np.any(np.concatenate([batch["input"] for batch in batches])[EVAL:])


def needed(batch):
    """Of each text, the shortest length of a batch that fits it."""
    tokens = (batch["input"] != 0).sum(1)
    return np.array([*BUCKETS, LENGTH])[np.searchsorted((*BUCKETS, LENGTH), tokens)]


def test_a_batch_of_texts_is_as_long_as_its_bucket_and_whole():
    dataset = dataclasses.replace(of_texts(), batch_size=4)
    found = take(dataset.batches(0), 22)  # four epochs
    for batch in found:
        assert batch["input"].shape == (4, needed(batch).max())
        padded = np.pad(batch["input"], ((0, 0), (0, LENGTH - batch["input"].shape[1])))
        np.testing.assert_array_equal(padded, dataset.train.inputs[batch["index"]])
    assert {batch["input"].shape[1] for batch in found} == {*BUCKETS, LENGTH}


def test_texts_of_one_bucket_are_together():
    """In an epoch of whole batches, but for one batch at each border of two buckets."""
    lengths = np.random.default_rng(0).choice([3, 5, 9], 400, p=[0.5, 0.3, 0.2])
    for epoch in range(2):
        order = buckets.epoch_order(lengths, 8, seed=1, epoch=epoch)
        np.testing.assert_array_equal(np.sort(order), np.arange(400))
        spread = np.ptp(lengths[order].reshape(50, 8), axis=1)
        assert (spread > 0).sum() <= 2
        longest = lengths[order].reshape(50, 8).max(1)
        assert (np.diff(longest) != 0).sum() > 10  # the batches are in no order


@pytest.mark.parametrize("process_count", [1, 2])
def test_evaluation_by_length_has_each_text_once(process_count):
    dataset = of_texts()
    parts = [
        list(dataset.eval_batches(process_index=p, process_count=process_count))
        for p in range(process_count)
    ]
    batches = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert [batch["input"].shape for batch in batches] == [(4, 9), (4, 5), (4, 3)]
    assert all(batch["input"].shape[1] == needed(batch).max() for batch in batches)
    weights, index = (np.concatenate([b[name] for b in batches]) for name in ("weight", "index"))
    np.testing.assert_array_equal(weights, np.arange(12) < EVAL)
    np.testing.assert_array_equal(np.sort(index[:EVAL]), np.arange(EVAL))
    np.testing.assert_array_equal(labels(batches), index)
    assert not index[EVAL:].any()
    assert not batches[-1]["input"][2:].any()


def test_the_first_batch_of_an_evaluation_has_the_full_length():
    dataset = of_texts(buckets=(3, 5, 8))
    short = dataclasses.replace(dataset, eval=ArraySource(*words(3).gather(np.array([0, 2]))))
    (only,) = short.eval_batches()
    assert only["input"].shape == (4, LENGTH)


def test_evaluation_takes_its_own_batch_size_by_default(dataset):
    assert [len(batch["label"]) for batch in dataset.eval_batches()] == [4, 4, 4]


def test_a_batch_that_does_not_divide_is_refused(dataset):
    with pytest.raises(
        ValueError, match="batch size 8 does not divide among 3 processes; use 6 or 9"
    ):
        dataset.batches(0, process_index=0, process_count=3)
    with pytest.raises(ValueError, match=r"process_index = 2: must be in \[0, 2\)"):
        dataset.eval_batches(process_index=2, process_count=2)


def test_steps_per_epoch_is_a_fraction(dataset):
    assert dataset.steps_per_epoch == TRAIN / BATCH


def test_the_fingerprint_follows_the_content():
    images, labels = arrays(5)
    same = ArraySource(images.copy(), labels.copy()).fingerprint()
    assert ArraySource(images, labels).fingerprint() == same
    assert ArraySource(images, labels[::-1]).fingerprint() != same
    assert ArraySource(images.reshape(5, 3, 2, 1), labels).fingerprint() != same
    assert ArraySource(images[:4], labels[:4]).fingerprint() != same
