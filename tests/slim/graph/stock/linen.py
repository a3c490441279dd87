"""Flax Linen: Hugging Face's Transformers and Diffusers, flaxmodels."""

import jax
import jax.numpy as jnp

from tests.slim.graph.stock.table import TOKENS, floats, stock

TEXT = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}
VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 4,
}
ENCODER_DECODER = {
    "vocab_size": 60,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 36,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
PIXELS = floats(2, 3, 16, 16)


def transformer(model, config, output="logits", **inputs):
    """A model of Transformers, called as its users call it."""
    import transformers

    model = getattr(transformers, model)(config, dtype=jnp.float64, _do_init=False)
    params = jax.eval_shape(
        lambda key: model.init_weights(key, model.input_shape), jax.random.PRNGKey(0)
    )

    def fn(params, *values):
        return model(**dict(zip(inputs, values, strict=True)), params=params)[output]

    return fn, params, *inputs.values()


@stock(stream=[24], pooler=[24], heads=[4], query_key=[6, 6], value=[6, 6], hidden=[32, 32])
def bert():
    """One mask of heads, all ones, is sliced by every layer: their heads are cut alike."""
    from transformers import BertConfig

    return transformer("FlaxBertForSequenceClassification", BertConfig(**TEXT), input_ids=TOKENS)


@stock(embedding=[20], stream=[24], heads=[4], query_key=[6], value=[6], hidden=[32])
def albert():
    """Two layers with one set of parameters."""
    from transformers import AlbertConfig

    return transformer(
        "FlaxAlbertForMaskedLM", AlbertConfig(**TEXT, embedding_size=20), input_ids=TOKENS
    )


@stock(stream=[24], heads=[4, 4], query_key=[6, 6], value=[6, 6], hidden=[32, 32])
def gpt2():
    """Queries, keys and values from one kernel."""
    from transformers import GPT2Config

    config = GPT2Config(vocab_size=60, n_embd=24, n_layer=2, n_head=4, n_inner=32, n_positions=16)
    return transformer("FlaxGPT2LMHeadModel", config, input_ids=TOKENS)


@stock(stream=[32], heads=[4, 4], turned=[2, 2], other=[4, 4], value=[8, 8], hidden=[40, 40])
def gptj():
    """Interleaved rotary embeddings of half of a head's width; attention beside the MLP."""
    from transformers import GPTJConfig

    sizes = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 40}
    config = GPTJConfig(**sizes, n_positions=16, rotary_dim=4)
    return transformer("FlaxGPTJForCausalLM", config, input_ids=TOKENS)


@stock(stream=[24], heads=[4, 4], turned=[3, 3], value=[6, 6], hidden=[32, 32])
def llama():
    from transformers import LlamaConfig

    return transformer("FlaxLlamaForCausalLM", LlamaConfig(**TEXT), input_ids=TOKENS)


@stock(stream=[24], key_heads=[2, 2], queries=[2, 2], turned=[3, 3], value=[6, 6], hidden=[32, 32])
def mistral():
    """Four query heads over two key heads."""
    from transformers import MistralConfig

    config = MistralConfig(**TEXT, num_key_value_heads=2)
    return transformer("FlaxMistralForCausalLM", config, input_ids=TOKENS)


@stock(stream=[24], heads=[4], query_key=[6, 6], value=[6, 6], hidden=[96, 96])
def bloom():
    """Every layer adds one table of biases by distance: their heads are cut alike."""
    from transformers import BloomConfig

    config = BloomConfig(vocab_size=60, hidden_size=24, n_layer=2, n_head=4)
    return transformer("FlaxBloomForCausalLM", config, input_ids=TOKENS)


@stock(
    stream=[24], heads=[4] * 6, query_key=[6] * 6, value=[6] * 6, hidden=[32, 32, 36, 36]
)  # fmt: skip
def bart():
    """Self-attention in both halves and attention across: three in two layers each."""
    from transformers import BartConfig

    return transformer(
        "FlaxBartForConditionalGeneration",
        BartConfig(**ENCODER_DECODER, max_position_embeddings=16),
        input_ids=TOKENS,
        decoder_input_ids=TOKENS,
    )


@stock(
    channels=[24], streams=[24, 24], heads=[4] * 6, query_key=[6] * 6, value=[6] * 6,
    hidden=[32, 32, 36, 36],
)  # fmt: skip
def whisper():
    """Two convolutions over a spectrogram; the streams of its halves are apart."""
    from transformers import WhisperConfig

    audio = {"num_mel_bins": 10, "max_source_positions": 12, "max_target_positions": 16}
    return transformer(
        "FlaxWhisperForConditionalGeneration",
        WhisperConfig(**ENCODER_DECODER, **audio, decoder_start_token_id=0),
        input_features=floats(2, 10, 24),
        decoder_input_ids=TOKENS,
    )


