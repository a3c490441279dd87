"""The artefacts of a run on its page."""

import math

from experiments import report
from tests.experiments.report import known

CALLS = report.ExportCalls(
    threads=1, batch=32, median_s=2e-3, p90_s=3e-3, over_float=0.25, over_xla=math.nan
)
ONNX = report.Export(
    target="onnx",
    precision="int8",
    file="stages/export-1/export/onnx/model.onnx",
    size_bytes=2**20,
    runtime="onnxruntime",
    examples=256,
    max_error=0.5,
    mean_error=0.01,
    largest=20.0,
    agreement=0.995,
    top1=0.91,
    top1_jax=0.92,
    peak_memory_bytes=2**25,
    peak_memory_float_bytes=math.nan,
    peak_memory_xla_bytes=math.nan,
    calls=(CALLS,),
)
NOT_RUN = ONNX.model_copy(
    update={"target": "coreml", "runtime": None, "examples": 0, "max_error": math.nan, "calls": ()}
)


def page(tmp_path, *exports):
    run = known.report()
    *others, last = run.stages
    stages = (*others, last.model_copy(update={"exports": exports}))
    report.write(run.model_copy(update={"stages": stages}), tmp_path)
    read = report.read(tmp_path / "report.json").stages[-1].exports
    assert [each.file for each in read] == [each.file for each in exports]
    return (tmp_path / "report.md").read_text()


def test_what_was_found_of_artefacts_has_a_section(tmp_path):
    text = page(tmp_path, ONNX, NOT_RUN)
    assert "## Exports" in text
    assert "| onnx int8 | onnxruntime | 1.00 MiB | 0.5 | 0.01 | 99.50% | 91.00% | 92.00% |" in text
    assert "| coreml int8 | none here |" in text
    assert "| onnx int8, 1 thread, batch 32 | 2.00 ms | 3.00 ms | 0.25x | – | 32.0 MiB |" in text


def test_a_run_without_artefacts_has_none(tmp_path):
    assert "## Exports" not in page(tmp_path)
