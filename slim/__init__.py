"""slim: make neural networks small and fast, and prove it.

Everything here is a pure function over pytrees. `slim.graph` reads the traced function; pruning,
quantization, cost counting and export read or rewrite that graph.
"""

__version__ = "0.1.0"