@stock(stream=[24], heads=[4, 4], query_key=[6, 6], value=[6, 6], hidden=[32, 32])
def beit():
    """A table of biases by relative position."""
    from transformers import BeitConfig

    config = BeitConfig(**VISION, use_relative_position_bias=True)
    return transformer("FlaxBeitForImageClassification", config, pixel_values=PIXELS)


@stock(
    streams=[24, 24], heads=[4] * 4, query_key=[6] * 4, value=[6] * 4, hidden=[32] * 4,
    shared=[16],
)  # fmt: skip
def clip():
    """A text tower and an image tower meet in one space."""
    from transformers import CLIPConfig

    towers = {"text_config": TEXT | {"eos_token_id": 2}, "vision_config": VISION}
    return transformer(
        "FlaxCLIPModel",
        CLIPConfig(**towers, projection_dim=16),
        "logits_per_image",
        input_ids=TOKENS,
        pixel_values=PIXELS,
        attention_mask=jnp.ones((2, 8), jnp.int32),
        position_ids=jnp.broadcast_to(jnp.arange(8), (2, 8)),
    )


@stock(
    streams=[8, 12, 24], groups=[3, 3, 6], in_a_group=[4, 4] * 3, squeezed=[2, 3, 3]
)  # fmt: skip
def regnet():
    """Grouped convolutions: their channels are groups x 4; squeeze-excite."""
    from transformers import RegNetConfig

    config = RegNetConfig(embedding_size=8, hidden_sizes=[12, 24], depths=[2, 1], groups_width=4)
    return transformer(
        "FlaxRegNetForImageClassification", config, pixel_values=floats(2, 3, 32, 32)
    )


@stock(
    waves=[8, 12], stream=[2, 12], heads=[4, 4], query_key=[6, 6], value=[6, 6],
    hidden=[32, 32],
)  # fmt: skip
def wav2vec2():
    """Convolutions over the wave; grouped ones for positions make the stream 2 x 12."""
    from transformers import Wav2Vec2Config

    config = Wav2Vec2Config(
        **TEXT,
        conv_dim=(8, 12),
        conv_stride=(2, 2),
        conv_kernel=(4, 4),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
    )
    return transformer("FlaxWav2Vec2ForCTC", config, input_values=floats(2, 80))


@stock(
    skips=[16, 2], up=[16, 32], resnets=[32] * 5, transformers=[32] * 4, heads=[4] * 8,
    query_key=[8] * 8, value=[8] * 8, hidden=[128] * 4, time=[16, 128, 128],
)  # fmt: skip
def diffusion_unet():
    """Stable Diffusion's. Skips are joined to as many channels, then normed in pairs: 16 x 2."""
    from diffusers import FlaxUNet2DConditionModel

    model = FlaxUNet2DConditionModel(
        sample_size=8,
        dtype=jnp.float64,
        block_out_channels=(32,),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
    )
    params = jax.eval_shape(model.init_weights, jax.random.PRNGKey(0))

    def fn(params, latents, text):
        return model.apply({"params": params}, latents, jnp.array([3]), text).sample

    return fn, params, floats(2, 4, 8, 8), floats(2, 5, 12)


@stock(
    streams=[4, 4] * 2, resnets=[4, 4] * 7, query_key=[16, 16], value=[16, 16],
    latents=[8, 4, 4, 4],
)  # fmt: skip
def diffusion_autoencoder():
    """Channels are groups of a norm x 4; what makes the variance goes nowhere here."""
    from diffusers import FlaxAutoencoderKL

    model = FlaxAutoencoderKL(
        dtype=jnp.float64, sample_size=16, block_out_channels=(16,), norm_num_groups=4
    )
    params = jax.eval_shape(model.init_weights, jax.random.PRNGKey(0))
    return lambda p, x: model.apply({"params": p}, x).sample, params, floats(2, 3, 16, 16)


@stock(stages=[64, 128, 256, 512], blocks=[64, 64, 128, 128, 256, 256, 512, 512])
def resnet18():
    import flaxmodels

    model = flaxmodels.ResNet18(
        output="logits", pretrained=None, normalize=False, num_classes=10, dtype="float64"
    )
    images = floats(2, 32, 32, 3)
    variables = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros(images.shape), train=False), jax.random.key(0)
    )
    return lambda v, x: model.apply(v, x, train=False), variables, images
