"""A link that notes how large the messages of a round are."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from paceline.common.codec import encode_request, encode_response
from paceline.common.hops.base import Hop, Stream
from paceline.common.messages import ClientMessage, Description, ServerMessage
from paceline.common.tokens import Draft, Verdict


class SizedHop:
    """Another hop, with the sizes of the drafts and verdicts that crossed it. Slower than the hop alone.

    Args:
        hop: who carries the messages.
    """

    def __init__(self, hop: Hop) -> None:
        self.drafts: list[tuple[int, int]] = []
        """Tokens and payload bytes of every draft block."""
        self.verdict_bytes: list[int] = []
        self._hop = hop

    async def describe(self) -> Description:
        """What the verifier serves."""
        return await self._hop.describe()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """A new stream."""
        async with self._hop.stream() as stream:
            yield _SizedStream(stream, self)

    async def close(self) -> None:
        """Release the link."""
        await self._hop.close()


class _SizedStream:
    def __init__(self, stream: Stream, hop: SizedHop) -> None:
        self.traffic = stream.traffic
        self._stream = stream
        self._hop = hop

    async def send(self, message: ClientMessage) -> None:
        if isinstance(message, Draft):
            self._hop.drafts.append((len(message), encode_request(message).ByteSize()))
        await self._stream.send(message)

    async def receive(self) -> ServerMessage | None:
        message = await self._stream.receive()
        if isinstance(message, Verdict):
            self._hop.verdict_bytes.append(encode_response(message).ByteSize())
        return message
