"""Rows of measures of models that can be worked out by hand."""

import logging
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.measure import NOISE_SEED, EvaluateConfig, Measured, Measures, measure
from experiments.schema import ConfigError, parse
from slim.measure.attacks import ATTACKS
from slim.measure.corruptions import CORRUPTIONS

SIDE, CLASSES, IMAGES, BATCH = 4, 3, 28, 8
FEATURES = SIDE * SIDE
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (IMAGES, SIDE, SIDE, 1)).astype(np.uint8)
LABELS = RNG.integers(0, CLASSES, IMAGES).astype(np.int32)
QUICK = EvaluateConfig(batch_size=BATCH, latency_rounds=2, robustness_images=12, pgd_steps=2)


def linear(variables, images):
    params = variables["params"]
    return images.reshape(len(images), -1) @ params["kernel"] + params["bias"]


def variables(seed: int = 1):
    kernel = jax.random.normal(jax.random.key(seed), (FEATURES, CLASSES))
    return {"params": {"kernel": kernel, "bias": jnp.zeros(CLASSES)}, "stats": {"n": jnp.ones(5)}}


def batches():
    """The images in batches of 8, the last filled up with rows of weight 0."""
    for start in range(0, IMAGES, BATCH):
        images, labels = PIXELS[start : start + BATCH], LABELS[start : start + BATCH]
        missing = BATCH - len(labels)
        yield {
            "input": np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))),
            "label": np.pad(labels, (0, missing)),
            "weight": np.pad(np.ones(len(labels), np.float32), (0, missing)),
        }


def top1(model, images, labels) -> float:
    return float(np.mean(np.argmax(linear(model, images), axis=1) == labels))


@pytest.fixture(scope="module")
def rows() -> list[Measures]:
    dense = variables()
    kernel = dense["params"]["kernel"].at[:8].set(0)
    masked = dense | {"params": dense["params"] | {"kernel": kernel}}
    return measure(
        [Measured("dense", linear, dense), Measured("masked", linear, masked)], batches(), QUICK
    )


def test_quality_is_that_of_all_real_images(rows):
    images = PIXELS.astype(np.float32) / 255
    log_probability = jax.nn.log_softmax(linear(variables(), images))
    assert rows[0].samples == IMAGES
    assert rows[0].top1 == pytest.approx(top1(variables(), images, LABELS), abs=1e-6)
    expected = -np.mean(np.asarray(log_probability)[np.arange(IMAGES), LABELS])
    assert rows[0].loss == pytest.approx(expected, rel=1e-5)
    assert 0 <= rows[0].macro_f1 <= 1
    assert 0 <= rows[0].ece <= 1


def test_agreement_is_with_the_labels_that_the_first_model_gives(rows):
    assert rows[0].agreement == 1.0
    images = PIXELS.astype(np.float32) / 255
    dense = variables()
    masked = dense | {
        "params": dense["params"] | {"kernel": dense["params"]["kernel"].at[:8].set(0)}
    }
    same = linear(dense, images).argmax(1) == linear(masked, images).argmax(1)
    assert 0 < same.sum() < IMAGES
    assert rows[1].agreement == pytest.approx(float(same.sum()) / IMAGES)


def test_robustness_is_that_of_the_first_images(rows):
    model = variables()
    under = {"clean": [], "fgsm@8/255": [], "contrast@3": [], "gaussian_noise@3": []}
    for index, batch in enumerate(list(batches())[:2]):  # 12 images: the first batch and a half
        key = jax.random.fold_in(jax.random.key(NOISE_SEED), index)
        images, labels = batch["input"].astype(np.float32) / 255, batch["label"]
        fgsm = ATTACKS["fgsm"](partial(linear, model), key, images, labels, np.float32(8 / 255))
        under["clean"].append(images)
        under["fgsm@8/255"].append(fgsm)
        under["contrast@3"].append(CORRUPTIONS["contrast"](key, images, 3))
        under["gaussian_noise@3"].append(CORRUPTIONS["gaussian_noise"](key, images, 3))
    assert rows[0].robustness_images == 12
    for name, changed in under.items():
        expected = top1(model, np.concatenate(changed)[:12], LABELS[:12])
        assert rows[0].robustness[name] == pytest.approx(expected, abs=1e-6), name


def test_every_condition_has_its_accuracy(rows):
    attacks = [f"{name}@{epsilon}/255" for name in ATTACKS for epsilon in (2, 8)]
    corruptions = [f"{name}@3" for name in CORRUPTIONS]
    assert list(rows[0].robustness) == ["clean", *attacks, *corruptions]
    assert rows[0].robustness["fgsm@8/255"] <= rows[0].robustness["clean"]


