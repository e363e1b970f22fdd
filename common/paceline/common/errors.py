"""Every error a user can meet, whose fault it is, and what to do.

    PacelineError                     base; carries field, cure, status, exit code
    ├── InvalidRequest                the caller's value is wrong (INVALID_ARGUMENT): fix it, do not retry
    │   └── OutOfRange                right kind, too large or small for this model (OUT_OF_RANGE)
    ├── Incompatible                  both ends are fine but do not fit (FAILED_PRECONDITION): other model or version
    │   └── UnsupportedVersion        protocol versions differ (UNIMPLEMENTED)
    ├── Unauthenticated               nobody knows who calls (UNAUTHENTICATED): certificate or token
    ├── PermissionDenied              known, and not allowed this (PERMISSION_DENIED): ask the operator
    ├── BadReceipt                    history is not what a verifier wrote (FAILED_PRECONDITION): send it as prompt
    ├── Fenced                        the session goes on in another stream (ABORTED)
    ├── BadDraft                      one block is malformed (INVALID_ARGUMENT); the stream goes on
    ├── Busy                          no room now (RESOURCE_EXHAUSTED): retry after `retry_after_s`
    ├── DeadlineExceeded              the client's own deadline has passed (DEADLINE_EXCEEDED)
    ├── Unreachable                   nobody answers, or the link died (UNAVAILABLE): retry
    │   ├── Unavailable               somebody answers, who cannot serve now (UNAVAILABLE): retry
    │   ├── Idle                      the client left its session waiting too long (UNAVAILABLE): open it again
    │   └── NotTrusted                certificates keep the ends from connecting (UNAVAILABLE): check them
    ├── BadReply                      the verifier broke the protocol (DATA_LOSS)
    ├── TargetNumerics                the target produced NaN or infinity (INTERNAL)
    ├── MissingDependency             an optional package is not installed
    └── InternalError                 our bug; the text never leaves the process, an incident id does (INTERNAL)

The core names a status by its gRPC name; only `paceline.common.hops.grpc` and the service turn it into a code.
"""

from enum import StrEnum


class Status(StrEnum):
    """gRPC status names; the pure core may name one without importing grpc."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    INTERNAL = "INTERNAL"
    CANCELLED = "CANCELLED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"


class PacelineError(Exception):
    """An error with an owner and a cure.

    Args:
        message: what is wrong, naming the value.
        field: the request field, option or file key concerned; empty if none.
        cure: what the reader should do; empty if the message says it.
    """

    status: Status = Status.INTERNAL
    exit_code: int = 1
    fatal: bool = True
    """Whether the stream ends with it; if not, the session goes on."""

    def __init__(self, message: str, *, field: str = "", cure: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.cure = cure
        self.retry_after_s = retry_after_s

    @property
    def is_full(self) -> bool:
        """Whether a verifier is full and says when to come back. Without that, what is exhausted does not fill up
        again."""
        return self.status is Status.RESOURCE_EXHAUSTED and self.retry_after_s > 0

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        when = f" after {self.retry_after_s:.1f} s" if self.retry_after_s > 0 else ""
        what_to_do = f" ({self.cure or 'retry'}{when})" if self.cure or when else ""
        return f"{where}{self.message}{what_to_do}"

    @property
    def reason(self) -> str:
        """Stable machine-readable name, e.g. `INVALID_REQUEST`."""
        name = type(self).__name__
        return "".join(f"_{c}" if c.isupper() and i else c for i, c in enumerate(name)).upper()


class InvalidRequest(PacelineError):
    status = Status.INVALID_ARGUMENT
    exit_code = 2


class OutOfRange(InvalidRequest):
    status = Status.OUT_OF_RANGE


class Incompatible(PacelineError):
    status = Status.FAILED_PRECONDITION
    exit_code = 3


class UnsupportedVersion(Incompatible):
    status = Status.UNIMPLEMENTED


class Unauthenticated(PacelineError):
    status = Status.UNAUTHENTICATED
    exit_code = 6


class PermissionDenied(PacelineError):
    status = Status.PERMISSION_DENIED
    exit_code = 6


class BadReceipt(PacelineError):
    status = Status.FAILED_PRECONDITION
    exit_code = 3


class Fenced(PacelineError):
    status = Status.ABORTED
    exit_code = 4


class BadDraft(PacelineError):
    status = Status.INVALID_ARGUMENT
    fatal = False


class Busy(PacelineError):
    status = Status.RESOURCE_EXHAUSTED
    exit_code = 4


class DeadlineExceeded(PacelineError):
    status = Status.DEADLINE_EXCEEDED
    exit_code = 4


class Unreachable(PacelineError):
    status = Status.UNAVAILABLE
    exit_code = 4


class Unavailable(Unreachable):
    pass


class Idle(Unreachable):
    pass


class NotTrusted(Unreachable):
    exit_code = 6


class BadReply(PacelineError):
    status = Status.DATA_LOSS
    exit_code = 5


class TargetNumerics(PacelineError):
    status = Status.INTERNAL
    exit_code = 5


class MissingDependency(PacelineError):
    status = Status.FAILED_PRECONDITION
    exit_code = 3


class InternalError(PacelineError):
    status = Status.INTERNAL
    exit_code = 1
