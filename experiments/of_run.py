"""The flags of commands that take a run that ended: which run, and whose model of it."""

from absl import flags

RUN = flags.DEFINE_string("run", None, "The directory with the run's report.json.", required=True)
STAGE = flags.DEFINE_string("stage", None, "Whose model; None: the one that the recipe ends in.")
