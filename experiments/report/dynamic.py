"""What was tried of a network with exits: `dynamic.json`, and its table."""

from pydantic import JsonValue

from experiments.report.layout import Table
from experiments.report.quantities import percent, points, ratio
from experiments.report.schema import Document, Number, Section


class Tried(Section):
    """A way of leaving early at one setting: every example at what was fitted on the other half."""

    tolerance: Number
    """The share of the examples that the setting may lose to the full network, where it was
    chosen."""
    settings: tuple[JsonValue, JsonValue]
    """For the first half of the examples, fitted on the second; and the other way round."""
    accuracy: Number
    """Of all examples."""
    lost: Number
    """The full network's accuracy minus this one."""
    at_random: Number
    """The control, of equal cost: the mean accuracy over all ways to give the same exits to the
    examples at random."""
    macs: Number
    """Mean multiply-accumulates of an example."""
    shares: tuple[Number, ...]
    """Of the examples that leave at each exit; of the dual model, that have the light network's and
    the full one's answer."""
    seconds: Number
    """For all examples in batches, end to end: the median."""
    time_ratio: Number
    """Over the full network's, timed in turn: the median over rounds."""
    single_time_ratio: Number
    """The same for some examples one by one."""
    as_foretold: Number
    """Share of the examples that, in the timed run, left where the logits of all exits say."""


class Way(Section):
    """A way of leaving early."""

    tried: tuple[Tried, ...]
    """By tolerance."""
    curve_macs: tuple[Number, ...]
    """Mean multiply-accumulates at each of many settings, the costliest first; none was chosen."""
    curve_accuracy: tuple[Number, ...]


class Dynamic(Document):
    """Ways of leaving a network early, beside a full one.

    Settings are cross-fitted: the examples of the evaluation split are in two fixed halves, at
    random, and what is fitted or chosen on one is tried on the other. An accuracy is that of both.
    """

    model: str
    """The stage that gave the network its exits."""
    full: str
    light: str
    """Of the dual model; empty without one."""
    examples: int
    halves_seed: int
    """Of the halves."""
    sizes: tuple[int, ...]
    """Of batches, those of the full network too; those that are full have the last."""
    singles: int
    """How many examples were timed one by one."""
    accuracy: Number
    """The full network's."""
    macs: Number
    """The full network's mean of an example."""
    seconds: Number
    """The full network's for all examples in batches."""
    exit_accuracy: tuple[Number, ...]
    """Of each exit, if all examples left there."""
    exit_macs: tuple[Number, ...]
    ways: dict[str, Way]


def dynamic_table(found: Dynamic) -> Table:
    """A row for each way and tolerance."""
    rows = [
        (
            f"{name}, {100 * each.tolerance:g}",
            percent(each.accuracy),
            points(-each.lost).removesuffix(" points"),
            percent(each.at_random),
            ratio(each.time_ratio),
            ratio(each.single_time_ratio),
            ratio(each.macs / found.macs),
            " ".join(f"{100 * share:.0f}" for share in each.shares),
        )
        for name, way in found.ways.items()
        for each in way.tried
    ]
    header = (
        "way, points that may be lost", "top-1", "points", "at random", "time", "one by one",
        "MACs", "leave at each exit, %",
    )  # fmt: skip
    caption = (
        f"{found.model} on {found.examples:,} examples, beside {found.full}, whose top-1 is "
        f"{percent(found.accuracy)}; what is fitted on either half is tried on the other"
    )
    return Table(caption, header, tuple(rows))
