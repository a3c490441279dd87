"""Models of language by name: their sizes, losses and what is refused."""

import jax
import jax.numpy as jnp
import pytest

from slim.models import create, language_model, options
from slim.models.deepseek import deepseek_config
from slim.models.deepseek.count import flops

TINY = {"width": 32, "depth": 2, "latent": 16, "head_width": 8, "rotary_width": 8, "heads": 2}
TINY |= {"value_width": 8, "hidden": 48, "expert_hidden": 16}


@pytest.mark.parametrize("size", ["v3", "v2_lite"])
def test_the_published_sizes_are_fixed(size):
    made = language_model(f"deepseek_{size}", num_classes=deepseek_config(size).vocabulary)
    assert made.config == deepseek_config(size)
    assert not options(f"deepseek_{size}").keys() & {"width", "experts", "bias_rate", "dense"}


def test_the_dense_one_has_the_options_of_the_sparse_one_and_computes_as_much():
    assert options("deepseek_dense") == options("deepseek")
    sparse = language_model("deepseek", num_classes=64, **TINY)
    dense = language_model("deepseek_dense", num_classes=64, **TINY, balance_weight=0.1)
    routers = 2 * sparse.config.sparse_layers * sparse.config.width * sparse.config.experts
    assert flops(sparse.config, 16) - routers == flops(dense.config, 16)
    assert dense.loss_weights == {}


def test_only_losses_with_a_weight_are_sown():
    chosen = {"balance_weight": 1e-2, "balance_loss": "switch"}
    made = language_model("deepseek", num_classes=64, **TINY, **chosen)
    assert made.loss_weights == {"switch": 1e-2}
    assert made.decoder().auxiliary == ("switch",)


def test_it_is_called_as_any_other_model():
    model = create("deepseek", num_classes=64, **TINY, bias_rate=0)
    ids = jnp.zeros((2, 5), jnp.int32)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, train=False))
    assert set(variables) == {"params"}
    logits = jax.eval_shape(lambda v: model.apply(v, ids, train=False), variables)
    assert (logits.shape, logits.dtype) == ((2, 5, 64), jnp.float32)


@pytest.mark.parametrize(
    ("name", "chosen", "complaint"),
    [
        ("deepseek", {"balance_loss": "swich"}, "balance_loss: .*swich.*switch"),
        ("deepseek", {"balance_loss": "z"}, "balance_loss = 'z'.* z_weight"),
        ("deepseek", {"z_weight": -1.0}, "z_weight = -1.0 must be at least 0"),
        ("deepseek", {"active": 9}, "9.*8"),
        ("deepseek", {"dense_layers": 5}, "dense_layers = 5"),
        ("deepseek", {"width": 0}, "option width = 0 .*at least 1"),
        ("deepseek", {"shared": -1}, "option shared = -1 .*at least 0"),
        ("deepseek_v3", {"width": 64}, "unknown option of model 'deepseek_v3': 'width'"),
        ("bert", {}, "unknown model of language: 'bert'.*deepseek"),
    ],
)
def test_a_wrong_choice_is_named(name, chosen, complaint):
    with pytest.raises(ValueError, match=complaint):
        language_model(name, num_classes=64, **chosen)
