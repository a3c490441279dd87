"""Experts spread over a mesh of devices: `expert_parallel(mesh)`, with an exchange by name.

* `layer`: the `Mix` and what it costs in traffic and memory.
* `axes`: how weights and tokens lie on the mesh (`weight_specs`, `token_spec`).
* `plan`: who sends how many rows to whom.
* `exchange`: the collectives that carry them (`EXCHANGES`), by the target's platform.
"""

from slim.moe.parallel.axes import AXES, Axes, Gathered, token_spec, total_load, weight_specs
from slim.moe.parallel.exchange import EXCHANGES, Exchange, exchange_for
from slim.moe.parallel.layer import expert_parallel

__all__ = [
    "AXES",
    "EXCHANGES",
    "Axes",
    "Exchange",
    "Gathered",
    "exchange_for",
    "expert_parallel",
    "token_spec",
    "total_load",
    "weight_specs",
]
