import numpy as np
import pytest

from experiments.data import idx

from .conftest import write_idx


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (0, 2, 2)])
def test_reads_what_was_written(tmp_path, shape, ending):
    array = np.arange(np.prod(shape)).reshape(shape)
    path = tmp_path / f"data{ending}"
    write_idx(path, array)
    np.testing.assert_array_equal(idx.read(path), array)
    assert idx.read(path).dtype == np.uint8
    assert idx.read_shape(path) == shape


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("keep", [0, 3, 9, 40])
def test_a_truncated_file_is_named(tmp_path, ending, keep):
    path = tmp_path / f"data{ending}"
    write_idx(path, np.random.default_rng(0).integers(0, 256, (3, 4, 5)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(idx.IdxError, match=str(path)):
        idx.read(path)


def test_a_corrupt_gzip_file_is_named(tmp_path):
    path = tmp_path / "data.gz"
    write_idx(path, np.random.default_rng(0).integers(0, 256, (30, 4, 5)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(idx.IdxError, match="not a whole gzip file"):
        idx.read(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html>", "not an IDX file of unsigned bytes: it begins with '3c 21 44 4f'"),
        (bytes([0, 0, 0x0D, 1, 0, 0, 0, 0]), "not an IDX file of unsigned bytes"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 2, 7]), "truncated: the header says (2,), 2 bytes; it has 1"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 1, 7, 7]), "too long"),
    ],
)
def test_other_content_is_refused(tmp_path, content, says):
    path = tmp_path / "data"
    path.write_bytes(content)
    with pytest.raises(idx.IdxError) as error:
        idx.read(path)
    assert says in str(error.value)


def test_finds_both_spellings_and_needs_both_files(tmp_path):
    (tmp_path / "t10k-images.idx3-ubyte").touch()
    assert idx.find(tmp_path, "test") is None
    (tmp_path / "t10k-labels-idx1-ubyte.gz").touch()
    assert idx.find(tmp_path, "test") == (
        tmp_path / "t10k-images.idx3-ubyte",
        tmp_path / "t10k-labels-idx1-ubyte.gz",
    )
    assert idx.find(tmp_path, "train") is None
