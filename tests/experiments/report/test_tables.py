"""The tables of a known report, cell by cell, in Markdown and in a terminal."""

import pytest

from experiments import report
from experiments.report.layout import Table, markdown, terminal
from experiments.report.tables import comparison, headline, model_tables, stage_table
from tests.experiments.report import known

MODELS = """\
| model | loss | top-1 | F1 | ECE | agrees | params | non-zero | size | MACs | latency b1 |
| :-- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |
| train | 0.253 | 91.53% | 91.43% | 3.12% | 100.00% | 272 k | 272 k | 1.04 MiB | 31.0 M | 4.12 ms 1.00x |
| prune | 0.253 | 84.12% | 84.02% | 3.12% | 97.50% | 81.7 k | 81.7 k | 321 KiB | 9.31 M | 1.24 ms 0.30x |
| finetune | 0.253 | 91.02% | 90.92% | 3.12% | 97.50% | 81.7 k | 81.7 k | 321 KiB | 9.31 M | 1.24 ms 0.30x |
"""  # noqa: E501

MORE = """\
| model | b1 p90 | b128 median | b128 p90 | b128 ratio | FLOPs | by XLA | b128 memory |
| :-- | --: | --: | --: | --: | --: | --: | --: |
| train | 4.87 ms | 311 ms | 350 ms | 1.00x | 62.1 M | 63.5 M | 42.9 MiB |
| prune | 1.46 ms | 93.3 ms | 105 ms | 0.30x | 18.6 M | 19.1 M | 12.9 MiB |
| finetune | 1.46 ms | 93.3 ms | 105 ms | 0.30x | 18.6 M | 19.1 M | 12.9 MiB |"""

STAGES = """\
| stage | kind | time | key | checkpoint |
| :-- | :-- | :-- | :-- | :-- |
| train | train | 1 min 33 s, reused | train-0a1b2c | stages/train-0a1b2c |"""


def test_the_tables_of_a_known_report():
    models, more, robustness = model_tables(known.report().models)
    assert models.caption == "Models, on 10,000 examples"
    assert markdown(models) == MODELS.strip()
    assert markdown(more) == MORE
    assert robustness.header == ("condition", "train", "prune", "finetune")
    assert ("clean", "91.53%", "84.12%", "91.02%") in robustness.rows
    assert ("pgd@8/255", "6.25%", "6.25%", "6.25%") in robustness.rows
    assert markdown(stage_table(known.report().stages[:1])) == STAGES


def test_models_tried_under_other_conditions_leave_gaps():
    models = {"a": known.measures("a", robustness={"clean": 0.5}), "b": known.measures("b")}
    rows = model_tables(models)[-1].rows
    assert rows[0] == ("clean", "50.00%", "91.53%")
    assert rows[1] == ("fgsm@2/255", "–", "50.00%")


@pytest.mark.parametrize("robustness", [{}, {"clean": 0.9}])
def test_without_robustness_there_is_no_table_of_it(robustness):
    assert len(model_tables({"a": known.measures("a", robustness=robustness)})) == 2


def test_the_headline_compares_the_last_model_with_the_baseline():
    assert headline("finetune", "train", known.report().models) == (
        "**finetune** against train: top-1 91.02% (-0.51 points), 0.30x parameters, "
        "0.30x non-zero, 0.30x bytes, 0.30x MACs, 0.30x latency at batch 1, 0.30x at batch 128."
    )


def test_a_baseline_without_contractions_has_no_quotient_of_them():
    models = {"a": known.measures("a", macs=0), "b": known.measures("b")}
    assert "nanx MACs" in headline("b", "a", models)


def test_the_table_of_a_run_fits_a_terminal():
    text = report.table(known.report())
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert text.count("Models, on") == 1  # in one piece
    cells = "finetune 0.253 91.02% 90.92% 3.12% 97.50% 81.7 k 81.7 k 321 KiB 9.31 M 1.24 ms 0.30x"
    assert cells in [" ".join(line.split()) for line in lines]


def test_what_was_trained_from_scratch_is_compared_with_the_final_model_and_the_baseline():
    models = known.cut_report().models
    assert comparison("scratch", "finetune", "load", models) == (
        "Trained from scratch at the same size (**scratch**): top-1 90.02% "
        "(-1.00 points against finetune, -1.51 points against load)."
    )
    models["scratch"] = known.measures("scratch", 1.0, 0.9)
    sentence = comparison("scratch", "finetune", "load", models)
    assert sentence.startswith("Trained from scratch with 272 k parameters (**scratch**): top-1 90")


def test_a_wide_table_goes_on_below_with_its_first_column():
    table = Table("T", ("name", "one", "two", "three"), (("a", "1", "2", "3"),))
    assert terminal([table], width=14) == (
        "T\nname  one  two\n──────────────\na       1    2\n\n"
        "T\nname  three\n───────────\na         3"
    )


def test_a_bar_in_a_name_does_not_end_a_markdown_cell():
    assert markdown(Table("T", ("a", "b"), (("x|y", "1"),))).endswith("| x\\|y | 1 |")


@pytest.mark.parametrize("numeric", [True, False])
def test_only_numbers_stand_right(numeric):
    rule = markdown(Table("T", ("a", "b"), (), numeric)).splitlines()[1]
    assert rule == ("| :-- | --: |" if numeric else "| :-- | :-- |")
