"""What a compiled step takes on each device, read from what the compiler gave."""

import re
import resource
import sys
import time
from typing import Any

import jax
import pydantic

from experiments.compiled.step import Step
from experiments.compiled.topology import Topology
from experiments.report.quantities import size
from experiments.schema import Schema
from slim.measure import hlo
from slim.measure.collectives import Collective, collectives
from slim.measure.roofline import roofline
from slim.measure.size import entries
from slim.measure.traffic import traffic

KNOBS = (
    "more of mesh.fsdp (parameters and optimizer state in more parts), mesh.tensor or mesh.expert; "
    "a smaller data.batch_size, or a larger accumulate of the stage (activations); rematerialized "
    "layers, where the model has that option; precision = 'bfloat16'; a larger topology"
)


class Described(Schema):
    """A section of the report, whose fields' words are in its schema."""

    model_config = pydantic.ConfigDict(use_attribute_docstrings=True)


class Memory(Described):
    """Bytes on each device."""

    parameters: int
    """The parameters, unpadded."""
    optimizer: int
    """The optimizer's state, unpadded."""
    arguments: int
    """The whole state and the batch, as tiles hold them."""
    temporaries: int
    """Activations, gradients and all else that lives within a step, at the fullest moment."""
    peak: int
    """Arguments and temporaries, at the fullest moment."""
    available: int
    """Main memory of a chip."""


class Exchange(Described):
    """All exchanges of one kind, on each device."""

    kind: str
    """As XLA calls it; `all-reduce for all-gather` where a gather was turned into a sum."""
    times: int
    """Exchanges in a step, those in loops as often as these run."""
    bytes: int
    """Of the whole results of gathers, else of operands, in a step."""
    sent: int
    """Bytes that a device sends, in rings."""


class Times(Described):
    """Seconds of a step, each part at its peak."""

    compute: float
    """Floating-point operations."""
    memory: float
    """Traffic with main memory."""
    interconnect: float
    """Exchanges."""
    step: float
    """If all three overlap: the largest."""
    apart: float
    """If none does: the sum."""


class Plan(Described):
    """What was to be compiled, and by what."""

    name: str
    """Of the recipe."""
    stage: str
    """Whose step it is."""
    topology: str
    """`v5p:8x8x8`."""
    mesh: dict[str, int]
    """Size of each axis."""
    batch_size: int
    """Rows of a global batch."""
    jax: str
    """Version of JAX."""
    libtpu: str
    """Version of the compiler."""


class Refused(Plan):
    """A plan that does not fit."""

    reason: str
    """How much memory it needs of what there is."""


class CompiledReport(Plan):
    """A plan that fits."""

    compile_s: float
    """Seconds that tracing and compiling took here."""
    host_memory: int
    """Bytes that this process held then, at most."""
    parameters: int
    """Entries of all parameters, on all devices together, each once."""
    memory: Memory
    flops: int
    """Floating-point operations of an even share of a step, recomputing included (analytic)."""
    traffic: int
    """Bytes that each device reads from and writes to main memory in a step, as fused."""
    exchanges: tuple[Exchange, ...]
    seconds: Times
    bound: str
    """Which of the three parts takes longest."""
    misaligned: tuple[str, ...]
    """Gathers that became sums of all devices because their shards fill no tiles."""
    unknown_loops: tuple[str, ...]
    """Loops that count once, because how often they run is not known."""


class DoesNotFit(Exception):
    """A plan that needs more memory than a chip has.

    Attributes:
        plan: which.
    """

    def __init__(self, plan: Refused, message: str) -> None:
        super().__init__(message)
        self.plan = plan


def compile_report(step: Step, where: Topology, name: str, libtpu: str) -> CompiledReport:
    """Compiles a step and reads what came out.

    Raises:
        DoesNotFit: it needs more memory than a chip has; what could be changed is in the message.
    """
    started = time.monotonic()
    try:
        compiled = step.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise _does_not_fit(step, where, name, libtpu, _reason(str(error))) from None
    seconds = time.monotonic() - started
    made = read(step, where, compiled, name=name, libtpu=libtpu, seconds=seconds)
    over = made.memory.peak - made.memory.available
    if over > 0:
        there = size(made.memory.available)
        reason = f"needs {size(made.memory.peak)} of {there} a chip, {size(over)} over"
        raise _does_not_fit(step, where, name, libtpu, reason)
    return made


