"""The devices of a TPU topology, as libtpu describes them to a machine without any."""

import importlib.util
import math
import os
import re
from dataclasses import dataclass

import jax
from jax.experimental import topologies

from experiments.schema import ConfigError, unknown_name
from slim.measure.roofline import GENERATIONS, Generation

# libtpu would ask Google's metadata service which TPU this machine has, complain, and lock it.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
_NAME = re.compile(r"(\w+):(\d+x\d+(?:x\d+)?)")


@dataclass(frozen=True)
class Topology:
    """A slice of a pod.

    Attributes:
        name: `v5p:8x8x8`.
        generation: of its chips.
        devices: the chips, which can be compiled for.
    """

    name: str
    generation: Generation
    devices: tuple[jax.Device, ...]


def topology(name: str) -> Topology:
    """The topology of that name.

    Raises:
        ConfigError: libtpu is not installed, or there is no such topology, or none as large.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise ConfigError(
            f"--topology={name}: write GENERATION:SHAPE, such as v5e:2x4 or v5p:8x8x8"
        )
    if found[1] not in GENERATIONS:
        raise unknown_name("--topology", found[1], GENERATIONS)
    generation = GENERATIONS[found[1]]
    if found[2].count("x") + 1 != generation.axes:
        raise ConfigError(
            f"--topology={name}: a {found[1]} pod has {generation.axes} axes, as in "
            f"{found[1]}:{'x'.join('4' * generation.axes)}"
        )
    chips = math.prod(int(n) for n in found[2].split("x"))
    if chips > generation.chips:
        raise ConfigError(
            f"--topology={name}: {chips} chips; the largest slice of {found[1]} has "
            f"{generation.chips}: choose at most as many"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            "--topology needs libtpu, which compiles for TPUs without one: "
            f'pip install "jax[tpu]=={jax.__version__}"'
        )
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(
            f"--topology={name}: libtpu knows no such slice: {str(error).splitlines()[0]}"
        ) from None
    return Topology(name, generation, tuple(described.devices))
