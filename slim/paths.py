"""Parameters addressed by path patterns.

A *path* is the names on the way to a leaf joined by `/`: `encoder/layer_0/attention/query/kernel`.
A *pattern* is a shell glob in which `*` spans `/`, so `*/kernel` matches at any depth. A list of
(pattern, value) *rules* is read in order and the first match wins; a rule that decides nothing is
an error, because it is nearly always a misspelt path.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import jax

T = TypeVar("T")
PyTree = Any


def path_name(key_path: tuple[Any, ...]) -> str:
    """The `/`-joined name of a JAX key path.

    NNX ends its state's paths in `.value`, Linen does not; the ending is dropped, so that one
    pattern addresses both.
    """
    return jax.tree_util.keystr(key_path, simple=True, separator="/").removesuffix("/value")


def flatten(tree: PyTree) -> dict[str, Any]:
    """The leaves of a pytree by path, in tree order.

    >>> flatten({"dense": {"kernel": 1, "bias": 2}})
    {'dense/bias': 2, 'dense/kernel': 1}
    """
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts from leaves by path; the inverse of `flatten` for such.

    >>> unflatten({"a/b": 1, "a/c": 2})
    {'a': {'b': 1, 'c': 2}}
    """
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        inside = tree
        for parent in parents:
            inside = inside.setdefault(parent, {})
        inside[last] = leaf
    return tree


def map_with_path(fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """`jax.tree.map` whose function also gets the leaf's path: `fn(path, leaf, *other_leaves)`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: fn(path_name(path), *leaves), tree, *rest
    )


def without_none(tree: PyTree) -> PyTree:
    """Nested dicts, perhaps in a tuple, without the entries that are None or have nothing else.

    >>> without_none({"a": None, "b": {"c": None}, "d": 1})
    {'d': 1}
    """
    if isinstance(tree, tuple):
        return tuple(map(without_none, tree))
    if not isinstance(tree, dict):
        return tree
    entries = {name: without_none(entry) for name, entry in tree.items()}
    return {
        name: entry
        for name, entry in entries.items()
        if entry is not None and not (isinstance(entry, dict) and not entry)
    }


def matches(pattern: str, path: str) -> bool:
    """Whether the glob `pattern` matches the whole of `path`; case counts, `*` spans `/`."""
    return fnmatchcase(path, pattern)


def nearest(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """The candidates most like `name`, best first; at most `count`."""
    return difflib.get_close_matches(name, list(candidates), n=count, cutoff=0.3)


def unknown_name(field: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not in a table: the nearest known one, then all of them.

    >>> unknown_name("score", "l3", ["l2", "taylor"])
    "score: unknown name 'l3'; did you mean 'l2'? Known: l2, taylor"
    """
    known = sorted(known)
    near = nearest(name, known, count=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{field}: unknown name {name!r}{hint} Known: {', '.join(known)}"


def resolve(
    rules: Sequence[tuple[str, T]], paths: Iterable[str], *, what: str = "rule"
) -> dict[str, T | None]:
    """The value that the first matching rule gives each path; None where no rule matches.

    Args:
        rules: (pattern, value) pairs, first match wins.
        paths: the paths to decide.
        what: what the rules are called in error messages.

    Raises:
        ValueError: a rule matches no path, or only paths that earlier rules decided.

    >>> resolve([("*/bias", 0), ("*", 1)], ["a/bias", "a/kernel"])
    {'a/bias': 0, 'a/kernel': 1}
    """
    paths = list(paths)
    chosen: dict[str, T | None] = dict.fromkeys(paths)
    decided_by: dict[str, str] = {}
    for pattern, value in rules:
        matching = [path for path in paths if matches(pattern, path)]
        if not matching:
            near = nearest(pattern, paths) or sorted(paths)[:3]
            raise ValueError(
                f"{what} {pattern!r} matches no parameter; nearest paths: {', '.join(near)}"
            )
        fresh = [path for path in matching if path not in decided_by]
        if not fresh:
            raise ValueError(
                f"{what} {pattern!r} decides nothing: every path it matches was already decided "
                f"by {decided_by[matching[0]]!r}; move it before that one or remove it"
            )
        for path in fresh:
            chosen[path] = value
            decided_by[path] = pattern
    return chosen
