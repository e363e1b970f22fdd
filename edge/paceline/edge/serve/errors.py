"""Refusals in the shape the OpenAI API has, and what of them Paceline's own errors become."""

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paceline.common.errors import InvalidRequest, PacelineError, Status
from paceline.common.session.remote import RemoteError

log = logging.getLogger(__name__)

_HTTP: Mapping[Status, int] = {
    Status.INVALID_ARGUMENT: 400,
    Status.OUT_OF_RANGE: 400,
    Status.NOT_FOUND: 404,
    Status.RESOURCE_EXHAUSTED: 429,
    Status.PERMISSION_DENIED: 403,
    Status.DEADLINE_EXCEEDED: 504,
    Status.UNAVAILABLE: 503,
    # What is wrong between this endpoint and its verifier is not the caller's to mend: a bad gateway.
    Status.UNAUTHENTICATED: 502,
    Status.FAILED_PRECONDITION: 502,
    Status.UNIMPLEMENTED: 502,
    Status.DATA_LOSS: 502,
    Status.INTERNAL: 502,
    Status.CANCELLED: 503,
}
_RETRY_S = 1.0
"""After what may pass by itself, where nobody said when."""
_LONGEST_NAME = 64


@dataclass(eq=False)
class ApiError(Exception):
    """A refusal."""

    http_status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after_s: float = 0.0

    @property
    def body(self) -> dict[str, Any]:
        """As the OpenAI API says it."""
        return {
            "error": {
                "message": self.message,
                "type": _kind(self.http_status),
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def headers(self) -> dict[str, str]:
        """When to come back, where that helps."""
        if self.http_status not in (429, 503):
            return {}
        return {"Retry-After": str(max(round(self.retry_after_s or _RETRY_S), 1))}


def _kind(http_status: int) -> str:
    if http_status in (401, 403):
        return "authentication_error" if http_status == 401 else "permission_error"
    if http_status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if http_status < 500 else "server_error"


def refusal(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    """The caller's value is wrong."""
    return ApiError(400, message, param, code)


_PARAMS = {
    "prompt_token_ids": "prompt",
    "max_new_tokens": "max_tokens",
    "stop_token_ids": "stop_token_ids",
    "prediction_token_ids": "prediction",
}
"""What callers call some fields of a generation."""


def api_error(error: PacelineError) -> ApiError:
    """An error of ours or of the verifier's, for the caller."""
    status = _HTTP.get(error.status, 500)
    if not isinstance(error, RemoteError | InvalidRequest) and error.status is Status.INTERNAL:
        status = 500
    name, dot, rest = error.field.partition("[")
    name = name.partition(".")[0]
    param = _PARAMS.get(name, name) + dot + rest if error.field and status < 500 else None
    code = "context_length_exceeded" if error.status is Status.OUT_OF_RANGE else error.reason.lower()
    message = f"{error.message} ({error.cure})" if error.cure else error.message
    return ApiError(status, message, param, code, error.retry_after_s)


def unexpected() -> ApiError:
    """A bug of ours: the log has what happened, the caller an id."""
    incident = secrets.token_hex(4)
    log.exception("incident %s while answering a request", incident)
    return ApiError(500, f"something went wrong here (incident {incident}, see the log)", None, "internal")


def shown(name: object) -> str:
    """What somebody sent, fit for a message: short and printable."""
    text = str(name)[:_LONGEST_NAME]
    return text.encode("utf-8", "replace").decode()
