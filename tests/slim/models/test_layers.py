"""Layers beside the same thing written otherwise."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from slim.models.layers import BatchNorm, LayerNorm, RMSNorm, conv
from slim.models.mobilenet_v3 import hard_swish
from slim.models.resnet import CifarResNet, padded_shortcut
from slim.models.vit import Attention, ViT


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_norms_are_flaxs_with_the_casts_written_out(dtype):
    x = jax.random.normal(jax.random.key(0), (3, 5, 5, 4)).astype(dtype)
    for ours, flaxs in (
        (
            BatchNorm(use_running_average=False),
            nn.BatchNorm(use_running_average=False, dtype=dtype),
        ),
        (LayerNorm(), nn.LayerNorm(dtype=dtype)),
        (RMSNorm(), nn.RMSNorm(dtype=dtype)),
    ):
        y, variables = ours.init_with_output(jax.random.key(1), x)
        with jax.numpy_dtype_promotion("standard"):
            expected, _ = flaxs.apply(variables, x, mutable=["batch_stats"])
        assert y.dtype == dtype
        chex.assert_trees_all_equal(y, expected)


def test_attention_is_flaxs_with_the_products_written_out():
    x = jax.random.normal(jax.random.key(0), (2, 5, 12))
    attention = Attention(heads=3)
    variables = attention.init(jax.random.key(1), x)
    assert variables["params"]["query"]["kernel"].shape == (12, 3, 4)
    expected = nn.MultiHeadDotProductAttention(num_heads=3).apply(variables, x)
    chex.assert_trees_all_close(attention.apply(variables, x), expected, atol=1e-6)


def test_convolution_kernels_have_hes_variance():
    kernel = conv(64, 3, 1, jnp.float32, "conv").init(jax.random.key(0), jnp.ones((1, 4, 4, 32)))
    assert np.std(kernel["params"]["kernel"]) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)


def test_hard_swish_is_jaxs():
    x = jnp.linspace(-5, 5, 101)
    chex.assert_trees_all_close(hard_swish(x), jax.nn.hard_swish(x), atol=1e-6)


def test_padded_shortcut_subsamples_and_adds_empty_channels():
    x = jnp.arange(2 * 3 * 3 * 2.0).reshape(2, 3, 3, 2)
    y = padded_shortcut(x, features=5, stride=2)
    chex.assert_trees_all_equal(y[..., :2], x[:, ::2, ::2])
    chex.assert_trees_all_equal(y[..., 2:], jnp.zeros((2, 2, 2, 3)))


@pytest.mark.parametrize("depth", [2, 9, 18])
def test_a_cifar_depth_must_be_6n_plus_2(depth):
    with pytest.raises(ValueError, match=rf"depth = {depth} must be 6n \+ 2"):
        CifarResNet(depth, num_classes=10)


def test_vit_names_sizes_that_do_not_divide():
    with pytest.raises(ValueError, match="heads = 3 must divide width = 8"):
        ViT(8, 1, 3, num_classes=2)
    model = ViT(8, 1, 2, num_classes=2, patch_size=5)
    with pytest.raises(ValueError, match="patch_size = 5 must divide the images' 10 x 12 pixels"):
        jax.eval_shape(
            lambda key: model.init(key, jnp.ones((1, 10, 12, 3)), train=False), jax.random.key(0)
        )
