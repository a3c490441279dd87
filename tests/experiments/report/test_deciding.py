"""Reports of models of language: the lowest perplexity comes first, and loads are shown."""

import math

from experiments import report
from experiments.report.deciding import ACCURACY, PERPLEXITY, deciding
from experiments.report.layout import markdown
from experiments.report.sweeps import sweep_rows, sweep_tables
from experiments.report.tables import LOADS, headline, model_tables
from tests.experiments.report import known

UNKNOWN = {"macro_f1": math.nan, "ece": math.nan, "robustness": {}}
LOAD = {"max_violation": 0.04, "max_violation_worst": 0.1, "load_entropy": 0.99}


def language(name, perplexity, **changes):
    fields = {"loss": math.log(perplexity), "bits_per_byte": 1.5, "active_parameters": 1000.0}
    return known.measures(name, perplexity=perplexity, **UNKNOWN, **fields, **changes)


MODELS = {"dense": language("dense", 60.0), "moe": language("moe", 48.5, dropped_share=0.0, **LOAD)}


def sweep():
    results = [
        report.Result(
            name=name,
            seed=seed,
            overrides={"name": name, "seed": seed},
            report=f"{name}_s{seed}/report.json",
            measures=MODELS[name].model_copy(update={"perplexity": value}),
        )
        for name, values in {"dense": (60.0, 62.0), "moe": (48.0, 50.0)}.items()
        for seed, value in enumerate(values)
    ]
    return report.Sweep(
        name="s",
        command="c",
        machine=known.MACHINE,
        baselines={result.seed: result.measures for result in results if result.name == "dense"},
        results=tuple(results),
    )


def test_the_data_decide_what_decides():
    assert deciding(MODELS["moe"]) == PERPLEXITY
    assert deciding(known.measures("resnet")) == ACCURACY
    assert PERPLEXITY.gain(MODELS["moe"], MODELS["dense"]) == 11.5


def test_the_tables_have_perplexity_active_parameters_and_loads():
    models, _, loads = model_tables(MODELS)
    assert models.caption == "Models, on 10,000 tokens"
    assert models.header[:6] == ("model", "loss", "top-1", "perplexity", "bits/byte", "agrees")
    assert models.rows[1][3:5] == ("48.5", "1.50")
    assert dict(zip(models.header, models.rows[1], strict=True))["active"] == "1.00 k"
    assert loads.caption == LOADS
    assert loads.rows == (("moe", "0.0400", "0.100", "0.990", "0.00%"),)


def test_the_headline_is_of_perplexity():
    line = headline("moe", "dense", MODELS)
    assert line.startswith("**moe** against dense: perplexity 48.5 (-11.5), 1.00x parameters")


def test_a_sweep_begins_with_the_lowest_perplexity():
    rows = sweep_rows(sweep())
    assert [row.name for row in rows] == ["dense", "moe", "dense"]
    assert rows[1].gains == (12.0, 12.0)
    first, _, loads = sweep_tables(sweep())
    assert first.rows[1][:4] == ("moe", "2", "49.0 ± 1.41", "+12.00")
    assert loads.rows[0][0] == "moe"


def test_a_sweep_of_language_is_written_and_read_back(tmp_path):
    made = sweep()
    report.write_sweep(made, tmp_path)
    assert report.read_sweep(tmp_path / "sweep.json").results[0].measures.perplexity == 60.0
    page = (tmp_path / "sweep.md").read_text()
    assert "![Perplexity over seeds](seeds.png)" in page
    assert "Better by" in page
    assert "macro_f1" not in (tmp_path / "sweep.json").read_text()
    assert markdown(sweep_tables(made)[0]) in page
