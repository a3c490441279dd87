import jax
import jax.numpy as jnp
import pytest

from slim import models
from slim.graph import trace
from slim.quant import Activations, Policy, Rule, Weights, assign, explain

shape = jax.ShapeDtypeStruct


@pytest.fixture(scope="module")
def vit():
    model = models.create("vit_ti", num_classes=10)
    x = shape((1, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros(x.shape), train=False), jax.random.key(0)
    )
    return trace(lambda v, x: model.apply(v, x, train=False), params, x)


def test_first_match_wins_and_the_edges_are_kept_finer(vit):
    policy = Policy(
        (Rule("*/attention/*", Weights("int4", 32), None), Rule("*", Weights("int4"))),
    )
    found = assign(vit, policy)
    weighted = [each for each in found.values() if any(each.site.operands)]
    assert weighted[0].why == "first site"
    assert weighted[-1].why == "last site"
    assert weighted[0].weights.format == weighted[-1].weights.format == "int8"
    query = next(each for name, each in found.items() if "attention" in name and each.weights)
    assert (query.weights.granularity, query.activations) == (32, None)
    assert query.why == "rule '*/attention/*'"
    products = [each for each in found.values() if each.why == "product of activations"]
    assert len(products) == 24
    assert not any(each.roles for each in products)


def test_rules_as_fine_as_the_edges_or_float_stand(vit):
    policy = Policy((Rule("*/head/*", None, None), Rule("*", Weights("int8", range="mse"))))
    weighted = [each for each in assign(vit, policy).values() if any(each.site.operands)]
    assert weighted[0].weights.range == "mse"
    assert weighted[-1].roles == ()


def test_products_get_both_operands(vit):
    found = assign(vit, Policy(products=Activations(symmetric=True)))
    product = next(each for each in found.values() if each.why == "product of activations")
    assert [role.name for role in product.roles] == ["lhs", "rhs"]
    assert product.scale_shape(product.roles[0]) == (1,) * len(product.site.shapes[0])


def test_explain_names_every_parameter(vit):
    text = explain(vit, Policy((Rule("*", Weights("int4")),)))
    for path in vit.param_shapes:
        assert path in text
    assert "not in a contraction" in text
    assert "int4 per channel, minmax" in text


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Policy((Rule("*/queri/*"),)), r"quantization rule '\*/queri/\*' matches no parameter"),
        (Policy((Rule("*"), Rule("*/head/*"))), r"'\*/head/\*' decides nothing"),
        (Policy((Rule("*", Weights(granularity=7)),), edges=None), "groups of 7 do not divide"),
    ],
)
def test_policies_that_do_not_fit(vit, policy, message):
    with pytest.raises(ValueError, match=message):
        assign(vit, policy)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Weights("int9"), "format: unknown name 'int9'; did you mean 'int8'"),
        (lambda: Weights(granularity="chanel"), "did you mean 'channel'"),
        (lambda: Weights(granularity=0), "a group has at least one entry"),
        (lambda: Weights(range="max"), "range: unknown name 'max'"),
        (lambda: Activations(observer="kld"), "observer: unknown name 'kld'; did you mean 'kl'"),
    ],
)
def test_names_that_are_in_no_table(make, message):
    with pytest.raises(ValueError, match=message):
        make()
