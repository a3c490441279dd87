"""Checkpoints of a training run: asynchronous, verified, and never the last good one lost.

A checkpoint is a folder named by its step. When it is complete, a seal with the size and checksum
of each of its files is written beside it; on restoring, a folder that does not match its seal, or
cannot be read, is set aside as `broken-STEP`, and the one before it is taken.
"""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from experiments import seal

PyTree = Any

LOG = logging.getLogger("slim")


class Restored(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        step: updates done.
        state: the training state, placed as the abstract state said.
        progress: what is not an array: the data iterator's state, the chronometer, the best score.
    """

    step: int
    state: PyTree
    progress: dict[str, Any]


class Checkpointer:
    """Saves and restores a training state in a directory.

    Keeps the last `keep` checkpoints and the best one, by the `score` in its progress (higher is
    better; None, where nothing was evaluated, is never best).
    """

    def __init__(self, directory: Path, keep: int) -> None:
        """Opens `directory`, made where it is missing; it holds nothing but checkpoints."""
        self._directory = directory.absolute()
        self._keep = keep
        self._unsealed: list[int] = []
        self._opened: ocp.CheckpointManager | None = None
        self._writes = jax.process_index() == 0

    def save(self, step: int, state: PyTree, progress: dict[str, Any]) -> None:
        """Starts to write a checkpoint and returns; the one before it is finished by then.

        Raises:
            OSError: an earlier checkpoint could not be written (a full disk).
        """
        self.wait()
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
            ),
            metrics={"score": progress.get("score")},
            force=True,
        )
        self._unsealed.append(step)

    def wait(self) -> None:
        """Waits until all that was saved is complete and sealed.

        Raises:
            OSError: it could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._unsealed.clear()
            raise _as_os_error(error, self._directory) from error
        for step in self._unsealed:
            if self._writes and self._folder(step).exists():
                seal.write(self._folder(step))
        self._unsealed.clear()
        if self._writes:
            seal.clean(self._directory)

    def restore(self, abstract: PyTree) -> Restored | None:
        """The newest checkpoint that is whole; None if there is none.

        Args:
            abstract: the state as `jax.ShapeDtypeStruct`s with shardings.
        """
        for step in sorted(_steps(self._directory), reverse=True):
            problem = seal.damage(self._folder(step))
            if problem is None:
                try:
                    return self.restore_step(step, abstract)
                except Exception as error:  # whatever a library raises on unreadable files
                    problem = f"{type(error).__name__}: {error}"
            self._set_aside(step, problem)
        return None

    def restore_step(self, step: int, abstract: PyTree) -> Restored:
        """The checkpoint of one step."""
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
            ),
        )
        return Restored(step, found["state"], dict(found["progress"]))

    def best_step(self) -> int | None:
        """The step with the highest score; None where none has a score."""
        return self._manager.best_step()

    def close(self) -> None:
        """Finishes what is being written."""
        self.wait()
        self._manager.close()

    @property
    def _manager(self) -> ocp.CheckpointManager:
        # Made when first needed: it lists the folder, which must be after broken ones are aside.
        if self._opened is None:
            policy = checkpoint_managers.AnyPreservationPolicy(
                [
                    checkpoint_managers.LatestN(self._keep),
                    checkpoint_managers.BestN(
                        get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False
                    ),
                ]
            )
            options = ocp.CheckpointManagerOptions(
                preservation_policy=policy, best_fn=_score, create=True
            )
            self._opened = ocp.CheckpointManager(self._directory, options=options)
        return self._opened

    def _folder(self, step: int) -> Path:
        return self._directory / str(step)

    def _set_aside(self, step: int, problem: str) -> None:
        LOG.error(
            "checkpoint %d is damaged (%s); set aside as broken-%d, going back to the one before",
            step,
            problem,
            step,
        )
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        if self._writes:
            self._folder(step).rename(self._directory / f"broken-{step}")


def _score(metrics: dict[str, Any]) -> float:
    score = metrics["score"]
    return float("-inf") if score is None else score


def _steps(directory: Path) -> list[int]:
    if not directory.exists():
        return []
    return [int(entry.name) for entry in directory.iterdir() if entry.name.isdigit()]


def _as_os_error(error: Exception, directory: Path) -> OSError:
    if isinstance(error, OSError):
        return error
    return OSError(f"a checkpoint in {directory} could not be written: {error}")
