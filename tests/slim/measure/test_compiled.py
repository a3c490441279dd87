"""XLA's own counts where they are known."""

import jax
import jax.numpy as jnp

from slim.measure import compiled


def matmul() -> jax.stages.Compiled:
    x = jax.ShapeDtypeStruct((32, 64), jnp.float32)
    w = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    return jax.jit(lambda x, w: x @ w).lower(x, w).compile()


def test_flops_of_a_matmul():
    assert compiled.xla_flops(matmul()) == 2 * 32 * 64 * 64


def test_flops_of_moving_data_are_none():
    x = jax.ShapeDtypeStruct((8, 4), jnp.float32)
    assert compiled.xla_flops(jax.jit(lambda x: x.T.reshape(4, 8)).lower(x).compile()) == 0


def test_peak_holds_arguments_and_results():
    x, w, out = 32 * 64 * 4, 64 * 64 * 4, 32 * 64 * 4
    peak = compiled.peak_bytes(matmul())
    assert x + w + out <= peak <= x + w + out + w  # at most one more copy as a temporary


def test_a_donated_argument_counts_once():
    x = jax.ShapeDtypeStruct((32, 64), jnp.float32)
    kept = jax.jit(lambda x: x + 1).lower(x).compile()
    donated = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
    assert compiled.peak_bytes(kept) == 2 * 32 * 64 * 4
    assert compiled.peak_bytes(donated) == 32 * 64 * 4


def test_temporaries_count():
    def wide(x: jax.Array) -> jax.Array:
        hidden = jnp.sin(x @ jnp.ones((4, 4096)))
        return hidden @ jnp.ones((4096, 4))

    x = jax.ShapeDtypeStruct((16, 4), jnp.float32)
    peak = compiled.peak_bytes(jax.jit(wide).lower(x).compile())
    assert peak >= 2 * 16 * 4 * 4 + 16 * 4096 * 4
