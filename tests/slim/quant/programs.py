"""Programs with one weight, `w`, in every place that a contraction has for it."""

import jax
import jax.numpy as jnp

KEY = jax.random.key(0)


def normal(seed, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, seed), shape)


def dense(p, x):
    return x @ p["w"] + p["b"]


def left(p, x):
    return jnp.einsum("io,bti->bto", p["w"], x)


def heads(p, x):
    return jnp.einsum("bi,ihd->bhd", x, p["w"])


def batched(p, x):
    return jnp.einsum("ebi,eio->ebo", x, p["w"])


def conv(strides=(1, 1), padding="SAME", groups=1, **options):
    def fn(p, x):
        return jax.lax.conv_general_dilated(
            x,
            p["w"],
            strides,
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
            **options,
        )

    return fn


def stack(p, x):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["w"])[0]


def ragged(p, x):
    return jax.lax.ragged_dot(x, p["w"], jnp.array([2, 4], jnp.int32))


def attention(p, x):
    q = x @ p["w"]
    return jax.nn.softmax(q @ x.T) @ x


PROGRAMS = {
    "dense": (dense, {"w": (16, 8), "b": (8,)}, (4, 16)),
    "left": (left, {"w": (16, 8)}, (2, 3, 16)),
    "heads": (heads, {"w": (16, 2, 4)}, (5, 16)),
    "batched": (batched, {"w": (3, 16, 4)}, (3, 5, 16)),
    "conv": (conv(), {"w": (3, 3, 16, 8)}, (2, 6, 6, 16)),
    "strided": (conv((2, 2), ((1, 2), (0, 3))), {"w": (3, 3, 16, 8)}, (2, 7, 7, 16)),
    "depthwise": (conv(groups=16), {"w": (3, 3, 1, 16)}, (2, 6, 6, 16)),
    "grouped": (conv(groups=4), {"w": (3, 3, 4, 8)}, (2, 4, 4, 16)),
    "dilated": (conv(rhs_dilation=(2, 2)), {"w": (3, 3, 16, 8)}, (2, 8, 8, 16)),
    "transposed": (
        conv(padding=((1, 2), (1, 2)), lhs_dilation=(2, 2)),
        {"w": (3, 3, 16, 8)},
        (2, 4, 4, 16),
    ),
    "stack": (stack, {"w": (3, 16, 16)}, (4, 16)),
    "ragged": (ragged, {"w": (2, 16, 8)}, (6, 16)),
    "attention": (attention, {"w": (16, 16)}, (4, 16)),
}
