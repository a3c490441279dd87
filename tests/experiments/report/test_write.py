"""The files of a report: complete, reproducible, and written whole or not at all."""

import re

import numpy as np
import pytest
from matplotlib.transforms import Bbox
from PIL import Image

from experiments import report
from experiments.report.plots.curves import training_curves
from experiments.report.plots.labels import Point, place
from tests.experiments.report import known


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_run_leaves_its_files_and_no_others(tmp_path):
    report.write(known.report(), tmp_path)
    assert contents(tmp_path).keys() == {"report.json", "report.md", "costs.png", "curves.png"}
    assert report.read(tmp_path / "report.json") == known.report()


def test_the_page_shows_the_tables_the_pictures_and_the_command(tmp_path):
    report.write(known.report(), tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert page.startswith("# fashion_resnet20_prune\n\n**finetune** against train: top-1 91.02%")
    assert "| finetune | 0.253 | 91.02% |" in page
    assert "| evaluate | evaluate | 1 min 33 s |" in page
    assert f"```sh\n{known.report().command}\n```" in page
    assert "1 cpu (cpu), 2 cores, 1 process, Python 3.11.7, jax 0.10.2, flax 0.12.8" in page
    assert '"betas": [' in page
    for picture in re.findall(r"!\[.*\]\((.*)\)", page):
        assert (tmp_path / picture).exists()


def test_writing_the_same_report_again_changes_nothing(tmp_path):
    report.write(known.report(), tmp_path)
    before = contents(tmp_path)
    report.write(known.report(), tmp_path)
    assert contents(tmp_path) == before


def test_a_sweep_links_to_its_recipes_pages(tmp_path):
    report.write_sweep(known.sweep(), tmp_path)
    assert contents(tmp_path).keys() == {"sweep.json", "sweep.md", "sweep.png"}
    page = (tmp_path / "sweep.md").read_text()
    assert '| taylor | `{"prune": {"score": "taylor"}}` | [report](taylor/report.md) |' in page


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    report.write(known.report(), tmp_path)
    before = contents(tmp_path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    changed = known.report().model_copy(update={"name": "another"})
    with pytest.raises(OSError, match="No space"):
        report.write(changed, tmp_path)
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("name", ["costs.png", "curves.png"])
def test_pictures_show_something_in_each_panel(tmp_path, name):
    report.write(known.report(), tmp_path)
    pixels = np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)
    assert pixels.shape == (544, 1600, 3)
    coloured = np.ptp(pixels, axis=-1) > 60  # neither grid nor text
    # The last model is red in every panel of costs; evaluation is red in the middle one of curves.
    thirds = [part.any() for part in np.array_split(coloured, 3, axis=1)]
    assert thirds == ([True] * 3 if name == "costs.png" else [False, True, False])


def test_one_model_alone_and_models_of_very_different_cost_are_drawn(tmp_path):
    only = known.report()
    only = only.model_copy(update={"stages": only.stages[:1]})
    report.write(only, tmp_path / "one")
    assert "**train** against" not in (tmp_path / "one" / "report.md").read_text()
    tiny = known.stage("tiny", "shrink", known.measures("tiny", 0.01, 0.5))
    report.write(only.model_copy(update={"stages": (*only.stages, tiny)}), tmp_path / "two")
    assert (tmp_path / "two" / "costs.png").stat().st_size > 10_000


def test_stages_without_known_scalars_have_no_curves(tmp_path):
    other = {"train/gradient_norm": report.Curve(steps=(1, 2), values=(1.0, 2.0))}
    stage = known.stage("train", "train", known.measures("train"), curves=other)
    assert training_curves([stage]) is None
    report.write(known.report().model_copy(update={"stages": (stage,)}), tmp_path)
    assert contents(tmp_path).keys() == {"report.json", "report.md", "costs.png"}
    assert "curves.png" not in (tmp_path / "report.md").read_text()


def test_names_of_crowded_stages_are_turned():
    curve = {"train/loss": report.Curve(steps=(1, 10), values=(1.0, 0.5))}
    long = {"train/loss": report.Curve(steps=(1, 1000), values=(1.0, 0.5))}
    stages = [known.stage(f"finetune_{i}", "train", None, curves=curve) for i in range(4)]
    first = known.stage("train", "train", None, curves=long)

    def rotations(stages):
        (axes,) = training_curves(stages).axes
        (above,) = axes.child_axes
        return {label.get_rotation() for label in above.get_xticklabels()}

    assert rotations([first]) == {0.0}
    assert rotations([first, *stages]) == {60.0}


ROOM = Bbox.from_bounds(0, 0, 400, 300)


@pytest.mark.parametrize("seed", range(5))
def test_names_cover_no_other_name_and_no_other_point(seed):
    draw = np.random.default_rng(seed)
    points = [
        Point(*draw.uniform((20, 50), (250, 250)), draw.uniform(20, 80), 12) for _ in range(9)
    ]
    boxes = place(points, ROOM, gap=8, marker=10)
    for i, box in enumerate(boxes):
        inner = box.padded(-0.01)  # names in a column touch
        assert not any(inner.overlaps(other) for j, other in enumerate(boxes) if j != i)
        assert ROOM.contains(*box.min)
        assert ROOM.contains(*box.max)
        assert not any(box.contains(point.x, point.y) for j, point in enumerate(points) if j != i)


def test_a_name_stands_right_of_its_point_or_left_where_there_is_no_room():
    right, left = place([Point(50, 50, 40, 10), Point(390, 200, 40, 10)], ROOM, 8, 10)
    assert (right.x0, right.y0, right.y1) == (58, 45, 55)
    assert left.x1 == 382


def test_names_of_points_in_one_place_stand_in_the_order_of_their_heights():
    low, high = Point(50, 100, 40, 10), Point(50, 101, 60, 10)
    above, below = place([high, low], ROOM, 8, 10)
    assert above.x0 == below.x0 == 58
    assert above.y0 == below.y1 == pytest.approx(100.5)
