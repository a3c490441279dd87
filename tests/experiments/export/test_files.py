"""Folders appear whole, or not at all."""

import pytest

from experiments.export import files


def names(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_folders_get_their_names_when_all_is_done(tmp_path):
    with files.folders(tmp_path, ("a", "b")) as partial:
        assert files.write(b"123", partial["a"] / "model") == 3
        assert files.write({"x": b"1", "in/y": b"23"}, partial["b"]) == 3
        assert not (tmp_path / "a").exists()
    assert names(tmp_path) == ["a", "a/model", "b", "b/in", "b/in/y", "b/x"]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    with files.folders(tmp_path, ("a",)) as partial:
        files.write(b"old", partial["a"] / "model")

    def midway():
        with files.folders(tmp_path, ("a", "b")) as partial:
            files.write(b"new", partial["a"] / "model")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        midway()
    assert names(tmp_path) == ["a", "a/model"]
    assert (tmp_path / "a/model").read_bytes() == b"old"


def test_what_was_left_by_a_killed_process_is_taken_away(tmp_path):
    (tmp_path / ".a.partial").mkdir()
    (tmp_path / ".a.partial" / "half").write_bytes(b"1")
    with files.folders(tmp_path, ("a",)) as partial:
        files.write(b"1", partial["a"] / "model")
    assert names(tmp_path) == ["a", "a/model"]


@pytest.mark.parametrize(
    ("content", "suffix", "path"),
    [
        (b"12", ".onnx", "model.onnx"),
        ({"x": b"1", "y": b"2"}, "", "."),
        ({"model.xml": b"1", "model.bin": b"2"}, ".xml", "model.xml"),
        ({"Manifest.json": b"1", "Data/weights": b"2"}, ".mlpackage", "model.mlpackage"),
    ],
)
def test_a_runtime_loads_the_file_or_folder_of_the_suffix(tmp_path, content, suffix, path):
    assert files.write_artefact(content, tmp_path, suffix) == (tmp_path / path, 2)
    assert (tmp_path / path).exists()
