"""A small mixture to compress, and its output."""

import jax
import jax.numpy as jnp
import numpy as np

from slim.moe.compress import Mixture
from slim.moe.experts import Experts
from slim.moe.mixture import reference

TOKENS, EXPERTS, WIDTH, HIDDEN = 24, 8, 6, 5


def make(seed=0, experts=EXPERTS):
    rng = np.random.default_rng(seed)

    def array(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[-1]), jnp.float32)

    wide, back = (experts, WIDTH, HIDDEN), (experts, HIDDEN, WIDTH)
    weights = Experts(array(*wide), array(*wide), array(*back))
    x = jnp.asarray(rng.normal(size=(TOKENS, WIDTH)), jnp.float32)
    return Mixture(2 * array(WIDTH, experts), array(experts) / 4, weights), x


def route(router, mixture, x):
    logits = jnp.matmul(x, mixture.kernel, precision=jax.lax.Precision.HIGHEST)
    return router.route(logits, mixture.bias)


REFERENCE = reference()


def output(router, mixture, x, mix=REFERENCE):
    """The sum over the experts chosen, jitted so that few programs are compiled."""

    @jax.jit
    def call(mixture, x):
        routing = route(router, mixture, x)
        return mix(mixture.experts, x, routing.experts, routing.gates)[0]

    return call(mixture, x)
