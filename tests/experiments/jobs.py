"""Training jobs of milliseconds, in this process."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import build
from experiments import mesh as meshes
from experiments.data import augment, packed
from experiments.data.dataset import Dataset
from experiments.data.info import IMAGE, LANGUAGE, TEXT, DataInfo, Modality
from experiments.data.sources import ArraySource
from experiments.mesh import MeshConfig
from experiments.precision import PRECISIONS
from experiments.preemption import Preemption
from experiments.train import Job, Outcome, RunConfig, TrainConfig, fit
from slim import paths
from slim.models.bert import BertConfig

SIZE = 60  # examples; with batches of 8 an epoch has 7.5 steps
LABELS = 4

LENGTH, VOCABULARY = 8, 20
WIDTHS = {"width": 16, "latent": 8, "head_width": 8, "rotary_width": 4, "value_width": 8}
DECODER = {"name": "deepseek", "depth": 2, "heads": 2, "hidden": 24, "expert_hidden": 8}
DECODER |= {"experts": 4, **WIDTHS}
BERT = BertConfig(16, depth=1, heads=4, hidden=24, vocabulary=VOCABULARY, positions=LENGTH)


def stripes() -> Dataset:
    """Noise with a brighter stripe, whose place is the label: learnt in two epochs."""
    random = np.random.default_rng(0)
    labels = (np.arange(SIZE * 2) % LABELS).astype(np.int32)
    images = random.integers(0, 160, (SIZE * 2, 8, 8, 1))
    for image, label in zip(images, labels, strict=True):
        image[:, 2 * label : 2 * label + 2] += 80
    return _dataset(images.astype(np.uint8), labels, IMAGE, mean=(0.5,), std=(0.25,))


def words() -> Dataset:
    """Texts of 3 to 8 tokens, of which the first is the label, for a model of the size `BERT`."""
    random = np.random.default_rng(0)
    labels = (np.arange(SIZE * 2) % LABELS).astype(np.int32)
    texts = random.integers(1 + LABELS, VOCABULARY, (SIZE * 2, LENGTH))
    texts[:, 0] = 1 + labels
    texts[np.arange(LENGTH) >= random.integers(3, LENGTH + 1, (SIZE * 2, 1))] = 0
    return _dataset(texts.astype(np.int32), labels, TEXT, mean=(), std=())


def language() -> Dataset:
    """Rows of tokens each of which is 1 or 2 above the one before, modulo `VOCABULARY`."""
    random = np.random.default_rng(0)
    stream = np.cumsum(random.integers(1, 3, 2 * SIZE * LENGTH + 1)) % VOCABULARY
    rows = packed.windows(stream.astype(np.int32), LENGTH)
    bytes_each = np.full(VOCABULARY, 2)
    info = DataInfo(
        name="language",
        input_shape=(LENGTH,),
        num_classes=VOCABULARY,
        class_names=tuple(map(str, range(VOCABULARY))),
        num_train=SIZE,
        num_eval=SIZE,
        mean=(),
        std=(),
        origin="made here",
        modality=LANGUAGE,
    )
    return Dataset(
        info=info,
        train=packed.PackedSource([rows[:SIZE]], bytes_each),
        eval=packed.PackedSource([rows[SIZE:]], bytes_each),
        batch_size=8,
        eval_batch_size=8,
        fingerprint="language",
        bytes_per_token=2.0,
    )


def _dataset(inputs: np.ndarray, labels: np.ndarray, modality: Modality, **normal: Any) -> Dataset:
    info = DataInfo(
        name=modality.noun,
        input_shape=inputs.shape[1:],
        num_classes=LABELS,
        class_names=tuple("abcd"),
        num_train=SIZE,
        num_eval=SIZE,
        origin="made here",
        modality=modality,
        **normal,
    )
    return Dataset(
        info=info,
        train=ArraySource(inputs[:SIZE], labels[:SIZE]),
        eval=ArraySource(inputs[SIZE:], labels[SIZE:]),
        batch_size=8,
        eval_batch_size=8,
        fingerprint=modality.noun,
    )


def job(
    directory: Path,
    *,
    model: dict[str, Any] | None = None,
    dataset: Dataset | None = None,
    precision: str = "float32",
    devices: int = 1,
    layout: MeshConfig | None = None,
    changes: dict[str, Any] | None = None,
    **config: Any,
) -> Job:
    """A job of 15 steps that saves every second one.

    Args:
        directory: where its files go.
        model: another than the small network with dropout.
        dataset: another than the stripes.
        precision: by name.
        devices: how many of this process's.
        layout: of parameters over them.
        changes: other fields of the `Job`.
        **config: other fields of its `TrainConfig`.
    """
    dataset = dataset or stripes()
    layout = layout or MeshConfig()
    mesh = meshes.build(layout, jax.devices()[:devices])
    model = model or {"name": "mlp", "hidden": (16,), "dropout": 0.1}
    fields: dict[str, Any] = {
        "name": "train",
        "directory": directory,
        "network": build.network(model, dataset.info, PRECISIONS[precision], mesh),
        "dataset": dataset,
        "augment": augment.build([]),
        "config": TrainConfig(**{"epochs": 2.0, **config}),
        "run": RunConfig(
            checkpoint_epochs=0.25, checkpoint_seconds=0.0, log_steps=1, histogram_epochs=0.0
        ),
        "precision": PRECISIONS[precision],
        "mesh": mesh,
        "layout": layout,
        "seed": 7,
    }
    return Job(**{**fields, **(changes or {})})


def trained(job: Job, preemption: Preemption | None = None) -> Outcome:
    """Runs a job from the variables that all jobs of its network start from."""
    return fit(job, job.network.init(jax.random.key(0)), preemption or Preemption())


def flat(outcome: Outcome) -> dict[str, Any]:
    """Everything that an outcome holds, by path."""
    return paths.flatten({"variables": outcome.variables, "opt_state": outcome.opt_state})


class StopAt(Preemption):
    """Asks to stop at one step of a process."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._left = step

    def reached(self) -> bool:
        self._left -= 1
        return self._left == 0
