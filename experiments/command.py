"""The flag --config and its overrides, shared by the programs that take a recipe."""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import recipe
from experiments.schema import ConfigError, unknown_name

WRONG = 2
"""The exit code where the config or the flags are wrong."""

_CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe, as a file of configs/.")


def config() -> ConfigDict:
    """The config of --config with its overrides.

    Raises:
        ConfigError: the flag, or the file, is missing.
    """
    if not flags.FLAGS["config"].present:
        raise ConfigError("--config is missing: name a file of configs/")
    if not config_file().is_file():
        raise ConfigError(f"--config={config_file()}: no such file")
    made: ConfigDict = _CONFIG.value
    return made


def config_file() -> Path:
    """The file of --config, without the arguments that follow a colon."""
    return Path(config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0])


def parse(argv: Sequence[str]) -> list[str]:
    """Reads the flags; a config that refuses its arguments or overrides is a line, not a trace."""
    try:
        return flags.FLAGS(list(argv))
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as error:
        # What a config file refuses comes wrapped in the trace of how the file was loaded.
        reason = str(error).rpartition("ConfigError: ")[2].strip()
        print(f"error: {_unknown_override(argv) or reason}", file=sys.stderr)
        sys.exit(WRONG)


def _unknown_override(argv: Sequence[str]) -> ConfigError | None:
    """The first `--config.a.b=value` that names no field of the config."""
    files = [a.removeprefix("--config=") for a in argv if a.startswith("--config=")]
    names = [a.removeprefix("--config.").partition("=")[0] for a in argv if "--config." in a]
    if not files or not names:
        return None
    made = recipe.load(files[-1])
    for name in names:
        section, place = made, "config"
        for part in name.split("."):
            if not isinstance(section, ConfigDict):
                break
            if part not in section:
                return unknown_name(place, part, section)
            section, place = section[part], f"{place}.{part}"
    return None
