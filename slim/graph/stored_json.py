"""Plans and measurements as JSON: a kind and a version, then fields that are each checked.

    @dataclass(frozen=True)
    class Folding(Stored):
        KIND: ClassVar[str] = "folding"
        FIELDS: ClassVar[Fields] = {"sites": row(exactly(str))}

        sites: tuple[str, ...]

    Folding.from_json(folding.to_json()) == folding

A reader is value of JSON -> field's value; one raises TypeError or ValueError for any other value.
"""

import json
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self, TypeVar

from slim.paths import unknown_name

T = TypeVar("T")
Fields = Mapping[str, Callable[[Any], Any]]
"""Readers by the names of the fields."""


@dataclass(frozen=True, eq=False)
class Stored:
    """What goes to JSON and back: for frozen dataclasses of `FIELDS`.

    Attributes:
        KIND: what the JSON says that it is; "" for what is written without.
        VERSION: of its form; no other is read.
        FIELDS: how each field is read.
    """

    KIND: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1
    FIELDS: ClassVar[Fields]

    def to_json(self) -> str:
        """All of it as JSON, with its kind and version."""
        kind = {"kind": self.KIND} if self.KIND else {}
        return json.dumps({**kind, "version": self.VERSION, **self.plain()}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote.

        Raises:
            ValueError: not that, or another version's.
        """
        return cls(**cls.read(text))

    def plain(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self)

    @classmethod
    def read(cls, text: str) -> dict[str, Any]:
        """The values of the fields.

        Raises:
            ValueError: as `from_json`.
        """
        try:
            given = json.loads(text)
        except json.JSONDecodeError as error:
            raise cls._refusal(f"{reprlib.repr(text)} must be JSON ({error})") from error
        if not isinstance(given, dict):
            raise cls._refusal(f"{reprlib.repr(given)} must be an object of JSON")
        for name, allowed in {"kind": cls.KIND or None, "version": cls.VERSION}.items():
            if (value := given.pop(name, None)) != allowed:
                raise cls._refusal(f"{name} is {reprlib.repr(value)}, must be {allowed!r}")
        for name in given:
            if name not in cls.FIELDS:
                raise cls._refusal(unknown_name("field", name, cls.FIELDS))
        found = {}
        for name, reader in cls.FIELDS.items():
            if name not in given:
                raise cls._refusal(f"{name} is missing: fields must be {', '.join(cls.FIELDS)}")
            try:
                found[name] = reader(given[name])
            except (TypeError, ValueError) as error:
                raise cls._refusal(f"{name} is {reprlib.repr(given[name])}: {error}") from error
        return found

    @classmethod
    def _refusal(cls, said: str) -> ValueError:
        return ValueError(f"{cls.__name__}: {said}; write one with {cls.__name__}.to_json")


def exactly(*types: type) -> Callable[[Any], Any]:
    """A reader of values of these types alone, which it leaves as they are.

    >>> exactly(int)(3)
    3
    """
    names = " or ".join(each.__name__ for each in types)

    def reader(value: Any) -> Any:
        if type(value) not in types:
            raise TypeError(f"{value!r} must be {names}")
        return value

    return reader


number = exactly(int, float)
"""A reader of numbers."""


def row(reader: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    """A reader of lists, each entry read by `reader`.

    >>> row(row(number))([[1, 2], []])
    ((1, 2), ())
    """
    return lambda value: tuple(map(reader, exactly(list)(value)))


def table(
    reader: Callable[[Any], T], key: Callable[[str], Any] = str
) -> Callable[[Any], dict[Any, T]]:
    """A reader of objects, each value read by `reader`, each name by `key`.

    >>> table(number, key=int)({"8": 0.5})
    {8: 0.5}
    """
    return lambda value: {key(name): reader(each) for name, each in exactly(dict)(value).items()}


def record(make: Callable[..., T], **readers: Callable[[Any], Any]) -> Callable[[Any], T]:
    """A reader of objects that stand for a dataclass's fields, some read by `readers`.

    >>> record(complex)({"real": 1, "imag": 2})
    (1+2j)
    """

    def reader(value: Any) -> T:
        fields = exactly(dict)(value)
        return make(**{n: readers[n](each) if n in readers else each for n, each in fields.items()})

    return reader


def optional(reader: Callable[[Any], T]) -> Callable[[Any], T | None]:
    """A reader that leaves null, which is None, as it is."""
    return lambda value: None if value is None else reader(value)
