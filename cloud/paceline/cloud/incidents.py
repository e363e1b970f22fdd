"""What is said of an end that is nobody's request: a verifier that goes away, an exception nobody foresaw."""

import logging
import uuid

from paceline.common.errors import DeadlineExceeded, Idle, InternalError, TargetNumerics, Unreachable

log = logging.getLogger(__name__)


def going_away() -> Unreachable:
    """What a session is told when the verifier ends."""
    return Unreachable("this verifier is going away", field="verifier", cure="open at another one")


def incident(doing: str) -> InternalError:
    """Log the exception at hand under an id; the id is all that leaves the process."""
    name = _name()
    log.exception("incident %s while %s", name, doing)
    return InternalError("internal error", cure=_cure(name))


def broken_target(error: TargetNumerics) -> TargetNumerics:
    """Log what is wrong with the target, and its cure, under an id; the client can mend nothing and learns the id."""
    name = _name()
    log.error("incident %s while judging a draft: %s", name, error)
    return TargetNumerics(error.message, field="target", cure=_cure(name))


def _name() -> str:
    return uuid.uuid4().hex[:12]


def _cure(name: str) -> str:
    return f"report incident {name} to the operator"


def time_is_up() -> DeadlineExceeded:
    """What a text is told whose client gave it less time."""
    return DeadlineExceeded(
        "the client's time is up", field="deadline", cure="give it longer, or ask for less"
    )


def left_idle(idle_s: float) -> Idle:
    """What a session is told whose client leaves it waiting."""
    return Idle(f"nothing was heard for {idle_s:g} s", field="session_id", cure="open it again to go on")
