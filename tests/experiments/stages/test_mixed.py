"""The formats of all sites within a budget, and the record of how they were found."""

import math

import numpy as np
import pytest

from experiments import report
from experiments.report.bits import Mixed
from experiments.schema import ConfigError, parse
from experiments.stages import mixed
from experiments.stages.mixed import MixedConfig, choose_formats
from slim.graph import trace
from slim.quant import (
    Activations,
    Option,
    Policy,
    Rule,
    Weights,
    assign,
    bit_operations,
    calibrate,
    convert,
    mix,
    weight_bytes,
)
from tests.slim.quant.searched import CLASSES, image_case, searched


def batches_of(x):
    return [(x, np.arange(len(x)) % CLASSES)]


def chosen(case="image", **fields):
    graph, params, x, options = searched(case)
    config = MixedConfig(keep_ratio=0.8, **fields)
    return graph, params, options, choose_formats(config, graph, params, options, batches_of(x))


@pytest.mark.parametrize("case", ["image", "scan"])
def test_formats_within_the_bytes(case):
    graph, params, options, (sites, record) = chosen(case)
    every = weight_bytes(graph, options["int8"].sites)
    assert record.widest == sum(every.values())
    assert record.limit == 0.8 * record.widest
    assert list(sites) == list(record.sites) == list(every)
    small = convert(graph, sites, params, mix(options, record.best.formats).scales)
    nbytes = sum(each["weights"].nbytes for each in small.sites.values())
    assert nbytes == record.best.cost == sum(each.bytes for each in record.chosen.values())
    assert nbytes <= record.limit
    assert {each.weights.format for each in sites.values()} == {"int4", "int8"}
    assert record.best.formats == {name: each.weights.format for name, each in sites.items()}
    assert record.best.loss == math.fsum(each.kl for each in record.chosen.values())


def test_formats_within_bit_operations_by_the_loss():
    graph, _, _, (sites, record) = chosen(budget="bit_operations", by="loss")
    assert record.best.cost == sum(bit_operations(graph, sites).values()) <= record.limit
    losses = [max(0.0, each.loss) for each in record.chosen.values()]
    assert record.best.loss == math.fsum(losses)


def test_formats_within_the_latency(monkeypatch):
    def seconds(graph, params, options, *, batch, rounds):
        assert (batch, rounds) == (3, 2)
        return {name: {"float": 9.0, "int4": 1.0, "int8": 2.0} for name in options["int8"].sites}

    monkeypatch.setattr(mixed, "site_seconds", seconds)
    *_, (_, record) = chosen(budget="latency", latency_batch=3, latency_rounds=2)
    assert (record.widest, record.best.cost) == (6.0, 4.0)
    assert sorted(record.best.formats.values()) == ["int4", "int4", "int8"]


def test_edges_and_float_sites_leave_nothing_to_choose():
    fn, params, x = image_case()
    graph = trace(lambda p, x: fn(p, x) @ p["last"], params | {"last": np.eye(5, dtype="f")}, x)
    params = params | {"last": np.eye(5, dtype="f")}
    options = {}
    for format in ("int4", "int8"):
        rules = (Rule("head", None, None), Rule("*", Weights(format), None))
        sites = assign(graph, Policy(rules, edges=Rule("*", Weights("int8"), None)))
        options[format] = Option(sites, calibrate(graph, sites, params))
    sites, record = choose_formats(
        MixedConfig(keep_ratio=0.99), graph, params, options, batches_of(x)
    )
    assert list(sites) == ["conv", "hidden", "head", "last"]
    assert {name: list(each) for name, each in record.sites.items()} == {
        "conv": ["int8"],
        "hidden": ["int4", "int8"],
        "last": ["int8"],
    }
    assert record.best.formats == {"conv": "int8", "hidden": "int4", "last": "int8"}
    assert sites["head"].roles == ()


def test_products_of_activations_cost_no_bytes():
    def fn(p, x):
        x = x @ p["w"]
        return x @ x.T @ x

    params, x = {"w": np.eye(4, dtype="f")}, np.random.default_rng(0).normal(size=(5, 4))
    x = x.astype("f")
    graph = trace(fn, params, x)
    options = {}
    for format in ("int4", "int8"):
        policy = Policy((Rule("*", Weights(format)),), edges=None, products=Activations())
        sites = assign(graph, policy)
        options[format] = Option(sites, calibrate(graph, sites, params, [(x,)]))
    batches = [(x, np.zeros(5, np.int32))]
    _, record = choose_formats(MixedConfig(keep_ratio=1.0), graph, params, options, batches)
    first, *products = record.sites.values()
    assert [each.bits for each in first.values()] == [4, 8]
    assert [[(each.bits, each.bytes) for each in way.values()] for way in products] == [
        [(None, 0)]
    ] * 2


def test_a_budget_that_cannot_be_met_is_refused():
    graph, params, x, options = searched("image")
    config = MixedConfig(keep_ratio=0.1)
    least = sum(weight_bytes(graph, options["int4"].sites).values())
    message = rf"quantize\.mixed\.keep_ratio = 0\.1 of the bytes: budget .*below {least}, the least"
    with pytest.raises(ConfigError, match=message):
        choose_formats(config, graph, params, options, batches_of(x), field="quantize.mixed")
    with pytest.raises(ConfigError, match=r"quantize\.mixed: batches is empty"):
        choose_formats(config, graph, params, options, [], field="quantize.mixed")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"formats": ("int4",)}, r"mixed\.formats"),
        ({"formats": ("int4", "int4")}, "each may be there once"),
        ({"formats": ("int4", "int9")}, "unknown name 'int9'"),
        ({"budget": "macs"}, "unknown name 'macs'"),
        ({"by": "accuracy"}, "unknown name 'accuracy'"),
        ({"keep_ratio": 0.0}, r"mixed\.keep_ratio = 0\.0"),
        ({"examples": 0}, r"mixed\.examples = 0"),
    ],
)
def test_bad_fields_are_refused(section, message):
    with pytest.raises(ConfigError, match=message):
        parse(MixedConfig, section, "mixed")


def test_the_record_is_written_and_read_back(tmp_path):
    *_, (_, record) = chosen()
    report.write_mixed(record, tmp_path)
    assert Mixed.model_validate_json((tmp_path / "mixed.json").read_text()) == record
    for name in ("bits.png", "pareto.png"):
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < 100_000
