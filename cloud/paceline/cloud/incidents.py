"""What is said of an end that is nobody's request: a verifier that goes away, an exception nobody foresaw."""

import logging
import uuid

from paceline.common.errors import InternalError, Unreachable

log = logging.getLogger(__name__)


def going_away() -> Unreachable:
    """What a session is told when the verifier ends."""
    return Unreachable("this verifier is going away", field="verifier", cure="open at another one")


def incident(doing: str) -> InternalError:
    """Log the exception at hand under an id; the id is all that leaves the process."""
    incident = uuid.uuid4().hex[:12]
    log.exception("incident %s while %s", incident, doing)
    return InternalError("internal error", cure=f"report incident {incident} to the operator")
