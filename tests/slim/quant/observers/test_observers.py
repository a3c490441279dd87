"""Each observer against its paper in NumPy, and against min-max where clipping should pay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.quant.observers import OBSERVERS, kl, moving_average, mse, percentile
from tests.slim.quant.observers import references
from tests.slim.quant.observers.references import DISTRIBUTIONS, values
from tests.slim.quant.observers.test_contract import KINDS, observed, ranges

# So that the reference need not run for minutes.
COARSE_KL = kl(bins=512)
COARSE_UPDATE = jax.jit(COARSE_KL.update)
COARSE_RANGE = jax.jit(COARSE_KL.range, static_argnums=(1, 2))

every_distribution = pytest.mark.parametrize("distribution", DISTRIBUTIONS)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
spread_out = pytest.mark.parametrize(
    "distribution", [name for name in DISTRIBUTIONS if name not in ("constant", "zeros")]
)


@every_distribution
def test_minmax(distribution):
    x = values(distribution)
    for kind, found in zip(KINDS, ranges("minmax", observed("minmax", x)), strict=True):
        np.testing.assert_array_equal(found, np.float32(references.full(x, *kind)))


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_moving_average(decay):
    observer = moving_average(decay)
    batches = np.split(values("student_t"), 10)
    state = observer.init()
    for batch in batches:
        state = observer.update(state, jnp.asarray(batch))
    expected = references.moving_average(batches, decay)
    np.testing.assert_allclose(observer.range(state, "int8", False), expected, rtol=1e-5)


@every_distribution
def test_percentile(distribution):
    x = values(distribution)
    state = observed("percentile", x)
    for kind, found in zip(KINDS, ranges("percentile", state), strict=True):
        np.testing.assert_allclose(
            found, references.percentile(x, *kind), rtol=1e-6, atol=float(state.width)
        )


def test_percentile_of_all_is_minmax():
    x = values("outliers")
    observer = percentile(q=100)
    state = observer.update(observer.init(), jnp.asarray(x))
    for kind in KINDS:
        expected = np.float32(references.full(x, *kind))
        np.testing.assert_array_equal(observer.range(state, *kind), expected)


@spread_out
def test_mse(distribution):
    x = values(distribution)[-9000:]
    for kind, found in zip(KINDS, ranges("mse", observed("mse", x)), strict=True):
        if references.full(x, *kind)[1] == references.full(x, *kind)[0]:
            continue
        error = references.squared_error(x, *map(float, found), *kind)
        assert error <= 1.02 * references.least_error(x, *kind)


@spread_out
@every_kind
def test_kl(distribution, kind):
    x = values(distribution)
    low, high = references.full(x, *kind)
    if low == high:
        return
    found = [float(end) for end in COARSE_RANGE(COARSE_UPDATE(COARSE_KL.init(), x), *kind)]
    divergence = references.divergences(x, *kind, bins=512)
    unclipped = found == [np.float32(low), np.float32(high)]
    width = references.width(x, 512)
    threshold = max(divergence) if unclipped else round(max(-found[0], found[1]) / width)
    np.testing.assert_allclose(divergence[threshold], min(divergence.values()), rtol=1e-4)
    expected = max(-threshold * width, low), min(threshold * width, high)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def error_ratio(name, distribution, kind, share=1.0):
    """Squared error over min-max's, on the given share of the values, those nearest to zero."""
    x = values(distribution, seed=5)
    inner = x[np.abs(x) <= np.quantile(np.abs(x), share)]

    def error(name):
        low, high = ranges(name, observed(name, x))[KINDS.index(kind)]
        return references.squared_error(inner, float(low), float(high), *kind)

    return error(name) / error("minmax")


@pytest.mark.parametrize("name", ["mse", "kl"])
@pytest.mark.parametrize("kind", [("int4", True), ("int4", False)])
@pytest.mark.parametrize("distribution", ["laplace", "student_t", "outliers"])
def test_clipping_heavy_tails_pays_in_few_bits(name, kind, distribution):
    assert error_ratio(name, distribution, kind) < 0.5


@pytest.mark.parametrize(
    ("name", "distribution"), [("mse", "normal"), ("mse", "laplace"), ("kl", "normal")]
)
def test_clipping_pays_in_eight_bits(name, distribution):
    assert error_ratio(name, distribution, ("int8", True)) < 0.9


@spread_out
@every_kind
def test_least_error_is_not_above_minmax(distribution, kind):
    low, high = references.full(values(distribution), *kind)
    assert low == high or error_ratio("mse", distribution, kind) < 1.001


def test_kl_gives_up_outliers_for_the_body():
    # In eight bits the squared error is that of the outliers: mse keeps them, kl does not.
    kind = ("int8", True)
    assert error_ratio("kl", "outliers", kind) > 1 > error_ratio("mse", "outliers", kind)
    assert error_ratio("kl", "outliers", kind, share=0.999) < 0.1


def test_zeros_do_not_decide():
    # After a ReLU one threshold or the other; as many zeros more should change nothing.
    x = values("relu")
    for name in ("mse", "kl"):
        once, more = (
            ranges(name, observed(name, batch)) for batch in (x, np.append(x, np.zeros_like(x)))
        )
        np.testing.assert_array_equal(once, more)


def test_floating_formats():
    x = values("outliers")
    for name in ("minmax", "percentile", "mse"):
        low, high = OBSERVERS[name]().range(observed(name, x), "float8_e4m3", True)
        assert -low == high
        assert 0 < high <= np.abs(x).max()
    with pytest.raises(ValueError, match="evenly spaced levels, which format 'float8_e4m3'"):
        kl().range(observed("kl", x), "float8_e4m3", True)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (moving_average, {"decay": 1.0}, r"decay is 1.0, must be in \[0, 1\)"),
        (percentile, {"q": 0.9999}, r"q is 0.9999, must be in \(50, 100\], in percent"),
        (percentile, {"bins": 1000}, "bins is 1000, must be a power of two"),
        (mse, {"bins": 256}, "bins is 256, must be a power of two of at least 512"),
    ],
)
def test_bad_options(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
