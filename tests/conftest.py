"""Every test runs on eight CPU devices, under strict dtype promotion, with warnings as errors.

Most of their time XLA compiles small programs that run once, so by default it hardly optimizes
them, and fuses loops by its old emitter, where there is one (JAX 0.10): what was measured took
0.3 to 0.6 of the processor time. Set JAX_DISABLE_MOST_OPTIMIZATIONS and XLA_FLAGS otherwise for
XLA's own defaults, as `make test-newest` does, and `make test-slow` where tests mostly compute.
"""

import os
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if version("jax").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import hypothesis
import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "error")
