"""What makes a CPU train step faster: XLA flags, threads, layouts, convolutions, dispatches, cache.

`python -m experiments.bench.cpu` (about six minutes on two quiet cores) trains ResNet-20 on one
batch of 128 images of 28x28x1 held in memory. Every variant is its own process, because XLA reads
its flags once, and is timed in turn with a process of JAX's defaults. Its loss must be the
default's.

Two things to read the table by. "default again" is the noise. And a convolution's gradient inside
a loop (`lax.scan`, `fori_loop`) falls to XLA's naive code on CPU, because only the entry
computation's convolutions are brought to the form that the fast kernels take (jax#12868): there,
loops around a gradient must be unrolled.
"""

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from experiments.bench.record import Row, record
from experiments.timing import in_turn
from slim.models.resnet import CifarResNet

BATCH = 128
STEPS = 4  # a turn, and what the variants of several steps a dispatch put into one
STARTS = 3
PyTree = Any


def im2col(x: jax.Array, kernel: jax.Array, stride: int, pad: int) -> jax.Array:
    """The windows side by side in the channels, times the kernel as one matrix."""
    shifted = jnp.concatenate(_windows(x, kernel.shape[0], stride, pad), axis=-1)
    return shifted @ kernel.reshape(-1, kernel.shape[-1])


def shifted_matmuls(x: jax.Array, kernel: jax.Array, stride: int, pad: int) -> jax.Array:
    """A sum of one matrix product for each place of the kernel."""
    places = kernel.reshape(-1, *kernel.shape[2:])
    windows = _windows(x, kernel.shape[0], stride, pad)
    products = [window @ place for window, place in zip(windows, places, strict=True)]
    return sum(products[1:], start=products[0])


def channels_first(x: jax.Array, kernel: jax.Array, stride: int, pad: int) -> jax.Array:
    """The convolution of `(batch, channels, height, width)`, transposed on both sides."""
    y = lax.conv_general_dilated(
        x.transpose(0, 3, 1, 2),
        kernel.transpose(3, 2, 0, 1),
        (stride, stride),
        [(pad, pad)] * 2,
    )
    return y.transpose(0, 2, 3, 1)


def _windows(x: jax.Array, size: int, stride: int, pad: int) -> list[jax.Array]:
    """For each place of the kernel, the `(batch, height, width, channels)` input that it meets."""
    out = [(length + 2 * pad - size) // stride + 1 for length in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    ends = [stride * (length - 1) + 1 for length in out]
    return [
        x[:, i : i + ends[0] : stride, j : j + ends[1] : stride]
        for i in range(size)
        for j in range(size)
    ]


@dataclass(frozen=True)
class Variant:
    """One way to run the train step.

    Attributes:
        flags: XLA_FLAGS of its process.
        threads: how many cores its process may use; None for all.
        dtype: of activations.
        convolve: what computes each convolution, from input, kernel, stride and padding; None for
            XLA's own.
        unroll: None for a dispatch a step; else all steps of a turn are one `lax.scan` of this
            `unroll`: 1 is a loop, True none.
        rounds: of timing; less for the slowest.
    """

    flags: str = ""
    threads: int | None = None
    dtype: str = "float32"
    convolve: Callable[[jax.Array, jax.Array, int, int], jax.Array] | None = None
    unroll: int | bool | None = None
    rounds: int = 5


DEFAULT = "default"
VARIANTS: dict[str, Variant] = {
    DEFAULT: Variant(),
    "default again": Variant(),
    "oneDNN": Variant("--xla_cpu_use_onednn=true"),
    "no YNNPACK": Variant("--xla_cpu_experimental_ynn_fusion_type="),
    "YNNPACK convolutions": Variant(
        "--xla_cpu_experimental_ynn_fusion_type=+individual_convolution"
    ),
    "fast math": Variant("--xla_cpu_enable_fast_math=true"),
    "512-bit vectors": Variant("--xla_cpu_prefer_vector_width=512"),
    "concurrent schedule": Variant("--xla_cpu_enable_concurrency_optimized_scheduler=true"),
    "Eigen on one thread": Variant("--xla_cpu_multi_thread_eigen=false"),
    "one core": Variant(threads=1),
    "bfloat16": Variant(dtype="bfloat16"),
    "channels first": Variant(convolve=channels_first),
    "im2col": Variant(convolve=im2col),
    "shifted matmuls": Variant(convolve=shifted_matmuls),
    "four steps a dispatch, unrolled": Variant(unroll=True),
    "four steps a dispatch, a loop": Variant(unroll=1, rounds=1),
}


def train(variant: Variant) -> Iterator[dict[str, Any]]:
    """Each next trains a turn of STEPS steps; yields its last loss and a hash of the parameters."""
    model = CifarResNet(depth=20, num_classes=10, dtype=jnp.dtype(variant.dtype))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((BATCH, 28, 28, 1), np.float32))
    labels = jnp.asarray(rng.integers(0, 10, BATCH), jnp.int32)
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images)
    optimizer = optax.sgd(0.01, momentum=0.9)
    state = (variables, optimizer.init(variables["params"]))

    def step(state: PyTree, batch: tuple[jax.Array, jax.Array]) -> tuple[PyTree, jax.Array]:
        variables, slots = state

        def loss_fn(params: PyTree) -> tuple[jax.Array, PyTree]:
            with _convolutions(variant):
                logits, changed = model.apply(
                    variables | {"params": params}, batch[0], train=True, mutable=["batch_stats"]
                )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
            return losses.mean(), changed

        (loss, changed), grads = jax.value_and_grad(loss_fn, has_aux=True)(variables["params"])
        updates, slots = optimizer.update(grads, slots)
        params = optax.apply_updates(variables["params"], updates)
        return ({"params": params, **changed}, slots), loss

    def steps(state: PyTree, batch: tuple[jax.Array, jax.Array]) -> tuple[PyTree, jax.Array]:
        same = jax.tree.map(lambda rows: jnp.broadcast_to(rows, (STEPS, *rows.shape)), batch)
        state, losses = lax.scan(step, state, same, unroll=variant.unroll or 1)
        return state, losses[-1]

    several = variant.unroll is not None
    run = jax.jit(steps if several else step, donate_argnums=0)
    while True:
        for _ in range(1 if several else STEPS):
            state, loss = run(state, (images, labels))
        loss = float(loss)
        bits = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))
        yield {"loss": loss, "hash": hashlib.sha256(bits).hexdigest()}


