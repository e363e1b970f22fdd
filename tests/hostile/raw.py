"""A stream that sends whatever it is told to, bytes included."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio

from paceline.common.codec import encode_request
from paceline.common.errors import Status
from paceline.common.messages import ErrorMessage, Open, ServerMessage
from paceline.common.prefix import Prefix
from paceline.common.sampling.quantised import QuantisedLaw
from paceline.common.tokens import Draft, How
from paceline.simulation.fuzz import LEAKS
from paceline.simulation.lies import read_response

OPEN = Open((1, 2, 3), 20)


def opening(**changes: Any) -> Open:
    """OPEN, changed."""
    return replace(OPEN, **changes)


def block(how: How = How.ONE_HOT, *token_ids: int, laws: tuple[QuantisedLaw, ...] = ()) -> Draft:
    """A block after the prompt of OPEN."""
    return Draft(3, Prefix(OPEN.prompt_token_ids).hash_at(3), token_ids, (), how, laws)


class Raw:
    """See above; every reply is searched for what must not leave a verifier."""

    def __init__(self, address: str, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._call = self._channel.stream_stream("/paceline.v1.VerifierService/Decode")(metadata=metadata)

    async def __aenter__(self) -> "Raw":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        await self._channel.close()

    async def send(self, *messages: Any) -> None:
        """Write messages; a stream that has ended swallows them."""
        for message in messages:
            data = message if isinstance(message, bytes) else encode_request(message).SerializeToString()
            try:
                await self._call.write(data)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return

    async def read(self) -> ServerMessage | None:
        """The next reply; None once the stream has ended, whatever its status."""
        try:
            data = await self._call.read()
        except grpc.aio.AioRpcError:
            return None
        if data is grpc.aio.EOF:
            return None
        assert not LEAKS.search(data), data
        reply = read_response(data)
        if isinstance(reply, ErrorMessage) and reply.fatal:
            await self._say_no_more()
        return reply

    async def _say_no_more(self) -> None:
        """Otherwise a server waits a while for a goodbye before it ends the stream."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._call.done_writing()

    async def until_end(self) -> list[ServerMessage]:
        """All replies."""
        replies = []
        while (reply := await self.read()) is not None:
            replies.append(reply)
        return replies

    async def status(self) -> Status:
        """What gRPC says in the end."""
        return Status((await self._call.code()).name)

    async def details(self) -> str:
        """Text beside the status."""
        details = str(await self._call.details())
        assert not LEAKS.search(details.encode()), details
        return details
