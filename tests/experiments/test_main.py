"""The command line as a user meets it, in processes of its own."""

import subprocess
import sys

import pytest

from experiments import report

SWEEP = """
from experiments import recipe

def get_config(text=""):
    args = recipe.arguments(text, width=16)
    return recipe.config(
        name="swept",
        data={"name": "digits", "batch_size": 64},
        model={"name": "mlp", "hidden": (args.width,)},
        stages=("train", "prune", "evaluate"),
        train={"epochs": 0.5},
        prune={"epochs": 0.2, "updates": 2},
        evaluate={"latency_rounds": 2, "robustness_images": 16, "attacks": (), "corruptions": ()},
    )

def sweep():
    for keep, seeds in ((0.1, (0,)), (0.5, (0, 1))):
        for seed in seeds:
            yield {"name": f"keep_{keep}", "seed": seed, "prune.keep_ratio": keep}
"""


def main(*flags):
    line = [sys.executable, "-m", "experiments.main", *flags]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=configs/quickstart.py:smok"], "unknown name 'smok'; did you mean 'smoke'?"),
        (["--config=configs/quickstrat.py"], "--config=configs/quickstrat.py: no such file"),
        (
            ["--config=configs/quickstart.py", "--config.train.lrr=1", "--workdir=nowhere"],
            "config.train: unknown name 'lrr'; did you mean 'lr'?",
        ),
        (
            ["--config=configs/quickstart.py", "--config.train.lr=abc"],
            "--config.train.lr=abc: could not convert string to float: 'abc'",
        ),
        (["--config=configs/quickstart.py"], "--workdir is missing"),
        (["--config=configs/quickstart.py", "--sweep"], "has no function sweep()"),
        (["--confg=configs/quickstart.py"], "Unknown command line flag 'confg'"),
    ],
)
def test_a_wrong_command_is_one_line_and_code_2(flags, message):
    done = main(*flags)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_absent_data_set_says_what_to_install(tmp_path):
    done = main(
        "--config=configs/cifar10_resnet56.py", f"--config.data.data_dir={tmp_path}", "--dry_run"
    )
    assert done.returncode == 2, done.stderr
    assert "tfds build cifar10" in done.stderr


def test_a_dry_run_says_what_would_run_and_runs_nothing(tmp_path):
    workdir = tmp_path / "run"
    done = main(
        "--config=configs/quickstart.py:smoke",
        "--config.train.lr=0.0123",
        f"--workdir={workdir}",
        "--dry_run",
    )
    assert done.returncode == 0, done.stderr
    shown = ('"lr": 0.0123', "parameters  297450", "2.97 M MACs", "6 may be cut", "per device")
    for expected in shown:
        assert expected in done.stdout
    assert "frozen      1, params/head/kernel:1 first: the output" in done.stdout
    assert not workdir.exists()


def test_a_sweep_ends_in_one_table_and_trains_a_seed_of_its_baseline_once(tmp_path):
    file = tmp_path / "swept.py"
    file.write_text(SWEEP)
    done = main(f"--config={file}:width=8", "--sweep", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("train: running") == 2
    assert done.stderr.count("train: reused") == 1
    swept = report.read_sweep(tmp_path / "run" / "sweep.json")
    names = [(result.name, result.seed) for result in swept.results]
    assert names == [("keep_0.1", 0), ("keep_0.5", 0), ("keep_0.5", 1)]
    left = [result.measures.nonzero_parameters for result in swept.results]
    assert left[0] < min(left[1:]) < max(left) < swept.baselines[0].nonzero_parameters
    assert swept.baselines[0].loss != swept.baselines[1].loss
    assert swept.results[1].measures.loss != swept.results[2].measures.loss
    _, rows = done.stdout.rsplit("Models, on", 1)
    assert [line.split()[:2] for line in rows.splitlines()[3:6]] == [
        ["train", "2"],
        *sorted([["keep_0.1", "1"], ["keep_0.5", "2"]], key=lambda row: _top1(rows, row[0])),
    ]
    page = (tmp_path / "run" / "sweep.md").read_text()
    for directory in ("keep_0.1", "keep_0.5_s0", "keep_0.5_s1"):
        assert f"({directory}/report.md)" in page
        pages = tmp_path / "run" / directory
        assert (pages / "report.md").exists()
        found = [stage.checkpoint for stage in report.read(pages / "report.json").stages]
        assert found[0]
        assert all((pages / path).exists() for path in found if path)


def _top1(table, name):
    """Minus the top-1 in the row of that name."""
    return -float(next(line for line in table.splitlines() if name in line).split()[2].strip("%"))
