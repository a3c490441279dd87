"""The bench of products: every form computes the chain, and the rows say what limits it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench import matmul
from experiments.bench.matmul import Chain, Peaks, Scale, Timing
from experiments.timing import Latency
from slim.graph import trace

SIZE = 128


@pytest.mark.parametrize("form", [*matmul.MATMULS, *matmul.GEMVS], ids=lambda form: form.name)
def test_every_form_computes_the_chain(form):
    params = {
        name: jax.random.normal(jax.random.key(i), (SIZE, SIZE)) * SIZE**-0.5
        for i, name in enumerate("ab")
    }
    x = jax.random.normal(jax.random.key(2), (4, SIZE))
    call, weights = matmul.prepare(trace(matmul.apply, params, x), form, params, x)
    exact = np.asarray(matmul.apply(params, x))
    error = np.linalg.norm(call() - exact) / np.linalg.norm(exact)
    four = form.weights.format == "int4"
    assert error < (0.2 if four else 0.06)
    values = SIZE * SIZE // (2 if four else 1)
    assert weights == 2 * (values + 4 * SIZE)  # of two kernels, with a scale an output


def test_rows_of_a_tiny_run(monkeypatch, capsys):
    monkeypatch.setattr(matmul, "ROUNDS", 1)
    rows = matmul.measure(Scale((SIZE,), SIZE**2, 64), jax.devices()[0])
    assert "no rows of fp8: cpu" in capsys.readouterr().out
    names = [row.name for row in rows]
    assert len(set(names)) == len(names) == 2 + 3 + 9
    assert "128x128 times 128x128: W8A8 over float32" in names
    assert "1x128 times 128x128: W4 packed over the measured roofline" in names
    assert all(row.ours > 0 and row.met is None for row in rows)


def test_a_roofline_is_the_longer_of_bytes_and_operations():
    chain = Chain(size=1000, layers=2, rows=2000)
    times = {name: Latency((seconds,), 1) for name, seconds in (("bfloat16", 2.0), ("W8A8", 1.0))}
    weights = {"bfloat16": 4_000_000, "W8A8": 2_000_000}
    formats = {"bfloat16": "bfloat16", "W8A8": "int8"}
    timing = Timing(chain, "bfloat16", times, weights, formats)
    vendor = Peaks(18e6, {"bfloat16": 8e9, "int8": 16e9})
    rows = {row.name: row for row in matmul.report([timing], 1e9, vendor)}
    title = "2000x1000 times 1000x1000"
    assert rows["bandwidth"].ratio == pytest.approx(1e9 / 18e6)
    assert rows["bfloat16 matmul"].ours == pytest.approx(4)  # 8e9 operations in 2 s
    assert rows[f"{title}: W8A8 over bfloat16"].ratio == pytest.approx(0.5)
    assert rows[f"{title}: bfloat16 over the measured roofline"].ratio == pytest.approx(1)
    assert rows[f"{title}: W8A8 over the measured roofline"].ratio == pytest.approx(0.5)
    # 20 MB and 8e9 operations against 18 MB/s and 8e9 operations a second.
    assert rows[f"{title}: bfloat16 over the vendor's roofline"].ratio == pytest.approx(1.8)
    assert rows[f"{title}: W8A8 over the vendor's roofline"].ratio == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("kind", "capability", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "9.0", True),
        ("NVIDIA A100-SXM4-80GB", "8.0", False),
        ("NVIDIA L4", "8.9", True),
        ("NVIDIA B200", "10.0", True),
        ("AMD Instinct MI300X", "gfx942", False),
        ("cpu", None, False),
    ],
)
def test_which_devices_multiply_eight_bit_floats(kind, capability, expected):
    device = SimpleNamespace(device_kind=kind)
    if capability is not None:
        device.compute_capability = capability
    assert matmul.has_float8(device) is expected


def test_floats_are_what_the_device_is_fast_in():
    assert matmul.float_type(SimpleNamespace(platform="cpu")) == jnp.float32
    assert matmul.float_type(SimpleNamespace(platform="gpu")) == jnp.bfloat16
