"""What was measured of a network's variants, and of serving by them: `adaptive.json`."""

from experiments.report.schema import Document, Number, Section


class Calls(Section):
    """Calls of one size."""

    size: int
    """Examples in a call."""
    median_s: Number
    """Seconds of a call, its inputs from host memory, its answers back: the median."""
    p90_s: Number
    """The same: the 90th percentile."""


class VariantRow(Section):
    """One variant of a network; weights are shared."""

    top1: Number
    """Share of the evaluation examples whose label got the largest logit."""
    parameters: int
    """Entries of the weights that it uses."""
    macs: int
    """Multiply-accumulates for one example."""
    calls: tuple[Calls, ...]
    """By size, timed in turn with all other variants'."""


class Phase(Section):
    """A part of the load."""

    rate: Number
    """Examples that arrive a second, in the mean of a Poisson process."""
    seconds: Number


class Service(Section):
    """What one policy made of the load."""

    top1: Number
    """Share of the served examples whose label got the largest logit."""
    batches: int
    """Calls."""
    batches_in_time: Number
    """Share of them that ended within the target after their oldest example's arrival."""
    examples_in_time: Number
    """Share of the examples that were answered within the target after their arrival."""
    p99_s: Number
    """Seconds from arrival to answer: the 99th percentile."""
    changes: int
    """How often another variant was chosen."""
    shares: dict[str, Number]
    """Of the examples, by the variant that answered."""


class Adaptive(Document):
    """Variants of one network under a load that changes."""

    target_s: Number
    """Seconds that an answer may take."""
    examples: int
    """How many arrived."""
    load: tuple[Phase, ...]
    variants: dict[str, VariantRow]
    """From the widest on."""
    policies: dict[str, Service]
    """`adaptive`, and the ends alone."""
