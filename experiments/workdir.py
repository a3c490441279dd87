"""A run's directory: one process group at a time, and the results of stages by key.

stages/NAME-KEY/model/        the model that the stage gave
stages/NAME-KEY/result.json   written last: the stage is done
stages/NAME-KEY/checkpoints/  of its training
"""

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from experiments import cuts, processes, seal
from experiments.checkpoint import os_errors
from experiments.measure import Measures
from experiments.network import Network
from experiments.stages.stage import Model, Result

PyTree = Any

LOG = logging.getLogger("slim")


class Busy(RuntimeError):
    """Another process runs in this directory."""


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the directory for this run; the operating system lets go when the process ends.

    Raises:
        Busy: another process holds it.
    """
    if jax.process_index() != 0:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise Busy(
                f"{workdir} is in use by process {file.read().strip() or 'unknown'}; wait for it, "
                "stop it, or choose another --workdir"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


class Finished:
    """A stage's result on disk."""

    def __init__(self, directory: Path) -> None:
        """Of the stage that keeps its files in `directory`, whether it is done or not."""
        self.directory = directory
        self._record = directory / "result.json"
        self._model = directory.absolute() / "model"

    def exists(self) -> bool:
        """Whether the stage is done and its result undamaged; the same answer in every process.

        A damaged result is removed, loudly; the checkpoints of its training stay, so that it is
        soon made again.
        """
        return bool(processes.from_first(jax.process_index() == 0 and self._whole()))

    def _whole(self) -> bool:
        if not self._record.exists():
            return False
        damage = self._damage()
        if damage is None:
            return True
        LOG.error("the result in %s is damaged (%s): made anew", self.directory, damage)
        self._record.unlink()
        shutil.rmtree(self._model, ignore_errors=True)
        return False

    def _damage(self) -> str | None:
        try:
            has_model = self.has_model()
        except (ValueError, KeyError):
            return f"{self._record.name} cannot be read"
        if has_model and not self._model.exists():
            return "its model is missing"
        return seal.damage(self._model)

    def write(self, result: Result, seconds: float) -> None:
        """Stores a result; it appears at once or not at all."""
        if result.model is not None:
            tree = {"variables": result.model.variables}
            if result.model.masks is not None:
                tree["masks"] = result.model.masks
            handler = ocp.StandardCheckpointHandler()
            with os_errors(self.directory), ocp.Checkpointer(handler) as checkpointer:
                checkpointer.save(self._model, args=ocp.args.StandardSave(tree), force=True)
        if jax.process_index() != 0:
            return
        if result.model is not None:
            seal.write(self._model)
        record = {
            "seconds": round(seconds, 3),
            "model": result.model is not None,
            "masks": result.model is not None and result.model.masks is not None,
            "plans": [plan.to_json() for plan in result.model.plans] if result.model else [],
            "measures": [row.model_dump(mode="json") for row in result.measures],
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        temporary = self._record.with_suffix(".tmp")
        temporary.write_text(json.dumps(record, indent=1))
        temporary.replace(self._record)

    def seconds(self) -> float:
        """How long the stage took."""
        return float(self._read()["seconds"])

    def has_model(self) -> bool:
        """Whether it gave a model."""
        return bool(self._read()["model"])

    def measures(self) -> tuple[Measures, ...]:
        """The rows it measured."""
        return tuple(Measures.model_validate(row) for row in self._read()["measures"])

    def plans(self) -> tuple[cuts.Cut, ...]:
        """What made the model's network of the recipe's."""
        return tuple(cuts.from_json(text) for text in self._read()["plans"])

    def model(self, network: Network, sharding: jax.sharding.Sharding) -> Model:
        """The model it gave, placed as `sharding` says."""

        def place(leaf: Any, dtype: Any = None) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=sharding)

        record = self._read()
        plans = self.plans()
        variables = network.shrunk(plans).abstract()
        target = {"variables": jax.tree.map(place, variables)}
        if record["masks"]:
            target["masks"] = jax.tree.map(lambda p: place(p, jnp.bool_), variables["params"])
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore(self._model, target)
        return Model(tree["variables"], tree.get("masks"), plans)

    def _read(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self._record.read_text())
        return record
