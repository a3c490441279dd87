"""Strided convolutions of images become ones over blocks, and give the same integers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim.export import litert, onnx
from slim.export.program import Program
from tests.slim.export.litert import interpreted as in_litert
from tests.slim.export.onnx import interpreted as in_onnx
from tests.slim.export.stem import stem

pytest.importorskip("ai_edge_litert")
pytest.importorskip("onnxruntime")

WRITERS: dict[str, tuple[Any, Callable[..., dict[str, np.ndarray]]]] = {
    "litert": (litert, in_litert.interpreted),
    "onnx": (onnx, in_onnx.interpreted),
}


def written(target: str, made: Program) -> tuple[bytes, bytes]:
    """As it would be without blocks, and as it is."""
    module, _ = WRITERS[target]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "blocked_stems", lambda network: network)
        plain = module.write(made)
    return plain, module.write(made)


def in_blocks(model: bytes) -> bool:
    return b"SpaceToDepth" in model or "SPACE_TO_DEPTH" in _operators(model)


def _operators(model: bytes) -> list[str]:
    return list(litert.operators(model)) if model[4:8] == b"TFL3" else []


@pytest.mark.parametrize("target", WRITERS)
@given(
    blocks=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    channels=st.integers(1, 4),
    side=st.integers(1, 7),
    low=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    batch=st.sampled_from(["batch", 3]),
)
def test_the_same_integers_come_out(target, blocks, channels, side, low, batch) -> None:
    size = tuple(2 * n for n in blocks)
    padding = tuple((n, side - 1 - min(n, side - 1)) for n in low)
    made, x = stem(size, channels, side, padding, batch)
    plain, blocked = (WRITERS[target][1](each, x)["logits"] for each in written(target, made))
    np.testing.assert_array_equal(blocked, plain)


@pytest.mark.parametrize("target", WRITERS)
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((3, 3), (3, 3))])
def test_an_image_is_read_in_blocks(target, padding) -> None:
    made, x = stem((16, 16), 3, 7, padding)
    models = written(target, made)
    assert list(map(in_blocks, models)) == [False, True]
    plain, blocked = (WRITERS[target][1](each, x)["logits"] for each in models)
    np.testing.assert_array_equal(blocked, plain)


@pytest.mark.parametrize("target", WRITERS)
@pytest.mark.parametrize(
    ("size", "channels", "stride"),
    [((15, 16), 3, 2), ((16, 16), 8, 2), ((16, 16), 3, 1)],
    ids=["odd", "channels", "stride"],
)
def test_others_stay(target, size, channels, stride) -> None:
    made, _ = stem(size, channels, 3, "SAME", stride=stride)
    assert not in_blocks(WRITERS[target][0].write(made))
