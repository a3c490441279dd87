"""A disk without room stops a run by its exit code, and nothing that was whole is lost.

RLIMIT_FSIZE stands in for the full disk, since it needs no mount: a write past the limit fails.
"""

import signal

from experiments.logs import METRICS
from tests.experiments.processes import (
    assert_same_bits,
    everything,
    newest,
    stage_directory,
)


def largest_file(folder):
    return max(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def test_a_run_whose_checkpoint_finds_no_room_stops_and_goes_on_when_there_is(
    start, unbroken, expected, tmp_path
):
    workdir = tmp_path / "run"
    # A checkpoint at steps 20 and 40; none of the logs is as large.
    rarely = ("--config.run.checkpoint_epochs=0.9", "--config.run.histogram_epochs=0.0")
    ended = start(workdir, *rarely).signal_at(signal.SIGTERM, "train", 5)
    assert ended.code == 75, ended.stderr
    checkpoints = stage_directory(workdir, "train") / "checkpoints"
    good = newest(checkpoints)
    # Orbax packs 108 kB of arrays into two files as a rule, so one of them is larger; on a busy
    # machine into three now and then, which fit, and then a later checkpoint fails. All else, what
    # the process says of the failure too, is smaller.
    room = 45_000
    assert room > 1.5 * (stage_directory(unbroken, "train") / METRICS).stat().st_size
    ended = start(workdir, *rarely, file_limit=room).end()
    assert ended.code == 74, ended.stderr
    assert f"error: a checkpoint in {checkpoints} could not be written" in ended.stderr
    whole = newest(checkpoints)
    assert int(whole.name) >= int(good.name)
    ended = start(workdir, *rarely).end()
    assert ended.code == 0, ended.stderr
    assert f"train: going on from step {whole.name}/45" in ended.stderr
    assert_same_bits(everything(workdir), expected)


def test_a_run_whose_log_finds_no_room_stops_after_saving_what_it_had_begun_to_save(
    start, unbroken, tmp_path
):
    workdir = tmp_path / "run"
    # Ample for a checkpoint, too small for histograms at every step.
    room = 2 * largest_file(newest(stage_directory(unbroken, "train") / "checkpoints"))
    often = "--config.run.histogram_epochs=0.01"
    ended = start(workdir, often, file_limit=room).end()
    assert ended.code == 74, ended.stderr
    train = stage_directory(workdir, "train")
    assert f"File too large: '{train}'" in ended.stderr.splitlines()[-1]
    assert newest(train / "checkpoints").with_suffix(".seal").exists()
