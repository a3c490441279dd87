"""The algebra of axes: a union-find whose classes are atoms, products or sums of others.

Every dimension of every value in a jaxpr is an axis. An axis of size n is

* an *atom*: n indices that nothing tells apart;
* a *product* of axes, row-major, sizes multiplying to n: what reshape merges (heads x head width);
* a *sum* of axes, sizes adding to n: what concatenate joins (queries, keys, values).

`unify` says that two axes are one, index by index. Where their structures differ, both are refined
to a common one (512 = 8 x 64 and 512 = 4 x 128 become 4 x 2 x 64). Where there is no common
refinement, both are *frozen*: none of their indices may be removed. So what the algebra cannot
express costs prunability, never correctness.

Invariants: a class's structure only ever gets finer; parts are strictly smaller than the whole, so
structures are trees; axes of size 1 are never unified and carry no structure.
"""

import math
from collections.abc import Callable, Sequence


class Axis:
    """A node of the union-find; compare and look up by `find`.

    Attributes:
        size: how many indices it has.
        kind: `atom`, `product` or `sum`; of the class's representative.
        parts: the factors of a product, the terms of a sum; empty for an atom.
        reasons: why an atom is frozen; empty where it is not.
    """

    __slots__ = ("kind", "parent", "parts", "reasons", "size")

    def __init__(self, size: int, kind: str = "atom", parts: tuple["Axis", ...] = ()) -> None:
        self.size = size
        self.kind = kind
        self.parts = parts
        self.parent = self
        self.reasons: tuple[Callable[[], str], ...] = ()

    def find(self) -> "Axis":
        """The representative of this axis' class."""
        root = self
        while root.parent is not root:
            root = root.parent
        while self.parent is not root:
            self.parent, self = root, self.parent
        return root

    def __repr__(self) -> str:
        root = self.find()
        if root.kind == "atom":
            return f"{root.size}{'!' if root.reasons else ''}"
        return f"({(' * ' if root.kind == 'product' else ' + ').join(map(repr, root.parts))})"


Dims = tuple[Axis, ...]
"""The axes of a value, one per dimension."""

Leaf = Axis
"""An axis that is an atom: a class's representative."""


def atom(size: int) -> Axis:
    """A fresh axis without structure."""
    return Axis(size)


def product(*parts: Axis) -> Axis:
    """The row-major product of axes; axes of size 1 drop out."""
    flat = [factor for part in parts for factor in factors(part)]
    if len(flat) == 1:
        return flat[0]
    size = math.prod(part.size for part in parts)
    return Axis(size, "product", tuple(flat)) if flat else Axis(size)


def total(*parts: Axis) -> Axis:
    """The sum of axes, in order; axes of size 0 drop out."""
    flat = [term for part in parts for term in terms(part)]
    if len(flat) == 1:
        return flat[0]
    return Axis(sum(part.size for part in flat), "sum", tuple(flat))


def factors(axis: Axis) -> list[Axis]:
    """The axes whose row-major product is `axis`; one where it is no product, none for size 1."""
    axis = axis.find()
    if axis.kind == "product":
        return [factor for part in axis.parts for factor in factors(part)]
    return [axis] if axis.size != 1 else []


def terms(axis: Axis) -> list[Axis]:
    """The axes whose sum is `axis`; one where it is no sum, none for size 0."""
    axis = axis.find()
    if axis.kind == "sum":
        return [term for part in axis.parts for term in terms(part)]
    return [axis] if axis.size else []


def leaves(axis: Axis) -> list[Axis]:
    """The atoms of size above 1 that `axis` is made of, in order, repetitions kept."""
    axis = axis.find()
    if axis.kind == "atom":
        return [axis] if axis.size > 1 else []
    return [leaf for part in axis.parts for leaf in leaves(part)]


def freeze(axis: Axis, reason: Callable[[], str]) -> None:
    """Forbid removing any index of `axis`; `reason()` says why, and is called only when asked."""
    for leaf in leaves(axis):
        if len(leaf.reasons) < 4 and reason not in leaf.reasons:
            leaf.reasons = (*leaf.reasons, reason)


def is_frozen(axis: Axis) -> bool:
    """Whether no index of `axis` may be removed."""
    return all(leaf.reasons for leaf in leaves(axis))


def unify(a: Axis, b: Axis, reason: Callable[[], str]) -> None:
    """Make two axes of one size the same axis; freeze both, for `reason`, where they cannot be."""
    a, b = a.find(), b.find()
    if a.size != b.size:
        raise ValueError(f"axes of sizes {a.size} and {b.size} cannot be one")
    if a is b or a.size == 1:
        return
    if b.kind == "atom":
        a, b = b, a
    if a.kind == "atom":
        _become(a, b)
        return
    if a.kind == b.kind == "product":
        agreed = _match(factors(a), factors(b), split_product, reason)
    elif a.kind == b.kind == "sum":
        agreed = _match(terms(a), terms(b), split_sum, reason)
    else:
        whole, joined = (a, b) if a.kind == "product" else (b, a)
        agreed = _match([whole], terms(joined), split_sum, reason)
    if not agreed:
        freeze(a, reason)
        freeze(b, reason)
    # Refining may have merged the two already.
    a, b = a.find(), b.find()
    if a is not b:
        a.parent = b


