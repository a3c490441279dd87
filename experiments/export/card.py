"""The card of an artefact: Markdown that says what it is, what it takes, and how good it is."""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from experiments.report import Export
from experiments.report.exports import EXPORT_NOTE, calls_tables, errors
from experiments.report.layout import Table, markdown
from experiments.report.quantities import count, percent, size
from slim.export.program import Program, is_symbol

CARD = "README.md"

SNIPPETS: Mapping[str, str] = {
    "jax": """\
from pathlib import Path

import jax
import jax.export
import numpy as np

folder = Path("{file}")  # of this page
program = jax.export.deserialize(bytearray((folder / "program.jax_export").read_bytes()))
parameters = [jax.device_put(np.load(folder / f"{{i}}.npy")) for i in range({constants})]
{input} = np.zeros({shape}, np.{dtype})
({output},) = jax.jit(program.call)(parameters, {input})""",
    "onnxruntime": """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
{input} = np.zeros({shape}, np.{dtype})
({output},) = session.run(["{output}"], {{"{input}": {input}}})""",
    "openvino": """\
import numpy as np
import openvino

# By default floats are computed in bfloat16 where the processor has it.
model = openvino.Core().compile_model("{file}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
{input} = np.zeros({shape}, np.{dtype})
{output} = model({{"{input}": {input}}})["{output}"]""",
    "litert": """\
import numpy as np
from ai_edge_litert.interpreter import Interpreter

runner = Interpreter("{file}").get_signature_runner("serving_default")
{input} = np.zeros({shape}, np.{dtype})
{output} = runner({input}={input})["{output}"]""",
}
"""How the artefact is run, by runtime, in the folder of its card."""


class Source(NamedTuple):
    """Where a model comes from.

    Attributes:
        recipe: all fields of the recipe.
        stage: that exports it.
        digest: of the recipe and the weights.
        parameters: entries of its weights.
        made: what was done to it, a line each.
        takes: what its input is, in words.
    """

    recipe: Mapping[str, Any]
    stage: str
    digest: str
    parameters: int
    made: tuple[str, ...]
    takes: str

    def metadata(self, measures: Mapping[str, float]) -> dict[str, str]:
        """What artefacts hold of it: texts by name."""
        return {
            "slim.recipe": json.dumps(self.recipe, sort_keys=True),
            "slim.digest": self.digest,
            "slim.measures": json.dumps(measures, sort_keys=True),
        }


def card(source: Source, export: Export, program: Program) -> str:
    """The Markdown page of an artefact."""
    name, data = source.recipe["name"], source.recipe["data"]["name"]
    model = source.recipe["model"]["name"]
    facts = {
        "model": f"{model}, {count(source.parameters)} parameters",
        "trained on": data,
        "recipe": f"`{name}`, stage `{source.stage}`, digest `{source.digest}`",
        "precision": export.precision,
        "size": size(export.size_bytes),
        "runs in": export.runtime
        or "nothing on the machine that wrote it: compare its outputs first",
    }
    ends = [("input", *_described(program, *each)) for each in program.inputs]
    ends += [("output", *_described(program, *each)) for each in program.outputs]
    lines = [
        f"# {name}: {export.target}, {export.precision}",
        markdown(Table("", ("", ""), tuple(facts.items()), False)),
        "## Inputs and outputs",
        markdown(
            Table(
                "",
                ("", "name", "type", "shape"),
                tuple(ends),
                False,
            )
        ),
        source.takes,
        "## What was done to it",
        "\n".join(f"- {line}" for line in source.made) or "Nothing: it is the float model.",
    ]
    if export.runtime is not None:
        lines += ["## Beside JAX", _beside(export)]
        lines += ["## How to run it", f"```python\n{snippet(export, program)}\n```"]
    for table in calls_tables(export.target, [export]):
        lines += ["## Speed and memory", markdown(table), EXPORT_NOTE]
    recipe = json.dumps(source.recipe, indent=2)
    lines += [
        "<details><summary>The resolved recipe</summary>",
        f"```json\n{recipe}\n```",
        "</details>",
    ]
    return "\n\n".join(lines) + "\n"


def snippet(export: Export, program: Program) -> str:
    """What runs the artefact, typed in the folder of its card."""
    assert export.runtime is not None
    (name, value), *_ = program.inputs
    of = program.types[value]
    return SNIPPETS[export.runtime].format(
        file=PurePosixPath(*PurePosixPath(export.file).parts[2:]),
        constants=len(program.constants),
        input=name,
        output=program.outputs[0][0],
        shape=tuple(1 if is_symbol(size) else size for size in of.shape),
        dtype=of.dtype.name,
    )


def _described(program: Program, name: str, value: int) -> tuple[str, str, str]:
    of = program.types[value]
    return f"`{name}`", of.dtype.name, f"({', '.join(map(str, of.shape))})"


def _beside(export: Export) -> str:
    found = errors(export)
    table = Table("", tuple(found), (tuple(found.values()),))
    return (
        f"On {export.examples:,} examples of the evaluation split, the logits' greatest absolute "
        f"value being {export.largest:.3g}:\n\n{markdown(table)}\n\n"
        f"Top-1 of {percent(export.top1_jax)} is that of the same model in JAX."
    )
