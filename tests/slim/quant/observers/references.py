"""The observers once more, from their papers, in NumPy over all values at once, in float64."""

import numpy as np
from scipy.stats import entropy

BITS = {"int8": 8, "int4": 4, "uint8": 8}

N = 45_000  # 4.5 values in a tail of 1e-4: no rank hangs on rounding


def heavy_tails(rng):
    """A body and a few values far from it, as in the activations of transformers."""
    return np.concatenate([rng.normal(size=N), 30 * rng.normal(size=N // 10_000)])


DISTRIBUTIONS = {
    "normal": lambda rng: rng.normal(size=N),
    "laplace": lambda rng: 1e-3 * rng.laplace(size=N),
    "shifted": lambda rng: 4e4 + 1e4 * rng.normal(size=N),
    "relu": lambda rng: np.maximum(rng.normal(size=N), 0),
    "negative": lambda rng: -rng.gamma(2.0, size=N),
    "student_t": lambda rng: rng.standard_t(3, size=N),
    "outliers": heavy_tails,
    "constant": lambda rng: np.full(1000, -2.3),
    "zeros": lambda rng: np.zeros(1000),
}


def values(name, seed=0):
    return DISTRIBUTIONS[name](np.random.default_rng(seed)).astype(np.float32)


def kind(format, symmetric):
    """signed, unsigned or affine."""
    if not symmetric:
        return "affine"
    return "signed" if format.startswith("int") else "unsigned"


def width(x, bins):
    """The power of two for which the greatest magnitude is just below `bins` widths."""
    power = 0
    while np.max(np.abs(x)) >= 2.0**power:
        power += 1
    while np.max(np.abs(x)) < 2.0 ** (power - 1):
        power -= 1
    return 2.0**power / bins


def full(x, format, symmetric):
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    return {
        "affine": (low, high),
        "unsigned": (0.0, high),
        "signed": (-max(-low, high), max(-low, high)),
    }[kind(format, symmetric)]


def percentile(x, format, symmetric, q=99.99):
    def at(x, q):
        return np.percentile(x.astype(np.float64), q, method="inverted_cdf")

    match kind(format, symmetric):
        case "affine":
            tail = (100 - q) / 2
            return min(-at(-x, 100 - tail), 0.0), max(at(x, 100 - tail), 0.0)
        case "unsigned":
            return 0.0, at(np.maximum(x, 0), q)
        case "signed":
            return -at(np.abs(x), q), at(np.abs(x), q)


def squared_error(x, low, high, format, symmetric):
    """Mean of (x - its nearest number on the format's grid over [low, high])^2."""
    x, bits = x.astype(np.float64), BITS[format]
    match kind(format, symmetric):
        case "affine":
            step = (high - low) / (2**bits - 1)
            first = round(low / step)
            grid = step * np.arange(first, first + 2**bits)
        case "unsigned":
            grid = np.linspace(0, high, 2**bits)
        case "signed":
            step = high / (2 ** (bits - 1) - 1)
            grid = step * np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
    middles = (grid[1:] + grid[:-1]) / 2
    return np.mean((x - grid[np.searchsorted(middles, x)]) ** 2)


def least_error(x, format, symmetric):
    """The least `squared_error` over ranges shrunk to 1 ... 2%, both ends alone if affine."""
    low, high = full(x, format, symmetric)
    if kind(format, symmetric) == "affine" and low and high:
        shrinks = np.geomspace(1, 0.02, 25)
        pairs = [(a * low, b * high) for a in shrinks for b in shrinks]
    else:
        pairs = [(a * low, a * high) for a in np.geomspace(1, 0.02, 100)]
    return min(squared_error(x, *pair, format, symmetric) for pair in pairs)


def divergences(x, format, symmetric, bins):
    """{threshold in bins: KL divergence} as on the slides of Migacz 2017."""
    w, bits = width(x, bins), BITS[format]
    x = x[x != 0].astype(np.float64)
    edges = w * np.arange(-bins, bins + 1)
    histogram, _ = np.histogram(x, edges)
    zero, levels = bins, 2**bits
    if symmetric:
        zero, upper, lower = 0, histogram[bins:], histogram[:bins][::-1]
        if kind(format, symmetric) == "signed":
            histogram, levels = upper + lower, 2 ** (bits - 1)
        else:
            histogram = upper
    filled = np.flatnonzero(histogram)
    least, most = min(filled[0], zero), max(filled[-1] + 1, zero)
    found = {}
    for threshold in range(1, max(zero - least, most - zero) + 1):
        start, stop = max(zero - threshold, least), min(zero + threshold, most)
        everything = (start, stop) == (least, most)
        if stop - start < levels and not everything:
            continue
        kept = histogram[start:stop].astype(np.float64)
        p = kept.copy()
        p[0] += histogram[:start].sum()
        p[-1] += histogram[stop:].sum()
        if kept.sum() == 0:
            continue
        level = np.array([levels * k // len(kept) for k in range(len(kept))])
        total = np.bincount(level, kept, levels)
        members = np.bincount(level, p > 0, levels)
        q = np.where(p > 0, (total / np.maximum(members, 1))[level], 0)
        found[threshold] = entropy(p, q)
        if everything:
            break
    return found


def moving_average(batches, decay):
    low, high = batches[0].min(), batches[0].max()
    for batch in batches[1:]:
        low = decay * low + (1 - decay) * batch.min()
        high = decay * high + (1 - decay) * batch.max()
    return low, high
