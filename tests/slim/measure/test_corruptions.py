"""The contract of every corruption, and each against an independent implementation."""

import itertools
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from slim.measure.corruptions import (
    BLUR_DEVIATION,
    CONTRAST_KEPT,
    CORRUPTIONS,
    NOISE_DEVIATION,
    SEVERITIES,
    SIDE_KEPT,
    contrast,
    gaussian_blur,
    gaussian_noise,
    pixelate,
)

KEY = jax.random.key(0)
JITTED = {name: jax.jit(fn, static_argnums=2) for name, fn in CORRUPTIONS.items()}
every_corruption = pytest.mark.parametrize("name", sorted(CORRUPTIONS))
every_severity = pytest.mark.parametrize("severity", SEVERITIES)


@cache
def natural(shape: tuple[int, ...] = (3, 32, 28, 3)) -> jax.Array:
    """Random images that are smooth, as photographs are, and fill [0, 1]."""
    rng = np.random.default_rng(0)
    images = ndimage.gaussian_filter(rng.normal(size=shape), (0, 1, 1, 0))
    images -= images.min(axis=(1, 2, 3), keepdims=True)
    return jnp.asarray(images / images.max(axis=(1, 2, 3), keepdims=True), jnp.float32)


@every_corruption
@pytest.mark.parametrize(
    ("shape", "severity"),
    [
        *(((3, 32, 28, 3), severity) for severity in SEVERITIES),
        ((2, 8, 8, 1), 5),
        ((1, 1, 1, 1), 5),
    ],
)
def test_keeps_shape_type_and_range(name, severity, shape):
    images = jax.random.uniform(jax.random.key(1), shape)
    corrupted = JITTED[name](KEY, images, severity)
    chex.assert_equal_shape([corrupted, images])
    assert corrupted.dtype == images.dtype
    assert 0 <= float(corrupted.min()) <= float(corrupted.max()) <= 1


@every_corruption
def test_deterministic_given_the_key(name):
    corrupt = partial(JITTED[name], KEY, natural())
    np.testing.assert_array_equal(corrupt(3), corrupt(3))


@every_corruption
def test_each_severity_changes_more(name):
    changes = [
        float(jnp.abs(JITTED[name](KEY, natural(), severity) - natural()).mean())
        for severity in SEVERITIES
    ]
    assert changes[0] > 0
    assert all(less < more for less, more in itertools.pairwise(changes)), changes


@every_corruption
@pytest.mark.parametrize("severity", [0, 6, 2.5])
def test_impossible_severity(name, severity):
    with pytest.raises(ValueError, match=f"severity = {severity} must be one of 1, 2, 3, 4, 5"):
        CORRUPTIONS[name](KEY, natural(), severity)


@every_severity
def test_noise_has_the_stated_deviation(severity):
    noise = gaussian_noise(KEY, jnp.full((4, 64, 64, 3), 0.5), severity) - 0.5
    assert float(noise.std()) == pytest.approx(NOISE_DEVIATION[severity - 1], rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.002)
    assert bool(jnp.any(noise != gaussian_noise(jax.random.key(1), jnp.full_like(noise, 0.5), 3)))


@every_severity
def test_blur_is_scipys_gaussian_filter(severity):
    deviation = BLUR_DEVIATION[severity - 1]
    expected = ndimage.gaussian_filter(
        np.asarray(natural()), (0, deviation, deviation, 0), mode="nearest", truncate=4
    )
    np.testing.assert_allclose(gaussian_blur(KEY, natural(), severity), expected, atol=1e-6)


@every_severity
def test_contrast_scales_deviations_and_keeps_the_mean(severity):
    images = natural()
    low = contrast(KEY, images, severity)
    kept = CONTRAST_KEPT[severity - 1]
    np.testing.assert_allclose(low.mean((1, 2)), images.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(low.std((1, 2)), kept * images.std((1, 2)), atol=1e-6)


@every_severity
def test_pixelate_is_pillows_box_resize(severity):
    images = np.asarray(natural())
    height, width = images.shape[1:3]
    small = tuple(int(SIDE_KEPT[severity - 1] * side) for side in (width, height))
    resized = pixelate(KEY, jnp.asarray(images), severity)
    for index in np.ndindex(images.shape[0], images.shape[3]):
        channel = Image.fromarray(images[index[0], :, :, index[1]], mode="F")
        box = Image.Resampling.BOX
        expected = np.asarray(channel.resize(small, box).resize((width, height), box))
        np.testing.assert_allclose(resized[index[0], :, :, index[1]], expected, atol=1e-6)
