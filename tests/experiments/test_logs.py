"""The log of a stage: nothing twice, nothing half, and TensorBoard reads all of it back."""

import io
import json
import math
import os
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import logs
from experiments.logs import jsonl, progress
from experiments.logs.tensorboard import contact_sheet


def log_steps(directory, stage, first, last, **options):
    with logs.RunLog(directory, stage, step=first, **options) as log:
        for step in range(first + 1, last + 1):
            log.scalars(step, {"train/loss": step / 8})


def steps(directory, stage):
    records = jsonl.read(directory / logs.METRICS)
    return [record.step for record in records if record.stage == stage]


@pytest.fixture
def events():
    """Reads what TensorBoard would show of a folder."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(directory):
        reader = accumulator.EventAccumulator(str(directory))
        reader.Reload()
        return reader

    return read


def test_a_line_holds_step_time_stage_and_values(tmp_path):
    with logs.RunLog(tmp_path, "train") as log:
        log.scalars(3, {"loss": jnp.float32(0.5), "rate": 0.1, "norm": math.inf, "bad": np.nan})
    (line,) = (tmp_path / logs.METRICS).read_text().splitlines()
    fields = json.loads(line)
    assert fields.keys() == {"step", "time", "stage", "values"}
    assert fields["values"] == {"loss": 0.5, "rate": 0.1, "norm": None, "bad": None}
    (record,) = jsonl.read(tmp_path / logs.METRICS)
    assert (record.step, record.stage) == (3, "train")
    assert math.isnan(record.values["bad"])


@pytest.mark.parametrize("tail", ["", '{"step": 9, "time": 1.0, "sta', "{}\n", "\0\0\n"])
def test_resuming_drops_later_steps_and_a_damaged_tail(tmp_path, events, tail):
    log_steps(tmp_path, "train", 0, 8)
    with (tmp_path / logs.METRICS).open("a") as file:
        file.write(tail)
    log_steps(tmp_path, "train", 5, 10)
    assert steps(tmp_path, "train") == list(range(1, 11))
    scalars = events(tmp_path / logs.TENSORBOARD / "train").Scalars("train/loss")
    assert [(event.step, event.value) for event in scalars] == [(s, s / 8) for s in range(1, 11)]


def test_resuming_leaves_other_stages_alone(tmp_path):
    log_steps(tmp_path, "train", 0, 4)
    log_steps(tmp_path, "finetune", 0, 3)
    log_steps(tmp_path, "train", 2, 3)
    assert steps(tmp_path, "finetune") == [1, 2, 3]
    assert steps(tmp_path, "train") == [1, 2, 3]


def test_a_fresh_start_loses_what_an_earlier_run_of_that_name_logged(tmp_path, events):
    with logs.RunLog(tmp_path, "train") as log:
        log.scalars(0, {"eval/top1": 0.1})
    log_steps(tmp_path, "train", 0, 2)
    assert steps(tmp_path, "train") == [1, 2]
    assert events(tmp_path / logs.TENSORBOARD / "train").Tags()["scalars"] == ["train/loss"]


KILLED = """
import os, signal, sys
from experiments.logs import RunLog
log = RunLog(sys.argv[1], "train")
for step in range(1, 1001):
    log.scalars(step, {"train/loss": step / 8})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_sigkill_loses_no_line(tmp_path, events):
    dead = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert dead.returncode == -signal.SIGKILL
    assert steps(tmp_path, "train") == list(range(1, 1001))
    folder = tmp_path / logs.TENSORBOARD / "train"
    (file,) = folder.iterdir()
    os.truncate(file, file.stat().st_size - 5)  # as when the kill falls into a record
    log_steps(tmp_path, "train", 1000, 1001)
    assert [event.step for event in events(folder).Scalars("train/loss")][-1] == 1001


