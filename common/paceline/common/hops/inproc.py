"""A verifier in the same process: the messages still pass through their wire form, only the sockets are missing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from paceline.common import tracing
from paceline.common.codec import RequestWriter, ResponseWriter, parse_request, parse_response
from paceline.common.errors import PacelineError
from paceline.common.hops.base import Stream, Traffic, Verifying, stream_headers
from paceline.common.messages import ClientMessage, Description, ServerMessage


class InProcessHop:
    """Connects an edge directly to a verifier object on the same event loop."""

    def __init__(self, verifier: Verifying) -> None:
        self._verifier = verifier

    async def describe(self) -> Description:
        """What the verifier serves."""
        return self._verifier.describe()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """A new stream."""
        stream = _InProcessStream(self._verifier)
        try:
            yield stream
        finally:
            await stream.end()

    async def close(self) -> None:
        """Nothing to release."""


class _InProcessStream:
    def __init__(self, verifier: Verifying) -> None:
        self.traffic = Traffic()
        self._writer = RequestWriter()
        self._up: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._down: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._pump = asyncio.create_task(self._serve(verifier))

    async def send(self, message: ClientMessage) -> None:
        data = self._writer.write(message)
        self.traffic.bytes_up += len(data)
        self._up.put_nowait(data)

    async def receive(self) -> ServerMessage | None:
        data = await self._down.get()
        if data is None:
            self._pump.result()
            return None
        self.traffic.bytes_down += len(data)
        return parse_response(data)

    async def end(self) -> None:
        self._up.put_nowait(None)
        await asyncio.wait({self._pump})

    async def _serve(self, verifier: Verifying) -> None:
        tracing.called_by(dict(stream_headers.get()))
        writer = ResponseWriter()
        try:
            async for message in verifier.decode(self._requests()):
                for data in writer.write(message):
                    self._down.put_nowait(data)
        finally:
            self._down.put_nowait(None)

    async def _requests(self) -> AsyncIterator[ClientMessage | PacelineError]:
        while (data := await self._up.get()) is not None:
            yield parse_request(data)
