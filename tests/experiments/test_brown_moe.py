"""The recipe of language from its corpus to its report, its text and its sweep."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import dry_run, generate, recipe, report, runner
from experiments.data import sets
from experiments.preemption import Preemption
from experiments.recipe import Recipe
from experiments.report.quantities import size
from experiments.schema import ConfigError
from slim.models.deepseek.count import flops
from slim.models.generate import greedy

CONFIG = "configs/brown_moe.py:smoke"
DRAWN = {"length": 12, "temperature": 0.8, "top_p": 0.95, "seed": 0}


def corpus(folder: Path) -> None:
    """Files as the Brown corpus has them: sentences of a few words with their parts of speech."""
    random = np.random.default_rng(0)
    nouns, verbs = ("jury", "county", "city", "mayor", "law"), ("said", "found", "took")
    for text in range(60):
        lines = (
            f"The/at {random.choice(nouns)}/nn {random.choice(verbs)}/vbd it/ppo ./."
            for _ in range(120)
        )
        (folder / f"c{'abc'[text // 20]}{text % 20:02d}").write_text("\n\n\t".join(lines))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("brown")
    corpus(folder)
    values = recipe.load(CONFIG)
    values.data.data_dir = str(folder)
    values.evaluate.latency_rounds = 1
    return recipe.resolve(values, jax.device_count())


@pytest.fixture(scope="module")
def run(made: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that ended."""
    workdir = tmp_path_factory.mktemp("run")
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam needs it
        assert runner.run(made, workdir, Preemption(), command="here", pages=workdir)
    return workdir


def test_the_report_has_what_was_learnt_and_how_experts_were_used(run):
    found = report.read(run / "report.json")
    measures = found.models["train"]
    assert measures.perplexity < 300
    assert measures.perplexity == pytest.approx(math.exp(measures.loss), rel=1e-4)
    assert measures.bits_per_byte > 0
    assert measures.max_violation_worst >= measures.max_violation >= 0
    assert measures.active_parameters < measures.parameters
    assert measures.flops == pytest.approx(32 * flops(generate.trained(run)[0].language.config, 16))
    curves = found.stages[0].curves
    assert {"train/loss", "eval/perplexity"} <= curves.keys()
    assert "Experts: how even" in (run / "report.md").read_text()


def test_a_trained_model_goes_on_with_a_text_as_without_a_cache(run):
    net, variables, data = generate.trained(run)
    text = generate.continued(net, variables, data, "The jury", **DRAWN)
    assert text.startswith("The jury")
    assert text == generate.continued(net, variables, data, "The jury", **DRAWN)
    ids = [0, 84, 72]
    new = generate._run(net, variables, ids, jax.random.key(0), 4, greedy)
    logits = np.asarray(jax.jit(net.predict)(variables, jnp.array([ids + new])))[
        0, len(ids) - 1 : -1
    ]
    chosen = np.take_along_axis(logits, np.array(new)[:, None], -1)[:, 0]
    np.testing.assert_allclose(chosen, logits.max(-1), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "finetune"}, "--stage: unknown name 'finetune'.*train"),
        ({"stage": "evaluate"}, "--stage=evaluate: it left no model"),
    ],
)
def test_a_stage_without_a_model_is_refused(run, change, message):
    with pytest.raises(ConfigError, match=message):
        generate.trained(run, **change)


@pytest.mark.parametrize("change", [{"length": 0}, {"temperature": -1.0}, {"top_p": 2.0}])
def test_what_cannot_be_drawn_is_refused(run, change):
    with pytest.raises(ConfigError, match=f"{next(iter(change))} = "):
        generate.continued(*generate.trained(run), "The", **DRAWN | change)


def test_a_folder_without_a_report_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"it has no report\.json"):
        generate.trained(tmp_path)


def test_the_sweep_compares_recipes_of_as_many_flops_the_dense_one_first(made):
    recipes = recipe.sweep_of(Path("configs/brown_moe.py"))
    assert list(recipes)[:4] == ["dense_s0", "dense_s1", "dense_s2", "experts_bias_s0"]
    values = recipe.load("configs/brown_moe.py")
    info = sets.info(made.settings.data)
    configs = {}
    for key, changes in recipes.items():
        resolved = recipe.resolve(recipe.overridden(values, changes), jax.device_count())
        resolved = Recipe(
            resolved.settings.model_copy(update={"data": made.settings.data}), resolved.stages
        )
        configs[key] = dry_run.check_model(resolved, info).language.config
    dense, sparse = configs["dense_s0"], configs["experts_bias_s0"]
    assert (dense.experts, sparse.experts, configs["experts_loss_s0"].bias_rate) == (0, 16, 0.0)
    routers = 2 * sparse.sparse_layers * sparse.width * sparse.experts
    assert flops(sparse, 64) - routers == flops(dense, 64)


def test_deepseek_v3_is_counted_without_being_made():
    text = dry_run.describe(recipe.resolve(recipe.load("configs/deepseek_v3.py"), 8))
    assert "parameters  671,026,419,200, 14,848 of them routers' biases" in text
    assert "and 11,610,068,224 more that predict further ahead" in text
    assert "active      37,552,297,472 for a token" in text
    assert "250 G in training" in text
    assert "cache       70,272 bytes a token in bfloat16" in text
    weights = 671_026_404_352 + 11_610_068_224
    held = size(weights * (4 + 2 + 2 + 4))  # each with two moments in bfloat16 and its gradient
    assert held == "7.45 TiB"
    assert f"per device {held} of state and gradients" in text
