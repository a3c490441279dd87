"""Sites: the contractions of a graph with the parameters that feed them.

What quantization works on: a site is a `dot_general`, convolution or ragged product, wherever it
is (inside scans and remats too), and the parameter behind each operand, seen through casts and
changes of layout.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from jax.extend.core import Jaxpr, JaxprEqn

from slim.graph.cost import CONTRACTIONS
from slim.graph.inner import CALLS, inner_jaxprs
from slim.graph.origins import LAYOUT, Origins
from slim.graph.rules.scope import shape_of
from slim.graph.trace import Graph, source_line


@dataclass(frozen=True)
class Site:
    """One contraction.

    Attributes:
        name: the path of the parameter that feeds it, or of both joined by ` + `; where none
            does, the primitive and its source line. The second use of a name ends in `#2`.
        primitive: the primitive's name.
        operands: for each operand, the path of the parameter that it is, or None for data.
        contracted: for each of the two operands, the dimensions that are summed over; for a
            convolution the channels and the window.
        address: where the equation is: its index in the jaxpr, then, for each jaxpr it is
            nested in, that jaxpr's place among its equation's and the index in it.
        source: the line of user code.
        loops: the lengths of the scans around it, outermost first.
        shapes: the shapes of its two operands, in one round.
        batch: for each of the two operands, the dimensions that go through to the result in
            step (a matrix for each expert, say).
        result: the shape of its result, in one round.
        outputs: for each of the two operands, the dimensions of the result that are its own, with
            those that both have.
    """

    name: str
    primitive: str
    operands: tuple[str | None, ...]
    contracted: tuple[tuple[int, ...], tuple[int, ...]]
    address: tuple[int, ...]
    source: str
    loops: tuple[int, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    batch: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    result: tuple[int, ...] = ()
    outputs: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())


def sites(graph: Graph) -> tuple[Site, ...]:
    """The contractions of a graph in program order; found once, and kept as long as the graph is.

    >>> import jax
    >>> from slim.graph import trace
    >>> shape = jax.ShapeDtypeStruct
    >>> params = {"dense": {"kernel": shape((3, 4), "float32")}}
    >>> graph = trace(lambda p, x: x @ p["dense"]["kernel"].T.T, params, shape((2, 3), "float32"))
    >>> [(site.name, site.operands, site.contracted) for site in sites(graph)]
    [('dense/kernel', (None, 'dense/kernel'), ((1,), (0,)))]
    """
    if graph not in _FOUND:
        _FOUND[graph] = tuple(_find(graph))
    return _FOUND[graph]


_FOUND: WeakKeyDictionary[Graph, tuple[Site, ...]] = WeakKeyDictionary()


def _find(graph: Graph) -> Iterator[Site]:
    seen: Counter[str] = Counter()
    for address, callers, eqn, origins in _contractions(graph.jaxpr.jaxpr, Origins.of(graph)):
        source, primitive = source_line(eqn, callers), eqn.primitive.name
        name = " + ".join(origins.feeding(eqn)) or f"{primitive} at {source}"
        seen[name] += 1
        yield Site(
            name if seen[name] == 1 else f"{name}#{seen[name]}",
            primitive,
            tuple(origins[operand] for operand in eqn.invars),
            contracted(eqn),
            address,
            source,
            tuple(int(e.params["length"]) for e in callers[::-1] if e.primitive.name == "scan"),
            tuple(shape_of(operand) for operand in eqn.invars[:2]),
            _batch(eqn),
            shape_of(eqn.outvars[0]),
            _outputs(eqn),
        )


def equation(graph: Graph, site: Site) -> JaxprEqn:
    """The equation of a site of a graph.

    >>> import jax
    >>> from slim.graph import trace
    >>> shape = jax.ShapeDtypeStruct((3, 3), "float32")
    >>> graph = trace(jax.jit(lambda p, x: x @ p), shape, shape)
    >>> equation(graph, sites(graph)[0]).primitive.name
    'dot_general'
    """
    jaxpr = graph.jaxpr.jaxpr
    for i, j in zip(site.address[:-1:2], site.address[1::2], strict=True):
        jaxpr = inner_jaxprs(jaxpr.eqns[i])[j].jaxpr
    return jaxpr.eqns[site.address[-1]]


def used_elsewhere(graph: Graph, names: Collection[str]) -> frozenset[str]:
    """The parameters that the program needs besides at the named sites.

    >>> import jax
    >>> from slim.graph import trace
    >>> shape = jax.ShapeDtypeStruct((3, 3), "float32")
    >>> graph = trace(lambda p, x: x @ p["a"] @ p["b"] + p["b"], {"a": shape, "b": shape}, shape)
    >>> used_elsewhere(graph, ["a", "b"])
    frozenset({'b'})
    """
    chosen = {site.address for site in sites(graph) if site.name in names}
    found: set[str] = set()

    def walk(jaxpr: Jaxpr, origins: Origins, prefix: tuple[int, ...]) -> None:
        for i, eqn in enumerate(jaxpr.eqns):
            address = (*prefix, i)
            for j, inner in enumerate(inner_jaxprs(eqn)):
                inside = origins.enter(eqn, inner)
                walk(inner.jaxpr, inside, (*address, j))
                if eqn.primitive.name in CALLS:
                    origins.leave(eqn, inner, inside)
                else:
                    found.update(filter(None, map(inside.__getitem__, inner.jaxpr.outvars)))
            if address not in chosen and not inner_jaxprs(eqn) and eqn.primitive.name not in LAYOUT:
                found.update(origins.feeding(eqn))
            origins.pass_on(eqn)
        if not prefix:
            found.update(filter(None, map(origins.__getitem__, jaxpr.outvars)))

    walk(graph.jaxpr.jaxpr, Origins.of(graph), ())
    return frozenset(found)


def contracted(eqn: JaxprEqn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The dimensions of each of a contraction's two operands that are summed over."""
    if eqn.primitive.name == "dot_general":
        (lhs, rhs), _ = eqn.params["dimension_numbers"]
        return tuple(lhs), tuple(rhs)
    if eqn.primitive.name == "conv_general_dilated":
        numbers = eqn.params["dimension_numbers"]
        return tuple(numbers.lhs_spec[1:]), tuple(numbers.rhs_spec[1:])
    (lhs, rhs), _ = eqn.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
    return tuple(lhs), tuple(rhs)


