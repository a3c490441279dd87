"""Commands that are not here, as scripts that write down how they were called."""

import os
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]

# `next` prints and removes the first line of a file: what a command is to do this time.
_HEAD = """#!/usr/bin/env bash
set -euo pipefail
cd '{directory}'
echo "${{0##*/}} $*" >>calls
next() {{ head -n 1 "$1"; sed -i 1d "$1"; }}
"""


class Fakes:
    """A directory of commands that come before all others, and what they were asked to do."""

    def __init__(self, directory: Path, commands: Mapping[str, str]) -> None:
        self.directory = directory
        bin_directory = directory / "bin"
        bin_directory.mkdir()
        for name, body in commands.items():
            file = bin_directory / name
            file.write_text(_HEAD.format(directory=directory) + body)
            file.chmod(file.stat().st_mode | stat.S_IXUSR)
        self.env = {
            **os.environ,
            "PATH": f"{bin_directory}:{os.environ['PATH']}",
            "SLIM_POLL_SECONDS": "0.05",
            "SLIM_REQUEUE_SECONDS": "0",
        }

    def write(self, name: str, *lines: str) -> None:
        """A file of the directory that the commands work in."""
        (self.directory / name).write_text("".join(f"{line}\n" for line in lines))

    def calls(self, *words: str) -> list[str]:
        """The calls that have all these words, in order."""
        lines = (self.directory / "calls").read_text().splitlines()
        return [line for line in lines if all(word in line for word in words)]

    def run(self, *line: str) -> subprocess.CompletedProcess[str]:
        """Runs a script of launch/."""
        return launch(*line, env=self.env)


def launch(*line: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `launch/LINE` from the project's directory."""
    script, *arguments = line
    return subprocess.run(
        [f"launch/{script}", *arguments],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
