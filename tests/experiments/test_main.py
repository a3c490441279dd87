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
    for keep in (0.5, 0.1):
        yield {"name": f"keep_{keep}", "prune.keep_ratio": keep}
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
    for expected in ('"lr": 0.0123', "parameters  297450", "2.97 M MACs", "per device"):
        assert expected in done.stdout
    assert not workdir.exists()


def test_a_sweep_ends_in_one_table_and_trains_its_baseline_once(tmp_path):
    file = tmp_path / "swept.py"
    file.write_text(SWEEP)
    done = main(f"--config={file}:width=8", "--sweep", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("train: running") == 1
    assert done.stderr.count("train: reused") == 1
    swept = report.read_sweep(tmp_path / "run" / "sweep.json")
    assert [result.name for result in swept.results] == ["keep_0.5", "keep_0.1"]
    half, tenth = (result.measures.nonzero_parameters for result in swept.results)
    assert swept.baseline.nonzero_parameters > half > tenth
    assert (tmp_path / "run" / "keep_0.1" / "report.md").exists()
