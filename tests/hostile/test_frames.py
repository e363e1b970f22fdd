"""Raw bytes at a listening server: broken HTTP/2, broken gRPC, broken messages, and the text beside them as ever."""

import asyncio
import random
from contextlib import suppress
from typing import Any

import grpc.aio
import pytest
from tests.hostile.raw import OPEN

from paceline.cloud.config import ServerConfig
from paceline.common.codec import encode_request
from paceline.common.errors import Unreachable
from paceline.edge.request import GenerationRequest
from paceline.simulation.fuzz import LEAKS, Client
from paceline.simulation.mutation import Mutator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
DATA, HEADERS, END_STREAM, END_HEADERS = 0, 1, 1, 4
DECODE = b"/paceline.v1.VerifierService/Decode"
PATHS = (DECODE, b"/paceline.v1.VerifierService/Describe", b"/grpc.health.v1.Health/Check", b"/nobody", b"")
CANARY = GenerationRequest((9, 8, 7), 12, num_speculative_tokens=3)
FRAMES_EACH = 40
NUM_CONNECTIONS = 5600
SILENCE_S = 0.03
"""After so long without an answer none is waited for."""


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    """An HTTP/2 frame, whose length may be a lie."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def headers(path: bytes) -> bytes:
    """A request's header block, nothing of it compressed."""
    fields = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"localhost"),
              (b"te", b"trailers"), (b"content-type", b"application/grpc"))  # fmt: skip
    return b"".join(
        b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in fields
    )


def conversation(dice: random.Random) -> bytes:
    """What one connection sends: `FRAMES_EACH` frames, or what should have been some."""
    if dice.random() < 0.1:
        return dice.randbytes(dice.choice((1, 24, 300, 5000)))
    parts = [PREFACE, SETTINGS]
    stream, client, mutator = 1, Client(dice), Mutator(dice)
    while len(parts) < FRAMES_EACH + 2:
        match dice.randrange(6):
            case 0:
                parts.append(_any_frame(dice))
            case 1:
                stream += 2
                parts.append(frame(HEADERS, END_HEADERS, stream, headers(dice.choice(PATHS))))
            case 2:
                broken = bytearray(headers(DECODE))
                most = (
                    256 if dice.random() < 0.02 else 128
                )  # beyond ASCII one may end the accept loop; see below
                broken[dice.randrange(len(broken))] = dice.randrange(most)
                stream += 2
                parts.append(frame(HEADERS, END_HEADERS, stream, bytes(broken)))
            case _:
                message: Any = encode_request(client.any(None) if dice.random() < 0.6 else OPEN)
                parts.append(
                    frame(
                        DATA, dice.choice((0, 0, END_STREAM)), stream, _grpc(dice, mutator.mutated(message))
                    )
                )
    whole = b"".join(parts)
    return whole[: dice.randrange(len(whole))] if dice.random() < 0.2 else whole


def _any_frame(dice: random.Random) -> bytes:
    payload = dice.randbytes(dice.choice((0, 1, 4, 5, 8, 9, 60)))
    length = dice.choice((None, None, None, len(payload) + 1, 0, 16_385, (1 << 24) - 1))
    kind = dice.choice((*range(10), 99))
    return frame(kind, dice.randrange(256), dice.choice((0, 1, 3, 5, 2, (1 << 32) - 1)), payload, length)


def _grpc(dice: random.Random, payload: bytes) -> bytes:
    """A length-prefixed message, whose prefix may be a lie."""
    size = dice.choice((len(payload),) * 6 + (0, len(payload) + 1, 5 << 20, (1 << 32) - 1))
    return bytes((dice.choice((0, 0, 0, 0, 0, 1, 7)),)) + size.to_bytes(4, "big") + payload


async def connected(port: int) -> Any:
    """A connection; a server that has just been stopped by a path listens again in a moment."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)


async def assert_as_ever(served: Any, client: Any, after: int) -> None:
    """A text is written as ever; in the moment before a server listens again it cannot be begun."""
    async with asyncio.timeout(30):
        while True:
            try:
                text = (await client.complete(CANARY, "sync")).token_ids
                break
            except Unreachable:
                await asyncio.sleep(0.05)
    assert text == served.text(CANARY), f"after seed {after}"


async def attack(port: int, seed: int) -> int:
    """One connection; how many bytes came back."""
    heard = b""
    reader, writer = await connected(port)
    with suppress(ConnectionError):
        writer.write(conversation(random.Random(seed)))
        await writer.drain()
        with suppress(TimeoutError):
            while data := await asyncio.wait_for(reader.read(1 << 16), SILENCE_S):
                heard += data
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    found = LEAKS.search(heard)
    assert found is None, f"seed {seed}: {heard[max(found.start() - 80, 0) :][:300]!r}"
    return len(heard)


async def besiege(serve: Any, first: int, num_connections: int) -> int:
    """Connections by the handful, and every so often a text that must be as ever; how many bytes came back."""
    num_heard = 0
    async with serve() as served, served.client() as client:
        port = int(served.address.rpartition(":")[2])
        for start in range(first, first + num_connections, 10):
            num_heard += sum(await asyncio.gather(*(attack(port, seed) for seed in range(start, start + 10))))
            if start % 100 == 0:
                await assert_as_ever(served, client, start)
        await assert_as_ever(served, client, first + num_connections)
        async with asyncio.timeout(60):
            while served.verifier.num_sessions or served.verifier.num_streams:
                await asyncio.sleep(0.01)
        assert served.engine.cached_tokens() == 0
        served.engine.check_integrity()
    return num_heard


async def test_a_path_that_is_no_text_stops_nobody_for_good(serve: Any) -> None:
    """One such request ends grpc.aio's server. It listens again at once, and a text under way resumes."""
    request = GenerationRequest((1, 2), 200)
    async with serve() as served, served.client() as client:
        generation = client.generate(request, "cloud")
        events = aiter(generation)
        await anext(events)
        for _ in range(3):
            _, writer = await connected(int(served.address.rpartition(":")[2]))
            broken = headers(DECODE.replace(b"Service", b"Serv\xafce"))
            writer.write(PREFACE + SETTINGS + frame(HEADERS, END_HEADERS, 1, broken))
            with suppress(ConnectionError):  # what the last one stopped may close this connection too
                await writer.drain()
            await anext(events)
            writer.close()
        async for _ in events:
            pass
        assert generation.report.token_ids == served.text(request)
        await assert_as_ever(served, client, 0)


async def test_no_method_is_registered_with_the_core(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When an accept loop ends, grpc.aio frees a call per registered method and the core writes into it: memory of
    whoever has it then."""
    registered = []
    kind = type(grpc.aio.server())
    monkeypatch.setattr(kind, "add_registered_method_handlers", lambda *args: registered.append(args[1]))
    async with (
        serve(listening=ServerConfig("127.0.0.1:0", reflection=True)) as served,
        served.client() as client,
    ):
        await assert_as_ever(served, client, 0)
    assert registered == []


async def test_broken_frames_harm_nobody(serve: Any) -> None:
    """Some two thousand frames: nothing of the code in any byte that comes back, nothing held, texts as ever."""
    assert await besiege(serve, 0, 50) > 1000, "some of it was answered"


@pytest.mark.slow
@pytest.mark.timeout(7200)
async def test_two_hundred_thousand_broken_frames_harm_nobody(serve: Any, record_property: Any) -> None:
    """The same, a hundred times over."""
    num_heard = await besiege(serve, 1000, NUM_CONNECTIONS)
    record_property("frames", FRAMES_EACH * NUM_CONNECTIONS)
    record_property("bytes answered", num_heard)
    assert num_heard > 100_000
