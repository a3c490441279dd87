"""Small programs, one per way in which real models couple axes: parameters, function, sizes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

PROGRAMS = {}


def program(sizes, gradients=False, differentiable=True):
    """Register a maker of (function, parameters, input) with the sizes of its groups, sorted.

    `gradients`: whether every run compares them, not only the slow one.
    """

    def register(make):
        PROGRAMS[make.__name__] = (make, sizes, gradients, differentiable)
        return make

    return register


def normal(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


TOKENS = normal(2, 6, 10)
IMAGES = normal(2, 8, 8, 3)


def layer_norm(x, scale, bias):
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x).mean(-1, keepdims=True) - jnp.square(mean)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * scale + bias


def conv(x, w, stride=1, groups=1, padding="SAME", **kw):
    return jax.lax.conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups, **kw,
    )  # fmt: skip


@program(sizes=[8, 12])
def mlp():
    params = {"a": normal(10, 12), "ab": normal(12), "b": normal(12, 8), "c": normal(8, 3)}

    def fn(p, x):
        return jax.nn.gelu(jax.nn.relu(x @ p["a"] + p["ab"]) @ p["b"]) @ p["c"]

    return fn, params, TOKENS


@program(sizes=[10, 16], gradients=True)
def gated_linear_unit():
    """SwiGLU, both halves from one kernel: half of it is one group."""
    params = {"in": normal(10, 10), "up": normal(10, 32), "down": normal(16, 3)}

    def fn(p, x):
        gate, value = jnp.split((x @ p["in"]) @ p["up"], 2, axis=-1)
        return (jax.nn.silu(gate) * value) @ p["down"]

    return fn, params, TOKENS


def attend(q, k, v):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v)


@program(sizes=[4, 5, 12])
def fused_qkv_reshaped():
    """One kernel reshaped to (3, heads, width): heads and width are cut alike in q, k and v."""
    params = {"e": normal(10, 12), "qkv": normal(12, 3 * 4 * 5), "out": normal(4 * 5, 3)}

    def fn(p, x):
        x = x @ p["e"]
        q, k, v = jnp.moveaxis((x @ p["qkv"]).reshape(2, 6, 3, 4, 5), 2, 0)
        return attend(q, k, v).reshape(2, 6, 20) @ p["out"]

    return fn, params, TOKENS


@program(sizes=[4, 5, 5, 12])
def fused_qkv_split():
    """One kernel split in three: q and k share a width, v has its own."""
    params = {"e": normal(10, 12), "qkv": normal(12, 3 * 4 * 5), "out": normal(4 * 5, 3)}

    def fn(p, x):
        parts = jnp.split((x @ p["e"]) @ p["qkv"], 3, axis=-1)
        q, k, v = (part.reshape(2, 6, 4, 5) for part in parts)
        return attend(q, k, v).reshape(2, 6, 20) @ p["out"]

    return fn, params, TOKENS


@program(sizes=[2, 2, 5, 5])
def grouped_query_attention():
    """Four query heads over two key heads: 2 key heads x 2 queries each."""
    params = {
        "q": normal(10, 4, 5), "k": normal(10, 2, 5), "v": normal(10, 2, 5), "o": normal(4, 5, 3)
    }  # fmt: skip

    def fn(p, x):
        q, k, v = (jnp.einsum("bse,ehd->bshd", x, p[name]) for name in "qkv")
        k, v = (jnp.repeat(each, 2, axis=2) for each in (k, v))
        return jnp.einsum("bshd,hde->bse", attend(q, k, v), p["o"])

    return fn, params, TOKENS


def rotary(x, halves):
    positions, width = x.shape[1], x.shape[-1]
    angles = np.arange(positions)[:, None] / 100 ** (np.arange(width // 2) * 2 / width)
    sin, cos = (jnp.asarray(f(angles), x.dtype)[None, :, None] for f in (np.sin, np.cos))
    if halves:
        a, b = x[..., : width // 2], x[..., width // 2 :]
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    a, b = x[..., ::2], x[..., 1::2]
    return jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)


def rotary_attention(halves):
    params = {name: normal(10, 2, 6) for name in "qkv"} | {"o": normal(2, 6, 3)}

    def fn(p, x):
        q, k, v = (jnp.einsum("bse,ehd->bshd", x, p[name]) for name in "qkv")
        out = attend(rotary(q, halves), rotary(k, halves), v)
        return jnp.einsum("bshd,hde->bse", out, p["o"])

    return fn, params, TOKENS


@program(sizes=[2, 3, 6])
def rotary_halves():
    """Pairs (i, i + half) rotate together, by a table of constants that is cut too."""
    return rotary_attention(True)


@program(sizes=[2, 3, 6])
def rotary_interleaved():
    """Pairs (2i, 2i + 1) rotate together."""
    return rotary_attention(False)


@program(sizes=[4, 5, 6])
def u_net():
    """A skip joins channels of two stages; a transposed convolution brings the sizes back."""
    params = {
        "down": normal(3, 3, 3, 4), "mid": normal(3, 3, 4, 6), "up": normal(3, 3, 6, 5),
        "out": normal(1, 1, 9, 2),
    }  # fmt: skip

    def fn(p, x):
        skip = jax.nn.relu(conv(x, p["down"]))
        deep = jax.nn.relu(conv(skip, p["mid"], stride=2))
        up = jax.lax.conv_transpose(deep, p["up"], (2, 2), "SAME")
        return conv(jnp.concatenate([jax.nn.relu(up), skip], axis=-1), p["out"])

    return fn, params, IMAGES


@program(sizes=[4, 4, 6])
def dense_net():
    """Every layer sees all before it, behind a norm whose parameters are sums too."""
    params = {
        "stem": normal(3, 3, 3, 6),
        "n1": normal(6), "c1": normal(3, 3, 6, 4),
        "n2": normal(10), "c2": normal(3, 3, 10, 4),
        "n3": normal(14), "out": normal(14, 2),
    }  # fmt: skip

    def fn(p, x):
        x = conv(x, p["stem"])
        for i in "12":
            x = jnp.concatenate([x, conv(jax.nn.relu(x * p["n" + i]), p["c" + i])], axis=-1)
        return (x * p["n3"]).mean((1, 2)) @ p["out"]

    return fn, params, IMAGES


@program(sizes=[4, 8])
def squeeze_excite():
    """A gate of the channels by themselves; sigmoid(0) is not 0, but it multiplies zeros."""
    params = {
        "in": normal(3, 3, 3, 8), "down": normal(8, 4), "up": normal(4, 8), "out": normal(8, 2)
    }  # fmt: skip

    def fn(p, x):
        x = jax.nn.relu(conv(x, p["in"]))
        gate = jax.nn.sigmoid(jax.nn.relu(x.mean((1, 2)) @ p["down"]) @ p["up"])
        return (x * gate[:, None, None]).mean((1, 2)) @ p["out"]

    return fn, params, IMAGES


@program(sizes=[2, 2, 2, 2, 6])
def channel_shuffle():
    """ShuffleNet: grouped convolutions with a transpose of the groups between."""
    params = {"in": normal(1, 1, 3, 8), "g1": normal(3, 3, 2, 8), "g2": normal(3, 3, 2, 24)}
    params |= {"out": normal(24, 2)}

    def fn(p, x):
        x = conv(conv(x, p["in"]), p["g1"], groups=4)
        x = x.reshape(2, 8, 8, 4, 2).swapaxes(3, 4).reshape(2, 8, 8, 8)
        return jax.nn.relu(conv(x, p["g2"], groups=4)).mean((1, 2)) @ p["out"]

    return fn, params, IMAGES


@program(sizes=[2, 6])
def depthwise_multiplier():
    """Each channel makes two: the kernel's outputs are channels x 2."""
    params = {"in": normal(1, 1, 3, 6), "dw": normal(3, 3, 1, 12), "out": normal(12, 2)}

    def fn(p, x):
        return conv(jax.nn.relu(conv(x, p["in"])), p["dw"], groups=6).mean((1, 2)) @ p["out"]

    return fn, params, IMAGES