def _become(leaf: Axis, other: Axis) -> None:
    leaf.parent = other
    for reason in leaf.reasons:
        freeze(other, reason)


def _match(
    left: Sequence[Axis],
    right: Sequence[Axis],
    split: Callable[[Axis, int], tuple[Axis, Axis] | None],
    reason: Callable[[], str],
) -> bool:
    """Unify two lists of parts of the same whole, splitting the larger of each pair."""
    left, right = list(left)[::-1], list(right)[::-1]
    while left and right:
        x, y = left.pop(), right.pop()
        if x.size == y.size:
            unify(x, y, reason)
            continue
        smaller, larger = (x, y) if x.size < y.size else (y, x)
        parts = split(larger, smaller.size)
        if parts is None:
            return False
        unify(parts[0], smaller, reason)
        rest = left if larger is x else right
        rest.append(parts[1])
    return not left and not right


def split_product(axis: Axis, outer: int) -> tuple[Axis, Axis] | None:
    """`axis` as the product of an axis of size `outer` and another; None where it is not one.

    An atom is refined. A sum is a product where its terms have the inner axis in common.
    """
    axis = axis.find()
    if outer == 0 or axis.size % outer:
        return None
    if outer == axis.size:
        return axis, atom(1)
    if outer == 1:
        return atom(1), axis
    inner = axis.size // outer
    if axis.kind == "atom":
        first, second = atom(outer), atom(inner)
        _refine(axis, "product", (first, second))
        return first, second
    if axis.kind == "product":
        return _split_factors(factors(axis), outer)
    firsts, seconds = [], []
    for term in terms(axis):
        parts = split_product(term, term.size // inner) if term.size % inner == 0 else None
        if parts is None:
            return None
        firsts.append(parts[0])
        seconds.append(parts[1])
    for other in seconds[1:]:
        unify(seconds[0], other, _unequal_terms)
    return total(*firsts), seconds[0]


def _unequal_terms() -> str:
    return "its parts cannot be cut alike"


def _split_factors(parts: list[Axis], outer: int) -> tuple[Axis, Axis] | None:
    before: list[Axis] = []
    done = 1
    for i, part in enumerate(parts):
        if done == outer:
            return product(*before), product(*parts[i:])
        if outer % (done * part.size) == 0:
            before.append(part)
            done *= part.size
            continue
        halves = split_product(part, outer // done) if outer % done == 0 else None
        if halves is None:
            return None
        return product(*before, halves[0]), product(halves[1], *parts[i + 1 :])
    return None


def split_sum(axis: Axis, first: int) -> tuple[Axis, Axis] | None:
    """`axis` as the sum of an axis of size `first` and another; None where it is not one.

    An atom is refined. A product is a sum where the cut falls between entries of an outer factor,
    or inside one entry, along the inner factors.
    """
    axis = axis.find()
    if first in (0, axis.size):
        empty = atom(0)
        return (empty, axis) if first == 0 else (axis, empty)
    if axis.kind == "atom":
        low, high = atom(first), atom(axis.size - first)
        _refine(axis, "sum", (low, high))
        return low, high
    if axis.kind == "sum":
        return _split_terms(terms(axis), first)
    outer, *rest = factors(axis)
    inner = product(*rest)
    whole, inside = divmod(first, inner.size)
    cut = split_sum(outer, whole)
    if cut is None:
        return None
    low, high = (product(part, inner) if part.size else atom(0) for part in cut)
    if not inside:
        return low, high
    entry = split_sum(cut[1], 1)
    halves = split_sum(inner, inside)
    if entry is None or halves is None:
        return None
    after = product(entry[1], inner) if entry[1].size else atom(0)
    return total(low, halves[0]), total(halves[1], after)


def _split_terms(parts: list[Axis], first: int) -> tuple[Axis, Axis] | None:
    done = 0
    for i, part in enumerate(parts):
        if done == first:
            return total(*parts[:i]), total(*parts[i:])
        if done + part.size > first:
            halves = split_sum(part, first - done)
            if halves is None:
                return None
            return total(*parts[:i], halves[0]), total(halves[1], *parts[i + 1 :])
        done += part.size
    return None


def _refine(leaf: Axis, kind: str, parts: tuple[Axis, ...]) -> None:
    for part in parts:
        part.reasons = leaf.reasons
    leaf.kind, leaf.parts, leaf.reasons = kind, parts, ()