def _batch(eqn: JaxprEqn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if eqn.primitive.name != "dot_general":
        return (), ()
    _, (lhs, rhs) = eqn.params["dimension_numbers"]
    return tuple(lhs), tuple(rhs)


def _outputs(eqn: JaxprEqn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if eqn.primitive.name == "conv_general_dilated":
        rows, features, *window = eqn.params["dimension_numbers"].out_spec
        return (rows, *window), (features,)
    if eqn.primitive.name == "dot_general":
        numbers, groups = eqn.params["dimension_numbers"], ()
    else:
        ragged = eqn.params["ragged_dot_dimension_numbers"]
        numbers, groups = ragged.dot_dimension_numbers, ragged.rhs_group_dimensions
    (_, rhs_contracted), (_, rhs_batch) = numbers
    lhs, rhs = (len(shape_of(operand)) for operand in eqn.invars[:2])
    # What both have comes first, then what the lhs has, then the rhs.
    batch = len(rhs_batch)
    own = rhs - len(rhs_contracted) - batch - len(groups)
    end = len(shape_of(eqn.outvars[0]))
    start = end - own - (lhs - len(rhs_contracted) - batch)
    both = tuple(range(start - batch, start))
    return (*both, *range(start, end - own)), (*both, *range(end - own, end))


def _contractions(
    jaxpr: Jaxpr,
    origins: Origins,
    prefix: tuple[int, ...] = (),
    callers: tuple[JaxprEqn, ...] = (),
) -> Iterator[tuple[tuple[int, ...], tuple[JaxprEqn, ...], JaxprEqn, Origins]]:
    for i, eqn in enumerate(jaxpr.eqns):
        if eqn.primitive.name in CONTRACTIONS:
            yield (*prefix, i), callers, eqn, origins
        for j, inner in enumerate(inner_jaxprs(eqn)):
            inside = origins.enter(eqn, inner)
            yield from _contractions(inner.jaxpr, inside, (*prefix, i, j), (eqn, *callers))
            if eqn.primitive.name in CALLS:
                origins.leave(eqn, inner, inside)
        origins.pass_on(eqn)