@program(sizes=[3, 4])
def group_norm():
    """Channels are groups x the rest; a mean over a group keeps its divisor."""
    params = {"in": normal(3, 3, 3, 12), "scale": normal(12), "out": normal(12, 2)}

    def fn(p, x):
        y = conv(x, p["in"]).reshape(2, 8, 8, 3, 4)
        mean = y.mean((1, 2, 4), keepdims=True)
        variance = jnp.square(y).mean((1, 2, 4), keepdims=True) - jnp.square(mean)
        y = ((y - mean) * jax.lax.rsqrt(variance + 1e-5)).reshape(2, 8, 8, 12)
        return jax.nn.relu(y * p["scale"]).mean((1, 2)) @ p["out"]

    return fn, params, IMAGES


@program(sizes=[8])
def layer_norm_fast():
    """Mean and mean of squares: removed zeros add nothing."""
    params = {"in": normal(10, 8), "s": normal(8), "b": normal(8), "out": normal(8, 2)}
    return lambda p, x: layer_norm(x @ p["in"], p["s"], p["b"]) @ p["out"], params, TOKENS


@program(sizes=[8])
def rms_norm_residual():
    """A residual stream is one group through every layer."""
    params = {"in": normal(10, 8), "w": normal(8, 8), "s": normal(8), "out": normal(8, 2)}

    def fn(p, x):
        x = x @ p["in"]
        for _ in range(2):
            norm = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)
            x = x + jnp.tanh((norm * p["s"]) @ p["w"])
        return x @ p["out"]

    return fn, params, TOKENS


