"""The seam between an edge and a verifier."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from paceline.common.errors import PacelineError, Unreachable
from paceline.common.messages import ClientMessage, Description, ServerMessage
from paceline.common.tracing import Headers

SESSION_HEADER = "x-paceline-session"
"""The same on every stream of one text, so that a load balancer can lead it back to the verifier that had it."""

REFUSAL_HEADER = "paceline-refusal"
"""Comes with a status that a verifier or relay chose: gRPC has the same ones for links that break."""

stream_headers: ContextVar[Headers] = ContextVar("stream_headers", default=())
"""What streams opened in this task carry beside their messages, for whoever stands between and looks into none."""


@dataclass(slots=True)
class Traffic:
    """Payload bytes of one stream (protobuf messages, without HTTP/2 framing)."""

    bytes_up: int = 0
    bytes_down: int = 0


class Elsewhere(Unreachable):
    """The hop behind this stream has no place, another one may have: a stream opened now goes there."""


class Stream(Protocol):
    """One generation's messages, both ways."""

    traffic: Traffic

    async def send(self, message: ClientMessage) -> None:
        """Send one message; returns when the transport has taken it.

        Raises:
            Unreachable: the link is gone.
        """

    async def receive(self) -> ServerMessage | None:
        """The next message; None at the end of the stream.

        Raises:
            Unreachable: the link is gone.
            Elsewhere: there is no place here, and nobody who was asked for this text has said so of another one.
            PacelineError: the verifier ended the stream with an error status.
        """


class Hop(Protocol):
    """A verifier somewhere."""

    async def describe(self) -> Description:
        """What the verifier serves."""

    def stream(self) -> AbstractAsyncContextManager[Stream]:
        """A new stream. Leaving the context ends it, whatever state it is in."""

    async def close(self) -> None:
        """Release the link."""


class Verifying(Protocol):
    """What a transport needs from a verifier; `paceline.cloud.verifier.Verifier` is one."""

    def describe(self) -> Description:
        """What it serves."""

    def decode(self, requests: AsyncIterator[ClientMessage | PacelineError]) -> AsyncIterator[ServerMessage]:
        """Serve one stream.

        Args:
            requests: messages in order, or what was wrong with one. Ends when the client is gone.
        Yields:
            The answers. A fatal ErrorMessage is the last one; the transport then closes with its status.
        """
