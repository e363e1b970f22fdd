"""What stands before every route: who may call, from which page, by which name, and with how much."""

import hmac
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paceline.edge.serve.config import ServeConfig, is_loopback
from paceline.edge.serve.errors import ApiError, shown
from paceline.edge.serve.metrics import EndpointMetrics
from paceline.edge.serve.page import OPEN_PATHS
from paceline.edge.serve.reply import to_json

REQUEST_ID = "paceline.request_id"
TOO_LARGE = "paceline.too_large"
"""Keys of a request's scope."""
_LONGEST_ID = 64
_OPEN_PATHS = ("/health", *OPEN_PATHS)
"""Answered without a key: whoever restarts a dead endpoint has none, nor has a browser before its page asks for it."""


class TooLarge(Exception):
    """A body is longer than it may be."""


class Guard:
    """Refuses what should not get in, and gives every request an id.

    Pages of other sites can make a browser send requests here, and by a name they own that points to loopback even read
    the replies. So a name that is not this endpoint's is refused, and so is a page's origin unless it is allowed.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig, metrics: EndpointMetrics) -> None:
        self._app = app
        self._config = config
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = _request_id(headers.get("x-request-id", ""))
        scope[REQUEST_ID] = request_id

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
                if message["status"] >= 400:
                    self._metrics.refused(message["status"])
            await send(message)

        try:
            self._check(scope, headers)
        except ApiError as error:
            await _refuse(error, answer)
            return
        await self._app(scope, self._limited(scope, receive), answer)

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        self._check_host(headers.get("host", ""))
        self._check_origin(headers.get("origin"), headers.get("host", ""))
        if scope["path"] not in _OPEN_PATHS:
            self._check_key(headers.get("authorization", ""))
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._config.max_body_bytes:
            raise too_large(self._config.max_body_bytes)

    def _check_host(self, host: str) -> None:
        if not self._config.is_loopback and not self._config.allowed_hosts:
            return
        name = urlsplit(f"//{host}").hostname if host.isprintable() and "/" not in host else None
        if name is None or not (is_loopback(name) or name in self._config.allowed_hosts):
            raise ApiError(
                403, f"this endpoint is not called {shown(host)!r}; --allowed-host lets it be", None, "host"
            )

    def _check_origin(self, origin: str | None, host: str) -> None:
        if origin is None or origin in self._config.cors_origins or origin == f"http://{host}":
            return
        raise ApiError(
            403, f"pages of {shown(origin)!r} may not call; --cors-origin lets them", None, "origin"
        )

    def _check_key(self, authorization: str) -> None:
        if not self._config.api_key:
            return
        kind, _, key = authorization.partition(" ")
        is_right = hmac.compare_digest(key.strip().encode(), self._config.api_key.encode())
        if kind.lower() != "bearer" or not is_right:
            raise ApiError(
                401, "no API key, or a wrong one: send Authorization: Bearer KEY", None, "invalid_api_key"
            )

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._config.max_body_bytes:
                scope[TOO_LARGE] = True
                raise TooLarge
            return message

        return counted


def too_large(most: int) -> ApiError:
    """The refusal of a long body."""
    return ApiError(413, f"the body is longer than {most} bytes", None, "too_large")


def _request_id(given: str) -> str:
    """The caller's id, if it fits into every hop's log; else a new one."""
    fits = 0 < len(given) <= _LONGEST_ID and given.isascii() and given.isprintable()
    return given if fits else secrets.token_hex(12)


async def _refuse(error: ApiError, send: Send) -> None:
    body = to_json(error.body)
    given: dict[str, str] = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    given |= error.headers | ({"WWW-Authenticate": "Bearer"} if error.http_status == 401 else {})
    headers: list[Any] = [(name.lower().encode(), value.encode()) for name, value in given.items()]
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
