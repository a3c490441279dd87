"""All that goes to JSON: it comes back, and whatever else stands there is refused by name."""

import json
import re

import jax
import jax.numpy as jnp
import pytest

from slim.dynamic import ExitPlan, LayerPlan, NestedPlan
from slim.graph import Folding, Plan
from slim.graph.stored_json import Stored
from slim.models.deepseek.compress import ExpertPlan
from slim.prune import DepthPlan
from slim.prune.depth import Block
from slim.prune.latency import LatencyTable
from slim.prune.sensitivity import Point, Sensitivity
from slim.quant import Activations, Effects, Quantization, Weights

DEPTH = DepthPlan((Block("a", ("a", "b")),))
SHAPE = jax.ShapeDtypeStruct((2, 3), jnp.uint8)
# An example of each, and damage: a value that its field cannot have, and what is said of it.
EXAMPLES = [
    (Folding(("conv/kernel",)), {"sites": "conv"}, "'conv' must be list"),
    (
        Plan({"a": (3, 4)}, {"a": (3, ("*", 2, "a:1"))}, {"a:1": 2}, {"a:1": (0,)}),
        {"keep": {"a:1": [0.5]}},
        "0.5 must be int",
    ),
    (DEPTH, {"blocks": [{"name": "a"}]}, "missing 1 required .*'params'"),
    (LatencyTable(4.0, {"a": {1: 3.0}}), {"seconds": {"a": {"x": 1}}}, "invalid literal .*'x'"),
    (
        Sensitivity(1.0, {"a": 8}, {"a": (Point(0.5, 4, 0.5, 2.0),)}),
        {"curves": {"a": [{"keep": 1}]}},
        "missing 3 required .*'width'",
    ),
    (Effects({"a": {"int4": 0.5}}), {"kl": {"a": 0.5}}, "0.5 must be dict"),
    (
        Effects({"a": {"int4": 0.5}}, {"a": {"int4": -0.5}}),
        {"loss": {"a": {"int4": None}}},
        "None must be int or float",
    ),
    (
        Quantization({"a": (Weights("int4"), None), "b": (None, Activations())}, {"a": SHAPE}),
        {"specs": {"a": [{"format": "int9"}, None]}},
        "format: unknown name 'int9'",
    ),
    (ExitPlan(("layer_1:block",), classes=2), {"pooler": "no"}, "'no' must be bool"),
    (
        NestedPlan({"whole": (), "shallow": (DEPTH,)}),
        {"variants": {"whole": [], "shallow": [{"kind": "depth", "version": 2}]}},
        "DepthPlan: version is 2, must be 1",
    ),
    (
        ExpertPlan(False, {"mlp": (((0,), (2, 1)),)}),
        {"parts": {"mlp": [[[0.5]]]}},
        "0.5 must be int",
    ),
    (LayerPlan((0.5,), (0, 1), ((0,), (0, 1))), {"layers": [["0"]]}, "'0' must be int"),
]


def named(value):
    return type(value).__name__ if isinstance(value, Stored) else None


def test_every_class_has_an_example():
    assert {type(stored) for stored, *_ in EXAMPLES} == set(Stored.__subclasses__())


@pytest.mark.parametrize(("stored", "damage", "message"), EXAMPLES, ids=named)
def test_what_is_stored_comes_back_and_nothing_else_is_read(stored, damage, message):
    name, text = type(stored).__name__, stored.to_json()
    again = type(stored).from_json(text)
    assert vars(again) == vars(stored)
    assert again.to_json() == text

    def refusal(text):
        with pytest.raises(ValueError) as caught:
            type(stored).from_json(text)
        before, said, after = re.split(
            f"^{name}: |; write one with {name}.to_json$", str(caught.value)
        )
        assert not before
        assert not after
        return said

    def changed(**fields):
        return json.dumps(json.loads(text) | fields)

    for broken in ("", "{", text[:-1]):
        assert "must be JSON (" in refusal(broken)
    assert refusal("[]") == "[] must be an object of JSON"

    # The kind and the version come first, whatever else is wrong.
    kind = stored.KIND or None
    assert refusal(changed(kind="other", version=2, more=0)) == f"kind is 'other', must be {kind!r}"
    assert refusal(changed(version=2, more=0)) == "version is 2, must be 1"
    assert refusal("{}") == (
        f"kind is None, must be {kind!r}" if kind else "version is None, must be 1"
    )

    assert refusal(changed(more=0)).startswith("field: unknown name 'more'")
    for field in stored.FIELDS:
        fields = json.loads(text)
        del fields[field]
        assert refusal(json.dumps(fields)).startswith(f"{field} is missing: fields must be ")

    (field,) = damage
    assert re.match(f"{field} is .*: .*{message}", refusal(changed(**damage)))
