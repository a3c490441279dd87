"""Strided convolutions of images become ones over blocks, and give the same integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim.export import litert, passes
from slim.export.fake_quant import fake_quant
from slim.export.program import program
from tests.slim.export.litert.interpreted import interpreted

pytest.importorskip("ai_edge_litert")
rng = np.random.default_rng(0)
STEP = np.full((1, 1, 1, 1), 0.03, np.float32)


def _written(size, channels, side, padding, batch="batch", stride=2):
    kernel = (rng.normal(size=(side, side, channels, 5)) / side**2).astype(np.float32)
    scale = np.abs(kernel).max((0, 1, 2), keepdims=True) / 127

    def fn(w, x):
        zero = np.full((1, 1, 1, 1), 100, np.int32)
        x = jax.lax.conv_general_dilated(
            fake_quant(x, STEP, zero, "uint8"),
            fake_quant(w, scale, None, "int8"),
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return fake_quant(jnp.maximum(x + 0.1, 0), STEP, np.zeros((1, 1, 1, 1), np.int32), "uint8")

    x = rng.normal(size=(3, *size, channels)).astype(np.float32)
    return passes.standard(program(fn, kernel, x, batch=batch)), x


def _both(made, monkeypatch_context):
    with monkeypatch_context as patch:
        patch.setattr(litert, "blocked_stems", lambda network: network)
        plain = litert.write(made)
    return plain, litert.write(made)


@given(
    blocks=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    channels=st.integers(1, 4),
    side=st.integers(1, 7),
    low=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    batch=st.sampled_from(["batch", 3]),
)
def test_the_same_integers_come_out(blocks, channels, side, low, batch) -> None:
    size = tuple(2 * n for n in blocks)
    padding = tuple((n, side - 1 - min(n, side - 1)) for n in low)
    made, x = _written(size, channels, side, padding, batch)
    plain, blocked = _both(made, pytest.MonkeyPatch.context())
    found = interpreted(blocked, x)["logits"]
    np.testing.assert_array_equal(found, interpreted(plain, x)["logits"])


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((3, 3), (3, 3))])
def test_an_image_is_read_in_blocks(padding) -> None:
    made, x = _written((16, 16), 3, 7, padding)
    plain, blocked = _both(made, pytest.MonkeyPatch.context())
    assert "SPACE_TO_DEPTH" in litert.operators(blocked)
    assert "SPACE_TO_DEPTH" not in litert.operators(plain)
    np.testing.assert_array_equal(
        interpreted(blocked, x)["logits"], interpreted(plain, x)["logits"]
    )


@pytest.mark.parametrize(
    ("size", "channels", "stride"),
    [((15, 16), 3, 2), ((16, 16), 8, 2), ((16, 16), 3, 1)],
    ids=["odd", "channels", "stride"],
)
def test_others_stay(size, channels, stride) -> None:
    made, _ = _written(size, channels, 3, "SAME", stride=stride)
    assert "SPACE_TO_DEPTH" not in litert.operators(litert.write(made))