def read(
    step: Step,
    where: Topology,
    compiled: jax.stages.Compiled,
    *,
    name: str,
    libtpu: str,
    seconds: float,
) -> CompiledReport:
    """What stands in a compiled step's text and memory plan.

    Args:
        step: that was compiled.
        where: for which chips.
        compiled: what came out.
        name: of the recipe.
        libtpu: the compiler's version.
        seconds: how long it took.
    """
    program = hlo.parse(compiled.as_text() or "")
    found = collectives(program)
    flops = step.flops() // len(where.devices)
    moved = traffic(program)
    least = roofline(
        where.generation,
        flops=flops,
        traffic=moved,
        exchanged=found,
        places=[device.coords for device in step.job.mesh.devices.flat],
    )
    return CompiledReport(
        **_plan(step, where, name, libtpu),
        compile_s=seconds,
        host_memory=_host_memory(),
        parameters=entries(step.state.params),
        memory=_memory(step, where, compiled),
        flops=flops,
        traffic=moved,
        exchanges=_exchanges(found),
        seconds=Times(
            compute=least.compute,
            memory=least.memory,
            interconnect=least.interconnect,
            step=least.step,
            apart=least.apart,
        ),
        bound=least.bound,
        misaligned=tuple(f"{c.name} {c.source}".strip() for c in found if c.misaligned),
        unknown_loops=program.unknown_trips,
    )


def _memory(step: Step, where: Topology, compiled: jax.stages.Compiled) -> Memory:
    planned = compiled.memory_analysis()
    assert planned is not None  # libtpu always plans
    return Memory(
        parameters=step.bytes_per_device(step.state.params),
        optimizer=step.bytes_per_device(step.state.opt_state),
        arguments=planned.argument_size_in_bytes,
        temporaries=max(0, planned.peak_memory_in_bytes - planned.argument_size_in_bytes),
        peak=planned.peak_memory_in_bytes,
        available=where.generation.memory,
    )


def _exchanges(found: tuple[Collective, ...]) -> tuple[Exchange, ...]:
    kinds: dict[str, list[Collective]] = {}
    for each in found:
        kind = "all-reduce for all-gather" if each.gathers else each.kind
        kinds.setdefault(kind, []).append(each)
    return tuple(
        Exchange(
            kind=kind,
            times=sum(c.times for c in each),
            bytes=sum(c.times * c.bytes for c in each),
            sent=round(sum(c.times * c.sent for c in each)),
        )
        for kind, each in sorted(kinds.items())
    )


def _reason(error: str) -> str:
    """How much is missing, from XLA's error, which says so in one of two ways.

    >>> _reason("RESOURCE_EXHAUSTED: the memory required (53.73G) exceeds available HBM (15.75G).")
    'needs 53.73 GiB of 15.75 GiB a chip, 37.98 GiB over'
    """
    found = re.search(r"\(([\d.]+)G\) exceeds available HBM \(([\d.]+)G\)", error)
    found = found or re.search(r"Used ([\d.]+)G of ([\d.]+)G hbm", error)
    if found is None:
        return error.splitlines()[0]
    needed, there = float(found[1]), float(found[2])
    return f"needs {needed:.2f} GiB of {there:.2f} GiB a chip, {needed - there:.2f} GiB over"


def _plan(step: Step, where: Topology, name: str, libtpu: str) -> dict[str, Any]:
    """The fields of `Plan`."""
    return {
        "name": name,
        "stage": step.job.name,
        "topology": where.name,
        "mesh": dict(step.job.mesh.shape),
        "batch_size": step.job.dataset.batch_size,
        "jax": jax.__version__,
        "libtpu": libtpu,
    }


def _host_memory() -> int:
    """The most that this process has held so far; Linux counts it in KiB, macOS in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _does_not_fit(step: Step, where: Topology, name: str, libtpu: str, reason: str) -> DoesNotFit:
    held = size(step.bytes_per_device(step.state))
    return DoesNotFit(
        Refused(**_plan(step, where, name, libtpu), reason=reason),
        f"{step.job.name} does not fit {where.name}: {reason}. Each device holds {held} of "
        f"training state. What helps: {KNOBS}",
    )
