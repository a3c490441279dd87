"""The matrix of exports: models by targets by precisions, each run in its runtime beside JAX.

    python -m experiments.bench.export                      all that is installed
    python -m experiments.bench.export --models=minilm,vit    some models, added to the results

A row `MODEL, TARGET PRECISION, error` is the greatest difference of a logit from what JAX computes
of the same model, over the greatest absolute logit; `agreement` the share of equal labels;
`latency` that of one example by one thread, beside the float original's in the same runtime or in
XLA (the ratio is of calls timed in turn). Memory is what a process has resident at most: while it
loads, beside the bytes of what it loads; and while it computes, beside the float model's in JAX.

Inputs are random, from seed 0: rows say that an artefact is its model, not how good that is.
Weights are random, from seed 0, but for MobileNetV2, MiniLM and ResNet-20 (and what is made of it).
"""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import linen as nn

from experiments import cuts
from experiments.bench.record import RESULTS, Row, record
from experiments.data.info import TEXT
from experiments.export import files, parity, programs, speed
from experiments.export.config import AUTO, DYNAMIC
from experiments.export.places import PLACES, installed
from experiments.network import Network, Variables
from experiments.runtimes.runtime import all_threads
from experiments.runtimes.worker import Worker
from experiments.weights import minilm, mobilenet_v2, safetensors_store
from slim import graph, models, quant
from slim.export import TARGETS, passes, program
from slim.measure.classification import cross_entropy
from slim.models.bert import SentenceEmbedding, bert_config
from slim.quant import Activations, Assigned, Policy, Quantization, Rule, Weights

BASELINE = "experiments/baselines/fashion_resnet20.safetensors"
EXAMPLES, ROUNDS, LENGTH = 16, 15, 64
QAT_STEPS, RATE = 5, 1e-3
FLOAT, INT8 = "float32", "int8"
LOADED = "loading"

_MODELS = flags.DEFINE_list("models", None, "These models alone.")

# Loads what its arguments say, reads every number of it, and prints by how many bytes its resident
# memory rose at most.
LOADING = """
import sys
from pathlib import Path
import jax, numpy as np
from experiments.weights import safetensors_store
from slim.export import stablehlo

def memory(name):
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").open())
    return 1024 * int(lines[name].split()[0])

jax.device_put(np.zeros(8)).block_until_ready()
load = {"checkpoint": safetensors_store.load, "artefact": stablehlo.parameters}[sys.argv[1]]
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
found = load(Path(sys.argv[2]))
for leaf in jax.tree.leaves(found[0] if isinstance(found, tuple) else found):
    np.asarray(leaf).max()
print(memory("VmHWM") - before)
"""


@dataclass(frozen=True)
class Subject:
    """A model of the matrix.

    Attributes:
        network: of the model.
        variables: its own.
        inputs: examples, as the network takes them.
        original: the float model that it was made from, and its variables; None: it is that.
    """

    network: Network
    variables: Variables
    inputs: np.ndarray
    original: tuple[Network, Variables] | None = None


class Pooled(nn.Module):
    """MiniLM's embedding of a text, of token ids alone: 0 is padding."""

    @nn.compact
    def __call__(self, ids: jax.Array, train: bool) -> jax.Array:
        """`(batch, length)` -> `(batch, width)`."""
        embed = SentenceEmbedding(bert_config("minilm_l6"), name="model")
        found: jax.Array = embed(ids, (ids != 0).astype(jnp.int32), train=train)
        return found


def _images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(size=(EXAMPLES, *shape)).astype(np.float32)


def _network(name: str, inputs: np.ndarray, classes: int = 10, **options: Any) -> Network:
    module = models.create(name, num_classes=classes, **options)
    channels = inputs.shape[-1]
    return Network(module, inputs.shape[1:], (0.5,) * channels, (0.25,) * channels)


def _fresh(network: Network, inputs: np.ndarray) -> Subject:
    return Subject(network, jax.jit(network.init)(jax.random.key(0)), inputs)


def resnet20() -> Subject:
    """The committed network, of Fashion-MNIST."""
    inputs = _images(28, 28, 1)
    variables, _ = safetensors_store.load(BASELINE)
    return Subject(_network("resnet20", inputs), variables, inputs)


