"""The record of dynamic networks says what the library gives, on a network of exact arithmetic."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.dynamic.by_cascade import ByCascade
from experiments.dynamic.by_complexity import ByComplexity
from experiments.dynamic.by_criterion import ByCriterion, Learned
from experiments.dynamic.crossed import Given, crossed, halves
from experiments.dynamic.subject import Bucket, Net, Subject
from experiments.dynamic.tried import try_all
from experiments.report import Dynamic, write_dynamic
from slim.dynamic import CRITERIA, Vocabulary, fit_rule, simulate, simulate_cascade
from slim.graph import cost, trace
from tests.slim.dynamic import networks

TOLERANCES = (0.0, 0.1, 1.0)
IDS = networks.network()[2][0][:52]
PARAMS = networks.network()[1]
EXAMPLES = len(IDS)


def exits(params, ids):
    return networks.function(params, ids, ids != 0)


def last(params, ids):
    return exits(params, ids)[-1]


def light(params, ids):
    return params["table"][ids].sum(1) @ params["layers"][0]["exit"]


LOGITS = np.stack(exits(jax.tree.map(jnp.asarray, PARAMS), jnp.asarray(IDS)))


@pytest.fixture(scope="module")
def subject():
    rng = np.random.default_rng(0)
    # The deeper an exit, the more often it is right.
    answers = LOGITS.argmax(-1)
    labels = np.where(rng.random(EXAMPLES) < 0.8, answers[-1], answers[1])
    numbers = np.arange(EXAMPLES)
    odd = numbers % 2 == 1
    nets = [Net(fn.__name__, fn, PARAMS) for fn in (exits, last, light)]
    buckets = tuple(Bucket(numbers[each], IDS[each]) for each in (odd, ~odd))
    return Subject(*nets, buckets, labels, (2, 4))


@pytest.fixture(scope="module")
def methods(subject):
    ones = np.ones(7, np.float32)
    words = Vocabulary(*map(jnp.asarray, (ones, ones, ones * 0, np.eye(7, dtype="f")[2])))
    return {
        "confidence": ByCriterion(subject, "confidence"),
        "learned": Learned(subject, "confidence"),
        "patience": ByCriterion(subject, "patience"),
        "complexity": ByComplexity(subject, IDS, words),
        "dual": ByCascade(subject),
    }


@pytest.fixture(scope="module")
def record(subject, methods):
    return try_all(subject, methods, TOLERANCES, singles=3, rounds=1)


def test_accuracies_are_those_of_the_oracle(subject, record):
    assert subject.logits.tobytes() == LOGITS.tobytes()
    right = LOGITS.argmax(-1) == subject.labels
    assert record.exit_accuracy == tuple(right.mean(1).tolist())
    assert record.accuracy == record.exit_accuracy[-1]
    for name in ("confidence", "learned", "patience"):
        criterion = CRITERIA[{"learned": "confidence"}.get(name, name)]
        for tried in record.ways[name].tried:
            each = [
                simulate(criterion, setting(s), jnp.asarray(LOGITS)).exit for s in tried.settings
            ]
            exit = np.where(subject.half == 0, *each)
            assert tried.accuracy == right[exit, np.arange(EXAMPLES)].mean()
            assert tried.shares == tuple(np.bincount(exit, minlength=len(LOGITS)) / EXAMPLES)
    assert record.ways["confidence"].tried[0].settings != (None, None)


def setting(shown):
    if isinstance(shown, list):
        return jnp.asarray([np.inf if each is None else each for each in [*shown, -np.inf]])
    return np.inf if shown is None else shown


def test_what_ran_is_what_was_foretold(record):
    """The executor, depth by depth, the dual model: to the example."""
    for name, way in record.ways.items():
        assert [tried.as_foretold for tried in way.tried] == [1.0] * len(TOLERANCES)
        assert way.tried[0].macs >= way.tried[-1].macs
        if name != "complexity":  # whose budgets are of the other half
            assert list(way.curve_macs) == sorted(way.curve_macs, reverse=True)


@pytest.mark.parametrize("name", ["confidence", "learned", "patience", "complexity", "dual"])
def test_one_by_one_they_leave_where_they_did(subject, methods, name):
    pair = methods[name].choose(0.1)
    numbers = np.array([1, 5, 4])
    taken = methods[name].taken(pair)
    exit, logits = methods[name].single(pair, numbers)()
    np.testing.assert_array_equal(exit, taken.exit[numbers])
    np.testing.assert_array_equal(logits, taken.logits[numbers])


def test_the_control_costs_the_same(subject, record):
    """The same exits given at random: the mean over many ways."""
    tried = record.ways["confidence"].tried[1]
    exit = np.repeat(np.arange(len(LOGITS)), np.rint(np.array(tried.shares) * EXAMPLES).astype(int))
    right = LOGITS.argmax(-1) == subject.labels
    rng = np.random.default_rng(0)
    found = [right[rng.permutation(exit), np.arange(EXAMPLES)].mean() for _ in range(4000)]
    assert tried.at_random == pytest.approx(np.mean(found), abs=4e-3)


def test_work_is_counted_up_to_the_exit(subject, record):
    every = cost(trace(exits, PARAMS, IDS[:1])).macs
    assert record.exit_macs[-1] == every == record.ways["patience"].curve_macs[0]
    assert record.ways["patience"].curve_macs[-1] == record.exit_macs[0]
    alone = [cost(trace(fn, PARAMS, IDS[:1])).macs for fn in (light, last)]
    assert record.ways["dual"].curve_macs[0] == sum(alone)
    assert record.ways["dual"].curve_macs[-1] == alone[0]


def test_the_dual_model_is_fitted_on_the_other_half(subject, record, methods):
    pair = methods["dual"].choose(0.1)
    light_logits, labels = subject.light_logits, subject.labels
    for half, rule in enumerate(pair):
        rows = np.flatnonzero(subject.half != half)
        expected = fit_rule(light_logits[rows], LOGITS[-1][rows], labels[rows], tolerance=0.1)
        assert rule == expected
    answers = [simulate_cascade(rule, light_logits, LOGITS[-1]) for rule in pair]
    right = [np.asarray(each.logits).argmax(-1) == labels for each in answers]
    assert record.ways["dual"].tried[1].accuracy == np.where(subject.half == 0, *right).mean()


@pytest.mark.parametrize("name", ["confidence", "learned", "patience", "complexity", "dual"])
def test_halves_are_disjoint(subject, methods, name):
    """Labels of one half change nothing of what is tried on it."""
    assert abs(np.mean(subject.half) - 0.5) < 0.02
    other = np.where(subject.half == 0, (subject.labels + 1) % networks.CLASSES, subject.labels)
    changed = dataclasses.replace(methods[name], subject=dataclasses.replace(subject, labels=other))
    before, after = (
        [methods[name].choose(t) for t in TOLERANCES],
        [changed.choose(t) for t in TOLERANCES],
    )
    show = methods[name].show
    assert [show(first) for first, _ in before] == [show(first) for first, _ in after]
    assert [show(second) for _, second in before] != [show(second) for _, second in after]


def test_either_half_meets_its_own_setting():
    half = halves(EXAMPLES)
    numbers = np.random.default_rng(0).permutation(EXAMPLES)[:20]
    for name, settings in (("confidence", (0.5, 0.9)), ("fixed", (0, 2)), ("patience", (1, 2))):
        given = Given(numbers, half[numbers], tuple(map(jnp.asarray, settings)))
        found = simulate(crossed(CRITERIA[name]), given, jnp.asarray(LOGITS[:, numbers])).exit
        each = [simulate(CRITERIA[name], s, jnp.asarray(LOGITS)).exit for s in settings]
        np.testing.assert_array_equal(found, np.where(half == 0, *each)[numbers])


def test_the_record_is_written_and_read_back(record, tmp_path):
    write_dynamic(record, tmp_path)
    assert Dynamic.model_validate_json((tmp_path / "dynamic.json").read_text()) == record
    table = (tmp_path / "table.md").read_text().splitlines()
    assert len([line for line in table if line.startswith("| ")]) == 2 + 5 * len(TOLERANCES)
    for name in ("dynamic.png", "shares.png"):
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < 200_000
