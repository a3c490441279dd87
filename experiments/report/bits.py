"""What a search for formats measured and chose: `mixed.json`."""

from typing import Literal

from experiments.report.schema import Document, Number, Section


class Measured(Section):
    """One site in one format, all others float."""

    kl: Number
    """Mean KL divergence of the outputs from the float ones, in nats."""
    loss: Number
    """Change of the mean loss, which may be negative: noise."""
    cost: Number
    """Bytes, bit operations or seconds, as `budget` says."""
    bits: int | None
    """Of a weight; None for a product of activations."""
    bytes: int
    """Of the weights, packed, with their scales."""


class Foretold(Section):
    """What the sites cost and lose together, as the sums of what was measured of each alone."""

    cost: Number
    loss: Number
    """Of the effect that `by` names; what is negative counts as 0."""


class Best(Foretold):
    """What was chosen."""

    formats: dict[str, str]
    """By site."""


class Mixed(Document):
    """A search for each site's format."""

    budget: Literal["bytes", "bit_operations", "latency"]
    by: Literal["kl", "loss"]
    """The effect whose sum is least."""
    limit: Number
    """What all sites together may cost."""
    widest: Number
    """What they cost if each has the most bits that it may."""
    sites: dict[str, dict[str, Measured]]
    """By site, in program order, and format."""
    best: Best
    front: tuple[Foretold, ...]
    """The best under other budgets, from the cheapest on."""

    @property
    def chosen(self) -> dict[str, Measured]:
        """Each site in its chosen format."""
        return {site: self.sites[site][format] for site, format in self.best.formats.items()}
