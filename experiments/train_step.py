"""One step of training as a pure function of the training state and a batch."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from pydantic import Field

from experiments.language import ROUTER, SOWN, Sown
from experiments.network import Network, Trainable, Variables, prepare
from experiments.optimizers import OptimizerConfig
from experiments.precision import LossScale, cast
from slim.measure import classification

PyTree = Any
Metrics = dict[str, Any]
Augment = Callable[[jax.Array, jax.Array], jax.Array]
Rows = dict[str, PyTree]
"""A batch as a network takes it: `input`, augmented, `label`, and whatever else there is a row of
for each example."""


class StepConfig(OptimizerConfig):
    """What one update does, beside the optimizer.

    Attributes:
        label_smoothing: share of the target spread evenly over all classes.
        ema: decay of the average of the weights that is evaluated and handed on; 0: none.
        accumulate: the gradient is averaged over so many parts of a batch, one after the other.
        anneal_biases: whether the step of routers' biases falls from `model.bias_rate` as the
            learning rate falls from `lr`; otherwise it is the same to the end.
    """

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    accumulate: Annotated[int, Field(ge=1)] = 1
    anneal_biases: bool = False


class TrainState(NamedTuple):
    """Everything that training changes.

    Attributes:
        step: updates done, int32.
        params: the parameters, in the precision's storage type.
        collections: the model's other collections, such as `batch_stats`.
        opt_state: the optimizer's state; float32.
        average: moving averages of `params` and `collections`, float32; empty without EMA.
        loss_scale: for float16.
        key: the random key's data; step i uses `fold_in(key, i)`.
        failed: the first step whose loss or gradient was not finite, from which on nothing
            changes; -1 while all is well.
    """

    step: jax.Array
    params: PyTree
    collections: Variables
    opt_state: optax.OptState
    average: Variables
    loss_scale: LossScale
    key: jax.Array
    failed: jax.Array


class Losses(NamedTuple):
    """What an objective gives.

    Attributes:
        total: the loss that is trained, a mean over the rows; what layers sow is added to it.
        logits: of the network that is trained; None where there are never all of them.
        collections: those that training changes, as they are after it, and what layers sow.
        parts: what `total` is put together from, for the log.
        right: whether a label has the largest logit; None where it is read from the logits.
    """

    total: jax.Array
    logits: jax.Array | None
    collections: Variables
    parts: dict[str, jax.Array]
    right: jax.Array | None = None


class Objective(Protocol):
    """What is minimized."""

    def __call__(
        self, variables: Variables, rows: Rows, key: jax.Array, step: jax.Array, constants: PyTree
    ) -> Losses:
        """The losses of some rows.

        Args:
            variables: of the network.
            rows: the examples.
            key: for dropout.
            step: updates done.
            constants: arrays that no step changes, such as a teacher's variables.
        """


def supervised(network: Trainable, label_smoothing: float) -> Objective:
    """The mean cross-entropy with the labels, of language with the next tokens."""

    def objective(
        variables: Variables, rows: Rows, key: jax.Array, step: jax.Array, constants: PyTree
    ) -> Losses:
        del step, constants
        logits, changed = network.train(variables, rows["input"], key)
        total = cross_entropy(logits, rows["label"], label_smoothing)
        return Losses(total, logits, changed, {"next": total} if SOWN in changed else {})

    return objective


def foretelling(network: Network) -> Objective:
    """The same of language, without all logits in memory; see `Network.foretells`."""

    def objective(
        variables: Variables, rows: Rows, key: jax.Array, step: jax.Array, constants: PyTree
    ) -> Losses:
        del key, step, constants
        found, changed = network.foretell(variables, rows["input"], rows["label"])
        total = found.loss.mean()
        return Losses(total, None, changed, {"next": total}, found.right)

    return objective


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """The mean over all labels, in nats; `smoothing` of the target is spread over all classes.

    Args:
        logits: (batch, classes), or of language (batch, length, classes).
        labels: (batch,), or (batch, length).
        smoothing: the share.
    """
    if labels.ndim > 1 and not smoothing:  # a vocabulary is too wide to be written out
        return classification.cross_entropy(logits, labels).mean()
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(one_hot, smoothing)).mean()


def start(
    variables: Variables,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    initial_scale: float,
    ema: bool,
) -> TrainState:
    """The state before the first step."""
    collections = {name: tree for name, tree in variables.items() if name != "params"}
    return TrainState(
        step=jnp.int32(0),
        params=variables["params"],
        collections=collections,
        opt_state=optimizer.init(cast(variables["params"], jnp.float32)),
        # A copy, because the state is donated leaf by leaf.
        average=jax.tree.map(jnp.copy, cast(dict(variables), jnp.float32)) if ema else {},
        loss_scale=LossScale.start(initial_scale),
        key=jax.random.key_data(jax.random.key(seed)),
        failed=jnp.int32(-1),
    )


def result(state: TrainState) -> Variables:
    """The variables to evaluate and hand on: the averages where there are some."""
    variables = {"params": state.params, **state.collections}
    if not state.average:
        return variables
    return jax.tree.map(lambda mean, leaf: mean.astype(leaf.dtype), state.average, variables)


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    rate: optax.Schedule,
    config: StepConfig,
    augment: Augment,
    *,
    give_gradients: bool,
    bias_share: optax.Schedule | None = None,
) -> Callable[[TrainState, Rows, PyTree], tuple[TrainState, Metrics]]:
    """The function (state, batch, constants) -> (state, metrics), to be jitted, the state donated.

    The metrics are scalars; with `give_gradients` also the gradients, under that name. Routers'
    biases move by `bias_share` of their step; None: by all of it.

    A step whose gradients or new parameters are not finite changes no parameter. If a smaller loss
    scale can help it does only that; otherwise `failed` is set, and no later step changes anything.
    """

    def step(state: TrainState, batch: Rows, constants: PyTree = ()) -> tuple[TrainState, Metrics]:
        grads, found, collections = gradients(objective, config, augment, state, batch, constants)
        if bias_share is not None:
            share = jnp.asarray(bias_share(state.step), jnp.float32)
            collections = _annealed(state.collections, collections, share)
        loss = found["loss"]
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(loss)
        stored, opt_state = updated(optimizer, state, grads)
        sound = jax.tree.reduce(jnp.logical_and, all_finite(stored), finite)
        scalable = ~finite & (state.loss_scale.scale > 1)
        failed = jnp.where((state.failed < 0) & ~sound & ~scalable, state.step, state.failed)
        moved = state._replace(
            params=stored,
            collections=collections,
            opt_state=opt_state,
            average=_average(config.ema, state, {"params": stored, **collections}),
        )
        kept = jax.tree.map(
            lambda new, old: jnp.where(sound & (failed < 0), new, old), moved, state
        )
        new_state = kept._replace(
            step=state.step + 1, loss_scale=state.loss_scale.after(finite), failed=failed
        )
        metrics = {
            **found,
            "gradient_norm": norm,
            "learning_rate": jnp.asarray(rate(state.step), jnp.float32),
            "loss_scale": state.loss_scale.scale,
            "failed": failed,
        }
        if give_gradients:
            metrics["gradients"] = grads
        return new_state, metrics

    return step


def updated(
    optimizer: optax.GradientTransformation, state: TrainState, grads: PyTree
) -> tuple[PyTree, optax.OptState]:
    """The parameters after one update, as they are stored, and the optimizer's new state."""
    params = cast(state.params, jnp.float32)
    updates, opt_state = optimizer.update(grads, state.opt_state, params)
    moved = optax.apply_updates(params, updates)
    return jax.tree.map(lambda new, old: new.astype(old.dtype), moved, state.params), opt_state


