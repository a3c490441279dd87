"""The stage `quantize`: integers that compute what was simulated, of any model before it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.schema import ConfigError
from slim.measure import size
from slim.quant import Quantization

RESNET = {"name": "resnet8", "width": 4}
IMAGES = jax.random.uniform(jax.random.key(5), (4, 8, 8, 1))


def predicted(made, model):
    network = made.network.shrunk(model.plans)
    return network.predict(model.variables, IMAGES[:, : network.input_shape[0]])


def close(made, model, rtol):
    """Whether a model's logits are those of the float one, to a share of their spread."""
    floats = predicted(made, made.model)
    error = jnp.abs(predicted(made, model) - floats).max()
    return float(error) <= rtol * float(jnp.abs(floats).max())


@pytest.mark.parametrize(
    ("section", "rtol"),
    [
        ({}, 0.05),
        ({"weights": "int4", "edges": "same"}, 0.5),
        ({"activations": "float"}, 0.02),
        ({"group": 4, "activations": "float", "weights": "int4"}, 0.5),
        ({"granularity": "tensor", "weight_range": "minmax", "observer": "minmax"}, 0.05),
        ({"observer": "kl", "symmetric": True}, 0.2),
    ],
)
def test_calibration_alone_gives_nearly_the_same_logits(stages, section, rtol):
    made = stages()
    small = made.run("quantize", batches=2, **section)
    assert close(made, small, rtol)


def test_a_model_takes_its_bits_and_counts_all_its_parameters(stages):
    made = stages()
    int8, int4 = (
        made.run("quantize", batches=1, weights=w, edges="same") for w in ("int8", "int4")
    )
    kernels = 64 * 16 + 16 * 12 + 12 * made.network.predict(made.model.variables, IMAGES).shape[-1]
    difference = size.stored_bytes(int8.variables) - size.stored_bytes(int4.variables)
    assert difference == kernels // 2
    whole = size.entries(made.model.variables["params"])
    for model in (int8, int4):
        weights = made.network.shrunk(model.plans).weights(model.variables)
        assert size.entries(weights) == whole


def test_batch_norms_are_folded(stages):
    made = stages(RESNET)
    folded = made.run("quantize", batches=1)
    assert "batch_stats" not in folded.variables
    apart = made.run("quantize", batches=1, fold=False)
    assert "batch_stats" in apart.variables
    assert close(made, folded, 0.1)
    assert close(made, apart, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("section", [{"fold": True}, {"fold": False, "freeze_batch_norm": False}])
def test_training_at_few_bits_beats_calibration(stages, section):
    made = stages(RESNET)
    trained = made.run("train", epochs=2.0, lr=0.1)
    bits = {"weights": "int3", "activations": "int3", "edges": "same", "batches": 2, **section}

    def loss(model):
        network = made.network.shrunk(model.plans)
        batch = made.dataset.batch_at(0, 0)
        logits = network.predict(model.variables, batch["input"] / np.float32(255))
        labels = jax.nn.one_hot(batch["label"], logits.shape[-1])
        return float(-(jax.nn.log_softmax(logits) * labels).sum(-1).mean())

    once = made.run("quantize", trained, **bits)
    again = made.run("quantize", trained, epochs=2.0, lr=0.02, **bits)
    assert loss(again) < loss(once)


def test_pruned_weights_stay_zero_and_cut_models_are_quantized(stages):
    made = stages()
    small = made.run("shrink", keep_ratio=0.7, batches=1)
    sparse = made.run("prune", small, keep_ratio=0.3, epochs=1.0)
    integers = made.run("quantize", sparse, batches=1, epochs=1.0)
    assert len(integers.plans) == 2
    before = size.nonzero(sparse.variables["params"])
    network = made.network.shrunk(integers.plans)
    assert size.nonzero(network.weights(integers.variables)) <= before


def test_integers_are_differentiable_by_images_in_floats(stages):
    made = stages()
    small = made.run("quantize", batches=1)
    network = made.network.shrunk(small.plans)
    floats = network.differentiable(small.variables, IMAGES)
    chex.assert_trees_all_close(floats, network.predict(small.variables, IMAGES), atol=1e-5)
    gradient = jax.grad(lambda x: network.differentiable(small.variables, x).sum())(IMAGES)
    assert float(jnp.abs(gradient).max()) > 0


def test_the_plan_says_all_that_the_next_run_needs(stages):
    made = stages()
    small = made.run("quantize", batches=1, weights="int4")
    assert isinstance(small.plans[-1], Quantization)
    again = made.network.shrunk(small.plans)
    chex.assert_trees_all_equal_shapes_and_dtypes(again.abstract(), small.variables)
    with pytest.raises(ValueError, match="follow from its calibration"):
        again.init(jax.random.key(0))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"rules": [{"pattern": "hiden*"}]}, r"quantize: quantization rule 'hiden\*' matches no"),
        ({"group": 7}, r"quantize: site 'params/hidden1/kernel': .*7"),
        ({"weights": "int9"}, r"quantize\.weights.*unknown name 'int9'"),
        (
            {"epochs": 1.0, "rounding": "gptq"},
            r"rounding = 'gptq' chooses integers",
        ),
        ({"correct_bias": True, "rounding": "gptq"}, r"correct_bias = True measures"),
        ({"smoothing": "awq"}, r"activations = 'int8' must be 'float'"),
        ({"smoothing": "smoothquant", "activations": "float"}, r"may be 'float'"),
        ({"reestimate": True}, r"fold = True leaves none"),
    ],
)
def test_what_does_not_fit_is_refused(stages, section, message):
    with pytest.raises(ConfigError, match=message):
        stages().run("quantize", **section)


def test_what_calibration_cannot_scale_is_refused(stages):
    made = stages()
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, made.model.variables)
    with pytest.raises(ConfigError, match=r"quantize: site 'params/hidden1/kernel' was given NaN"):
        made.run("quantize", made.model._replace(variables=broken))


def test_bits_are_mixed_within_a_budget_of_bytes(stages):
    made = stages()
    sizes = {}
    for keep_ratio in (0.6, 1.0):
        mixed = {"keep_ratio": keep_ratio, "examples": 16}
        model = made.run("quantize", batches=1, mix=True, edges="same", mixed=mixed)
        sizes[keep_ratio] = size.stored_bytes(model.variables)
        assert {"mixed.json", "bits.png", "pareto.png"} <= {
            p.name for p in made.directory.iterdir()
        }
    assert sizes[0.6] < 0.75 * sizes[1.0]


def test_the_device_and_a_tolerance_decide_the_precision(stages):
    made = stages()
    auto = {"cost": "bytes", "examples": 16, "formats": ("bfloat16", "int8")}
    exact = made.run("quantize", batches=1, adapt=True, auto={**auto, "tolerance": 0.0})
    assert size.stored_bytes(exact.variables) == size.stored_bytes(made.model.variables)
    chex.assert_trees_all_equal(predicted(made, exact), predicted(made, made.model))
    loose = made.run("quantize", batches=1, adapt=True, auto={**auto, "tolerance": 1.0})
    assert size.stored_bytes(loose.variables) < 0.4 * size.stored_bytes(exact.variables)
    assert close(made, loose, 0.05)
    timed = {**auto, "cost": "latency", "latency_batch": 2, "latency_rounds": 2}
    assert close(made, made.run("quantize", batches=1, adapt=True, auto=timed), 0.05)


def test_one_thing_chooses_the_formats(stages):
    with pytest.raises(ConfigError, match="mix = True and adapt = True both choose"):
        stages().run("quantize", mix=True, adapt=True)