@program(sizes=[8])
def tied_embedding():
    """One table reads tokens and scores them: its width is free, its rows are not."""
    params = {"table": normal(11, 8), "w": normal(8, 8)}

    def fn(p, x):
        tokens = jnp.argmax(x, axis=-1)
        hidden = p["table"][tokens]
        return (hidden + jnp.tanh(hidden @ p["w"])) @ p["table"].T

    return fn, params, TOKENS


@program(sizes=[5], gradients=True)
def lstm():
    """Four gates from one kernel in a scan: gates are cut alike, and so is the state."""
    params = {"x": normal(10, 20), "h": normal(5, 20), "b": normal(20), "out": normal(5, 2)}

    def fn(p, x):
        def step(state, row):
            h, c = state
            i, f, g, o = jnp.split(row @ p["x"] + h @ p["h"] + p["b"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros((2, 5))
        _, hidden = jax.lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))
        return hidden @ p["out"]

    return fn, params, TOKENS


@program(sizes=[7, 8], gradients=True)
def scanned_layers():
    """A stack of layers in one scan is cut alike in every layer."""
    params = {
        "in": normal(10, 8), "up": normal(3, 8, 7), "down": normal(3, 7, 8), "out": normal(8, 2)
    }  # fmt: skip

    def fn(p, x):
        def layer(x, w):
            return x + jax.nn.relu(x @ w["up"]) @ w["down"], None

        x, _ = jax.lax.scan(layer, x @ p["in"], {"up": p["up"], "down": p["down"]})
        return x @ p["out"]

    return fn, params, TOKENS


@program(sizes=[8], differentiable=False)
def while_loop():
    params = {"in": normal(10, 8), "w": normal(8, 8), "out": normal(8, 2)}

    def fn(p, x):
        def body(state):
            i, x = state
            return i + 1, jnp.tanh(x @ p["w"])

        return jax.lax.while_loop(lambda s: s[0] < 3, body, (0, x @ p["in"]))[1] @ p["out"]

    return fn, params, TOKENS


@program(sizes=[6, 8], gradients=True)
def branches():
    params = {"in": normal(10, 8), "a": normal(8, 6), "b": normal(8, 6), "out": normal(6, 2)}

    def fn(p, x):
        x = jax.nn.relu(x @ p["in"])
        y = jax.lax.cond(x.sum() > 0, lambda x: x @ p["a"], lambda x: jnp.tanh(x @ p["b"]), x)
        return y @ p["out"]

    return fn, params, TOKENS


@program(sizes=[8], gradients=True)
def rematerialised():
    params = {"in": normal(10, 8), "out": normal(8, 2)}
    hidden = jax.checkpoint(lambda w, x: jnp.zeros((2, 6, 8)) + jnp.sin(x @ w))
    return lambda p, x: hidden(p["in"], x) @ p["out"], params, TOKENS


