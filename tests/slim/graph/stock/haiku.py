"""Haiku: the networks of `hk.nets`."""

import jax

from tests.slim.graph.stock.table import floats, stock

IMAGES = floats(2, 32, 32, 3)


def network(make):
    """A network in training: logits and the moving averages that it updates."""
    import haiku as hk

    net = hk.without_apply_rng(hk.transform_with_state(lambda x: make(hk.nets)(x, True)))
    params, state = jax.eval_shape(lambda x: net.init(jax.random.key(0), x), IMAGES)

    def fn(variables, x):
        logits, state = net.apply(variables["params"], variables["state"], x)
        return {"logits": logits, "state": state}

    return fn, {"params": params, "state": state}, IMAGES


@stock(
    stem=[64], streams=[16, 32, 48, 64], inner=[4, 4, 8, 8, 12, 12, 16, 16]
)  # fmt: skip
def haiku_resnet():
    """Bottlenecks, normalised before they act (v2)."""
    blocks = {"blocks_per_group": (1, 1, 1, 1), "channels_per_group": (16, 32, 48, 64)}
    return network(
        lambda nets: nets.ResNet(**blocks, num_classes=10, bottleneck=True, resnet_v2=True)
    )


@stock(channels=[32, 8, 12, 16])
def haiku_mobilenet():
    """Depthwise convolutions."""
    return network(lambda nets: nets.MobileNetV1((1, 2, 2), (8, 12, 16), num_classes=10))