def test_size_counts_parameters_and_all_bytes(rows):
    dense, masked = rows
    assert dense.parameters == masked.parameters == FEATURES * CLASSES + CLASSES
    assert dense.nonzero_parameters == FEATURES * CLASSES
    assert masked.nonzero_parameters == (FEATURES - 8) * CLASSES
    assert dense.size_bytes == masked.size_bytes == 4 * (FEATURES * CLASSES + CLASSES + 5)


def test_work_of_a_matrix_product(rows):
    assert rows[0].macs == FEATURES * CLASSES
    assert rows[0].flops == 2 * FEATURES * CLASSES + CLASSES
    assert rows[0].xla_flops == pytest.approx(rows[0].flops, rel=0.2)


def test_peak_memory_holds_images_parameters_and_logits(rows):
    held = 4 * (BATCH * FEATURES + FEATURES * CLASSES + CLASSES + BATCH * CLASSES)
    assert held <= rows[0].peak_memory_bytes <= 3 * held


def test_latency_is_relative_to_the_first_model(rows):
    dense, masked = rows
    assert dense.latency_b1_ratio == dense.latency_batch_ratio == 1.0
    assert 0 < masked.latency_b1_median_s <= masked.latency_b1_p90_s
    assert 0 < masked.latency_batch_median_s <= masked.latency_batch_p90_s
    assert masked.latency_b1_ratio > 0
    assert masked.batch_size == BATCH


def test_models_that_differ_in_values_share_every_program(caplog):
    def counted(values, images):
        return linear(values, images)

    def compilations(models) -> list[str]:
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            measure(models, batches(), QUICK)
        messages = [record.getMessage() for record in caplog.records]
        return [m for m in messages if m.startswith(("Compiling jit(counted)", "Compiling jit(_a"))]

    first = compilations([Measured("a", counted, variables(1))])
    assert len([message for message in first if "_attack" in message]) == 2
    models = [Measured(name, counted, variables(seed)) for seed, name in enumerate("bcd")]
    assert compilations(models) == []


def test_a_mesh_gives_the_same_quality(rows):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    put = partial(jax.device_put, device=jax.NamedSharding(mesh, jax.P("data")))
    sharded = variables()
    kernel = jax.device_put(sharded["params"]["kernel"], jax.NamedSharding(mesh, jax.P("data")))
    sharded["params"]["kernel"] = kernel
    (row,) = measure([Measured("dense", linear, sharded)], batches(), QUICK, put=put)
    assert row.robustness == pytest.approx(rows[0].robustness)
    for field in (
        "samples",
        "loss",
        "top1",
        "macro_f1",
        "ece",
        "agreement",
        "macs",
        "peak_memory_bytes",
    ):
        assert getattr(row, field) == pytest.approx(getattr(rows[0], field), rel=1e-5), field


def test_nothing_but_the_clean_images_when_nothing_is_asked():
    config = EvaluateConfig(batch_size=2, latency_rounds=1, attacks=(), corruptions=())
    (row,) = measure([Measured("dense", linear, variables())], batches(), config)
    assert list(row.robustness) == ["clean"]
    assert row.robustness["clean"] == row.top1
    assert row.robustness_images == IMAGES


def unweighted():
    return [batch | {"weight": np.zeros(BATCH, np.float32)} for batch in batches()]


@pytest.mark.parametrize(
    ("names", "data", "message"),
    [
        ([], batches, "at least one"),
        (["a", "b", "a"], batches, r"models = \['a', 'b', 'a'\] must be"),
        (["a"], list, "batches is empty"),
        (["a"], unweighted, "no example of weight above 0"),
    ],
)
def test_bad_input(names, data, message):
    with pytest.raises(ValueError, match=message):
        measure([Measured(name, linear, variables()) for name in names], data(), QUICK)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attacks": ["fgms"]}, "attacks: unknown name 'fgms'; did you mean 'fgsm'"),
        ({"corruptions": ["blur"]}, "unknown name 'blur'; did you mean 'gaussian_blur'"),
        ({"severity": 6}, "evaluate.severity = 6"),
        ({"epsilons": [0.0]}, "evaluate.epsilons.0 = 0.0"),
        ({"latency_rounds": 0}, "evaluate.latency_rounds = 0"),
        ({"pgd_step": 3}, "unknown name 'pgd_step'; did you mean 'pgd_steps'"),
    ],
)
def test_bad_configs_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        parse(EvaluateConfig, ConfigDict(values), "evaluate")


def test_a_config_may_say_everything():
    values = {"attacks": ["pgd"], "epsilons": [1, 4.0], "corruptions": [], "severity": 5}
    config = parse(EvaluateConfig, ConfigDict(values), "evaluate")
    assert config.epsilons == (1.0, 4.0)


def test_every_measure_is_documented_and_survives_json(rows):
    fields = Measures.model_json_schema()["properties"]
    assert all(len(field["description"]) > 10 for field in fields.values())
    assert Measures.model_validate_json(rows[0].model_dump_json()) == rows[0]
