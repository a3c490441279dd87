"""Sensitivity: what each site costs the model when it alone is quantized, in each of several ways.

options = {"int4": Option(sites4, scales4), "int8": Option(sites8, scales8)}
effects = measure_sites(graph, params, options, batches)
best = allocate(effects.tables(costs), budget)
sites, scales = mix(options, best.formats)
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim import paths
from slim.graph import Contraction, Graph, rewrite, sites
from slim.graph.stored_json import Fields, Stored, number, optional, table
from slim.quant.allocation import Tables
from slim.quant.policy import Assigned
from slim.quant.simulate import Scales, simulate_site

PyTree = Any

Values = Mapping[str, Mapping[str, float]]
"""A number by site and option."""


class Option(NamedTuple):
    """One way to quantize a model.

    Attributes:
        sites: what each site gets; see `assign`.
        scales: of the sites that it quantizes.
    """

    sites: Mapping[str, Assigned]
    scales: Scales


@dataclass(frozen=True)
class Effects(Stored):
    """What a model suffers with one site quantized, all others float; as measured, noise included.

    Attributes:
        kl: the mean of KL(p || q) in nats, p the softmax of the float outputs along their last
            axis and q that of the quantized ones.
        loss: the change of the mean loss, which may be negative; None: not measured.
    """

    FIELDS: ClassVar[Fields] = {
        "kl": table(table(number)),
        "loss": optional(table(table(number))),
    }

    kl: Values
    loss: Values | None = None

    def tables(self, costs: Values, by: str = "kl") -> Tables:
        """For `allocate`: the effect and the cost of each site's options.

        What lowers the loss is noise of the batches: such an effect counts as 0.

        Args:
            costs: by site and option.
            by: `kl` or `loss`.

        Raises:
            ValueError: another name, an effect that was not measured, a cost that is missing.
        """
        if by not in ("kl", "loss"):
            raise ValueError(paths.unknown_name("by", by, ("kl", "loss")))
        effects = self.kl if by == "kl" else self.loss
        if effects is None:
            raise ValueError("by is 'loss', which was not measured: give measure_sites a loss")
        for site, options in effects.items():
            missing = [option for option in options if option not in costs.get(site, {})]
            if missing:
                raise ValueError(
                    f"costs has no {missing[0]!r} of site {site!r}, which was measured"
                )
        return {
            # In this order: max(0.0, NaN) is 0.0.
            site: {option: (max(value, 0.0), costs[site][option]) for option, value in each.items()}
            for site, each in effects.items()
        }


def quantizes(option: Option, site: str) -> bool:
    """Whether an option quantizes a site."""
    return site in option.sites and bool(option.sites[site].roles)


def mix(options: Mapping[str, Option], formats: Mapping[str, str]) -> Option:
    """Each site as the option that `formats` names for it has it.

    Args:
        options: the ways.
        formats: the option's name for every site that one of them quantizes, as `allocate` gives.
    """
    sites = {name: each for option in options.values() for name, each in option.sites.items()}
    chosen = {name: options[option].sites[name] for name, option in formats.items()}
    return Option(
        {**sites, **chosen},
        {name: options[option].scales[name] for name, option in formats.items()},
    )


def choose(graph: Graph, options: Mapping[str, Option]) -> Callable[..., Any]:
    """`fn(params, scales, choice, *inputs, **kwargs)`: the function, each site as chosen.

    One program for all choices. `scales` is `{option: Scales}`; `choice` has an int32 for each
    site: 0 is float, k the k-th option, which is float too where that does not quantize the site;
    a site that is not in it is float. All rounds of a scan have the same choice. Where `choice`
    names no site of the graph, calling it raises ValueError.

    >>> from slim.graph import trace
    >>> from slim.quant import Policy, Rule, Weights, assign, weight_scales
    >>> params, x = {"w": jnp.array([[1.0, 0.3]])}, jnp.ones((1, 1))
    >>> graph = trace(lambda p, x: x @ p["w"], params, x)
    >>> sites = assign(graph, Policy((Rule("*", Weights("int2", "tensor"), None),), edges=None))
    >>> options = {"int2": Option(sites, weight_scales(graph, sites, params))}
    >>> fn, scales = choose(graph, options), {"int2": options["int2"].scales}
    >>> [fn(params, scales, {"w": k}, x).round(1).tolist() for k in (0, 1)]
    [[[1.0, 0.30000001192092896]], [[1.0, 0.0]]]
    """

    def hook(contract: Contraction, operands: Sequence[Any], state: Any) -> tuple[Any, Any]:
        chosen, scales = state
        name = contract.site.name

        def quantized(option: str, operands: Sequence[Any], scales: Any) -> Any:
            assigned = options[option].sites[name]
            return simulate_site(contract, assigned, operands, scales[option])

        def unchanged(operands: Sequence[Any], scales: Any) -> Any:
            return contract(*operands)

        branches = [unchanged] + [
            partial(quantized, option) if option in scales else unchanged for option in options
        ]
        return jax.lax.switch(chosen, branches, list(operands), scales), state

    rewritten = rewrite(graph, hook)
    loops = {
        name: each.site.loops for option in options.values() for name, each in option.sites.items()
    }

    def fn(
        params: PyTree,
        scales: Mapping[str, Scales],
        choice: Mapping[str, Any],
        *inputs: Any,
        **kwargs: Any,
    ) -> Any:
        states = {
            name: (
                jnp.broadcast_to(jnp.asarray(chosen, jnp.int32), loops.get(name, ())),
                {
                    option: scales[option][name]
                    for option in options
                    if quantizes(options[option], name)
                },
            )
            for name, chosen in choice.items()
        }
        return rewritten(params, states, *inputs, **kwargs)[0]

    return fn


def measure_sites(
    graph: Graph,
    params: PyTree,
    options: Mapping[str, Option],
    batches: Iterable[tuple[Any, ...]],
    loss: Callable[..., jax.Array] | None = None,
) -> Effects:
    """Quantize each site alone in each way, and compare the outputs with the float ones.

    Two programs are compiled, whatever the number of sites: `choose`, and the comparison.

    Args:
        graph: of the evaluation function; its outputs are logits, classes last.
        params: the float parameters.
        options: the ways; a site has those that quantize it.
        batches: tuples of the function's inputs and then of what else the loss takes, `(images,
            labels)`; of one shape, or it compiles once for each. A row of outputs counts as much
            in a small batch as in a large one.
        loss: `loss(outputs, *labels)`, the batch's mean.

    Raises:
        ValueError: no option quantizes any site; no batches.
    """
    places = [
        (site.name, name, k)
        for site in sites(graph)
        for k, (name, option) in enumerate(options.items(), start=1)
        if quantizes(option, site.name)
    ]
    if not places:
        raise ValueError(f"options ({', '.join(options) or 'none'}) quantize no site")
    run = jax.jit(choose(graph, options))
    scales = {name: option.scales for name, option in options.items()}
    measured = dict.fromkeys(site for site, _, _ in places)
    nothing = {site: np.int32(0) for site in measured}

    @jax.jit
    def compare(exact: jax.Array, outputs: jax.Array, *labels: Any) -> tuple[jax.Array, ...]:
        kl = _divergence(exact, outputs).mean()
        return (kl,) if loss is None else (kl, loss(outputs, *labels))

    totals, rows = np.zeros((len(places), 2)), 0
    for batch in batches:
        inputs, labels = batch[: len(graph.inputs)], batch[len(graph.inputs) :]
        exact = run(params, scales, nothing, *inputs)
        count = exact.size // exact.shape[-1]
        before = np.array([float(each) for each in compare(exact, exact, *labels)])
        for total, (site, _, k) in zip(totals, places, strict=True):
            outputs = run(params, scales, {**nothing, site: np.int32(k)}, *inputs)
            after = np.array([float(each) for each in compare(exact, outputs, *labels)])
            total[: len(after)] += count * (after - before)
        rows += count
    if not rows:
        raise ValueError("batches is empty: effects are measured on at least one batch")

    def values(which: int) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {site: {} for site in measured}
        for total, (site, name, _) in zip(totals, places, strict=True):
            found[site][name] = float(total[which] / rows)
        return found

    return Effects(values(0), None if loss is None else values(1))


def _divergence(exact: jax.Array, outputs: jax.Array) -> jax.Array:
    """KL(softmax(exact) || softmax(outputs)) in nats along the last axis."""
    log_p, log_q = (jax.nn.log_softmax(each.astype(jnp.float32)) for each in (exact, outputs))
    p, change = jnp.exp(log_p), log_q - log_p
    # sum p (e^change - 1 - change), where the first two sum to 0: no term is negative, and small
    # ones are not lost to rounding as they are in sum -p change.
    grown = jnp.where(
        change < 1, p * jnp.expm1(jnp.minimum(change, jnp.float32(1))), jnp.exp(log_q) - p
    )
    return (grown - p * change).sum(-1)
