"""Bytes that really cross a TCP connection: a loopback proxy that counts what it passes on."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass

_CHUNK_BYTES = 65_536


@dataclass(slots=True)
class Counted:
    """A running proxy."""

    address: str
    bytes_up: int = 0
    bytes_down: int = 0


@asynccontextmanager
async def counting_proxy(target: str) -> AsyncIterator[Counted]:
    """Pass connections on to `target` (`HOST:PORT`), counting payload bytes of TCP in both directions.

    HTTP/2 frames and their set-up are included, headers of TCP and IP are not.
    """
    host, _, port = target.rpartition(":")
    counted = Counted("")
    writers: list[asyncio.StreamWriter] = []
    serving: set[asyncio.Future[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writers.extend((writer, far_writer))
        pumps = (_pump(reader, far_writer, counted, up=True), _pump(far_reader, writer, counted, up=False))
        both = asyncio.ensure_future(_all(*pumps))
        serving.add(both)
        await both

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    counted.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield counted
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*serving)
        await server.wait_closed()


async def _all(*pumps: Coroutine[None, None, None]) -> None:
    await asyncio.gather(*pumps)


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: Counted, *, up: bool
) -> None:
    try:
        while data := await reader.read(_CHUNK_BYTES):
            if up:
                counted.bytes_up += len(data)
            else:
                counted.bytes_down += len(data)
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # either end may vanish; what crossed is counted
    finally:
        writer.close()
