"""Typed, checked configs: a `ConfigDict` goes in, an immutable typed object comes out.

Every stage, data set and optimizer declares its fields once, as a `Schema`; `parse` refuses what
does not fit and names the field, its value, what is allowed and the nearest known name.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar, get_args, get_origin

import pydantic
from ml_collections import ConfigDict, config_dict

from slim import paths


class Schema(pydantic.BaseModel):
    """A config section: immutable, with no unknown fields and no silent conversions.

    Ranges are written in the type: `keep: Annotated[float, Field(gt=0, le=1)]`. What involves
    several fields goes into a `pydantic.model_validator(mode="after")`.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)


class ConfigError(ValueError):
    """A config that cannot run; the message names the field, its value and what is allowed."""


S = TypeVar("S", bound=Schema)


def plain(value: Any) -> Any:
    """Nested `ConfigDict`s and lists as plain dicts and tuples."""
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    return value


def unknown_name(field: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not in a table: the nearest known one, then all of them."""
    return ConfigError(paths.unknown_name(field, name, known))


def one_of(table: Collection[str]) -> pydantic.AfterValidator:
    """Makes a field take the names of a table only, as the table is when the config is checked.

    >>> class Dye(Schema):
    ...     hue: Annotated[str, one_of(("blue", "red"))] = "red"
    >>> parse(Dye, {"hue": "bleu"}, "dye")
    Traceback (most recent call last):
        ...
    experiments.schema.ConfigError: dye.hue: hue: unknown name 'bleu'; did you mean 'blue'? ...
    """

    def known(name: str, info: pydantic.ValidationInfo) -> str:
        if name not in table:
            raise unknown_name(str(info.field_name), name, table)
        return name

    return pydantic.AfterValidator(known)


@contextmanager
def refused(field: str) -> Iterator[None]:
    """Turns a ValueError of what is done inside into a ConfigError that begins with `field`.

    >>> with refused("shrink.keep_ratio = 0.1"):
    ...     raise ValueError("out of reach")
    Traceback (most recent call last):
        ...
    experiments.schema.ConfigError: shrink.keep_ratio = 0.1: out of reach
    """
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{field}: {error}") from None


def parse(schema: type[S], values: Any, field: str) -> S:
    """Checks `values` against a schema and returns the typed object.

    Args:
        schema: the class that declares the fields.
        values: a `ConfigDict` or a mapping.
        field: where the values stand in the config, for messages: `train`, `data`.

    Raises:
        ConfigError: one line for each field that does not fit.
    """
    try:
        return schema.model_validate(plain(values))
    except pydantic.ValidationError as error:
        lines = [_explain(schema, field, problem) for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def overridable(section: Schema) -> dict[str, Any]:
    """A section's fields for a `ConfigDict`, where a field that is None keeps its type.

    Without one it could not be set from the command line.
    """
    fields: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Schema):
            fields[name] = overridable(value)
        elif value is None:
            fields[name] = config_dict.placeholder(_type_beside_none(field.annotation))
        else:
            fields[name] = section.model_dump(include={name})[name]
    return fields


def _type_beside_none(annotation: Any) -> type:
    """`int` of `Annotated[int, ...] | None`, `tuple` of `tuple[int, int] | None`."""
    kind = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return get_origin(kind) or kind


def _explain(schema: type[Schema], field: str, problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    name = ".".join([field, *location]) if field else ".".join(location)
    match problem["type"]:
        case "extra_forbidden":
            section = name.rpartition(".")[0] or "config"
            return str(unknown_name(section, location[-1], _fields_at(schema, location[:-1])))
        case "missing":
            return f"{name}: required, and not given"
        case "value_error":  # a validator over several fields: its own words name them
            return f"{name}: {problem['ctx']['error']}"
        case _:
            return f"{name} = {problem['input']!r}: {problem['msg']}"


def _fields_at(schema: type[Schema], location: Sequence[str]) -> Iterable[str]:
    """The field names of the section that stands at `location` inside `schema`."""
    for part in location:
        field = schema.model_fields.get(part)
        if field is not None and isinstance(field.annotation, type):
            schema = field.annotation
    return schema.model_fields
