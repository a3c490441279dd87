"""Which variant of a network to run, at run time, by a latency target.

    table = {"full": Variant(0.87, {1: 0.02, 32: 0.3}), "half": Variant(0.84, {1: 0.01, 32: 0.1})}
    state = Choice()
    state = choose_variant(table, target=0.05, load=waiting, state=state)
    run(state.variant)

The most accurate one that is fast enough, as measured: Slimmable networks (Yu et al. 2019,
arXiv:1812.08928) are one source of variants, exits and cascades others. To a faster one at once, to
a more accurate one only after a while with time to spare: at a load that wavers, the choice does
not.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from slim.paths import unknown_name


@dataclass(frozen=True)
class Variant:
    """What was measured of a variant.

    Attributes:
        accuracy: 0 to 1.
        seconds: of one call, by batch size.

    Raises:
        ValueError: nothing measured, a batch below 1, seconds that are not positive and finite.
    """

    accuracy: float
    seconds: Mapping[int, float]

    def __post_init__(self) -> None:
        if not self.seconds or min(self.seconds) < 1:
            raise ValueError(f"seconds is {dict(self.seconds)}: give some, by batch size from 1")
        for batch, each in self.seconds.items():
            if not 0 < each < math.inf:
                raise ValueError(f"seconds[{batch}] is {each}, must be positive and finite")

    def expected(self, load: int) -> float:
        """Seconds until `load` examples are done, in the sizes measured.

        As many calls of the largest size as are full, then one of whichever size that holds the
        rest is fastest.

        >>> Variant(0.9, {1: 0.1, 8: 0.3}).expected(10)
        0.6
        """
        largest = max(self.seconds)
        calls, rest = divmod(load, largest)
        last = min(s for batch, s in self.seconds.items() if batch >= rest) if rest else 0.0
        return calls * self.seconds[largest] + last


class Choice(NamedTuple):
    """What is run now.

    Attributes:
        variant: its name in the table; None before the first choice.
        spare: for how many choices in a row a more accurate one has had time to spare.
    """

    variant: str | None = None
    spare: int = 0


def choose_variant(
    table: Mapping[str, Variant],
    target: float,
    load: int,
    state: Choice = Choice(),  # noqa: B008, it is immutable
    *,
    slowdown: float = 1.0,
    margin: float = 0.1,
    patience: int = 3,
) -> Choice:
    """The most accurate variant that is done in time; among equals the fastest.

    One that is too slow now is left at once. For a more accurate one it is left when that would
    have been done within (1 - margin) target at `patience` choices in a row.

    Args:
        table: variants by name.
        target: seconds until the load is done.
        load: examples waiting.
        state: the last choice.
        slowdown: how much longer calls take now than when the table was measured, by a factor.
        margin: the share of the target to be spared, in [0, 1).
        patience: at least 1; 1 changes at once.

    Raises:
        ValueError: no variant is fast enough (the message says which is the fastest), or a field
            is out of range.

    >>> table = {"full": Variant(0.9, {1: 0.4}), "half": Variant(0.8, {1: 0.1})}
    >>> state = choose_variant(table, 1.0, load=2)
    >>> state.variant, choose_variant(table, 1.0, load=5, state=state).variant
    ('full', 'half')
    """
    _check(table, target, load, state, slowdown, margin, patience)
    seconds = {name: slowdown * variant.expected(load) for name, variant in table.items()}
    fits = {name: each for name, each in seconds.items() if each <= target}
    if not fits:
        fastest = min(seconds, key=lambda name: seconds[name])
        raise ValueError(
            f"target {target:g} s is out of reach for load {load}: {fastest!r}, the fastest, takes "
            f"{seconds[fastest]:g} s; raise the target, split the load or add a faster variant"
        )

    def rank(name: str) -> tuple[float, float]:
        return table[name].accuracy, -seconds[name]

    now = state.variant
    if now not in fits:
        return Choice(max(fits, key=rank))
    roomy = [name for name, each in fits.items() if each <= (1 - margin) * target]
    better = [name for name in roomy if table[name].accuracy > table[now].accuracy]
    if not better:
        return Choice(now)
    spare = state.spare + 1
    return Choice(max(better, key=rank)) if spare >= patience else Choice(now, spare)


def _check(
    table: Mapping[str, Variant],
    target: float,
    load: int,
    state: Choice,
    slowdown: float,
    margin: float,
    patience: int,
) -> None:
    if not table:
        raise ValueError("table is empty: measure at least one variant")
    if state.variant is not None and state.variant not in table:
        raise ValueError(unknown_name("state.variant", state.variant, table))
    for field, value, allowed, good in (
        ("target", target, "positive, in seconds", target > 0),
        ("load", load, "at least 1", load >= 1),
        ("slowdown", slowdown, "positive and finite", 0 < slowdown < math.inf),
        ("margin", margin, "in [0, 1)", 0 <= margin < 1),
        ("patience", patience, "at least 1", patience >= 1),
    ):
        if not good:
            raise ValueError(f"{field} is {value}, must be {allowed}")
