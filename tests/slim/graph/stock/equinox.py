"""Equinox, whose modules are parameters and program in one pytree: equimo, esm2quinox."""

import jax

from tests.slim.graph.stock.table import TOKENS, floats, stock

IMAGES = floats(2, 3, 32, 32)


def module(make, x, **kwargs):
    """A module with its arrays apart, over a batch."""
    import equinox as eqx

    made = eqx.filter_eval_shape(make, jax.random.PRNGKey(0))
    params, static = eqx.partition(made, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def fn(params, x):
        return jax.vmap(lambda each: eqx.combine(params, static)(each, **kwargs))(x)

    return fn, params, x


def equimo(make):
    key = jax.random.PRNGKey(1)
    return module(lambda key: make(num_classes=10, key=key), IMAGES, key=key, inference=True)


@stock(stream=[24], heads=[4, 4], width=[6, 6], hidden=[96, 96])
def equimo_vit():
    """Queries, keys and values from one kernel, reshaped: their widths are cut alike."""
    from equimo.models import VisionTransformer as ViT

    sizes = {"img_size": 32, "patch_size": 8, "dim": 24, "num_heads": [4], "depths": [2]}
    return equimo(lambda **kw: ViT(in_channels=3, **sizes, **kw))


@stock(streams=[8, 12], hidden=[32, 48])
def equimo_convnext():
    """Depthwise convolutions, and norms over the channels of an image."""
    from equimo.models import ConvNeXt

    return equimo(lambda **kw: ConvNeXt(depths=[1, 1], dims=[8, 12], **kw))


@stock(
    stem=[8, 8, 32, 2], streams=[16, 32], heads=[2, 4], value=[8, 8], hidden=[64, 128], merge=[128]
)
def equimo_mlla():
    """Linear attention. elu(0) + 1 is not 0, so the width of queries and keys is frozen."""
    from equimo.models import Mlla

    sizes = {"img_size": 32, "dim": 16, "depths": [1, 1], "num_heads": [2, 4]}
    return equimo(lambda **kw: Mlla(in_channels=3, **sizes, **kw))


@stock(stream=[24], heads=[4], turned=[3], value=[6], hidden=[96])
def esm2():
    """A protein language model; its layers are one scan, so they are cut alike."""
    from esm2quinox import ESM2

    sizes = {"num_layers": 2, "embed_size": 24, "num_heads": 4, "token_dropout": True}
    fn, params, tokens = module(lambda key: ESM2(**sizes, key=key), TOKENS % 30)
    return lambda p, x: fn(p, x).logits, params, tokens
