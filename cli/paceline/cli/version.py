"""The installed version."""

from importlib.metadata import PackageNotFoundError, version


def software_version() -> str:
    """Version of the installed distribution, or `unknown` when run from bare sources."""
    try:
        return version("paceline")
    except PackageNotFoundError:
        return "unknown"
