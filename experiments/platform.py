"""What a run sets in JAX before its first computation: where compiled programs are kept.

`python -m experiments.bench.cpu` is why: the second start of a program that was kept takes 0.4 of
the first. Of XLA's flags only one made ResNet-20's step clearly faster, the one that turns YNNPACK
off (1.16 times); an MLP trained slower without it, so it is left to who sets XLA_FLAGS.

The cache is safe to lose and to share. Its keys hold JAX's version, the device, the CPU's features
and XLA_FLAGS; entries are compressed with a checksum, so a file cut short by a kill or a full disk
is compiled anew with a warning, and a program read back computes the same bits as a fresh one.
"""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

import jax

_LOG = logging.getLogger("slim")
_KEPT_S = 30 * 24 * 3600


def configure() -> None:
    """Keeps compiled programs in the user's cache directory, for the next start.

    JAX_COMPILATION_CACHE_DIR names another directory, or none when empty; then nothing is changed.
    Where the directory cannot be written, programs are compiled at every start.
    """
    directory = cache_directory(os.environ)
    if directory is None:
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        forget_old(directory)
        writable = os.access(directory, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        _LOG.info("compiled programs are not kept: %s cannot be written", directory)
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # JAX keeps what took a second to compile; a start is mostly programs that took less.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def cache_directory(environ: Mapping[str, str]) -> Path | None:
    """Where this project keeps compiled programs; None where the user decides or has no home.

    >>> cache_directory({"XDG_CACHE_HOME": "/var/cache/ada"}).as_posix()
    '/var/cache/ada/slim/xla'
    >>> cache_directory({"JAX_COMPILATION_CACHE_DIR": ""}) is None
    True
    """
    if "JAX_COMPILATION_CACHE_DIR" in environ:
        return None
    home = Path(environ.get("XDG_CACHE_HOME", ""))
    if not home.is_absolute():  # the XDG specification has relative paths ignored
        try:
            home = Path.home() / ".cache"
        except RuntimeError:
            return None
    return home / "slim" / "xla"


def forget_old(directory: Path) -> None:
    """Removes programs a month old: JAX itself never removes any, nor replaces a damaged one."""
    oldest = time.time() - _KEPT_S
    for entry in directory.glob("*-cache"):
        if entry.stat().st_mtime < oldest:
            entry.unlink(missing_ok=True)
