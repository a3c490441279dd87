"""The cache of compiled programs: where it should be, never in the way, never another result."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import platform

# Starts as main does, trains a few steps with donated state; prints the bits and the cache's use.
PROGRAM = """
import jax, jax.monitoring, jax.numpy as jnp, numpy as np
from experiments import platform
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
platform.configure()

layout = ("NHWC", "HWIO", "NHWC")

def loss(w, x):
    y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)
    return jnp.square(y - 1).mean()

step = jax.jit(lambda w, x: w - 0.1 * jax.grad(loss)(w, x), donate_argnums=0)
rng = np.random.default_rng(0)
w = jnp.asarray(rng.normal(size=(3, 3, 2, 4)), jnp.float32)
x = jnp.asarray(rng.normal(size=(8, 9, 9, 2)), jnp.float32)
for _ in range(5):
    w = step(w, x)
print(np.asarray(w).tobytes().hex(), hits.count("/jax/compilation_cache/cache_hits") > 0)
"""


def start(home: Path, **environ: str) -> tuple[str, bool, str]:
    """The bits that PROGRAM computes, whether the cache gave it a program, and its stderr."""
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=inherited | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(home)} | environ,
        capture_output=True,
        text=True,
        check=True,
    )
    bits, hit = done.stdout.split()
    return bits, hit == "True", done.stderr


def test_second_start_reads_the_cache_and_computes_the_same_bits(tmp_path):
    first, hit, _ = start(tmp_path)
    assert not hit
    again, hit, stderr = start(tmp_path)
    assert hit
    assert again == first
    assert stderr == ""


@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_an_entry_cut_short_is_compiled_anew(tmp_path, left):
    whole, _, _ = start(tmp_path)
    entries = list((tmp_path / "slim" / "xla").glob("*-cache"))
    assert entries
    for entry in entries:
        os.truncate(entry, int(left * entry.stat().st_size))
    bits, hit, stderr = start(tmp_path)
    assert bits == whole
    assert not hit
    assert "Error reading persistent compilation cache entry" in stderr


@pytest.mark.parametrize("elsewhere", ["", "mine"])
def test_the_users_choice_stands(tmp_path, elsewhere):
    choice = str(tmp_path / elsewhere) if elsewhere else ""
    always = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    start(tmp_path / "home", JAX_COMPILATION_CACHE_DIR=choice, **always)
    assert not (tmp_path / "home").exists()
    if elsewhere:
        assert list(Path(choice).glob("*-cache"))


def test_an_unusable_directory_does_not_stop_a_run(tmp_path):
    (tmp_path / "slim").write_text("a file where a directory should be")
    _, hit, _ = start(tmp_path)
    assert not hit


def test_a_relative_cache_home_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = platform.cache_directory({"XDG_CACHE_HOME": "relative"})
    assert found == tmp_path / ".cache" / "slim" / "xla"


def test_programs_are_forgotten_after_a_month(tmp_path):
    directory = tmp_path / "slim" / "xla"
    start(tmp_path)
    old, *rest = sorted(directory.glob("*-cache"))
    long_ago = time.time() - 31 * 24 * 3600
    os.utime(old, (long_ago, long_ago))
    platform.forget_old(directory)
    assert sorted(directory.glob("*-cache")) == rest
