"""Ways of generating a text; `MODES` is the only table. All but `local` are one loop with another pacing.

auto    whatever is fastest here and now (or cheapest, by the objective); never slower than the cloud alone
stream  draft on without waiting for verdicts, several blocks in flight; the verifier fills when drafts are late
sync    draft a block, send it, wait for the verdict
cloud   the verifier streams alone, nothing is drafted
local   the drafter writes alone; nothing is verified
"""

from collections.abc import AsyncGenerator, Callable, Mapping

from paceline.edge.modes.local import local
from paceline.edge.pacing.base import Pacing
from paceline.edge.pacing.controller import controller
from paceline.edge.pacing.fixed import Alone, Steady, one_block
from paceline.edge.pipeline import pipeline
from paceline.edge.request import Event
from paceline.edge.run import Run

Mode = Callable[[Run], AsyncGenerator[Event, None]]
"""Generates a text, events in order; fills in `run.report` as it goes."""


def _paced(choose: Callable[[Run], Pacing]) -> Mode:
    return lambda run: pipeline(run, choose(run))


MODES: Mapping[str, Mode] = {
    "auto": _paced(lambda run: controller(run.request, run.estimates, run.report.decisions)),
    "stream": _paced(lambda run: Steady(run.request, run.estimates)),
    "sync": _paced(lambda run: one_block(run.request)),
    "cloud": _paced(lambda run: Alone()),
    "local": local,
}

__all__ = ["MODES", "Mode"]
