"""A network whose quantization is trained: floats that are rounded in every step.

Its variables are the float network's, and the scales: those that are trained as vectors among the
parameters, so that they move, are averaged, sharded and saved with them, and all else of a site in
a collection of its own.
"""

import dataclasses
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import jax

from experiments.network import Network, Variables
from slim import quant
from slim.graph import Graph, tapped, trace
from slim.quant import TRAINED, Assigned, Scales
from slim.quant.stored import Specs, assigned_as

PyTree = Any

SCALES = "scales"
CALIBRATION = "calibration"


@dataclasses.dataclass(frozen=True)
class SimulatedNetwork:
    """What the trainer takes for a network.

    Attributes:
        network: the float network.
        specs: how its sites are rounded.
        trained: how scales get gradients; a name of `slim.quant.TRAINED`.
        frozen: whether it trains the evaluation function: batch statistics, if there are any, stay
            as they are, and nothing is dropped out.
    """

    network: Network
    specs: Specs
    trained: str
    frozen: bool

    def join(self, floats: Variables, scales: Scales) -> Variables:
        """This network's variables from the float network's and the scales."""
        vectors, rest = quant.separate(scales)
        params = {**floats["params"], SCALES: vectors}
        return {**floats, "params": params, CALIBRATION: rest}

    def split(self, variables: Variables) -> tuple[Variables, Scales]:
        """The float network's variables and the scales."""
        params = {name: leaf for name, leaf in variables["params"].items() if name != SCALES}
        floats = {name: tree for name, tree in variables.items() if name != CALIBRATION}
        vectors, rest = variables["params"][SCALES], variables[CALIBRATION]
        return {**floats, "params": params}, quant.join(self.assigned, vectors, rest)

    def predict(self, variables: Variables, inputs: jax.Array) -> jax.Array:
        """Logits in evaluation."""
        floats, scales = self.split(variables)
        logits: jax.Array = self._predict(floats, scales, inputs)
        return logits

    def train(
        self, variables: Variables, inputs: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Variables]:
        """Logits in training, and the collections that training changes."""
        floats, scales = self.split(variables)
        same = {name: tree for name, tree in variables.items() if name != "params"}
        if self.frozen:
            return self._predict(floats, scales, inputs), same
        logits, changed = self._train(floats, scales, inputs, key)
        return logits, {**same, **changed}

    def train_graph(self) -> Graph:
        """The trace, for one example, of what is trained, before it is rounded."""
        return self.network.graph() if self.frozen else self.network.train_graph()

    def tapped(self, names: Iterable[str]) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
        """`train` that also gives the values of taps of `train_graph`, rounded, by name."""
        network, frozen, rounding = self.network, self.frozen, TRAINED[self.trained]
        data = [network.sample()] if frozen else [network.sample(), jax.random.key(0)]
        traced = trace(tapped(self.train_graph(), names), network.abstract(), *data)
        run = quant.simulate(
            traced, assigned_as(traced, self.specs), weights=rounding, data=rounding
        )

        def train(
            variables: Variables, inputs: jax.Array, key: jax.Array
        ) -> tuple[Any, dict[str, jax.Array]]:
            floats, scales = self.split(variables)
            same = {name: tree for name, tree in variables.items() if name != "params"}
            if frozen:
                logits, values = run(floats, scales, inputs)
                return (logits, same), values
            (logits, changed), values = run(floats, scales, inputs, key)
            return (logits, {**same, **changed}), values

        return train

    @cached_property
    def assigned(self) -> dict[str, Assigned]:
        """What the sites of the evaluation function got."""
        return assigned_as(self.network.graph(), self.specs)

    @cached_property
    def _predict(self) -> Any:
        rounding = TRAINED[self.trained]
        return quant.simulate(self.network.graph(), self.assigned, weights=rounding, data=rounding)

    @cached_property
    def _train(self) -> Any:
        rounding, graph = TRAINED[self.trained], self.network.train_graph()
        assigned = assigned_as(graph, self.specs)
        return quant.simulate(graph, assigned, weights=rounding, data=rounding)
