"""The launcher starts what it prints, and a failure ends the whole run."""

import subprocess
import sys

LAUNCH = [sys.executable, "launch/local.py"]


def test_a_dry_run_prints_one_command_for_each_process():
    line = [*LAUNCH, "--processes=2", "--dry_run", "--", "--config=configs/quickstart.py"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert "--num_processes=2 --process_id=0" in first
    assert second == first.replace("--process_id=0", "--process_id=1")
    assert "-m experiments.main --config=configs/quickstart.py --coordinator=127.0.0.1:" in first


def test_a_process_that_fails_gives_its_exit_code():
    line = [*LAUNCH, "--processes=1", "--cpu_devices=1", "--", "--config=configs/nothing.py"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "no such file" in done.stderr
