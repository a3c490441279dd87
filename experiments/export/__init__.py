"""Artefacts of a model: written, run in their runtimes beside JAX, timed and described."""
