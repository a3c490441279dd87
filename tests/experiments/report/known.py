"""A report whose every number is known."""

from datetime import UTC, datetime

from experiments.measure import Measures
from experiments.report import Curve, Machine, Report, Result, Stage, Sweep

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

MACHINE = Machine(
    platform="Linux x86_64",
    backend="cpu",
    device_kind="cpu",
    devices=1,
    processes=1,
    cores=2,
    python="3.11.7",
    packages={"jax": "0.10.2", "flax": "0.12.8", "numpy": "2.4.6"},
)


def measures(name, keep=1.0, top1=0.9153, **changes):
    fields = {
        "name": name,
        "samples": 10_000,
        "loss": 0.2534,
        "top1": top1,
        "macro_f1": top1 - 0.001,
        "ece": 0.0312,
        "agreement": 0.975 if keep < 1 else 1.0,
        "parameters": round(272_474 * keep),
        "nonzero_parameters": round(272_474 * keep),
        "size_bytes": round(1_095_000 * keep),
        "macs": round(31_021_568 * keep),
        "flops": round(62_100_000 * keep),
        "xla_flops": 63_500_000.0 * keep,
        "batch_size": 128,
        "latency_b1_median_s": 0.00412 * keep,
        "latency_b1_p90_s": 0.00487 * keep,
        "latency_b1_ratio": keep,
        "latency_batch_median_s": 0.311 * keep,
        "latency_batch_p90_s": 0.35 * keep,
        "latency_batch_ratio": keep,
        "peak_memory_bytes": round(45_000_000 * keep),
        "robustness_images": 256,
        "robustness": {
            "clean": top1,
            "fgsm@2/255": 0.5,
            "fgsm@8/255": 0.25,
            "pgd@2/255": 0.375,
            "pgd@8/255": 0.0625,
            "gaussian_noise@3": 0.75,
            "gaussian_blur@3": 0.625,
            "contrast@3": 0.5625,
            "pixelate@3": 0.875,
        },
    }
    return Measures(**fields | changes)


def stage(name, kind, measured, *, reused=False, curves=None):
    return Stage(
        name=name,
        kind=kind,
        key=f"{name}-0a1b2c",
        reused=reused,
        seconds=93.0,
        checkpoint=f"stages/{name}-0a1b2c",
        measures=measured,
        curves=curves or {},
    )


def report():
    steps = tuple(range(100, 1001, 100))
    train = {
        "train/loss": Curve(steps=steps, values=tuple(2.0 / (1 + s / 100) for s in steps)),
        "train/learning_rate": Curve(steps=steps, values=tuple(0.1 - s / 1e4 for s in steps)),
        "eval/top1": Curve(steps=(500, 1000), values=(0.85, 0.9153)),
    }
    finetune = {"train/loss": Curve(steps=(100, 200), values=(0.5, 0.4))}
    return Report(
        name="fashion_resnet20_prune",
        created=CREATED,
        command="python -m experiments.main --config=configs/fashion_resnet20_prune.py",
        recipe={"batch": 128, "train": {"betas": (0.9, 0.999), "clip": None}},
        machine=MACHINE,
        baseline="train",
        stages=(
            stage("train", "train", measures("train"), reused=True, curves=train),
            stage("prune", "prune", measures("prune", 0.3, 0.8412)),
            stage("finetune", "finetune", measures("finetune", 0.3, 0.9102), curves=finetune),
            stage("evaluate", "evaluate", None),
        ),
    )


KERNELS = {
    "params/stem/kernel": (3, 3, 1, 16),
    "params/block/kernel": (3, 3, 16, 16),
    "params/stack/kernel": (4, 16, 16),
    "params/head/kernel": (16, 10),
}

THINNER = {
    "params/stem/kernel": (3, 3, 1, 8),
    "params/block/kernel": (3, 3, 8, 4),
    "params/stack/kernel": (4, 8, 8),
    "params/head/kernel": (8, 10),
}

SHORTER = {
    "params/stem/kernel": (3, 3, 1, 8),
    "params/stack/kernel": (3, 8, 8),
    "params/head/kernel": (8, 10),
}


def cut_report():
    """A network that lost widths, then depth, was fine-tuned, and was trained anew beside."""
    cuts = {"shrink": THINNER, "depth": SHORTER}
    stages = [
        stage("load", "load", measures("load")),
        stage("shrink", "shrink", measures("shrink", 0.5, 0.5)),
        stage("depth", "depth", measures("depth", 0.25, 0.25)),
        stage("finetune", "finetune", measures("finetune", 0.25, 0.9102)),
        stage("scratch", "train", measures("scratch", 0.25, 0.9002)),
    ]
    return Report(
        name="cut",
        created=CREATED,
        command="python -m experiments.main --config=configs/cut.py",
        recipe={},
        machine=MACHINE,
        baseline="load",
        stages=tuple(s.model_copy(update={"kernels": cuts.get(s.name)}) for s in stages),
        kernels=KERNELS,
    )


SWEPT = {("magnitude", 0): 0.9012, ("taylor", 0): 0.9102, ("taylor", 1): 0.9142}
"""The top-1 of the sweep's recipes, by name and seed."""


def sweep(swept=SWEPT):
    return Sweep(
        name="scores",
        created=CREATED,
        command="python -m experiments.main --config=configs/scores.py",
        machine=MACHINE,
        baselines={0: measures("train"), 1: measures("train", 1.0, 0.9173)},
        results=tuple(
            Result(
                name=name,
                seed=seed,
                overrides={"name": name, "seed": seed, "prune.score": name},
                report=f"{name}_s{seed}/report.json",
                measures=measures("finetune", 0.3 + 0.02 * seed, top1),
            )
            for (name, seed), top1 in swept.items()
        ),
    )
