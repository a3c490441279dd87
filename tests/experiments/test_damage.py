"""Damaged checkpoints and results are seen, set aside loudly, and made again to the same bits."""

import itertools
import json
import shutil

import pytest

from experiments import seal
from experiments.preemption import Preempted
from tests.experiments import jobs
from tests.experiments.processes import (
    assert_same_bits,
    everything,
    newest,
    stage_directory,
)


def largest(folder):
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-7])


def flip_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def data_of(checkpoint):
    return largest(checkpoint / "state")


DAMAGE = {
    "data cut short": lambda c: truncate(data_of(c)),
    "a bit of data flipped": lambda c: flip_bit(data_of(c)),
    "data missing": lambda c: data_of(c).unlink(),
    "data empty": lambda c: data_of(c).write_bytes(b""),
    "progress garbled": lambda c: (c / "progress" / "metadata").write_text("{"),
    "seal garbled": lambda c: c.with_name(f"{c.name}.seal").write_text("{"),
}


def keep_only_unsealed(checkpoint):
    checkpoint.with_name(f"{checkpoint.name}.seal").unlink()
    (checkpoint / "progress" / "metadata").write_text("{")


# A process that is killed between a checkpoint and its seal leaves one that only Orbax can judge.
DAMAGE["progress garbled and no seal"] = keep_only_unsealed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bits at the end of a job that nothing disturbed."""
    return jobs.flat(jobs.trained(jobs.job(tmp_path_factory.mktemp("whole"))))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The directory of the same job, stopped after step 9."""
    directory = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Preempted):
        jobs.trained(jobs.job(directory), jobs.StopAt(9))
    return directory


@pytest.fixture
def checkpoints(stopped, tmp_path, keep_compiled):
    """A copy of the stopped job's checkpoints; the last two are of the steps 8 and 9."""
    shutil.copytree(stopped, tmp_path / "job")
    return tmp_path / "job" / "checkpoints"


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(name, checkpoints, whole, caplog):
    assert newest(checkpoints).name == "9"
    DAMAGE[name](checkpoints / "9")
    outcome = jobs.trained(jobs.job(checkpoints.parent))
    assert "checkpoint 9 is damaged" in caplog.text
    assert (checkpoints / "broken-9").exists()
    assert_same_bits(jobs.flat(outcome), whole)


def test_with_all_checkpoints_damaged_a_job_starts_anew(checkpoints, whole, caplog):
    damaged = [c for c in checkpoints.iterdir() if c.name.isdigit()]
    assert len(damaged) >= 2
    for checkpoint, damage in zip(damaged, itertools.cycle((truncate, flip_bit)), strict=False):
        damage(data_of(checkpoint))
    outcome = jobs.trained(jobs.job(checkpoints.parent))
    assert caplog.text.count("is damaged") == len(damaged)
    assert_same_bits(jobs.flat(outcome), whole)


def test_the_same_step_may_be_damaged_twice(checkpoints, whole):
    for _ in range(2):
        truncate(data_of(checkpoints / "9"))
        with pytest.raises(Preempted):
            jobs.trained(jobs.job(checkpoints.parent), jobs.StopAt(1))
        assert newest(checkpoints).name == "9"
    assert_same_bits(jobs.flat(jobs.trained(jobs.job(checkpoints.parent))), whole)


def test_a_damaged_best_checkpoint_is_trained_again(make_job, caplog):
    fields = {"keep": "best", "eval_epochs": 0.25}
    job = make_job(**fields)
    first = jobs.trained(job)
    folder = job.directory / "checkpoints"
    last = newest(folder)
    best = json.loads((last / "progress" / "metadata").read_text())["best_step"]
    assert 0 < best < job.total_steps  # or there would be nothing to see
    flip_bit(data_of(folder / str(best)))
    again = jobs.trained(job)
    assert f"checkpoint {best} is damaged" in caplog.text
    assert_same_bits(jobs.flat(again), jobs.flat(first))


def test_a_run_says_on_stderr_what_is_damaged_and_makes_it_again(
    start, unbroken, expected, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(unbroken, workdir)
    train, prune = (stage_directory(workdir, stage) for stage in ("train", "prune"))
    flip_bit(largest(train / "model"))
    (prune / "result.json").write_text("{")
    truncate(data_of(newest(prune / "checkpoints")))
    ended = start(workdir).end()
    assert ended.code == 0, ended.stderr
    assert f"the result in {train} is damaged (" in ended.stderr
    assert "train: going on from step 45/45" in ended.stderr
    assert f"the result in {prune} is damaged (result.json cannot be read)" in ended.stderr
    assert "checkpoint 22 is damaged" in ended.stderr
    assert "prune: going on from step 20/22" in ended.stderr
    assert_same_bits(everything(workdir), expected)


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_bytes(b"some bytes")
    seal.write(folder)
    return folder


def test_a_seal_finds_every_kind_of_damage(sealed):
    file = sealed / "deep" / "file"
    assert seal.damage(sealed) is None
    flip_bit(file)
    assert "deep/file has another checksum" in seal.damage(sealed)
    truncate(file)
    assert "deep/file has 3 bytes instead of 10" in seal.damage(sealed)
    file.unlink()
    assert "deep/file is missing" in seal.damage(sealed)
    sealed.with_name("folder.seal").write_text("[")
    assert "seal cannot be read" in seal.damage(sealed)


def test_the_seals_of_folders_that_are_gone_are_removed(sealed):
    seal.clean(sealed.parent)
    assert sealed.with_name("folder.seal").exists()
    shutil.rmtree(sealed)
    seal.clean(sealed.parent)
    assert not sealed.with_name("folder.seal").exists()
