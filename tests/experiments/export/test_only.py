"""`--only=export`: a run that ended, exported by the command line, with overrides."""

import shutil

from experiments import report


def test_a_run_that_ended_is_exported_alone(start, unbroken, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(unbroken, workdir)
    flags = ("--only=export", "--config.export.latency_rounds=0", "--config.export.examples=20")
    ended = start(workdir, *flags).end()
    assert ended.code == 0, ended.stderr
    assert ended.stderr.count("running in") == 1
    (record,) = workdir.glob(f"stages/export-*/{report.EXPORTS}")
    (found,) = report.read_exports(record).exports
    assert (found.target, found.examples, found.agreement) == ("stablehlo", 20, 1.0)
    assert (record.parent / found.file / "README.md").is_file()


def test_what_comes_before_must_be_done(start, tmp_path):
    ended = start(tmp_path / "run", "--only=export").end()
    assert ended.code == 2
    assert "has no result of 'train'" in ended.stderr
