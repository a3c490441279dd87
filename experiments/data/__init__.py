"""Data sets, their batches and augmentations; begin at `sets` and `dataset`."""
