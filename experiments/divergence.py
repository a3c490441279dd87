"""What is said of a run whose loss or gradient is not finite."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from experiments import mesh as meshes
from experiments import train_step
from experiments.train_step import TrainState
from slim import paths

if TYPE_CHECKING:
    from experiments.train import Job

SHOWN = 5


class Diverged(RuntimeError):
    """A loss, gradient or update is not finite; the message names the step and the parameters."""


def explain(job: "Job", state: TrainState, failed: int) -> Diverged:
    """Runs the failed step's gradient once more, and names what is wrong in it.

    Args:
        job: the run.
        state: as it is now; nothing in it changed since the failed step but its number.
        failed: that step's number.
    """
    batch = job.dataset.batch_at(
        job.seed, failed, process_index=jax.process_index(), process_count=jax.process_count()
    )

    @jax.jit
    def finite(
        state: TrainState, batch: dict[str, jax.Array], constants: Any
    ) -> tuple[jax.Array, Any, Any]:
        grads, found, _ = train_step.gradients(
            job.minimized, job.config, job.augment, state, batch, constants
        )
        moved, _ = train_step.updated(job.optimizer, state, grads)
        return found["loss"], train_step.all_finite(grads), train_step.all_finite(moved)

    before = state._replace(step=jnp.asarray(failed, jnp.int32))
    loss, *checks = finite(before, meshes.put_batch(job.extend(batch), job.mesh), job.constants)
    bad_gradients, bad_params = (
        [path for path, ok in paths.flatten(good).items() if not ok] for good in checks
    )
    bad = bad_gradients or bad_params
    kind = "parameters after the update" if bad_params and not bad_gradients else "gradients"
    sizes = {
        path: float(jnp.abs(leaf.astype(jnp.float32)).max())
        for path, leaf in paths.flatten(state.params).items()
    }
    largest = max(sizes, key=lambda path: sizes[path])
    more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    names = ", ".join(bad[:SHOWN]) + more if bad else "none alone, only the gradients' norm"
    return Diverged(
        f"{job.name}: step {failed}: loss {float(loss):.4g}; {kind} that are not finite: "
        f"{len(bad)} of {len(sizes)} ({names}); the largest parameter is {largest} at "
        f"{sizes[largest]:.3g}. Nothing after that step was kept. Try a lower {job.name}.lr, "
        f"a {job.name}.clip_norm, or {job.name}.on_nan='rollback'"
    )
