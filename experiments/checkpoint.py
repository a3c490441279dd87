"""Checkpoints of a training run: asynchronous, verified, and never the last good one lost.

A checkpoint is a folder named by its step. When it is complete, a seal with the size and checksum
of each of its files is written beside it; on restoring, a folder that does not match its seal, or
cannot be read, is set aside as `broken-STEP`, and the one before it is taken.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from experiments import processes, seal

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
    better; None is never best). All processes of a run call the same methods in the same order.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        """Opens `directory`, made where it is missing; it holds nothing but checkpoints."""
        self._directory = directory.absolute()
        self._keep = keep
        self._unsealed: int | None = None
        self._opened: ocp.CheckpointManager | None = None
        self._writes = jax.process_index() == 0

    def save(self, step: int, state: PyTree, progress: dict[str, Any]) -> None:
        """Starts to write a checkpoint and returns; the one before it is finished by then.

        Raises:
            OSError: this or an earlier checkpoint could not be written (a full disk).
        """
        self.wait()
        with os_errors(self._directory):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
                ),
                metrics={"score": progress.get("score")},
                force=True,
            )
        self._unsealed = step

    def settle(self) -> None:
        """Seals the checkpoint that is being written if it is complete by now.

        Raises:
            OSError: it could not be written.
        """
        if self._unsealed is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Waits until all that was saved is complete and sealed.

        Raises:
            OSError: it could not be written.
        """
        if self._opened is None:
            return
        step, self._unsealed = self._unsealed, None
        with os_errors(self._directory):
            self._opened.wait_until_finished()
        if self._writes and step is not None and self._folder(step).exists():
            seal.write(self._folder(step))
            seal.clean(self._directory)

    def restore(self, abstract: PyTree) -> Restored | None:
        """The newest checkpoint that is whole; None if there is none.

        Args:
            abstract: the state as `jax.ShapeDtypeStruct`s with shardings.
        """
        self.close()
        while (step := processes.from_first(self._newest())) >= 0:
            found, problem = self._read(step, abstract)
            if found is not None:
                return found
            self.close()
            self._set_aside(step, problem)
        return None

    def restore_best(self, step: int, abstract: PyTree) -> Restored | None:
        """The checkpoint of the best step.

        None if it is damaged; it and all after it are then set aside, so that training can go on
        from before it and make it again.
        """
        self.wait()
        problem = None
        if self._writes:
            missing = not self._folder(step).exists()
            problem = "it is missing" if missing else seal.damage(self._folder(step))
        if not processes.anywhere(problem is not None):
            return self._load(step, abstract)
        self.close()
        if self._writes:
            for later in sorted(s for s in _steps(self._directory) if s >= step):
                self._set_aside(later, f"{step}, the best, is: {problem}")
        return None

    def close(self) -> None:
        """Finishes what is being written."""
        self.wait()
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        try:
            self.close()
        except OSError as second:
            if kind is None:
                raise
            LOG.error("%s", second)  # what went wrong first is what ends the run

    def _newest(self) -> int:
        """The newest step whose seal is whole, -1 if there is none; damaged ones are set aside."""
        for step in sorted(_steps(self._directory), reverse=True) if self._writes else ():
            problem = seal.damage(self._folder(step))
            if problem is None:
                return step
            self._set_aside(step, problem)
        return -1

    def _read(self, step: int, abstract: PyTree) -> tuple[Restored | None, str]:
        """A checkpoint that all processes can read, or why they cannot."""
        found, problem = None, "another process cannot read it"
        try:
            found = self._load(step, abstract)
        except Exception as error:  # whatever a library raises on unreadable files
            problem = f"{type(error).__name__}: {error}"
        return (None if processes.anywhere(found is None) else found), problem

    def _load(self, step: int, abstract: PyTree) -> Restored:
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
            ),
        )
        return Restored(step, items["state"], dict(items["progress"]))

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
                preservation_policy=policy,
                best_fn=_score,
                create=True,
                # Else a folder that cannot be made leaves threads that wait for it for minutes.
                async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
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
        if self._writes and self._folder(step).exists():
            aside = self._directory / f"broken-{step}"
            shutil.rmtree(aside, ignore_errors=True)
            self._folder(step).rename(aside)


@contextmanager
def os_errors(directory: Path) -> Iterator[None]:
    """Whatever Orbax raises when it cannot write to `directory`, as an `OSError`."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"a checkpoint in {directory} could not be written: {error}") from error


def _score(metrics: dict[str, Any]) -> float:
    score = metrics["score"]
    return float("-inf") if score is None else score


def _steps(directory: Path) -> list[int]:
    if not directory.exists():
        return []
    return [int(entry.name) for entry in directory.iterdir() if entry.name.isdigit()]
