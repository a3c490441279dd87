"""Settings of JAX that suit the machine."""


def configure() -> None:
    """Leaves JAX as it is."""
