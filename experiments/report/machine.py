"""The machine that a run takes place on, as reports name it."""

import os
import platform
from importlib import metadata

import jax

from experiments.report.schema import Machine

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def this_machine() -> Machine:
    """What JAX and the operating system say of this process's machine."""
    device = jax.devices()[0]
    return Machine(
        platform=f"{platform.system()} {platform.machine()}",
        backend=device.platform,
        device_kind=device.device_kind,
        devices=jax.device_count(),
        processes=jax.process_count(),
        cores=_cores(),
        python=platform.python_version(),
        packages={name: metadata.version(name) for name in PACKAGES},
    )


def _cores() -> int:
    """The cores that this process may use; where the system does not say, all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
