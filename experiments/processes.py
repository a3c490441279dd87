"""What the processes of one run must agree on; one process alone agrees with itself."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def from_first(number: int) -> int:
    """The `number` of process 0, in every process."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in at least one process."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def wait_for_all(what: str) -> None:
    """A barrier, so that no process sees a half of what another writes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