def test_a_damaged_line_is_named(tmp_path):
    log_steps(tmp_path, "train", 0, 1)
    with (tmp_path / logs.METRICS).open("a") as file:
        file.write('{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl:2 .*KeyError"):
        jsonl.read(tmp_path / logs.METRICS)


def test_tensorboard_reads_back_histograms_images_and_hparams(tmp_path, events):
    weights = {"dense": {"kernel": jnp.arange(6.0).reshape(2, 3), "empty": jnp.zeros((0,))}}
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    with logs.RunLog(tmp_path, "train") as log:
        log.histograms(7, "weights", weights)
        log.histograms(7, "gradients", {"bias": jnp.array([jnp.nan, 2], jnp.bfloat16)})
        log.images(7, "augmented", images)
        log.hparams({"optimizer": {"rate": 0.1, "name": "sgd"}, "ema": True}, ["eval/top1"])
    reader = events(tmp_path / logs.TENSORBOARD / "train")
    assert sorted(reader.Tags()["histograms"]) == ["gradients/bias", "weights/dense/kernel"]
    (kernel,) = reader.Histograms("weights/dense/kernel")
    value = kernel.histogram_value
    assert (kernel.step, value.num, value.sum, value.min, value.max) == (7, 6, 15.0, 0.0, 5.0)
    assert reader.Histograms("gradients/bias")[0].histogram_value.num == 1

    (picture,) = reader.Images("augmented")
    pixels = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)))
    np.testing.assert_array_equal(pixels, np.concatenate(list(images), axis=1))

    metadata = pytest.importorskip("tensorboard.plugins.hparams.metadata")
    content = reader.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    hparams = metadata.parse_session_start_info_plugin_data(content).hparams
    assert hparams["optimizer/rate"].number_value == 0.1
    assert hparams["optimizer/name"].string_value == "sgd"
    assert hparams["ema"].bool_value
    assert metadata.SESSION_END_INFO_TAG in reader.PluginTagToContent("hparams")


def test_images_of_any_range_become_a_grey_sheet():
    batch = np.stack([np.full((2, 2, 1), value, np.float32) for value in (-1, 0, 3)] * 3)
    sheet = contact_sheet(batch)
    assert sheet.shape == (4, 16, 3)
    assert sheet[0, ::2, 0].tolist() == [0, 64, 255, 0, 64, 255, 0, 64]
    assert sheet[2, ::2, 0].tolist() == [255, 0, 0, 0, 0, 0, 0, 0]


def test_images_of_another_shape_are_refused(tmp_path):
    with (
        logs.RunLog(tmp_path, "train") as log,
        pytest.raises(ValueError, match=r"'tokens'.*\(4, 8\).*height"),
    ):
        log.images(1, "tokens", np.zeros((4, 8)))


def test_a_process_that_does_not_write_leaves_no_trace(tmp_path, capfd):
    with logs.RunLog(tmp_path / "run", "train", enabled=False) as log:
        log.scalars(1, {"loss": 0.0})
        log.histograms(1, "weights", {"a": np.zeros(2)})
        log.images(1, "x", np.zeros((1, 2, 2, 3)))
        log.hparams({"a": 1})
        log.flush()
        with log.progress(10) as bar:
            bar.update(1, loss=0.0, samples=1)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_plain_lines_now_and_then():
    stream, clock = io.StringIO(), Clock()
    with progress.Progress(1000, "train", 100, stream, clock) as bar:
        for step in range(101, 1001):
            bar.update(step, loss=jnp.float32(0.25), samples=64)
            clock.now += 0.5
    lines = stream.getvalue().splitlines()
    assert lines[0] == "train  101/1000  10%  loss 0.25"
    assert lines[1] == "train  121/1000  12%  loss 0.25  128 samples/s  ETA 7m 20s"
    assert lines[-1] == "train  1000/1000  100%  loss 0.25  128 samples/s  ETA 0s"
    assert len(lines) == 1 + 44 + 1


def test_the_loss_is_read_only_when_shown():
    class Loss:
        reads = 0

        def __float__(self):
            Loss.reads += 1
            return 1.0

    stream = io.StringIO()
    with progress.Progress(100, "train", 0, stream, Clock()) as bar:
        for step in range(1, 50):
            bar.update(step, loss=Loss(), samples=1)
    assert Loss.reads == len(stream.getvalue().splitlines()) == 1


def test_a_bar_in_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream, clock = Terminal(), Clock()
    with progress.Progress(4, "train", 0, stream, clock) as bar:
        for step in range(1, 5):
            bar.update(step, loss=2.0, samples=10)
            clock.now += 60.0
    shown = stream.getvalue()
    assert "train |" in shown
    assert "2/4 50%, loss 2  0.2 samples/s  ETA 2m 00s" in shown
    assert "|################| 4/4" in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4s"), (59.6, "1m 00s"), (92, "1m 32s"), (7260, "2h 01m")]
)
def test_clock_face(seconds, text):
    assert progress._clock_face(seconds) == text
