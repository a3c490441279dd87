"""Everything that does I/O: the command line, the trainer, the stages, data and reports."""
