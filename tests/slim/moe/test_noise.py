import jax
import jax.numpy as jnp
import numpy as np

from slim.moe import jittered, noisy_logits

KEY = jax.random.key(0)


def test_jitter_stays_in_its_range():
    x = jnp.full((64, 64), 2.0)
    noise = jittered(KEY, x, 0.1) / x
    assert 0.9 <= noise.min() < 0.91
    assert 1.09 < noise.max() <= 1.1
    assert jittered(KEY, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_noise_has_the_learned_scale():
    logits = jnp.full((64, 64), 3.0, jnp.bfloat16)
    noise_logits = jnp.linspace(-4, 4, 64)
    noise = noisy_logits(KEY, logits, jnp.broadcast_to(noise_logits, (64, 64))) - 3
    unit = noisy_logits(KEY, logits, jnp.full((64, 64), jnp.log(jnp.e - 1))) - 3
    np.testing.assert_allclose(noise, unit * np.log1p(np.exp(noise_logits)), atol=1e-5)
    np.testing.assert_allclose((unit.mean(), unit.std()), (0, 1), atol=0.05)
