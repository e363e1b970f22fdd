"""The floor of any gRPC exchange from Python: a bare bidirectional stream of bytes between two processes.

`python -m paceline.benchmarks.echo` is the far end. A request starts with the size wanted in return and the
microseconds to wait in another thread before answering, as a verifier works in one (four bytes each). The answer starts
with the seconds that took (eight bytes), so that they can be taken off.
"""

import asyncio
import struct
import sys
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from paceline.benchmarks.line_process import say

_SERVICE, _METHOD = "paceline.benchmarks.Echo", "Exchange"
_HEADER = struct.Struct(">II")
_WAITED = struct.Struct(">d")


class EchoClient:
    """One stream to an echo process.

    Args:
        address: `HOST:PORT`.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel: Any = None
        self._call: Any = None

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self._address)
        self._call = self._channel.stream_stream(f"/{_SERVICE}/{_METHOD}")()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()
        await self._channel.close()

    async def round_trips(
        self, count: int, bytes_up: int, bytes_down: int, *, pause_s: float = 0.0, wait_s: float = 0.0
    ) -> list[float]:
        """Seconds of each of `count` exchanges, one after another, less what the far end waited.

        Args:
            count: how many.
            bytes_up: payload of a request; at least eight.
            bytes_down: payload of an answer; at least eight.
            pause_s: between them, spent in another thread, as drafting is.
            wait_s: how long the far end waits in another thread before it answers, as verifying does.
        """
        request = _HEADER.pack(bytes_down, round(wait_s * 1e6)).ljust(bytes_up, b"\x7f")
        seconds = []
        for _ in range(count):
            if pause_s:
                await asyncio.get_running_loop().run_in_executor(None, time.sleep, pause_s)
            began_s = time.perf_counter()
            await self._call.write(request)
            answer = await self._call.read()
            seconds.append(time.perf_counter() - began_s - _WAITED.unpack_from(answer)[0])
        return seconds


def _wait(seconds: float) -> float:
    """Sleep; how long it really took."""
    began_s = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - began_s


async def _exchange(requests: AsyncIterator[bytes], context: Any) -> None:
    loop = asyncio.get_running_loop()
    async for request in requests:
        size, wait_us = _HEADER.unpack_from(request)
        waited_s = await loop.run_in_executor(None, _wait, wait_us / 1e6) if wait_us else 0.0
        await context.write(_WAITED.pack(waited_s).ljust(size, b"\x7f"))


async def _serve() -> None:
    server = grpc.aio.server()
    handlers = {_METHOD: grpc.stream_stream_rpc_method_handler(_exchange)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    say({"address": f"127.0.0.1:{port}"})
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(_serve())
