"""What XLA itself says of a compiled program: its FLOPs and its memory."""

import jax


def xla_flops(compiled: jax.stages.Compiled) -> float:
    """XLA's count of floating-point operations of one call, on one device.

    It counts after optimization: a multiply and an add are two, elementwise work and folded
    constants are as the compiler left them, the body of a loop counts once, and what a backend
    hands to a library (cuDNN, oneDNN) may be missing.

    Raises:
        NotImplementedError: the backend reports no cost analysis.

    >>> x = jax.ShapeDtypeStruct((8, 8), "float32")
    >>> xla_flops(jax.jit(lambda a, b: a @ b).lower(x, x).compile())
    1024.0
    """
    cost = compiled.cost_analysis()
    if cost is None:
        raise NotImplementedError(f"{jax.default_backend()} reports no cost of compiled programs")
    return float(cost.get("flops", 0.0))  # a program that only moves data has no such entry


def peak_bytes(compiled: jax.stages.Compiled) -> int:
    """Memory that one call holds on one device: arguments + results + temporaries, in bytes.

    XLA plans all temporaries into one buffer of this size before the call; results that reuse an
    argument's memory (donation) count once. The program's code and what a library allocates for
    itself are not in it.

    Raises:
        NotImplementedError: the backend reports no memory analysis.
    """
    memory = compiled.memory_analysis()
    if memory is None:
        raise NotImplementedError(f"{jax.default_backend()} reports no memory of compiled programs")
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