def resnet18() -> Subject:
    """At 224 x 224."""
    inputs = _images(224, 224, 3)
    return _fresh(_network("resnet18", inputs, 1000), inputs)


def mobilenet() -> Subject:
    """With its published weights."""
    inputs = _images(224, 224, 3)
    network = _network("mobilenet_v2", inputs, 1000)
    return Subject(network, mobilenet_v2.load(), inputs)


def vit() -> Subject:
    """ViT-Ti of patches of 16."""
    inputs = _images(224, 224, 3)
    return _fresh(_network("vit_ti", inputs, 1000), inputs)


def sentences() -> Subject:
    """MiniLM-L6 with its published weights; labels are the greatest entries of embeddings."""
    ids = np.random.default_rng(0).integers(1000, 30000, (EXAMPLES, LENGTH)).astype(np.int32)
    ids[:, LENGTH // 2 :] *= np.arange(EXAMPLES)[:, None] % 2 == 0
    network = Network(Pooled(), (LENGTH,), (), (), modality=TEXT)
    loaded = minilm.load()
    return Subject(network, {"params": {"model": loaded["params"]}}, ids)


def pruned() -> Subject:
    """ResNet-20 with half of each group of channels."""
    whole = resnet20()
    traced = whole.network.graph()
    sizes = {group.name: group.size for group in graph.groups(traced)}
    kept = {name: tuple(range(0, size, 2)) for name, size in sizes.items()}
    plan = graph.make_plan(traced, kept)
    small = cuts.shrink(plan, whole.variables)
    return replace(
        whole,
        network=whole.network.shrunk([plan]),
        variables=small,
        original=(whole.network, whole.variables),
    )


def trained_quantized() -> Subject:
    """ResNet-20 after a few steps of quantization-aware training on its own labels."""
    return quantized(resnet20(), steps=QAT_STEPS)


def quantized(subject: Subject, *, steps: int = 0) -> Subject:
    """A float subject after calibration on its inputs, and so many steps of training rounded."""
    network, variables = subject.network, subject.variables
    folding = graph.find_folding(network.graph())
    if folding.sites:
        variables = graph.fold_params(network.graph(), folding, variables)
        network = network.shrunk([folding])
    traced = network.graph()
    rule = Rule("*", Weights(INT8, range="mse"), Activations(INT8, "minmax"))
    sites = quant.assign(traced, Policy((rule,), edges=None))
    # Runtimes have scales along one dimension; heads by their width are two.
    tensor = replace(rule, weights=Weights(INT8, "tensor", "mse"))
    wide = [replace(tensor, pattern=name) for name, each in sites.items() if _is_wide(each)]
    sites = quant.assign(traced, Policy((*wide, rule), edges=None))
    scales = quant.calibrate(traced, sites, variables, [(jnp.asarray(subject.inputs),)])
    simulated, inputs = quant.simulate(traced, sites), jnp.asarray(subject.inputs)
    labels = network.predict(variables, inputs).argmax(-1)

    @jax.jit
    def step(variables: Variables) -> Variables:
        def loss(variables: Variables) -> jax.Array:
            return cross_entropy(simulated(variables, scales, inputs), labels).mean()

        gradients = jax.grad(loss)(variables)
        return jax.tree.map(lambda v, g: v - RATE * g, variables, gradients)

    for _ in range(steps):
        variables = step(variables)
    stored = quant.store(quant.convert(traced, sites, variables, scales))
    original = subject.original or (subject.network, subject.variables)
    plan = Quantization.of(sites, stored)
    return replace(
        subject, network=network.shrunk([plan]), variables=dict(stored), original=original
    )


def _is_wide(assigned: Assigned) -> bool:
    """Whether its weight has scales along several dimensions."""
    shapes = [assigned.scale_shape(role) for role in assigned.roles if role.name == "weights"]
    return any(sum(size > 1 for size in shape) > 1 for shape in shapes)


SUBJECTS: Mapping[str, Callable[[], Subject]] = {
    "resnet20": resnet20,
    "minilm": sentences,
    "vit": vit,
    "mobilenet_v2": mobilenet,
    "resnet18": resnet18,
    "pruned": pruned,
    "qat": trained_quantized,
}
GOALS: Mapping[tuple[str, str], str] = {
    **{("resnet18", name): "<= 0.303" for name in ("onnx", "openvino", "litert")},
    ("resnet20", "litert"): "<= 0.303",
    **{("minilm", name): "<= 0.4" for name in ("onnx", "openvino", "litert")},
}
"""Of latencies of integers over floats, by model and target."""


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes the rows."""
    del argv
    chosen = _MODELS.value or [*SUBJECTS, "nnx", LOADED]
    rows: list[Row] = []
    for name in chosen:
        if name == "nnx":
            rows += nnx_rows()
        elif name == LOADED:
            rows += loading_rows()
        else:
            rows += model_rows(name, SUBJECTS[name]())
    record("export", [*_before(chosen), *rows] if _MODELS.value else rows)


def _before(chosen: Sequence[str]) -> list[Row]:
    """The rows of other models that are there, where some are measured again."""
    file = RESULTS / "export.json"
    found = json.loads(file.read_text())["rows"] if file.exists() else []
    return [
        Row(
            row["name"],
            math.nan if row["ours"] is None else row["ours"],
            row["peer"],
            row["goal"],
            row.get("unit", ""),
            row["ratio"],
        )
        for row in found
        if row["name"].split(",")[0] not in chosen
    ]


def model_rows(name: str, subject: Subject) -> list[Row]:
    """All targets and precisions of a model; integers of a float model are calibrated."""
    subjects = {FLOAT: subject} if not subject.network.quantized else {INT8: subject}
    if not subject.network.quantized:
        subjects[INT8] = quantized(subject)
    rows = []
    for target in installed():
        for precision in TARGETS[target].precisions:
            made = subjects.get(INT8 if precision in programs.INTEGERS else FLOAT)
            if made is not None and (target, precision) != ("stablehlo", INT8):
                rows += _cell(name, target, precision, made, subject)
    if "stablehlo" in installed() and subject.network.quantized:
        rows += _cell(name, "stablehlo", AUTO, subject, subject)
    return rows


def _cell(name: str, target: str, precision: str, made: Subject, whole: Subject) -> list[Row]:
    """One artefact: what it differs by, and its latency and memory."""
    label = f"{name}, {target} {INT8 if precision == AUTO else precision}"
    of = TARGETS[target]
    batch = DYNAMIC if of.dynamic_batch else 1
    original = whole.original or (whole.network, whole.variables)
    with tempfile.TemporaryDirectory() as scratch:
        write = partial(_written, scratch=Path(scratch), batch=batch)
        try:
            path, size = write("own", target, precision, made.network, made.variables)
        except ValueError as error:
            print(f"{label}: not written: {error}", file=sys.stderr)
            return [Row(f"{label}, written", 0.0, goal="== 1")]
        rows = [Row(f"{label}, bytes", float(size), unit="B")]
        runtime = PLACES[target].runtime
        if runtime is None:
            return [Row(f"{label}, written", 1.0, goal="== 1"), *rows]
        predict = jax.jit(made.network.predict)
        expected = np.asarray(predict(made.variables, made.inputs))
        with Worker(runtime, path, all_threads()) as worker:
            step = EXAMPLES if batch == DYNAMIC else 1
            found = np.concatenate(
                [
                    worker.run({programs.INPUT: made.inputs[i : i + step]})[programs.OUTPUT]
                    for i in range(0, EXAMPLES, step)
                ]
            )
        near = parity.compare(found, expected)
        known = INT8 if precision == AUTO else precision
        limits = parity.LIMITS[known]
        rows += [
            Row(f"{label}, error", near.max_error / near.largest, goal=f"<= {limits.error:g}"),
            Row(f"{label}, agreement", near.agreement, goal=f">= {limits.agreement:g}"),
        ]
        floats = {}
        for key, other in (("float", target), ("xla", "stablehlo")):
            if FLOAT in TARGETS[other].precisions:
                floats[key] = (other, write(key, other, FLOAT, *original)[0])
        artefacts = {"own": speed.Loadable(runtime, path)}
        for key, (other, file) in floats.items():
            by = PLACES[other].runtime
            if by is not None:
                artefacts[key] = speed.Loadable(by, file)
        times = speed.measure(
            artefacts,
            {programs.INPUT: made.inputs},
            threads=(1,),
            batches=(1,),
            rounds=ROUNDS,
        )
        return rows + _timed(name, target, label, precision, times)


def _timed(
    name: str, target: str, label: str, precision: str, times: Mapping[str, speed.Measured]
) -> list[Row]:
    own = times["own"].calls[1, 1]
    rows = []
    floats = precision not in (*programs.INTEGERS, AUTO)
    for key in ("xla",) if floats else ("float", "xla"):
        if key not in times:
            continue
        other = times[key].calls[1, 1]
        goal = GOALS.get((name, target), "") if key == "float" else ""
        if floats and target == "onnx":
            goal = "<= 1"
        rows.append(
            Row(
                f"{label}, latency over {'float' if key == 'float' else 'XLA'}",
                1e3 * own.median_s,
                1e3 * other.median_s,
                goal,
                "ms",
                own.ratio(other),
            )
        )
    if "xla" in times:
        goal = "<= 0.4" if name == "minilm" and not floats and target != "stablehlo" else ""
        mine, xla = (times[key].peak_bytes / 2**20 for key in ("own", "xla"))
        rows.append(Row(f"{label}, memory over JAX", mine, xla, goal, "MiB"))
    return rows


def _written(
    key: str,
    target: str,
    precision: str,
    network: Network,
    variables: Variables,
    *,
    scratch: Path,
    batch: int | str,
) -> tuple[Path, int]:
    """An artefact in a folder of its own, and its bytes."""
    made = (
        programs.build(target, precision, network, variables, batch=batch, preprocessing=False)
        if precision != AUTO
        else programs.build(target, INT8, network, variables, batch=batch, preprocessing=False)
    )
    of = TARGETS[target]
    return files.write_artefact(of.write(made), scratch / key, of.suffix)


def nnx_rows() -> list[Row]:
    """A Flax NNX model, which no stage makes: its function and state alone."""
    from flax import nnx

    class Perceptron(nnx.Module):
        """Two layers."""

        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first = nnx.Linear(64, 128, rngs=rngs)
            self.norm = nnx.LayerNorm(128, rngs=rngs)
            self.second = nnx.Linear(128, 10, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            """Logits."""
            return self.second(nnx.relu(self.norm(self.first(x))))

    definition, state = nnx.split(Perceptron(nnx.Rngs(0)))
    plain = nnx.to_pure_dict(state)

    def fn(values: Any, x: jax.Array) -> Any:
        nnx.replace_by_pure_dict(state, values)
        return nnx.merge(definition, state)(x)

    x = np.random.default_rng(0).normal(size=(EXAMPLES, 64)).astype(np.float32)
    expected = np.asarray(fn(plain, jnp.asarray(x)))
    rows = []
    for target in installed():
        of = TARGETS[target]
        runtime = PLACES[target].runtime
        if FLOAT not in of.precisions or runtime is None:
            continue
        batch = "batch" if of.dynamic_batch else EXAMPLES
        made = passes.standard(program(fn, plain, x, batch=batch))
        with tempfile.TemporaryDirectory() as scratch:
            path, _ = files.write_artefact(of.write(made), Path(scratch), of.suffix)
            with Worker(runtime, path, 1) as worker:
                found = worker.run({"input": x})["logits"]
        near = parity.compare(found, expected)
        limit = parity.LIMITS[FLOAT].error
        error = near.max_error / near.largest
        rows.append(Row(f"nnx, {target} {FLOAT}, error", error, goal=f"<= {limit:g}"))
    return rows


def loading_rows() -> list[Row]:
    """MiniLM loaded as an artefact and as a checkpoint: memory over its own bytes."""
    subject = sentences()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _, size = _written(
            "own", "stablehlo", FLOAT, subject.network, subject.variables,
            scratch=folder, batch=DYNAMIC,
        )  # fmt: skip
        checkpoint = folder / "model.safetensors"
        safetensors_store.save(checkpoint, subject.variables, {})
        places = {"artefact": (folder / "own", size), "checkpoint": (checkpoint, None)}
        rows = []
        for kind, (path, known) in places.items():
            of = known or path.stat().st_size
            done = subprocess.run(
                [sys.executable, "-c", LOADING, kind, str(path)],
                capture_output=True,
                text=True,
                check=True,
            )
            peak = int(done.stdout) / 2**20
            name = f"{LOADED}, minilm {kind}, peak memory"
            rows.append(Row(name, peak, of / 2**20, "<= 1.2", "MiB"))
    return rows


if __name__ == "__main__":
    app.run(main)
