"""Flax NNX: mamba2-jax."""

from tests.slim.graph.stock.table import TOKENS, stock


@stock(stream=[24], heads=[8, 8], width=[6, 6], state=[10, 10])
def mamba2():
    """A state-space model: one kernel makes gate, input, B, C and step sizes."""
    from flax import nnx
    from mamba2_jax import Mamba2Config, Mamba2ForCausalLM

    config = Mamba2Config(
        vocab_size=60, hidden_size=24, state_size=10, head_dim=6, num_hidden_layers=2, chunk_size=4
    )
    model = nnx.eval_shape(lambda: Mamba2ForCausalLM(config, rngs=nnx.Rngs(0)))
    structure, state = nnx.split(model)
    return lambda s, x: nnx.merge(structure, s)(x)["logits"], state, TOKENS