@program(sizes=[5, 8], gradients=True)
def over_a_mesh():
    """Rows over one mesh axis, the contracted width over the other: other widths are free."""
    params = {"in": normal(10, 8), "up": normal(8, 5), "down": normal(5, 8), "out": normal(8, 2)}

    def local(w, x):
        x = jax.nn.relu(x @ w["in"]) @ w["up"]
        rows = jax.lax.psum(jax.nn.silu(x) @ w["down"] @ w["out"], "tensor")
        return jax.lax.psum_scatter(rows, "data", scatter_dimension=1, tiled=True)

    def fn(p, x):
        mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
        specs = {"in": P(), "up": P(), "down": P(None, "tensor"), "out": P("tensor")}
        return jax.shard_map(
            local, mesh=mesh, in_specs=(specs, P("data")), out_specs=P(None, "data")
        )(p, x)

    return fn, params, TOKENS


@jax.custom_vjp
def scaled(x, w):
    return jnp.zeros((2, 6, 8)) + x * w


scaled.defvjp(
    lambda x, w: (scaled(x, w), (x, w)),
    lambda kept, g: (g * kept[1] + jnp.zeros((2, 6, 8)), (g * kept[0]).sum((0, 1)).reshape(8)),
)


@program(sizes=[8], gradients=True)
def custom_vjp():
    """The backward rule carries sizes of its own."""
    params = {"in": normal(10, 8), "s": normal(8), "out": normal(8, 2)}
    return lambda p, x: scaled(x @ p["in"], p["s"]) @ p["out"], params, TOKENS


@jax.custom_jvp
def cube(x):
    return x * x * x


cube.defjvps(lambda g, _, x: 3 * x * x * g + jnp.zeros((2, 6, 8)))


@program(sizes=[8], gradients=True)
def custom_jvp():
    """The tangent rule carries sizes of its own."""
    params = {"in": normal(10, 8), "out": normal(8, 2)}
    return lambda p, x: cube(x @ p["in"]) @ p["out"], params, TOKENS


@jax.custom_vjp
def centred(x):
    """X over its two-pass standard deviation, less its mean."""
    return centred_forward(x)[0]


def centred_forward(x):
    deviation = x - x.mean(-1, keepdims=True)
    rate = jax.lax.rsqrt(jnp.square(deviation).mean(-1, keepdims=True) + 1e-5)
    return deviation * rate, (deviation, rate)


def centred_backward(kept, g):
    deviation, rate = kept
    y = deviation * rate
    inner = g - y * (g * y).mean(-1, keepdims=True)
    return (rate * (inner - g.mean(-1, keepdims=True)),)


centred.defvjp(centred_forward, centred_backward)


@program(sizes=[8], gradients=True)
def custom_norm():
    """The forward rule's variance is corrected as the function's own is."""
    params = {"in": normal(10, 8), "s": normal(8), "out": normal(8, 2)}
    return lambda p, x: (centred(x @ p["in"]) * p["s"]) @ p["out"], params, TOKENS


@program(sizes=[4, 5, 8, 8])
def experts_by_einsum():
    """The gate's own experts are frozen; without one of the others, its share of the sum is 0."""
    params = {
        "in": normal(10, 8), "gate": normal(8, 4), "up": normal(4, 8, 5), "down": normal(4, 5, 8),
        "out": normal(8, 2),
    }  # fmt: skip

    def fn(p, x):
        x = x @ p["in"]
        weight, chosen = jax.lax.top_k(jax.nn.softmax(x @ p["gate"]), 2)
        gates = (jax.nn.one_hot(chosen, 4) * weight[..., None]).sum(-2)
        hidden = jax.nn.relu(jnp.einsum("bse,xef->bsxf", x, p["up"]))
        return jnp.einsum("bsxf,xfe,bsx->bse", hidden, p["down"], gates) @ p["out"]

    return fn, params, TOKENS


