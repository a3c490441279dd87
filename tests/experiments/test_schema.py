"""Configs that do not fit are refused by field, value and what is allowed."""

from typing import Annotated, Literal

import pydantic
import pytest
from ml_collections import ConfigDict
from pydantic import Field

from experiments.schema import ConfigError, Schema, one_of, overridable, parse, plain


class Inner(Schema):
    size: int | None = None


class Outer(Schema):
    rate: Annotated[float, Field(gt=0)] = 0.1
    kind: Literal["a", "b"] = "a"
    widths: tuple[int, ...] = ()
    shape: tuple[int, int] | None = None
    inner: Inner = Inner()

    @pydantic.model_validator(mode="after")
    def _together(self) -> "Outer":
        if self.kind == "b" and not self.widths:
            raise ValueError("kind = 'b' needs widths")
        return self


def test_config_dicts_and_lists_become_typed_values():
    found = parse(Outer, ConfigDict({"rate": 1, "widths": [1, 2], "inner": {"size": 3}}), "x")
    assert found == Outer(rate=1.0, widths=(1, 2), inner=Inner(size=3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 1.0}, r"x: unknown name 'rat'; did you mean 'rate'\? Known: inner, kind, rate"),
        ({"inner": {"siz": 1}}, r"x\.inner: unknown name 'siz'; did you mean 'size'\? Known: size"),
        ({"rate": -1.0}, r"x\.rate = -1\.0: Input should be greater than 0"),
        ({"rate": True}, r"x\.rate = True: Input should be a valid number"),
        ({"rate": "1"}, r"x\.rate = '1': Input should be a valid number"),
        ({"kind": "c"}, r"x\.kind = 'c': Input should be 'a' or 'b'"),
        ({"widths": [1, 2.5]}, r"x\.widths\.1 = 2\.5: Input should be a valid integer"),
        ({"kind": "b"}, r"x: kind = 'b' needs widths"),
    ],
)
def test_what_does_not_fit_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        parse(Outer, values, "x")


class Named(Schema):
    score: Annotated[str, one_of({"taylor": 1, "fisher": 2})] = "taylor"
    attacks: tuple[Annotated[str, one_of(("fgsm", "pgd"))], ...] = ()


def test_a_name_is_one_of_a_table():
    values = {"score": "fisher", "attacks": ("pgd", "fgsm")}
    assert parse(Named, values, "x").model_dump() == values
    with pytest.raises(
        ConfigError,
        match=r"score: unknown name 'tailor'; did you mean 'taylor'\? Known: fisher, taylor",
    ):
        parse(Named, {"score": "tailor"}, "x")
    with pytest.raises(ConfigError, match=r"x\.attacks\.1: attacks: unknown name 'fgms'"):
        parse(Named, {"attacks": ["pgd", "fgms"]}, "x")


def test_every_problem_gets_a_line():
    with pytest.raises(ConfigError, match=r"(?s)x\.rate.*\n.*x\.kind"):
        parse(Outer, {"rate": 0.0, "kind": "c"}, "x")


def test_fields_that_are_none_can_still_be_overridden_with_their_type():
    config = ConfigDict(overridable(Outer())).lock()
    config.inner.size = 7
    config.shape = (1, 2)
    assert parse(Outer, config, "x") == Outer(inner=Inner(size=7), shape=(1, 2))
    with pytest.raises(TypeError):
        config.inner.size = "seven"


def test_plain_undoes_config_dict():
    values = {"a": {"b": (1, 2)}, "c": ({"d": 1},)}
    assert plain(ConfigDict(values)) == values
