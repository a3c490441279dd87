"""Random networks: a list of (operation, choices) interpreted on tokens (batch, length, width).

Operations are those of real models, in any order: what is made here need not train, but every
way of coupling axes meets every other.
"""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

BATCH, LENGTH = 2, 4


class Net:
    """Interprets a recipe; parameters are read from `given`, or recorded where it is None."""

    def __init__(self, given):
        self.given = given
        self.shapes = {}

    def param(self, *shape):
        name = f"p{len(self.shapes):02d}"
        self.shapes[name] = shape
        return jnp.full(shape, 0.1) if self.given is None else self.given[name]

    def dense(self, x, width):
        return x @ self.param(x.shape[-1], width)

    def fit(self, x, width):
        """`x` at another width, through a matrix only where it has not that width."""
        return x if x.shape[-1] == width else self.dense(x, width)


OPERATIONS = {}


def operation(fn):
    OPERATIONS[fn.__name__] = fn
    return fn


def divisor(width, pick):
    """A divisor of `width` other than 1 where there is one."""
    divisors = [d for d in range(2, width + 1) if width % d == 0] or [1]
    return divisors[pick % len(divisors)]


@operation
def dense(net, x, other, i, j):
    return net.dense(x, 2 + (i * 5 + j) % 11) + (net.param(2 + (i * 5 + j) % 11) if j % 2 else 0.0)


@operation
def activation(net, x, other, i, j):
    table = (jax.nn.relu, jnp.tanh, jax.nn.gelu, jax.nn.silu, jax.nn.sigmoid, jnp.square)
    return (*table, jnp.cos, jax.nn.elu, jax.nn.softplus)[i % 9](x)


@operation
def scale(net, x, other, i, j):
    return x * net.param(x.shape[-1]) + (net.param(x.shape[-1]) if j % 2 else 0.5 * (i % 2))


@operation
def residual(net, x, other, i, j):
    return x + net.fit(other, x.shape[-1])


@operation
def gate(net, x, other, i, j):
    return x * jax.nn.sigmoid(net.fit(other, x.shape[-1]))


@operation
def concatenate(net, x, other, i, j):
    return jnp.concatenate([x, other] if i % 2 else [other, x, other[..., :1]], axis=-1)[..., :24]


@operation
def glu(net, x, other, i, j):
    a, b = jnp.split(net.fit(x, x.shape[-1] // 2 * 2 or 2), 2, axis=-1)
    return a * jax.nn.silu(b)


@operation
def split(net, x, other, i, j):
    at = 1 + i % max(1, x.shape[-1] - 1)
    return x[..., :at] if j % 2 else jnp.concatenate([x[..., at:], x[..., :at]], axis=-1)


@operation
def every_other(net, x, other, i, j):
    return x[..., i % 2 :: 2] if x.shape[-1] > 1 else x


@operation
def heads(net, x, other, i, j):
    """Per-head scale, normalisation, mixing."""
    h = divisor(x.shape[-1], i)
    y = x.reshape(BATCH, LENGTH, h, -1)
    if j % 3 == 0:
        y = y * net.param(h, 1)
    elif j % 3 == 1:
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-3)
    else:
        y = jnp.einsum("bshw,hwv->bshv", y, net.param(h, y.shape[-1], 3))
    return y.reshape(BATCH, LENGTH, -1)


@operation
def shuffle(net, x, other, i, j):
    h = divisor(x.shape[-1], i)
    return x.reshape(BATCH, LENGTH, h, -1).swapaxes(2, 3).reshape(x.shape)


@operation
def grouped_conv(net, x, other, i, j):
    groups = divisor(x.shape[-1], i)
    kernel = net.param(3, x.shape[-1] // groups, groups * (1 + j % 2))
    return jax.lax.conv_general_dilated(
        x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=groups,
    )  # fmt: skip


@operation
def attention(net, x, other, i, j):
    """Fused or separate projections; keys shared by queries; rotary; tied output."""
    kv, repeat, width = 1 + i % 2, 1 + j % 2, 2 * (1 + i % 3)
    if j % 3:
        qkv = net.dense(x, (repeat * kv + 2 * kv) * width)
        qkv = qkv.reshape(BATCH, LENGTH, -1, width)
        q, k, v = jnp.split(qkv, [repeat * kv, repeat * kv + kv], axis=2)
    else:
        q = net.dense(x, repeat * kv * width).reshape(BATCH, LENGTH, -1, width)
        k, v = (
            net.dense(each, kv * width).reshape(BATCH, LENGTH, kv, width) for each in (x, other)
        )
    k, v = (jnp.repeat(each, repeat, axis=2) for each in (k, v))
    if i % 2:
        q, k = rotate(q, j), rotate(k, j)
    scores = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(width), axis=-1)
    out = jnp.einsum("bhqk,bkhd->bqhd", scores, v).reshape(BATCH, LENGTH, -1)
    return net.dense(out, x.shape[-1])


def rotate(x, j):
    half = x.shape[-1] // 2
    angles = np.arange(LENGTH)[:, None] / 10 ** (np.arange(half) / half)
    sin, cos = (jnp.asarray(f(angles), x.dtype)[None, :, None] for f in (np.sin, np.cos))
    if j % 2:
        a, b = x[..., :half], x[..., half:]
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    a, b = x[..., ::2], x[..., 1::2]
    return jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)


