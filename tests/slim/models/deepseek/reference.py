"""The decoder again, in NumPy and float64: token by token, head by head, expert by expert."""

import numpy as np


def norm(x, weights, epsilon):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weights["scale"]


def silu(x):
    return x / (1 + np.exp(-x))


def swiglu(x, w):
    return (silu(x @ w["gate"]) * (x @ w["up"])) @ w["down"]


def turned(x, turns):
    """Pairs as complex numbers; `x` and `turns` are `(length, pairs * 2)` and `(length, pairs)`."""
    z = (x[:, 0::2] + 1j * x[:, 1::2]) * turns
    return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)


def attention(x, w, c, turns, scale):
    """One text `(length, width)`."""
    length, heads = len(x), c.heads
    source = norm(x @ w["query_down"], w["query_norm"], c.epsilon) if c.query_rank else x
    latent = norm(x @ w["latent_down"], w["latent_norm"], c.epsilon)
    rotary_key = turned(x @ w["rotary_key"], turns)
    mixed = []
    for h in range(heads):

        def of(name, h=h):
            return np.split(w[name], heads, axis=1)[h]

        query = source @ of("query_up")
        rotary_query = turned(source @ of("query_rotary"), turns)
        key, value = latent @ of("key_up"), latent @ of("value_up")
        for i in range(length):
            scores = key[: i + 1] @ query[i] + rotary_key[: i + 1] @ rotary_query[i]
            weights = np.exp(scores * scale)
            mixed.append(weights / weights.sum() @ value[: i + 1])
    return np.stack(mixed).reshape(heads, length, -1).swapaxes(0, 1).reshape(length, -1) @ w["out"]


def chosen(affinities, bias, c):
    """The experts of one token: of the groups whose best sum up highest."""
    biased = affinities + bias
    groups = biased.reshape(c.groups, -1)
    best = 2 if c.router == "sigmoid" else 1
    worth = np.sort(groups, axis=1)[:, -best:].sum(1)
    kept = np.argsort(-worth)[: c.groups_kept]
    open_ = [e for e in range(c.experts) if e // groups.shape[1] in kept]
    return sorted(open_, key=lambda e: -biased[e])[: c.active]


def moe(x, w, bias, c):
    out = swiglu(x, w["shared"])
    for t, token in enumerate(x):
        logits = token @ w["router"]["kernel"]
        affinities = 1 / (1 + np.exp(-logits))
        if c.router == "softmax":
            affinities = np.exp(logits) / np.exp(logits).sum()
        experts = chosen(affinities, bias, c)
        gates = affinities[experts]
        gates = c.scale * (gates / gates.sum() if c.normalize else gates)
        for e, gate in zip(experts, gates, strict=True):
            out[t] += gate * swiglu(token, {n: m[e] for n, m in w["experts"].items()})
    return out


def layer(x, w, bias, c, turns, scale):
    x = x + attention(norm(x, w["attention_norm"], c.epsilon), w["attention"], c, turns, scale)
    y = norm(x, w["mlp_norm"], c.epsilon)
    return x + (swiglu(y, w["mlp"]) if bias is None else moe(y, w["mlp"], bias, c))


def at(tree, index):
    if isinstance(tree, dict):
        return {name: at(inside, index) for name, inside in tree.items()}
    return tree[index]


def states(variables, ids, c, frequencies, amplitude, scale):
    """What `DeepSeek.states` gives in training, of one text."""
    w, router = variables["params"], variables.get("router", {})
    turns = amplitude * np.exp(1j * np.arange(len(ids))[:, None] * frequencies)
    none = np.zeros(c.experts)
    x = w["embedding"][ids]
    for i in range(c.dense_layers):
        x = layer(x, at(w["dense"], i), None, c, turns, scale)
    for i in range(c.sparse_layers):
        bias = router["sparse"]["mlp"]["bias"][i] if router else none
        x = layer(x, at(w["sparse"], i), bias, c, turns, scale)
    found = [norm(x, w["norm"], c.epsilon)]
    for k in range(c.predict_ahead):
        m = w[f"ahead_{k}"]
        embedded = norm(w["embedding"][np.roll(ids, -k - 1)], m["embedding_norm"], c.epsilon)
        x = np.concatenate([embedded, norm(found[-1], m["state_norm"], c.epsilon)], axis=-1)
        bias = router[f"ahead_{k}"]["layer"]["mlp"]["bias"] if router else none
        x = layer(x @ m["project"], m["layer"], bias, c, turns, scale)
        found.append(norm(x, m["norm"], c.epsilon))
    return found
