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


def test_the_pictures_that_stages_left_are_copied_and_shown(tmp_path):
    picture = tmp_path / "stage" / "sensitivity.png"
    picture.parent.mkdir()
    picture.write_bytes(b"a picture")
    report.write(known.report(), tmp_path / "run", {"after_sensitivity": picture})
    assert (tmp_path / "run" / "after_sensitivity.png").read_bytes() == b"a picture"
    page = (tmp_path / "run" / "report.md").read_text()
    assert "## after_sensitivity\n\n![after_sensitivity](after_sensitivity.png)" in page


def test_a_cut_model_has_its_widths_and_a_word_on_scratch(tmp_path):
    report.write(known.cut_report(), tmp_path)
    assert contents(tmp_path).keys() == {"report.json", "report.md", "costs.png", "widths.png"}
    page = (tmp_path / "report.md").read_text()
    assert page.startswith("# cut\n\n**finetune** against load: top-1 91.02% (-0.51 points), ")
    assert "\n\nTrained from scratch at the same size (**scratch**): top-1 90.02%" in page
    assert "## Widths" in page
    assert "![Widths](widths.png)" in page
    assert "**shrink: 3.63 k to 696 parameters in kernels**\n\n| kernel |" in page
    assert "| block/kernel | 3×3×16×16 | removed | 0.00% |" in page


def test_a_long_table_of_widths_is_folded(tmp_path):
    shapes = {f"params/layer{i}/kernel": (8, 8) for i in range(20)}
    cut = known.stage("shrink", "shrink", known.measures("shrink"))
    cut = cut.model_copy(update={"kernels": dict.fromkeys(shapes, (4, 4))})
    first = known.cut_report()
    changed = {"stages": (first.stages[0], cut), "kernels": shapes}
    report.write(first.model_copy(update=changed), tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "<details><summary>shrink: 1.28 k to 320 parameters in kernels</summary>\n\n|" in page


def test_a_sweep_links_to_its_recipes_pages(tmp_path):
    report.write_sweep(known.sweep(), tmp_path)
    assert contents(tmp_path).keys() == {"sweep.json", "sweep.md", "sweep.png", "seeds.png"}
    page = (tmp_path / "sweep.md").read_text()
    links = "[seed 0](taylor_s0/report.md), [seed 1](taylor_s1/report.md)"
    assert f'| taylor | `{{"prune.score": "taylor"}}` | {links} |' in page
    assert "means over the seeds" in page
    for picture in re.findall(r"!\[.*\]\((.*)\)", page):
        assert (tmp_path / picture).exists()


def test_a_sweep_over_one_seed_does_not_speak_of_seeds(tmp_path):
    one = {key: top1 for key, top1 in known.SWEPT.items() if key[1] == 0}
    sweep = known.sweep(one).model_copy(update={"baselines": {0: known.measures("train")}})
    report.write_sweep(sweep, tmp_path)
    assert contents(tmp_path).keys() == {"sweep.json", "sweep.md", "sweep.png"}
    page = (tmp_path / "sweep.md").read_text()
    assert "over the seeds" not in page
    assert "| model | top-1 | points |" in page


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