@operation
def norm(net, x, other, i, j):
    """Layer norms: by mean of squares, by squared differences, without parameters."""
    mean = x.mean(-1, keepdims=True)
    if i % 3 == 0:
        variance = jnp.square(x).mean(-1, keepdims=True) - jnp.square(mean)
        variance = jnp.maximum(variance, 0)
    else:
        variance = jnp.var(x, axis=-1, keepdims=True)
    y = (x - mean) * jax.lax.rsqrt(variance + 1e-2)
    return y * net.param(x.shape[-1]) if i % 3 < 2 else y


@operation
def reduce_width(net, x, other, i, j):
    """Something of the whole width added to every entry."""
    reductions = (jnp.sum, jnp.max, jnp.mean, jnp.min)
    return x + 0.1 * reductions[i % 4](other, axis=-1, keepdims=True)


@operation
def whole_width(net, x, other, i, j):
    table = (
        jax.nn.softmax,
        lambda x: jnp.flip(x, -1),
        lambda x: jnp.sort(x, -1),
        lambda x: jnp.cumsum(x, -1),
        lambda x: jnp.roll(x, 1 + j % 2, -1),
    )
    return table[i % 5](x)


@operation
def pad(net, x, other, i, j):
    return jnp.pad(x, ((0, 0), (0, 0), (i % 3, j % 3)), constant_values=0.0 if i % 2 else 0.3)


@operation
def repeat(net, x, other, i, j):
    x = x[..., :8]
    return jnp.tile(x, (1, 1, 2)) if i % 2 else jnp.repeat(x, 2, axis=-1)


@operation
def squeeze_excite(net, x, other, i, j):
    small = jax.nn.relu(net.dense(x.mean(1), 1 + i % 3))
    return x * jax.nn.sigmoid(net.dense(small, x.shape[-1]))[:, None]


@operation
def tied(net, x, other, i, j):
    """A matrix used both ways round."""
    w = net.param(x.shape[-1], 2 + i % 6)
    return jnp.tanh(x @ w) @ w.T


@operation
def recurrent(net, x, other, i, j):
    width = 2 + i % 4
    wx, wh = net.param(x.shape[-1], 4 * width), net.param(width, 4 * width)

    def step(state, row):
        h, c = state
        a, f, g, o = jnp.split(row @ wx + h @ wh, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(a) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), (h, c)[j % 2]

    zeros = jnp.zeros((BATCH, width), x.dtype)
    return jax.lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))[1].swapaxes(0, 1)


@operation
def layers(net, x, other, i, j):
    """A scan over stacked layers with a residual stream."""
    hidden = 2 + j % 5
    stack = net.param(3, x.shape[-1], hidden), net.param(3, hidden, x.shape[-1])

    def layer(x, w):
        return x + jax.nn.relu(x @ w[0]) @ w[1], x.sum(-1) if i % 2 else None

    layer = jax.checkpoint(layer) if j % 2 else layer
    return jax.lax.scan(layer, x, stack)[0]


@operation
def experts(net, x, other, i, j):
    count, hidden = 2 + i % 2, 2 + j % 4
    gates, chosen = jax.lax.top_k(jax.nn.softmax(net.dense(other, count)), 1)
    gates = jax.nn.one_hot(chosen[..., 0], count, dtype=x.dtype) * gates
    up, down = net.param(count, x.shape[-1], hidden), net.param(count, hidden, x.shape[-1])
    y = jax.nn.relu(jnp.einsum("bse,xef->bsxf", x, up))
    return jnp.einsum("bsxf,xfe,bsx->bse", y, down, gates)


@operation
def embedding(net, x, other, i, j):
    table = net.param(5, x.shape[-1])
    tokens = jnp.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) % 5
    return x + table[tokens] if i % 2 else x + (x @ table.T) @ table


@operation
def branch(net, x, other, i, j):
    w = net.param(x.shape[-1], x.shape[-1])
    return jax.lax.cond(other.sum() > 0, lambda x: x @ w, lambda x: jnp.tanh(x), x)


@operation
def outer(net, x, other, i, j):
    y = jnp.einsum("bsi,bsj->bsij", x[..., :4], other[..., :4])
    return y.reshape(BATCH, LENGTH, -1) if i % 2 else y.sum(-1 - j % 2)


@operation
def table(net, x, other, i, j):
    """Constants and counts along the width."""
    ramp = jnp.linspace(-1.0, 1.0, x.shape[-1], dtype=x.dtype)
    return x * ramp if i % 2 else x + jax.lax.iota(x.dtype, x.shape[-1])


STEP = st.tuples(
    st.sampled_from(sorted(OPERATIONS)), st.integers(0, 11), st.integers(0, 11), st.integers(0, 3)
)
RECIPES = st.lists(STEP, min_size=2, max_size=7)


def run(recipe, net, x):
    """The network of a recipe: a dense stem, the operations, a dense head."""
    values = [net.dense(x, 8)]
    for name, i, j, back in recipe:
        y = OPERATIONS[name](net, values[-1], values[-1 - back % len(values)], i, j)
        values.append(y[..., :24])
    return net.dense(jnp.concatenate([values[-1], values[len(values) // 2]], axis=-1), 3)


def build(recipe, seed=0):
    """(function, parameters, input) of a recipe, in double precision."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(BATCH, LENGTH, 6))
    net = Net(None)
    jax.eval_shape(lambda x: run(recipe, net, x), x)
    params = {
        name: rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[:-1])))
        for name, shape in net.shapes.items()
    }
    return lambda p, x: run(recipe, Net(p), x), params, x
