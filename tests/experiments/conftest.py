"""Fixtures of the trainer's tests: runs as processes, and jobs of milliseconds in this process."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments.train import Job
from tests.experiments import jobs
from tests.experiments.processes import Process, everything


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled programs are kept for the session."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="session")
def start(compiled: Path) -> Iterator[Callable[..., Process]]:
    """Starts `experiments.main` on a workdir."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    started: list[Process] = []

    def make(
        workdir: Path,
        *flags: str,
        env: dict[str, str] | None = None,
        file_limit: int | None = None,
    ) -> Process:
        started.append(Process(workdir, flags, cache | (env or {}), file_limit))
        return started[-1]

    yield make
    for process in started:
        process.popen.kill()
        process.popen.wait()


@pytest.fixture(scope="session")
def unbroken(start: Callable[..., Process], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "unbroken"
    ended = start(workdir).end()
    assert ended.code == 0, ended.stderr
    return workdir


@pytest.fixture(scope="session")
def expected(unbroken: Path) -> dict[str, Any]:
    """The bits that every other run must end at."""
    return everything(unbroken)


@pytest.fixture
def keep_compiled(compiled: Path) -> Iterator[None]:
    """Programs that this process compiles are kept too: each `fit` jits its step anew."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (str(compiled), 0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def make_job(tmp_path: Path, keep_compiled: None) -> Callable[..., Job]:
    """Makes jobs, each in a directory of its own; arguments as of `jobs.job`."""
    numbers = itertools.count()
    return lambda **fields: jobs.job(tmp_path / f"job{next(numbers)}", **fields)