def all_finite(tree: PyTree) -> PyTree:
    """Whether all numbers of a leaf are finite, for each leaf."""
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree)


def gradients(
    objective: Objective,
    config: StepConfig,
    augment: Augment,
    state: TrainState,
    batch: Rows,
    constants: PyTree,
) -> tuple[PyTree, Metrics, Variables]:
    """Float32 gradients; loss, its parts and accuracy; and new collections of one batch.

    With `accumulate` = k, part i holds the rows i, i + k, i + 2k ...: every device's rows are
    shared among all parts, so that none has to move.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    augment_key, dropout_key = jax.random.split(key)
    rows = {**batch, "input": augment(augment_key, prepare(batch["input"]))}
    scale = state.loss_scale.scale

    def scaled(
        params: PyTree, collections: Variables, rows: Rows, key: jax.Array
    ) -> tuple[jax.Array, tuple[Metrics, Variables]]:
        losses = objective({"params": params, **collections}, rows, key, state.step, constants)
        changed = dict(losses.collections)
        sown: Sown = changed.pop(SOWN, Sown({}, {}))
        total = sum(sown.losses.values(), losses.total)
        right = losses.right
        if right is None:
            assert losses.logits is not None
            right = losses.logits.argmax(-1) == rows["label"]
        parts = {f"loss/{name}": value for name, value in (losses.parts | sown.losses).items()}
        top1 = right.astype(jnp.float32).mean()
        return total * scale, ({"loss": total, "top1": top1, **parts, **sown.metrics}, changed)

    def part(
        collections: Variables, piece: tuple[Rows, jax.Array]
    ) -> tuple[Variables, tuple[PyTree, Metrics]]:
        grads, (found, changed) = jax.grad(scaled, has_aux=True)(state.params, collections, *piece)
        grads = jax.tree.map(lambda g: g.astype(jnp.float32) / scale, grads)
        return changed, (grads, found)

    if config.accumulate == 1:
        collections, (grads, found) = part(state.collections, (rows, dropout_key))
        return grads, found, collections
    pieces = (
        jax.tree.map(lambda values: _parts(values, config.accumulate), rows),
        jax.random.split(dropout_key, config.accumulate),
    )
    # Unrolled: inside a loop XLA's CPU compiler leaves convolutions' gradients 20 times slower
    # (https://github.com/jax-ml/jax/issues/12868).
    collections, stacked = jax.lax.scan(part, state.collections, pieces, unroll=True)
    grads, found = jax.tree.map(lambda x: x.mean(axis=0), stacked)
    return grads, found, collections


def _parts(rows: jax.Array, count: int) -> jax.Array:
    return rows.reshape(rows.shape[0] // count, count, *rows.shape[1:]).swapaxes(0, 1)


def _annealed(old: Variables, new: Variables, share: jax.Array) -> Variables:
    """The collections, routers' biases moved by a share only of what they were moved."""
    if ROUTER not in new:
        return new

    def moved(old: jax.Array, new: jax.Array) -> jax.Array:
        # What merged experts became is an integer, and never changes.
        return old + share * (new - old) if jnp.issubdtype(new.dtype, jnp.floating) else new

    return {**new, ROUTER: jax.tree.map(moved, old[ROUTER], new[ROUTER])}


def _average(decay: float, state: TrainState, new: Variables) -> Variables:
    """Moves the averages towards `new`, faster in the first steps: decay min(d, (1+t)/(10+t)).

    Integers (zero points) are taken as they are.
    """
    if not state.average:
        return {}
    t = state.step.astype(jnp.float32)
    weight = 1 - jnp.minimum(decay, (1 + t) / (10 + t))

    def moved(old: jax.Array, fresh: jax.Array) -> jax.Array:
        if not jnp.issubdtype(old.dtype, jnp.floating):
            return fresh
        return old + weight * (fresh.astype(old.dtype) - old)

    return jax.tree.map(moved, state.average, new)
