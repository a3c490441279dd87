"""Penzai, whose arrays have named axes."""

import dataclasses

import jax

from tests.slim.graph.stock.table import TOKENS, stock


@stock(stream=[24], key_heads=[2, 2], queries=[2, 2], turned=[3, 3], value=[6, 6], hidden=[32, 32])
def penzai_gemma():
    """Gemma's decoder: four query heads over two key heads, tied embeddings, GeGLU."""
    from penzai import pz
    from penzai.models.transformer.variants import llamalike_common as llamalike

    config = llamalike.LlamalikeTransformerConfig(
        num_kv_heads=2,
        query_head_multiplier=2,
        embedding_dim=24,
        projection_dim=6,
        mlp_hidden_dim=32,
        num_decoder_blocks=2,
        vocab_size=60,
        mlp_variant="geglu_approx",
        tie_embedder_and_logits=True,
    )

    model = llamalike.build_llamalike_transformer(config, init_base_rng=jax.random.key(0))
    body, values = pz.unbind_params(model, freeze=True)

    def fn(params, tokens):
        bound = [
            dataclasses.replace(
                each, value=dataclasses.replace(each.value, data_array=params[each.label])
            )
            for each in values
        ]
        model = pz.bind_variables(body, bound, unfreeze_as_copy=True)
        logits = model(pz.nx.wrap(tokens, "batch", "seq"))
        return logits.unwrap("batch", "seq", "vocabulary")

    return fn, {each.label: each.value.data_array for each in values}, TOKENS
