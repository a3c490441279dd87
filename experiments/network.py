"""The model of a recipe as pure functions of its variables, pixels' normalization inside."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments import cuts, language
from experiments.cuts import Cut
from experiments.data.info import IMAGE, TEXT, Modality
from experiments.language import Loads
from slim import paths
from slim.dynamic import ExitPlan, NestedPlan
from slim.graph import Graph, tapped, trace
from slim.models.deepseek import Cache, DeepSeek, Foretold, decode
from slim.models.deepseek.compress import ExpertPlan
from slim.models.language import LanguageModel
from slim.moe.mixture import dropless
from slim.quant import Quantization, restore
from slim.quant.numerics import QTensor

PyTree = Any
Variables = dict[str, PyTree]


class Trainable(Protocol):
    """What the trainer needs of a network."""

    def predict(self, variables: Variables, inputs: jax.Array) -> jax.Array:
        """Logits in evaluation."""

    def train(
        self, variables: Variables, inputs: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Variables]:
        """Logits in training, and the collections that training changes.

        Among these may be `language.SOWN`, which is no part of the variables.
        """

    def train_graph(self) -> Graph:
        """The trace in which the taps of `tapped` have their names, for one example."""

    def tapped(self, names: Iterable[str]) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
        """`(variables, inputs, key) -> (what train gives, {name: value of a tap})`."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A Flax model that takes pixels in [0, 1], or token ids.

    Variables are Flax collections: `params`, and `batch_stats`, or of language `router`, where the
    model has them.

    Attributes:
        module: the model.
        input_shape: of one example: (height, width, channels) or (length,).
        mean: the training pixels' mean per channel; of texts ().
        std: the training pixels' standard deviation per channel.
        storage: the parameters' type.
        modality: what inputs are.
        plans: the cuts that made it smaller than the module says, each of the network that the
            one before it left; see `shrunk`.
        before: the network before the last of them, whose functions are cut by it; None if there
            are none, or only such as make another module.
        language: what the module is made from and trained by, if it is a model of language.
    """

    module: nn.Module
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    storage: Any = jnp.float32
    modality: Modality = IMAGE
    plans: tuple[Cut, ...] = ()
    before: "Network | None" = None
    language: LanguageModel | None = None

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables, at the sizes that the plans left.

        Raises:
            ValueError: the network is quantized, and its integers follow from calibration alone.
        """
        if self.before is None:
            # What is on no mesh takes any number of examples.
            module = self.module if self.language is None else self.language.decoder()
            variables = dict(module.init(key, self._normalize(self.sample()), train=False))
            return variables | {"params": _cast(variables["params"], self.storage)}
        return cuts.apply(self.plans[-1], self.before.init(key), self.before.graph)

    def abstract(self) -> Variables:
        """The variables' shapes and types, at no cost."""
        if self.plans and isinstance(self.plans[-1], Quantization):
            return dict(self.plans[-1].abstract())
        return jax.eval_shape(lambda: self.init(jax.random.key(0)))

    def shrunk(self, plans: Iterable[Cut]) -> "Network":
        """The same network after further cuts; for equal cuts the same object.

        So whatever was traced and compiled of it is there when another stage asks for it.

        Raises:
            ValueError: of experts, of what has none or was cut otherwise before.
        """
        network = self
        for plan in plans:
            key = plan.to_json()
            if key not in network._smaller:
                network._smaller[key] = network._cut(plan)
            network = network._smaller[key]
        return network

    def predict(self, variables: Variables, inputs: jax.Array) -> jax.Array:
        """Logits in evaluation.

        Args:
            variables: as `init` makes them.
            inputs: (batch, *input_shape), as `prepare` gives them.

        Returns:
            (batch, classes) float32; of language (batch, length, classes).
        """
        logits: jax.Array = self._replayed("_predict")(variables, inputs)
        return logits

    @property
    def routes(self) -> bool:
        """Whether it has experts, whose loads `observe` gives."""
        return self.language is not None and self.language.config.sparse_layers > 0

    def observe(self, variables: Variables, inputs: jax.Array) -> tuple[jax.Array, Loads]:
        """What `predict` gives, and how busy experts are; where it `routes`."""
        result: tuple[jax.Array, Loads] = self._replayed("_observe")(variables, inputs)
        return result

    @property
    def foretells(self) -> bool:
        """Whether it is trained without all logits in memory, by `foretell`."""
        made = self.language
        return made is not None and made.vocabulary_parts > 0 and self.before is None

    def foretell(
        self, variables: Variables, inputs: jax.Array, labels: jax.Array
    ) -> tuple[Foretold, Variables]:
        """In training, how well next tokens are told, and the collections that training changes."""
        assert self.language is not None
        return language.foretell(self.language, self.module, _computed(variables), inputs, labels)

    @property
    def alone(self) -> "Network":
        """The same for one device, where the module is laid out over several."""
        if self.language is None or self.before is not None:
            return self
        module = self.language.decoder()
        return self if module == self.module else dataclasses.replace(self, module=module)

    def decode(
        self, variables: Variables, ids: jax.Array, cache: Cache, position: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """What `slim.models.deepseek.decode` gives, of a decoder that was not cut."""
        assert isinstance(self.module, DeepSeek)
        return decode(self.module, _computed(variables), ids, cache, position)

    @property
    def quantized(self) -> bool:
        """Whether its weights are integers."""
        return bool(self.plans) and isinstance(self.plans[-1], Quantization)

    @cached_property
    def quantizable(self) -> "Network":
        """The same with each weight in one product alone, so that its integers are kept once.

        Experts are computed in another way on each platform, which are products of their own.
        """
        if not self.routes or self.before is not None:
            return self
        return dataclasses.replace(self, module=self.module.clone(mix=dropless("padded")))

    def active_parameters(self, params: PyTree) -> int:
        """How many of its parameters one input meets: of experts, those that one token goes to."""
        if self.language is None or not self.routes:
            return count(params)
        return language.active_parameters(params, self.language.config.active)

    def differentiable(self, variables: Variables, inputs: jax.Array) -> jax.Array:
        """Logits as `predict` gives them, to rounding, through which pixels get gradients.

        Those of integers pass straight through the rounding.
        """
        logits: jax.Array = self._replayed("_differentiable")(variables, inputs)
        return logits

    def train(
        self, variables: Variables, inputs: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Variables]:
        """Logits in training, and the collections that training changes (batch statistics)."""
        result: tuple[jax.Array, Variables] = self._replayed("_train")(variables, inputs, key)
        return result

    def exits(self, variables: Variables, inputs: jax.Array) -> tuple[jax.Array, ...]:
        """The logits of each exit in evaluation, the last of which `predict` gives.

        Raises:
            ValueError: it has no exits.
        """
        logits: tuple[jax.Array, ...] = self._exits(variables, inputs)
        return logits

    @property
    def exit_plan(self) -> ExitPlan:
        """Where its exits are.

        Raises:
            ValueError: it has none.
        """
        if not (self.plans and isinstance(self.plans[-1], ExitPlan)):
            raise ValueError("the network has no exits; a stage of kind 'exits' makes them")
        return self.plans[-1]

    @property
    def nested_plan(self) -> NestedPlan:
        """Its variants, whose variables `NestedPlan.narrow` gives.

        Raises:
            ValueError: it has none.
        """
        if not (self.plans and isinstance(self.plans[-1], NestedPlan)):
            raise ValueError("the network has no variants; a stage of kind 'slimmable' makes them")
        return self.plans[-1]

    @property
    def variants(self) -> dict[str, "Network"]:
        """Each of its variants as a network of its own, the widest first.

        Raises:
            ValueError: it has none.
        """
        plan = self.nested_plan
        assert self.before is not None
        return {name: self.before.shrunk(made) for name, made in plan.variants.items()}

    @property
    def padding(self) -> Callable[..., jax.Array] | None:
        """Inputs, and whatever else -> which positions are no padding; None where all are."""
        return (lambda inputs, *others: inputs != 0) if self.modality == TEXT else None

    @cached_property
    def _exits(self) -> Callable[..., tuple[jax.Array, ...]]:
        plan = self.exit_plan
        assert self.before is not None
        return plan.on(self.before.graph(), mask=self.padding)

    def weights(self, variables: Variables) -> PyTree:
        """The parameters, each once, as numbers one may count: of integers the integers."""
        if not (self.plans and isinstance(self.plans[-1], Quantization) and self.before):
            return variables["params"]
        assigned = self.plans[-1].on(self.before.graph())
        whole = restore(assigned, variables)
        kept = paths.flatten(whole.params)
        integers = {}
        for name, entries in whole.sites.items():
            path = next((path for path in assigned[name].site.operands if path), None)
            if isinstance(q := entries.get("weights"), QTensor) and path not in kept:
                integers[path] = q.values
        return whole.params.get("params", {}), integers

    def graph(self) -> Graph:
        """The trace of `predict`, for one example."""
        return trace(self.predict, self.abstract(), self.sample())

    def train_graph(self) -> Graph:
        """The trace of `train`, for one example."""
        return trace(self.train, self.abstract(), self.sample(), jax.random.key(0))

    def tapped(self, names: Iterable[str]) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
        """`train` that also gives the values of `slim.graph.taps` of `train_graph`, by name."""
        return tapped(self.train_graph(), names)

    def tapped_predict(
        self, names: Iterable[str]
    ) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
        """`predict` that also gives the values of `slim.graph.taps` of `graph`, by name."""
        return tapped(self.graph(), names)

    def sample(self, batch: int = 1) -> jax.Array:
        """Zeros, as so many examples are when they come to `predict`."""
        return jnp.zeros((batch, *self.input_shape), self.modality.taken)

    def _cut(self, plan: Cut) -> "Network":
        plans = (*self.plans, plan)
        if isinstance(plan, Quantization):
            return dataclasses.replace(self.quantizable, plans=plans, before=self.quantizable)
        if not isinstance(plan, ExpertPlan):
            return dataclasses.replace(self, plans=plans, before=self)
        if not self.routes or self.before is not None:
            raise ValueError("experts: there are none, or the network was cut otherwise before")
        assert self.language is not None
        fewer = dataclasses.replace(self.language, **plan.sizes)
        module = self.module.clone(config=fewer.config)
        return dataclasses.replace(self, module=module, language=fewer, plans=plans)

    def _replayed(self, name: str) -> Callable[..., Any]:
        """The module's function of that name, cut as the plans say."""
        if self.before is None:
            whole: Callable[..., Any] = getattr(self, name)
            return whole
        if name not in self._programs:
            data = [self.sample()] + ([jax.random.key(0)] if name == "_train" else [])
            traced = trace(self.before._replayed(name), self.before.abstract(), *data)
            self._programs[name] = cuts.replay(
                traced, self.plans[-1], integers=name != "_differentiable"
            )
        return self._programs[name]

    @cached_property
    def _smaller(self) -> dict[str, "Network"]:
        return {}

    @cached_property
    def _programs(self) -> dict[str, Callable[..., Any]]:
        return {}

    def _predict(self, variables: Variables, inputs: jax.Array) -> Any:
        return self.module.apply(_computed(variables), self._normalize(inputs), train=False)

    _differentiable = _predict

    def _observe(self, variables: Variables, inputs: jax.Array) -> tuple[Any, Loads]:
        return language.observe(self.module, _computed(variables), inputs)

    def _train(
        self, variables: Variables, inputs: jax.Array, key: jax.Array
    ) -> tuple[Any, Variables]:
        if self.language is not None:
            return language.train(self.language, self.module, _computed(variables), inputs)
        mutable = [name for name in variables if name != "params"]
        logits, changed = self.module.apply(
            _computed(variables),
            self._normalize(inputs),
            train=True,
            mutable=mutable,
            rngs={"dropout": key},
        )
        return logits, dict(changed)

    def _normalize(self, inputs: jax.Array) -> jax.Array:
        if self.modality != IMAGE:
            return inputs
        return (inputs - jnp.array(self.mean, jnp.float32)) / jnp.array(self.std, jnp.float32)


def prepare(inputs: jax.Array) -> jax.Array:
    """A batch's inputs as a network takes them: bytes as float32 in [0, 1], token ids unchanged."""
    if inputs.dtype != jnp.uint8:
        return inputs
    return inputs.astype(jnp.float32) / 255


def count(tree: PyTree) -> int:
    """Entries of all leaves."""
    return sum(leaf.size for leaf in paths.flatten(tree).values())


def _computed(variables: Variables) -> Variables:
    # Parameters stored in half precision are computed with in float32.
    return variables | {"params": _cast(variables["params"], jnp.float32)}


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
