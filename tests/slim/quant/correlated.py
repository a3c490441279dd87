"""A weight, and inputs as a network has them: correlated, and some much larger than others."""

import jax.numpy as jnp
import numpy as np


def correlated(seed, inputs=24, outputs=8, count=200):
    """Weights (inputs, outputs) and samples (count, inputs)."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(inputs, inputs)) + 2 * np.eye(inputs)
    sizes = np.exp(rng.normal(size=inputs))
    x = rng.normal(size=(count, inputs)) @ mixing * sizes
    w = rng.normal(size=(inputs, outputs)) * rng.uniform(0.2, 2, outputs)
    return jnp.asarray(w, jnp.float32), jnp.asarray(x, jnp.float32)
