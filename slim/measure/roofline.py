"""The least time that a step can take on a TPU: by computing, memory or interconnect.

Peaks of a chip, from Google's pages of its generations (bf16 without sparsity, the bandwidth of
memory, and half of the "bidirectional interconnect bandwidth per chip" over its ports):

v5e  https://cloud.google.com/tpu/docs/v5e  197 TFLOP/s, 16 GB, 819 GB/s, 400 GB/s over 4 ports
v5p  https://cloud.google.com/tpu/docs/v5p  459 TFLOP/s, 95 GiB, 2765 GB/s, 1200 GB/s over 6 ports
v6e  https://cloud.google.com/tpu/docs/v6e  918 TFLOP/s, 32 GB, 1638 GB/s, 800 GB/s over 4 ports

and the chips of the largest slice: 256, 6144 and 256.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from slim.measure.collectives import Collective


@dataclass(frozen=True)
class Generation:
    """What a chip can do at most, and how many a job can have.

    Attributes:
        flops: of bfloat16, a second.
        memory: bytes of main memory.
        bandwidth: of main memory, bytes a second.
        port: bytes a second that one port sends.
        axes: of the torus that chips are connected to; two ports each.
        chips: of the largest slice.
    """

    flops: float
    memory: int
    bandwidth: float
    port: float
    axes: int
    chips: int


GENERATIONS: Mapping[str, Generation] = {
    "v5e": Generation(197e12, 16 * 2**30, 819e9, 50e9, 2, 256),
    "v5p": Generation(459e12, 95 * 2**30, 2765e9, 100e9, 3, 6144),
    "v6e": Generation(918e12, 32 * 2**30, 1638e9, 100e9, 2, 256),
}


@dataclass(frozen=True)
class Roofline:
    """Seconds of a step, if each did its work at its peak.

    Attributes:
        compute: of the floating-point operations.
        memory: of the traffic with main memory.
        interconnect: of what chips send each other.
    """

    compute: float
    memory: float
    interconnect: float

    @property
    def step(self) -> float:
        """If all three overlap wholly."""
        return max(self.compute, self.memory, self.interconnect)

    @property
    def apart(self) -> float:
        """If none overlaps with another."""
        return self.compute + self.memory + self.interconnect

    @property
    def bound(self) -> str:
        """Which of the three takes longest.

        >>> Roofline(2.0, 1.0, 3.0).bound
        'interconnect'
        """
        return max(("compute", "memory", "interconnect"), key=lambda name: getattr(self, name))


def roofline(
    generation: Generation,
    *,
    flops: float,
    traffic: float,
    exchanged: Iterable[Collective],
    places: Sequence[Sequence[int]],
) -> Roofline:
    """The least time of a step.

    An exchange has two ports of each axis of the torus along which the devices of its group differ;
    what else is on its way there is not counted, nor that a short axis is no ring.

    Args:
        generation: of the chips.
        flops: of one device.
        traffic: bytes that one device reads from and writes to main memory.
        exchanged: what devices send each other.
        places: each device's place in the torus, in the order that groups count them.
    """
    interconnect = sum(
        c.times * c.sent / (2 * generation.port * min(_spans(c.group, places), generation.axes))
        for c in exchanged
    )
    return Roofline(flops / generation.flops, traffic / generation.bandwidth, interconnect)


def _spans(group: Iterable[int], places: Sequence[Sequence[int]]) -> int:
    """Along how many axes of the torus the places of a group differ."""
    axes = zip(*(places[device] for device in group), strict=True)
    return max(1, sum(len(set(axis)) > 1 for axis in axes))
