"""DeepSeek-V3 (arXiv:2412.19437) and V2 (arXiv:2405.04434) in Flax Linen.

    model = DeepSeek(deepseek_config("tiny"))                  # and a mix of slim.moe.mixture
    variables = model.init(key, ids, train=False)              # collections params and router
    logits = model.apply(variables, ids, train=False)          # (batch, length, vocabulary)

**In training** routers' biases move, and layers say how balanced they are:

    states, new = model.apply(variables, ids, train=True, method="states",
                              mutable=["router", "losses", "load"])
    router = new["router"]                # the biases after this step: part of the train state
    aux = auxiliary(new)                  # losses (layers,) each, load (layers, experts), dropped
    loss = cross_entropy(model.apply(variables, states[0], method="logits"), targets)
    loss = loss + aux.loss({"sequence": 1e-4})

`router` is neither trained nor decayed; hold its biases by leaving it out of `mutable`. A model
without experts, or with `bias_rate` 0, has no such collection. `states[1:]` predict further ahead.
Scales of norms are stacked too, `(layers, width)`: tell what decays by names, not by dimensions.

**Decoding** is `decode(model, variables, ids, cache, position)`; `slim.models.generate` samples.

**Over a mesh**: parameters by `specs(variables, mesh.shape)`, and
`DeepSeek(config, expert_parallel(mesh), layout=Layout(mesh))`.

**In little memory**: `remat`, `attention_block`, and `method="foretell"` instead of "logits", which
gives the losses of given tokens.

config      sizes: `CONFIGS` has "v3", "v2_lite", "tiny"; any is dense by `config.dense()`
rotary      positions, YaRN
attention   multi-head latent attention, whole and absorbed
blockwise   the whole form block by block
moe         SwiGLU, experts, what is sown
model       layers, multi-token prediction, decoding
foretell    the cross-entropy of the next tokens by parts of the vocabulary
count       parameters, FLOPs, cache, from shapes alone
sharding    which dimension of a parameter goes over which axis of the mesh
"""

from slim.models.deepseek.attention import LatentCache
from slim.models.deepseek.config import CONFIGS, DeepSeekConfig, Yarn, deepseek_config
from slim.models.deepseek.foretell import Foretold
from slim.models.deepseek.model import Cache, DeepSeek, decode, empty_cache
from slim.models.deepseek.moe import Auxiliary, auxiliary
from slim.models.deepseek.sharding import Layout, specs

__all__ = [
    "CONFIGS",
    "Auxiliary",
    "Cache",
    "DeepSeek",
    "DeepSeekConfig",
    "Foretold",
    "LatentCache",
    "Layout",
    "Yarn",
    "auxiliary",
    "decode",
    "deepseek_config",
    "empty_cache",
    "specs",
]
