r"""Runs one command line in several processes on this machine, as a pod's hosts would.

    python launch/local.py --processes=2 -- \
        --config=configs/quickstart.py --workdir=runs/two

`--dry_run` prints the commands instead. With `--cpu_devices=N`, each process pretends to have N
devices. A process that fails ends the others; SIGTERM is passed on to all of them.
"""

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence


def commands(processes: int, port: int, arguments: Sequence[str]) -> list[list[str]]:
    """The command of each process."""
    return [
        [
            sys.executable,
            "-m",
            "experiments.main",
            *arguments,
            f"--coordinator=127.0.0.1:{port}",
            f"--num_processes={processes}",
            f"--process_id={index}",
        ]
        for index in range(processes)
    ]


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run(lines: Sequence[Sequence[str]], environment: dict[str, str]) -> int:
    """Runs the commands side by side; the exit code of the first that fails, or 0."""
    running = [subprocess.Popen(line, env=environment) for line in lines]

    def pass_on(number: int, frame: object) -> None:
        for process in running:
            process.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    while any(process.poll() is None for process in running):
        failed = [process.returncode for process in running if process.returncode]
        if failed:
            # The others would wait for it in their next collective.
            time.sleep(5)
            for process in running:
                process.kill()
        time.sleep(0.1)
    return next((process.returncode for process in running if process.returncode), 0)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--processes", type=int, required=True, help="how many")
    parser.add_argument("--cpu_devices", type=int, help="devices of each process, on CPUs")
    parser.add_argument("--dry_run", action="store_true", help="print the commands and stop")
    parser.add_argument("arguments", nargs="+", help="of experiments.main, after --")
    flags = parser.parse_args()
    if flags.processes < 1:
        parser.error(f"--processes={flags.processes}: at least 1")
    environment = dict(os.environ)
    if flags.cpu_devices is not None:
        environment["JAX_PLATFORMS"] = "cpu"
        environment["JAX_NUM_CPU_DEVICES"] = str(flags.cpu_devices)
    lines = commands(flags.processes, free_port(), flags.arguments)
    if flags.dry_run:
        print("\n".join(shlex.join(line) for line in lines))
        return
    sys.exit(run(lines, environment))


if __name__ == "__main__":
    main()
