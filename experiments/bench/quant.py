"""What quantization keeps and costs: `slim.quant` beside google's qwix, in one process.

    pip install -e '.[bench]'
    python -m experiments.bench.quant

Needs Fashion-MNIST. About 12 minutes on 2 quiet cores; on busy ones no time here means much.
Without the extra `bench` only the rows of XLA's integers beside its floats are recorded, and the
command says so.

`quantized_resnet`, `quantized_training`, `quantizing` and `integers` say what their rows are, and
`qwix_models` how qwix is used.
"""

import sys

from experiments.bench import integers, quantized_resnet, quantized_training, quantizing
from experiments.bench.record import Row, record


def beside_qwix() -> list[Row]:
    """The rows with a peer.

    Raises:
        ModuleNotFoundError: qwix is not installed.
    """
    rows = quantizing.measure(quantizing.minilm())
    subject, batches = quantized_resnet.fashion(quantized_training.RUNS * quantized_training.STEPS)
    rows += quantized_training.step_rows(subject)
    rows += quantized_resnet.measure(subject)
    return rows + quantized_training.accuracy_rows(subject, batches)


def main() -> None:
    """Runs all parts and records their rows."""
    rows = []
    try:
        rows = beside_qwix()
    except ModuleNotFoundError as error:
        print(
            f"no rows beside qwix: {error.name} is missing, pip install -e '.[bench]'",
            file=sys.stderr,
        )
    record("quant", rows + integers.measure())


if __name__ == "__main__":
    main()