@program(sizes=[5, 8])
def experts_by_ragged_dot():
    """Rows sorted by expert; each run of rows meets its expert's matrix."""
    params = {
        "in": normal(10, 8), "gate": normal(8, 4), "up": normal(4, 8, 5), "down": normal(4, 5, 3)
    }  # fmt: skip

    def fn(p, x):
        rows = (x @ p["in"]).reshape(12, 8)
        chosen = jnp.argmax(rows @ p["gate"], axis=-1)
        order = jnp.argsort(chosen)
        runs = jnp.bincount(chosen, length=4)
        hidden = jax.nn.relu(jax.lax.ragged_dot(rows[order], p["up"], runs))
        return jax.lax.ragged_dot(hidden, p["down"], runs)[jnp.argsort(order)]

    return fn, params, TOKENS


@program(sizes=[4, 8])
def padded_shortcut():
    """Option A of ResNet: new channels start as zeros, so they can be cut as well."""
    params = {"in": normal(3, 3, 3, 4), "c": normal(3, 3, 4, 12), "out": normal(12, 2)}

    def fn(p, x):
        x = conv(x, p["in"])
        y = conv(jax.nn.relu(x), p["c"]) + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 8)))
        return y.mean((1, 2)) @ p["out"]

    return fn, params, IMAGES


@program(sizes=[8])
def pooled():
    params = {"in": normal(3, 3, 3, 8), "s": normal(8), "out": normal(8, 2)}

    def fn(p, x):
        x = conv(x, p["in"])
        window, strides = (1, 2, 2, 1), (1, 2, 2, 1)
        big = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, "VALID")
        mean = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, "VALID") / 4
        return ((big + mean) * p["s"]).max((1, 2)) @ p["out"]

    return fn, params, IMAGES


@program(sizes=[2, 3, 3, 8])
def tiled_and_repeated():
    params = {"in": normal(10, 8), "a": normal(16, 3), "b": normal(24, 3), "out": normal(3, 2)}

    def fn(p, x):
        x = x @ p["in"]
        return (jnp.tile(x, (1, 1, 2)) @ p["a"] + jnp.repeat(x, 3, axis=-1) @ p["b"]) @ p["out"]

    return fn, params, TOKENS


@program(sizes=[8])
def weighted_by_position():
    """Tables along the cut axis: an iota and a constant keep the kept indices' own entries."""
    params = {"in": normal(10, 8), "out": normal(8, 2)}
    table = np.linspace(-1, 1, 8, dtype=np.float32)

    def fn(p, x):
        x = (x @ p["in"]) * jax.lax.iota(jnp.float32, 8) * table
        return jnp.roll(jnp.fft.fft(x, axis=1).real.cumsum(1), 1, axis=1) @ p["out"]

    return fn, params, TOKENS


@program(sizes=[8])
def cached_keys():
    """Writing whole rows at a position that is data, reading them back."""
    params = {"in": normal(10, 8), "out": normal(8, 2)}

    def fn(p, x):
        rows = x @ p["in"]
        cache = jnp.zeros((2, 9, 8))
        cache = jax.lax.dynamic_update_slice(cache, rows, (0, jnp.argmax(x[0, 0]) % 3, 0))
        cache = cache.at[:, jnp.array([0, 2])].add(rows[:, :2])
        window = jax.lax.dynamic_slice_in_dim(cache, jnp.argmax(x[0, 1]) % 3, 6, axis=1)
        return window @ p["out"]

    return fn, params, TOKENS


@program(sizes=[8])
def gram():
    """One axis twice in one value."""
    params = {"in": normal(10, 8), "m": normal(8, 8), "out": normal(8, 2)}

    def fn(p, x):
        x = x @ p["in"]
        return jnp.einsum("bsi,bsj->bij", x, x * 2) @ p["m"] @ p["out"]

    return fn, params, TOKENS


@program(sizes=[3, 5])
def sliced_ranges():
    """What is sliced off and what is left are groups of their own."""
    params = {"in": normal(10, 8), "a": normal(3, 2), "b": normal(5, 2)}

    def fn(p, x):
        x = x @ p["in"]
        return x[..., :3] @ p["a"] + x[..., 3:] @ p["b"]

    return fn, params, TOKENS


@program(sizes=[8])
def shifted_then_chunked():
    """Rows that were padded and sliced make no chunks; their width is free all the same."""
    params = {"in": normal(10, 8), "out": normal(8, 2)}

    def fn(p, x):
        x = x @ p["in"]
        x = x + jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        return x.reshape(2, 3, 2, 8).sum(2) @ p["out"]

    return fn, params, TOKENS


