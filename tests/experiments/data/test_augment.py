import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.data import augment
from experiments.data.augment import AUGMENTATIONS, Cutout, Flip, PadCrop
from experiments.data.config import DataConfig
from experiments.schema import ConfigError, parse

SHAPE = (16, 12, 10, 3)
KEY = jax.random.key(0)
NAMES = sorted(AUGMENTATIONS)


def images(shape=SHAPE):
    """Distinct, and none zero."""
    return jnp.linspace(0.1, 1, np.prod(shape), dtype=jnp.float32).reshape(shape)


def method(name):
    return augment.build([AUGMENTATIONS[name].config()])


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def test_the_config_names_its_own_method(self, name):
        assert AUGMENTATIONS[name].config().name == name

    def test_is_pure_and_compiles_once(self, name):
        chex.clear_trace_counter()
        fn = jax.jit(chex.assert_max_traces(method(name), n=1))
        first = fn(KEY, images())
        fn(jax.random.key(1), images() / 2)
        chex.assert_trees_all_equal(fn(KEY, images()), first, method(name)(KEY, images()))

    def test_keeps_shape_and_type_abstractly(self, name):
        spec = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
        out = jax.eval_shape(method(name), KEY, spec)
        assert (out.shape, out.dtype) == (spec.shape, spec.dtype)

    def test_examples_differ_and_keys_differ(self, name):
        same = jnp.broadcast_to(images()[:1], SHAPE)
        out = method(name)(KEY, same)
        assert np.any(out != out[:1])
        assert np.any(out != method(name)(jax.random.key(1), same))

    def test_stays_within_the_unit_range(self, name):
        out = method(name)(KEY, images())
        assert out.min() >= 0
        assert out.max() <= 1

    def test_sharded_equals_unsharded_without_communication(self, name):
        sharding = NamedSharding(Mesh(jax.devices(), "data"), PartitionSpec("data"))
        fn = jax.jit(method(name), out_shardings=sharding)
        batch = jax.device_put(images(), sharding)
        chex.assert_trees_all_equal(np.array(fn(KEY, batch)), np.array(method(name)(KEY, images())))
        program = fn.lower(KEY, batch).compile().as_text()
        assert not [op for op in ("all-gather", "all-to-all", "all-reduce") if op in program]


def test_each_image_is_itself_or_its_mirror():
    out = method("flip")(KEY, images())
    same = np.all(out == images(), axis=(1, 2, 3))
    mirrored = np.all(out == images()[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(same ^ mirrored)
    assert 0 < mirrored.sum() < len(mirrored)


def test_flip_twice_is_the_identity():
    flip = method("flip")
    chex.assert_trees_all_equal(flip(KEY, flip(KEY, images())), images())


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_each_crop_is_a_window_of_the_padded_image(mode):
    padding = 2
    out = np.array(augment.build([PadCrop(padding=padding, mode=mode)])(KEY, images()))
    margin = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(images(), margin, mode={"zeros": "constant"}.get(mode, mode))
    windows = np.lib.stride_tricks.sliding_window_view(padded, SHAPE[1:3], axis=(1, 2))
    windows = np.moveaxis(windows, 3, -1)  # (batch, place, place, height, width, channels)
    hits = np.all(windows == out[:, None, None], axis=(3, 4, 5))
    np.testing.assert_array_equal(hits.sum((1, 2)), 1)
    assert len({tuple(np.argwhere(hit)[0]) for hit in hits}) > 1


def test_every_place_is_reached_by_crops_and_no_other():
    batch = images((1000, 3, 3, 1))
    out = np.array(augment.build([PadCrop(padding=1)])(KEY, batch))
    centre = np.array(batch[:, 1, 1, 0])
    places = {
        tuple(np.argwhere(image[..., 0] == c)[0]) for image, c in zip(out, centre, strict=True)
    }
    assert places == {(row, column) for row in range(3) for column in range(3)}


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_zeroes_exactly_a_square_around_a_pixel(size):
    out = np.array(augment.build([Cutout(size=size)])(KEY, images()))
    zeroed = np.all(out == 0, axis=3)
    np.testing.assert_array_equal(out[~zeroed], np.array(images())[~zeroed])
    rows, columns = np.arange(SHAPE[1]), np.arange(SHAPE[2])
    for mask in zeroed:
        squares = [
            np.outer(
                abs(rows - (r - size // 2) - (size - 1) / 2) < size / 2,
                abs(columns - (c - size // 2) - (size - 1) / 2) < size / 2,
            )
            for r in rows
            for c in columns
        ]
        assert any(np.array_equal(mask, square) for square in squares)


def test_an_even_square_has_the_whole_size_away_from_the_border():
    out = augment.build([Cutout(size=4)])(KEY, images((256, 12, 12, 1)))
    assert (out == 0).sum((1, 2, 3)).max() == 16


def test_the_order_of_the_list_is_kept_and_none_is_the_identity():
    key, batch = KEY, images()
    flip, crop = Flip(), PadCrop(padding=2)
    by_hand = AUGMENTATIONS["pad_crop"].apply(
        jax.random.fold_in(key, 1),
        AUGMENTATIONS["flip"].apply(jax.random.fold_in(key, 0), batch, flip),
        crop,
    )
    chex.assert_trees_all_equal(augment.build([flip, crop])(key, batch), by_hand)
    assert augment.build([])(key, batch) is batch


def test_the_config_is_typed_and_dumps_every_field():
    config = parse(
        DataConfig,
        {
            "name": "digits",
            "batch_size": 8,
            "augment": [{"name": "cutout", "size": 3}, {"name": "flip"}],
        },
        "data",
    )
    assert config.augment == (Cutout(size=3), Flip())
    assert config.model_dump()["augment"] == ({"name": "cutout", "size": 3}, {"name": "flip"})
    assert parse(DataConfig, config.model_dump(), "data") == config


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"name": "flop"}, "unknown name 'flop'; did you mean 'flip'"),
        ({"name": "cutout", "sise": 3}, "unknown name 'sise'; did you mean 'size'"),
        ({"name": "pad_crop", "padding": 0}, "pad_crop.padding = 0"),
        ("flip", 'a dict like {"name": "flip"}'),
    ],
)
def test_a_wrong_entry_is_refused_by_place_and_name(entry, says):
    with pytest.raises(ConfigError, match=r"data\.augment\.1") as error:
        parse(
            DataConfig, {"name": "x", "batch_size": 8, "augment": [{"name": "flip"}, entry]}, "data"
        )
    assert says in str(error.value)
