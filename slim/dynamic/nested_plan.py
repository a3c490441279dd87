"""Several widths and depths of one network, in one set of variables; it stands alone, as plans do.

    plan = NestedPlan({"keep_1": (), "keep_0.5": (widths,), "keep_0.5_drop_2": (widths, depth)})
    variables = plan.with_own(variables)     whose units are sorted: see `sort_units`
    plan.narrow("keep_0.5", variables)       those of one variant, slices of the same

The variables are those of the widest, and under `VARIANTS` what each other variant has of its own:
all collections but the parameters, which are batch statistics.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from slim.dynamic.slimmable import narrow
from slim.graph import Plan
from slim.graph.stored_json import Fields, Stored, exactly, row, table
from slim.paths import unknown_name, without_none
from slim.prune.depth import DepthPlan, drop_params

Variables = dict[str, Any]

VARIANTS = "variants"
"""Under which name what variants have of their own stands among the variables."""


def _cut(fields: Any) -> Plan | DepthPlan:
    kind = DepthPlan if exactly(dict)(fields).get("kind") == DepthPlan.KIND else Plan
    return kind.from_json(json.dumps(fields))


@dataclass(frozen=True)
class NestedPlan(Stored):
    """Variants of a network with the variables `{"params": ..., ...}`.

    Attributes:
        variants: the cuts that make each, by name, from the widest on, which has none. Widths keep
            the first units of their groups.

    Raises:
        ValueError: fewer than two, or a first one that is cut.
    """

    KIND: ClassVar[str] = "nested"
    FIELDS: ClassVar[Fields] = {"variants": table(row(_cut))}

    variants: Mapping[str, tuple[Plan | DepthPlan, ...]]

    def __post_init__(self) -> None:
        if len(self.variants) < 2 or self.variants[self.widest]:
            raise ValueError(
                f"variants: {', '.join(self.variants) or 'none'}; give two or more, the first with "
                "no cuts: it is the whole network"
            )

    @property
    def widest(self) -> str:
        """The name of the whole network."""
        return next(iter(self.variants), "")

    def with_own(self, variables: Variables) -> Variables:
        """Variables of the whole network, with what variants have of their own to begin with."""
        given = without_own(variables)
        own = {}
        for name in self.variants:
            small = self.narrow(name, given)
            own[name] = {kind: tree for kind, tree in small.items() if kind != "params"}
        del own[self.widest]
        return {**given, VARIANTS: own} if any(own.values()) else given

    def narrow(self, name: str, variables: Variables) -> Variables:
        """The variables of one variant, for the function cut by `variants[name]`.

        Args:
            name: of the variant.
            variables: from `with_own`, or without what variants have of their own: then slices of
                the widest's stand in its place.

        Raises:
            ValueError: there is no such variant, or the variables are not those of the plan.
        """
        if name not in self.variants:
            raise ValueError(unknown_name("variant", name, self.variants))
        small = without_own(variables)
        for cut in self.variants[name]:
            if isinstance(cut, Plan):
                small = narrow(cut, small)
            else:
                small = without_none(drop_params(cut.blocks, small))
        return {**small, **variables.get(VARIANTS, {}).get(name, {})}

    def plain(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return {
            "variants": {
                name: [json.loads(cut.to_json()) for cut in cuts]
                for name, cuts in self.variants.items()
            }
        }


def without_own(variables: Variables) -> Variables:
    """The variables of the whole network."""
    return {name: tree for name, tree in variables.items() if name != VARIANTS}
