"""A way to a verifier that notes who comes back sooner than told, and whose stream ended for another one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from paceline.common.errors import Status
from paceline.common.hops.base import Hop, Stream
from paceline.common.messages import ClientMessage, ErrorMessage, Open, ServerMessage


class Way:
    """See above.

    Args:
        hop: the verifier it leads to.
    """

    def __init__(self, hop: Hop) -> None:
        self.hurried: list[str] = []
        self.num_fenced = 0
        """Streams that ended for another one while somebody listened."""
        self.describe = hop.describe
        self.close = hop.close
        self._hop = hop
        self._due_s: dict[str, float] = {}

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """See `Hop`."""
        async with self._hop.stream() as stream:
            yield _WayStream(stream, self)

    def opens(self, name: str) -> None:
        """A stream for this text begins."""
        if asyncio.get_running_loop().time() < self._due_s.get(name, 0.0):
            self.hurried.append(name)

    def refused(self, name: str, retry_after_s: float) -> None:
        """It was told to come back later."""
        self._due_s[name] = asyncio.get_running_loop().time() + retry_after_s


class _WayStream:
    def __init__(self, stream: Stream, way: Way) -> None:
        self.traffic = stream.traffic
        self._stream = stream
        self._way = way
        self._name = ""

    async def send(self, message: ClientMessage) -> None:
        if isinstance(message, Open):
            self._name = message.request_id
            self._way.opens(self._name)
        await self._stream.send(message)

    async def receive(self) -> ServerMessage | None:
        message = await self._stream.receive()
        if isinstance(message, ErrorMessage) and message.fatal:
            self._way.num_fenced += message.status is Status.ABORTED
            self._way.refused(self._name, message.retry_after_s)
        return message