@contextlib.contextmanager
def _convolutions(variant: Variant) -> Iterator[None]:
    """Within it, Flax's convolutions are computed by `variant.convolve`."""
    convolve = variant.convolve
    if convolve is None:
        yield
        return

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if isinstance(layer, nn.Conv) and context.method_name == "__call__":
            kernel: jax.Array = layer.get_variable("params", "kernel")
            stride, pad = layer.strides, layer.padding
            assert isinstance(stride, int)
            assert isinstance(pad, int)
            return convolve(args[0], kernel, stride, pad)
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield


class Process:
    """A variant in its own process, which trains one turn for each call.

    Attributes:
        start_s: seconds from before the process to the end of its first turn.
        first: what its first turn gave.
    """

    def __init__(self, name: str, cache: str = "") -> None:
        begin = perf_counter()
        environ = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": VARIANTS[name].flags,
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.bench.cpu", f"--variant={name}"],
            env=os.environ | environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._name = name
        self.first = self()
        self.start_s = perf_counter() - begin

    def __call__(self) -> dict[str, Any]:
        """Trains a turn, and waits for it.

        Raises:
            RuntimeError: the process has ended; it has said why.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"variant {self._name!r} ended with code {self._process.wait()}")
        return json.loads(answer)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def speed(name: str, default: Process) -> Row:
    """Samples a second of a variant beside the default's.

    Raises:
        RuntimeError: its loss is not the default's.
    """
    with Process(name) as process:
        ours, theirs = process.first["loss"], default.first["loss"]
        if abs(ours - theirs) > 0.02 * theirs:
            raise RuntimeError(f"{name}: loss {ours} after {STEPS} steps, {theirs} by default")
        rounds = VARIANTS[name].rounds
        times = in_turn({DEFAULT: default, name: process}, warmup=1, rounds=rounds)
    ours_s, peer_s = times[name], times[DEFAULT]
    samples = BATCH * STEPS
    return Row(
        name,
        ours=samples / ours_s.median_s,
        peer=samples / peer_s.median_s,
        unit="samples/s",
        paired=peer_s.ratio(ours_s),
    )


def starts() -> list[Row]:
    """Seconds to the end of the first turn, with and without the compilation cache; same bits."""
    anew: list[float] = []
    kept: list[float] = []
    hashes: set[str] = set()
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory() as cache:
            for seconds in (anew, kept):
                with Process(DEFAULT, cache) as process:
                    seconds.append(process.start_s)
                    hashes.add(process.first["hash"])
    return [
        Row("start, compiled before", median(kept), median(anew), "<= 0.9", "s"),
        Row("starts of other bits", len(hashes) - 1, goal="== 0", unit="starts"),
    ]


def main() -> None:
    """Runs the study; with `--variant`, one turn of that variant for each line of stdin."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--variant", choices=VARIANTS)
    name = parser.parse_args().variant
    if name is None:
        with Process(DEFAULT) as default:
            rows = [speed(other, default) for other in VARIANTS if other != DEFAULT]
        record("cpu", rows + starts())
        return
    variant = VARIANTS[name]
    if variant.threads is not None:  # before JAX counts the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: variant.threads])
    turns = train(variant)
    for _ in sys.stdin:
        print(json.dumps(next(turns)), flush=True)


if __name__ == "__main__":
    main()
