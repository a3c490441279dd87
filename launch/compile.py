r"""Compiles the train step of a config for a TPU topology, on this machine, which needs no TPU.

    python launch/compile.py --config=configs/fashion_resnet20.py --topology=v5e:2x4
    python launch/compile.py --config=configs/fashion_resnet20.py --topology=v5p:4x4x4 \
        --mesh=fsdp=16,tensor=4 --config.data.batch_size=4096 --strict --out=runs/compiled
    python launch/compile.py --config=configs/deepseek_v3.py --topology=v5p:8x8x8 \
        --mesh=fsdp=16,expert=32 --strict

take seconds; the last, all of DeepSeek-V3, 4 to 7 minutes on two cores and under 6 GB, and says
that a chip needs 21.7 of its 95 GiB.

Prints, of each device: memory (parameters, optimizer state, activations, peak), what devices send
each other, FLOPs, and the least time of a step by the peaks of the chips. `--out` writes the same
as compiled.json and compiled.md, beside what is there of other topologies and meshes, and says of
a plan that does not fit that it does not. The step is the one that `experiments.main` would run
there.

Needs libtpu: pip install "jax[tpu]" (near 650 MB).

Exit codes: 0 it fits; 2 the config or the flags are wrong, or libtpu is missing; 5 it does not fit
a chip's memory; 6 with `--strict`, a gather became a sum of all devices.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

# A host with TPUs of its own compiles for the topology all the same.
os.environ["JAX_PLATFORMS"] = "cpu"
# Run as a file, Python looks for modules beside it; the project is one above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import app, flags
from absl import logging as absl_logging

from experiments import command, recipe
from experiments.compiled import report, step, table
from experiments.compiled.topology import topology
from experiments.mesh import AXES
from experiments.schema import ConfigError, unknown_name

DOES_NOT_FIT = 5
MISALIGNED = 6

_TOPOLOGY = flags.DEFINE_string("topology", None, "The slice: v5e:2x4, v5p:8x8x8, v6e:16x16.")
_MESH = flags.DEFINE_list("mesh", [], "Other axes of the mesh: fsdp=16,expert=32.")
_STAGE = flags.DEFINE_string("stage", None, "Whose step; the first that trains by default.")
_OUT = flags.DEFINE_string("out", None, "Where compiled.json and compiled.md go or are.")
_STRICT = flags.DEFINE_bool("strict", False, "Fail where shards do not fill tiles.")


def main(argv: Sequence[str]) -> None:
    """Runs what the flags say; what goes wrong becomes one line and an exit code."""
    try:
        made = _report(argv)
    except ConfigError as error:
        _end(f"error: {error}", command.WRONG)
    except report.DoesNotFit as error:
        _write(error.plan)
        _end(f"error: {error}", DOES_NOT_FIT)
    print(table.table(made))
    _write(made)
    if _STRICT.value and made.misaligned:
        _end(
            f"error: --strict: gathers that became sums of all devices: {len(made.misaligned)}",
            MISALIGNED,
        )


def _report(argv: Sequence[str]) -> report.CompiledReport:
    if len(argv) > 1:
        raise ConfigError(f"{argv[1]!r} is not a flag: write --name=value")
    if _TOPOLOGY.value is None:
        raise ConfigError("--topology is missing: such as v5e:2x4")
    absl_logging.set_verbosity(absl_logging.WARNING)
    values = recipe.overridden(command.config(), _mesh())
    where = topology(_TOPOLOGY.value)
    made = recipe.resolve(values, len(where.devices))
    planned = step.make(made, step.find_stage(made, _STAGE.value), where.devices)
    return report.compile_report(planned, where, made.settings.name, version("libtpu"))


def _write(made: report.CompiledReport | report.Refused) -> None:
    if _OUT.value is not None:
        table.add(made, Path(_OUT.value))


def _mesh() -> dict[str, int]:
    """The axes of --mesh as fields of the config."""
    changed = {}
    for part in _MESH.value:
        name, _, value = part.partition("=")
        if name not in AXES:
            raise unknown_name("--mesh", name, AXES)
        if not value.isdigit():
            raise ConfigError(f"--mesh: {part!r}: write AXIS=SIZE, such as fsdp=16")
        changed[f"mesh.{name}"] = int(value)
    return changed


def _end(line: str, code: int) -> None:
    print(line, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    app.run(main, flags_parser=command.parse)
