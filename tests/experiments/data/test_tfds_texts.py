"""Sets of texts, and of pairs of texts, that TFDS has prepared."""

import itertools
import logging

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments.data import sets, tokens
from experiments.data.config import DataConfig
from experiments.data.info import IMAGE, TEXT
from experiments.schema import ConfigError, parse
from experiments.weights import minilm

LABEL = tfds.features.ClassLabel(names=["no", "yes"])
FIRST = ("a film .", "", "one two three four five six")
SECOND = ("it is good .", "why ?", "no")
TEXTS = {
    "rte": ("sentence2", "sentence1"),  # not in the order they are read in
    "sst2": ("sentence",),
    "stsb": ("sentence1", "sentence2"),
    "two_texts": ("left", "right"),
    "no_text": (),
}

with tfds.core.registered.skip_registration():

    class Glue(tfds.core.GeneratorBasedBuilder):
        """Three texts or pairs of GLUE's form in each split; those of `test` have no labels."""

        VERSION = tfds.core.Version("2.0.0")
        BUILDER_CONFIGS = tuple(tfds.core.BuilderConfig(name=name) for name in TEXTS)

        def _info(self):
            name = self.builder_config.name
            label = np.float32 if name == "stsb" else LABEL
            texts = {key: tfds.features.Text() for key in TEXTS[name]}
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict({**texts, "label": label, "idx": np.int32}),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            known = {split: self._generate_examples(True) for split in ("train", "validation")}
            return {**known, "test": self._generate_examples(False)}

        def _generate_examples(self, labelled):
            for i in range(3):
                pair = itertools.cycle((FIRST[i], SECOND[i]))
                texts = zip(sorted(TEXTS[self.builder_config.name]), pair, strict=False)
                yield i, {**dict(texts), "label": i % 2 if labelled else -1, "idx": i}

    class ImdbReviews(tfds.core.GeneratorBasedBuilder):
        """Texts that are called the input, with titles that are not."""

        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="plain_text"),)

        def _info(self):
            texts = {key: tfds.features.Text() for key in ("title", "text")}
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict({**texts, "label": LABEL}),
                supervised_keys=("text", "label"),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples() for split in ("train", "test")}

        def _generate_examples(self):
            for i, text in enumerate(FIRST):
                yield i, {"title": "a title", "text": text, "label": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tfds")
    for config in TEXTS:
        Glue(config=config, data_dir=made).download_and_prepare(file_format="array_record")
    ImdbReviews(data_dir=made).download_and_prepare(file_format="array_record")
    return made


def config(folder, name, length=8, **fields):
    return DataConfig(name=name, batch_size=2, length=length, data_dir=str(folder), **fields)


def words(ids):
    read = minilm.tokenizer()
    return [" ".join(read.id_to_token(i) for i in row if i) for row in ids]


def test_sentences_of_glue_are_read_by_name(folder):
    data = sets.load(config(folder, "glue/sst2"))
    assert data.info == sets.info(config(folder, "glue/sst2"))
    assert (data.info.modality, data.info.input_shape) == (TEXT, (8,))
    assert (data.info.class_names, data.info.num_train, data.info.num_eval) == (("no", "yes"), 3, 3)
    ids, labels = data.eval.gather(np.arange(3))  # `test` has no labels
    np.testing.assert_array_equal(ids, minilm.tokenize(FIRST, 8)[0])
    assert words(ids)[1] == "[CLS] [SEP]"
    assert labels.tolist() == [0, 1, 0]
    assert labels.dtype == np.int32


def test_pairs_are_joined_and_the_longer_text_is_cut(folder, caplog):
    with caplog.at_level(logging.INFO, logger="slim"):
        data = sets.load(config(folder, "glue/rte", train_split="train[1:]"))
    assert words(data.eval.inputs) == [
        "[CLS] a film [SEP] it is good [SEP]",
        "[CLS] [SEP] why ? [SEP]",
        "[CLS] one two three four [SEP] no [SEP]",
    ]
    np.testing.assert_array_equal(data.train.inputs, data.eval.inputs[1:])
    assert [record.message for record in caplog.records] == [
        "glue/rte train[1:]: 1 of 2 texts are cut to 8 tokens",
        "glue/rte validation: 2 of 3 texts are cut to 8 tokens",
    ]


def test_what_the_set_calls_its_input_is_read(folder):
    data = sets.load(config(folder, "imdb_reviews", buckets=(3, 5), eval_split="train"))
    np.testing.assert_array_equal(data.train.inputs, minilm.tokenize(FIRST, 8)[0])
    assert data.info.origin.startswith("TFDS imdb_reviews/plain_text/1.0.0 in ")
    assert [batch["input"].shape for batch in data.eval_batches(1)] == [(1, 8), (1, 5), (1, 3)]


def test_many_texts_are_tokenized_in_parts(monkeypatch):
    whole = tokens.tokenize(FIRST, 6, "x")
    monkeypatch.setattr(tokens, "_CHUNK", 2)
    np.testing.assert_array_equal(tokens.tokenize(FIRST, 6, "x"), whole)


def test_a_set_of_tfds_is_of_texts_where_it_has_a_length():
    for name in ("snli:1.1.0", "glue/sst2", "imdb"):
        assert DataConfig(name=name, batch_size=2, length=8).modality == TEXT
    assert DataConfig(name="snli", batch_size=2).modality == IMAGE
    for name in ("glue/sst2", "imdb_reviews"):
        with pytest.raises(ConfigError, match=f"data: length = None: {name} has texts"):
            parse(DataConfig, {"name": name, "batch_size": 2}, "data")
    with pytest.raises(ConfigError, match="data: length = 8: cifar10 has images"):
        parse(DataConfig, {"name": "cifar10", "batch_size": 2, "length": 8}, "data")


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("glue/no_text", {}, r"not a set for classification of texts.*: it has .*idx \(Tensor\)"),
        ("glue/stsb", {}, r"not a set for classification of texts.*: it has .*label \(Tensor\)"),
        ("glue/two_texts", {}, r"which of its texts to read.*left \(Text\).*premise \+ hypothesis"),
        ("glue/qnli", {}, "not prepared in .*tfds build glue/qnli --file_format=array_record"),
        ("imdb_review", {}, "unknown name 'imdb_review'; did you mean imdb_reviews"),
        ("glue/rte", {"eval_split": "test"}, r"the split 'test' has no labels \(-1\)"),
        ("glue/rte", {"train_split": "dev"}, r"data\.train_split = 'dev': .*validation \(3\)"),
    ],
)
def test_what_cannot_be_read_is_refused(folder, name, fields, says):
    with pytest.raises(ConfigError, match=says):
        sets.load(config(folder, name, **fields))


def test_a_set_of_texts_that_was_taken_for_images_is_refused(folder, tmp_path):
    (tmp_path / "sentences").symlink_to(folder / "imdb_reviews" / "plain_text")
    with pytest.raises(ConfigError, match=r"data\.length = None: sentences has texts; give"):
        sets.info(DataConfig(name="sentences", batch_size=2, data_dir=str(tmp_path)))
