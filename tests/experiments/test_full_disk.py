"""A disk without room stops a run by its exit code, and nothing that was whole is lost.

RLIMIT_FSIZE stands in for the full disk, since it needs no mount: a write past the limit fails.
"""

import signal

from tests.experiments.processes import (
    assert_same_bits,
    everything,
    newest,
    stage_directory,
)


def size(folder):
    """Bytes of all files in a folder."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def test_a_run_whose_checkpoint_finds_no_room_stops_and_goes_on_when_there_is(start, tmp_path):
    # A checkpoint at steps 20 and 40. Orbax packs its arrays into one to three files as time falls,
    # but none of them into two files: whichever has the kernel is larger than the room.
    flags = (
        "--config.model.hidden=(1024,)",
        "--config.run.checkpoint_epochs=0.9",
        "--config.run.histogram_epochs=0.0",
    )
    room, kernel = 100_000, 4 * 64 * 1024
    unbroken, workdir = tmp_path / "unbroken", tmp_path / "run"
    ended = start(unbroken, *flags).end()
    assert ended.code == 0, ended.stderr
    model = stage_directory(unbroken, "train") / "model"
    assert size(model) > 0.9 * kernel > 2 * room
    ended = start(workdir, *flags).signal_at(signal.SIGTERM, "train", 5)
    assert ended.code == 75, ended.stderr
    checkpoints = stage_directory(workdir, "train") / "checkpoints"
    good = newest(checkpoints)
    ended = start(workdir, *flags, file_limit=room).end()
    assert ended.code == 74, ended.stderr
    assert f"error: a checkpoint in {checkpoints} could not be written" in ended.stderr
    # All else is smaller, what the process says of the failure too.
    assert len(ended.stderr) < room / 2
    assert newest(checkpoints) == good
    ended = start(workdir, *flags).end()
    assert ended.code == 0, ended.stderr
    assert f"train: going on from step {good.name}/45" in ended.stderr
    assert_same_bits(everything(workdir), everything(unbroken))


def test_a_run_whose_log_finds_no_room_stops_after_saving_what_it_had_begun_to_save(
    start, unbroken, tmp_path
):
    workdir = tmp_path / "run"
    # Ample for a checkpoint, be it in one file; too small for histograms at every step.
    checkpoint = newest(stage_directory(unbroken, "train") / "checkpoints")
    room = 2 * size(checkpoint)
    often = "--config.run.histogram_epochs=0.01"
    ended = start(workdir, often, file_limit=room).end()
    assert ended.code == 74, ended.stderr
    train = stage_directory(workdir, "train")
    assert f"File too large: '{train}'" in ended.stderr.splitlines()[-1]
    assert newest(train / "checkpoints").with_suffix(".seal").exists()
