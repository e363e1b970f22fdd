"""Where the models that come with the repository are."""

import os
from pathlib import Path

from paceline.common.errors import InvalidRequest

_REPOSITORY = Path(__file__).resolve().parents[3]


def models_dir() -> Path:
    """The folder with `pico`, `mid`, `base`: `$PACELINE_MODELS`, `./models`, or the one beside this source tree.

    Raises:
        InvalidRequest: none of them is there.
    """
    named = os.environ.get("PACELINE_MODELS")
    for candidate in (Path(named) if named else None, Path("models"), _REPOSITORY / "models"):
        if candidate is not None and (candidate / "base").is_dir():
            return candidate
    raise InvalidRequest(
        "the shipped models are not here",
        field="models",
        cure="run from a clone, or set PACELINE_MODELS to its models/",
    )
