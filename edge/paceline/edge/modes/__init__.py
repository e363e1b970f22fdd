"""Ways of generating a text. Each is one async generator over the same seam; `MODES` is the only table.

sync    draft a block, send it, wait for the verdict
cloud   the verifier streams alone, nothing is drafted
local   the drafter writes alone; nothing is verified
"""

from collections.abc import Mapping

from paceline.edge.modes.base import Mode, Run
from paceline.edge.modes.cloud import cloud
from paceline.edge.modes.local import local
from paceline.edge.modes.sync import sync

MODES: Mapping[str, Mode] = {"sync": sync, "cloud": cloud, "local": local}

__all__ = ["MODES", "Mode", "Run", "cloud", "local", "sync"]
