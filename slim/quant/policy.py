"""Which sites are quantized, and how: an ordered list of path patterns, first match wins."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from slim import paths
from slim.graph import Graph, Site, sites
from slim.quant.numerics import FORMATS, WEIGHT_RANGES, Granularity, scale_shape
from slim.quant.observers import OBSERVERS, Observer


def _known(field: str, name: str, table: Collection[str]) -> None:
    if name not in table:
        raise ValueError(paths.unknown_name(field, name, table))


@dataclass(frozen=True)
class Weights:
    """How a site's parameter is quantized.

    To a 16-bit float it is cast: granularity and range are of no account.

    Attributes:
        format: a name of `slim.quant.numerics.FORMATS`.
        granularity: `tensor`; `channel`, a scale for each output; or the number of entries of the
            contracted dimension (of several the last; of a convolution the channels) that share
            one.
        range: a name of `slim.quant.numerics.WEIGHT_RANGES`.
        symmetric: zero is in the middle, without a zero point.

    Raises:
        ValueError: an unknown name; a group of less than one.
    """

    format: str = "int8"
    granularity: Granularity = "channel"
    range: str = "minmax"
    symmetric: bool = True

    def __post_init__(self) -> None:
        _known("format", self.format, FORMATS)
        _known("range", self.range, WEIGHT_RANGES)
        if isinstance(self.granularity, str):
            _known("granularity", self.granularity, ("channel", "tensor"))
        elif self.granularity < 1:
            raise ValueError(f"granularity {self.granularity}: a group has at least one entry")

    def __str__(self) -> str:
        if FORMATS[self.format].is_cast:
            return self.format
        return f"{self.format} per {_per(self.granularity)}, {self.range}"


@dataclass(frozen=True)
class Activations:
    """How the data that enters a site is quantized: one scale, found by calibration.

    To a 16-bit float it is cast, without calibration: nothing else is of any account.

    Attributes:
        format: a name of `slim.quant.numerics.FORMATS`.
        observer: a name of `slim.quant.observers.OBSERVERS`.
        symmetric: zero is in the middle, without a zero point.

    Raises:
        ValueError: an unknown name.
    """

    format: str = "int8"
    observer: str = "minmax"
    symmetric: bool = False

    def __post_init__(self) -> None:
        _known("format", self.format, FORMATS)
        _known("observer", self.observer, OBSERVERS)

    def __str__(self) -> str:
        if FORMATS[self.format].is_cast:
            return self.format
        return f"{self.format}, {self.observer}"


@dataclass(frozen=True)
class Rule:
    """What sites of parameters that match a pattern get; None is float.

    Attributes:
        pattern: of the site's name, which is its parameter's path.
        weights: of the parameter.
        activations: of the data.
    """

    pattern: str
    weights: Weights | None = Weights()
    activations: Activations | None = Activations()


@dataclass(frozen=True)
class Policy:
    """What every site of a graph gets.

    Attributes:
        rules: for sites with one parameter, first match wins; a site that none matches is float.
        edges: in place of the rules for the first and the last site with a parameter, which lose
            most and cost least; None: they are as any other. Where the rules already give one of
            them as many bits or leave it float, they stand.
        products: for both operands of a product of two activations (attention's scores and
            weighted values); None: float.
    """

    rules: tuple[Rule, ...] = (Rule("*"),)
    edges: Rule | None = Rule("*")
    products: Activations | None = None


class Role(NamedTuple):
    """An operand that is quantized.

    Attributes:
        name: `weights` or `data`; `lhs` and `rhs` in a product of two activations.
        operand: its place among the site's operands.
        spec: how.
    """

    name: str
    operand: int
    spec: Weights | Activations

    @property
    def is_cast(self) -> bool:
        """Whether it is cast to a 16-bit float; its scale is one."""
        return FORMATS[self.spec.format].is_cast

    @property
    def observer(self) -> Observer | None:
        """What finds its scale from data; None of a parameter, and of what is cast."""
        if isinstance(self.spec, Weights) or self.is_cast:
            return None
        return OBSERVERS[self.spec.observer]()


@dataclass(frozen=True)
class Assigned:
    """What one site got, and why.

    Attributes:
        site: the site.
        weights: of its parameter.
        activations: of its data, of both operands if neither is a parameter.
        why: the rule that decided, or the reason that it is float.
    """

    site: Site
    weights: Weights | None
    activations: Activations | None
    why: str

    @property
    def roles(self) -> tuple[Role, ...]:
        """The operands that are quantized."""
        place = next((i for i, path in enumerate(self.site.operands[:2]) if path is not None), None)
        if place is None:
            both = enumerate(("lhs", "rhs"))
            return tuple(Role(n, i, self.activations) for i, n in both if self.activations)
        given = (("weights", place, self.weights), ("data", 1 - place, self.activations))
        return tuple(Role(name, i, spec) for name, i, spec in given if spec is not None)

    @property
    def parameter(self) -> Role | None:
        """The operand that is a quantized parameter, if there is one."""
        return next((role for role in self.roles if role.name == "weights"), None)

    def each_round(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """A function of one round's values, for those of all rounds of the site's scans."""
        for _ in self.site.loops:
            fn = jax.vmap(fn)
        return fn

    def scale_shape(self, role: Role) -> tuple[int, ...]:
        """The shape of an operand's scale, in one round of the scans around the site.

        Raises:
            ValueError: a group does not divide the contracted dimension.
        """
        shape, contracted = self.site.shapes[role.operand], self.site.contracted[role.operand]
        if isinstance(role.spec, Activations) or role.is_cast:
            return (1,) * len(shape)
        # Groups lie along a convolution's channels, which `contracted` names before its window.
        along = contracted[0] if self.site.primitive.startswith("conv") else max(contracted)
        try:
            return scale_shape(shape, contracted, role.spec.granularity, along)
        except ValueError as error:
            raise ValueError(f"site {self.site.name!r}: {error}") from None


def assign(graph: Graph, policy: Policy) -> dict[str, Assigned]:
    """What the policy gives each site, by the site's name, in program order.

    Raises:
        ValueError: a rule matches no site or decides nothing; a group that does not divide a
            parameter's contracted dimension.

    >>> import jax
    >>> from slim.graph import trace
    >>> shape = jax.ShapeDtypeStruct
    >>> params = {name: shape((4, 4), "float32") for name in "abc"}
    >>> def fn(p, x):
    ...     return x @ p["a"] @ p["b"] @ p["c"]
    >>> policy = Policy((Rule("*", Weights("int4")),))
    >>> found = assign(trace(fn, params, shape((2, 4), "float32")), policy)
    >>> {name: (each.weights.format, each.why) for name, each in found.items()}
    {'a': ('int8', 'first site'), 'b': ('int4', "rule '*'"), 'c': ('int8', 'last site')}
    """
    every = sites(graph)
    fed = [site for site in every if _parameters(site) == 1]
    chosen = paths.resolve(
        [(rule.pattern, rule) for rule in policy.rules],
        [site.name for site in fed],
        what="quantization rule",
    )
    edges = {fed[0].name: "first site", fed[-1].name: "last site"} if fed else {}
    found = {}
    for site in every:
        rule = chosen.get(site.name)
        if _parameters(site) == 2:
            each = Assigned(site, None, None, "both operands are parameters")
        elif _parameters(site) == 0:
            why = "product of activations"
            each = Assigned(site, None, policy.products, why)
        elif rule is None:
            each = Assigned(site, None, None, "no rule matches")
        elif policy.edges and site.name in edges and _coarser(rule, policy.edges):
            each = Assigned(site, policy.edges.weights, policy.edges.activations, edges[site.name])
        else:
            each = Assigned(site, rule.weights, rule.activations, f"rule {rule.pattern!r}")
        for role in each.roles:
            each.scale_shape(role)
        found[site.name] = each
    return found


def explain(graph: Graph, policy: Policy) -> str:
    """A line for each site and each parameter that stays float: what it got and why."""
    return explain_sites(graph, assign(graph, policy))


def explain_sites(graph: Graph, found: Mapping[str, Assigned]) -> str:
    """As `explain`, of what sites have got already."""
    rows = [("site", "weights", "activations", "why")]
    rows += [
        (name, str(each.weights or "float"), str(each.activations or "float"), each.why)
        for name, each in found.items()
    ]
    fed = {path for each in found.values() for path in each.site.operands if path is not None}
    rows += [
        (path, "float", "", "not in a contraction")
        for path in graph.param_shapes
        if path not in fed
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in rows
    )


def _per(granularity: Granularity) -> str:
    return f"{granularity} entries" if isinstance(granularity, int) else granularity


def _parameters(site: Site) -> int:
    return sum(path is not None for path in site.operands[:2])


def _coarser(rule: Rule, edge: Rule) -> bool:
    """Whether a rule quantizes to fewer bits than the edges' does."""
    pairs = ((rule.weights, edge.weights), (rule.activations, edge.activations))
    return any(a is not None and _bits(a) < _bits(b) for a, b in pairs)


def _bits(spec: Weights | Activations | None) -> int:
    return 32 if spec is None else FORMATS[spec.format].bits
