"""Memory while an artefact, or a checkpoint, is loaded: part of `experiments.bench.export`."""

import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.bench.exported_models import sentences
from experiments.bench.record import Row
from experiments.export import files, programs
from experiments.export.config import DYNAMIC
from experiments.weights import safetensors_store
from slim.export import TARGETS

LOADED = "loading"

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


def loading_rows() -> list[Row]:
    """MiniLM loaded as an artefact and as a checkpoint: memory over its own bytes."""
    subject = sentences()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = programs.build(
            "stablehlo",
            "float32",
            subject.network,
            subject.variables,
            batch=DYNAMIC,
            preprocessing=False,
        )
        content = TARGETS["stablehlo"].write(made)
        artefact, size = files.write_artefact(content, folder / "own", "")
        checkpoint = folder / "model.safetensors"
        safetensors_store.save(checkpoint, subject.variables, {})
        places = {
            "artefact": (artefact, size),
            "checkpoint": (checkpoint, checkpoint.stat().st_size),
        }
        rows = []
        for kind, (path, of) in places.items():
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
