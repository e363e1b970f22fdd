"""What a failed call means, in our words: grpc's own text reaches nobody."""

from typing import Any

import grpc

from paceline.common.errors import (
    Incompatible,
    NotTrusted,
    PacelineError,
    PermissionDenied,
    Status,
    Unauthenticated,
    Unavailable,
    Unreachable,
)
from paceline.common.hops.base import REFUSAL_HEADER

_LET_IN = {
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
}


_CLOSES = "closes the connection"


def translate(error: Any, address: str, *, is_encrypted: bool) -> PacelineError:
    """Our error for a call that failed.

    Args:
        error: grpc's.
        address: of the verifier.
        is_encrypted: whether this side speaks TLS.
    """
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and _is_refusal(error):
        return Unavailable(f"{address} answers: {details}", field="verifier")
    # What grpc.aio says when the link breaks under a message that is being written.
    broke = code is grpc.StatusCode.INTERNAL and details == "Internal error from Core"
    # This side never cancels a call and then reads it: a cancelled one is that of a server that was stopped.
    gone = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
    if broke or code in gone:
        return distrust(details, address, is_encrypted=is_encrypted) or Unreachable(
            f"no verifier answers at {address}",
            field="verifier",
            cure="start one with `paceline cloud serve`, or check the address",
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Incompatible(f"the server at {address} is not a Paceline verifier", field="verifier")
    if code in _LET_IN:
        return _LET_IN[code](details, field="verifier")
    translated = PacelineError(details or code.name, field="verifier")
    translated.status = Status(code.name) if code.name in Status.__members__ else Status.INTERNAL
    return translated


def _is_refusal(error: Any) -> bool:
    return any(key == REFUSAL_HEADER for key, _ in error.trailing_metadata() or ())


def distrust(details: str, address: str, *, is_encrypted: bool) -> NotTrusted | None:
    """What of the ends' certificates kept them from connecting; None if it was something else."""
    if "CERTIFICATE_VERIFY_FAILED" in details:
        expired = "certificate has expired" in details
        why = "has expired" if expired else "is not signed by an authority that this side trusts"
        cure = "its operator must renew it" if expired else "check --tls-ca"
        return _fault(f"the certificate of {address} {why}", cure)
    if "Hostname Verification" in details:
        return _fault(f"the certificate of {address} is for another host", "call it by a name it has")
    if "WRONG_VERSION_NUMBER" in details:
        return _fault(f"{address} does not speak TLS", "leave --tls-ca out, or serve with --tls-cert")
    if "security handshaker" in details:
        return _fault(
            f"this side's certificate cannot be shown to {address}", "check --tls-cert and --tls-key"
        )
    if "failed to connect" not in details or "Connection refused" in details:
        return None
    if is_encrypted:
        # A server that refuses a certificate closes the connection without a word.
        return _fault(
            f"{address} {_CLOSES}",
            "check your certificate: --tls-cert, its authority, its expiry",
        )
    if "Socket closed" in details:
        return _fault(f"{address} {_CLOSES}", "if it speaks TLS, add --tls-ca")
    return None


def may_pass(fault: PacelineError) -> bool:
    """Whether waiting may help: nobody is there yet, or whoever is closes the connection, for whatever reason."""
    return isinstance(fault, Unreachable) and (not isinstance(fault, NotTrusted) or _CLOSES in fault.message)


def _fault(message: str, cure: str) -> NotTrusted:
    return NotTrusted(message, field="verifier", cure=cure)
