"""What another end says went wrong, as an error here."""

from paceline.common.errors import PacelineError, Status
from paceline.common.messages import ErrorMessage

_MAX_SHOWN = 500
"""Characters of each text of an error from elsewhere."""


def _shown(text: str) -> str:
    """A stranger's text, made fit for a terminal and a log."""
    return "".join(one if one.isprintable() else "\ufffd" for one in text[:_MAX_SHOWN])


class RemoteError(PacelineError):
    """What the verifier said went wrong."""

    def __init__(self, message: ErrorMessage) -> None:
        super().__init__(
            _shown(message.message),
            field=_shown(message.field),
            cure=_shown(message.cure),
            retry_after_s=message.retry_after_s,
        )
        self.status = message.status
        self.fatal = message.fatal
        self.remote_reason = _shown(message.reason)
        self.exit_code = _EXIT_CODES.get(message.status, 1)

    @property
    def reason(self) -> str:
        """The verifier's name for it."""
        return self.remote_reason


_EXIT_CODES = {
    Status.INVALID_ARGUMENT: 2,
    Status.OUT_OF_RANGE: 2,
    Status.FAILED_PRECONDITION: 3,
    Status.UNIMPLEMENTED: 3,
    Status.UNAUTHENTICATED: 6,
    Status.PERMISSION_DENIED: 6,
    Status.RESOURCE_EXHAUSTED: 4,
    Status.ABORTED: 4,
    Status.UNAVAILABLE: 4,
    Status.DATA_LOSS: 5,
    Status.INTERNAL: 5,
}