@program(sizes=[8])
def sums_of_zeros():
    """A function with f(0) = 0 may be summed over the cut axis without any parameter."""
    params = {"in": normal(10, 8), "b": normal(8)}
    return lambda p, x: jnp.tanh(x @ p["in"] + p["b"]).sum(-1), params, TOKENS


@program(sizes=[8])
def sum_of_sigmoids():
    """What removed entries would add is known, so the sum is corrected: one half each."""
    params = {"in": normal(10, 8)}
    return lambda p, x: jax.nn.sigmoid(x @ p["in"]).sum(-1), params, TOKENS


@program(sizes=[8], gradients=True)
def layer_norm_two_passes():
    """Removed entries deviate by the mean; the sum of squares is corrected for them."""
    params = {"in": normal(10, 8), "s": normal(8), "out": normal(8, 2)}

    def fn(p, x):
        x = x @ p["in"]
        mean = x.mean(-1, keepdims=True)
        variance = jnp.square(x - mean).mean(-1, keepdims=True)
        return ((x - mean) * jax.lax.rsqrt(variance + 1e-5) * p["s"]) @ p["out"]

    return fn, params, TOKENS


@program(sizes=[3, 5])
def variance_of_a_concatenation():
    """Two groups along one axis, each with its own count of what was removed."""
    params = {"a": normal(10, 3), "b": normal(10, 5), "s": normal(8), "out": normal(8, 2)}

    def fn(p, x):
        x = jnp.concatenate([x @ p["a"], x @ p["b"]], axis=-1)
        return ((x / jnp.std(x, axis=-1, keepdims=True)) * p["s"]) @ p["out"]

    return fn, params, TOKENS


@program(sizes=[3, 4])
def group_norm_two_passes():
    """The variance of a group, over positions and what is left of its channels."""
    params = {"in": normal(3, 3, 3, 12), "scale": normal(12), "out": normal(12, 2)}

    def fn(p, x):
        y = conv(x, p["in"]).reshape(2, 8, 8, 3, 4)
        deviation = y - y.mean((1, 2, 4), keepdims=True)
        y = deviation / jnp.sqrt(jnp.var(y, axis=(1, 2, 4), keepdims=True) + 1e-5)
        return jax.nn.relu(y.reshape(2, 8, 8, 12) * p["scale"]).mean((1, 2)) @ p["out"]

    return fn, params, IMAGES


# What must stay whole: there the small function would differ.


@program(sizes=[])
def softmax_over_width():
    params = {"in": normal(10, 8), "out": normal(8, 2)}
    return lambda p, x: jax.nn.softmax(x @ p["in"]) @ p["out"], params, TOKENS


@program(sizes=[])
def maximum_over_width():
    params = {"in": normal(10, 8)}
    return lambda p, x: (x @ p["in"]).max(-1), params, TOKENS


@program(sizes=[])
def sorted_width():
    params = {"in": normal(10, 8), "out": normal(8, 2)}
    return lambda p, x: jnp.sort(x @ p["in"]) @ p["out"], params, TOKENS


@program(sizes=[])
def product_of_width():
    params = {"in": normal(10, 8)}
    return lambda p, x: (x @ p["in"]).prod(-1), params, TOKENS


@program(sizes=[])
def sum_of_a_ramp():
    """Removed entries that differ from one another cannot be made up for."""
    params = {"in": normal(10, 8)}

    def fn(p, x):
        return jnp.exp((x @ p["in"]) + jax.lax.iota(jnp.float32, 8)).sum(-1)

    return fn, params, TOKENS


@program(sizes=[])
def reversed_width():
    params = {"in": normal(10, 8), "out": normal(8, 2)}
    return lambda p, x: jnp.flip(x @ p["in"], -1) @ p["out"], params, TOKENS


@program(sizes=[])
def no_rule():
    params = {"in": normal(10, 10), "out": normal(10, 2)}
    return lambda p, x: x @ jnp.linalg.inv(p["in"]) @ p["out"], params, TOKENS
