import jax
import jax.numpy as jnp
import numpy as np

from slim.quant.hessian import input_hessian, output_error
from tests.slim.quant.correlated import correlated


def test_output_error_is_the_mean_squared_change_of_the_outputs():
    w, x = correlated(0)
    change = jax.random.normal(jax.random.key(0), w.shape)
    expected = ((np.asarray(x, np.float64) @ np.asarray(change)) ** 2).sum(axis=1).mean()
    np.testing.assert_allclose(output_error(change, input_hessian(x)), expected, rtol=1e-5)


def test_hessians_of_batches_average():
    _, x = correlated(0)
    batches = x.reshape(4, 5, 10, -1)
    mean = jnp.stack([input_hessian(batch) for batch in batches]).mean(axis=0)
    np.testing.assert_allclose(mean, input_hessian(x), rtol=1e-5, atol=1e-4)
    half = input_hessian(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, input_hessian(x), rtol=0.02, atol=0.5)
