"""Many more clients than are admitted, half of them deaf, all of them gone without a word: nothing grows."""

import asyncio
import re
import socket
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from paceline.cli.verifier_process import VerifierProcess, verifier_process
from paceline.common.codec import decode_response, encode_request
from paceline.common.messages import ErrorMessage, FillPolicy, Open
from paceline.edge.run import new_session_id
from paceline.v1 import verifier_pb2 as pb

MAX_SESSIONS, MAX_PARKED, PARK_S = 8, 8, 2.0
NUM_CLIENTS = 10 * MAX_SESSIONS
PROMPT = tuple(3 + 7 * at % 400 for at in range(400))
METHOD = "/paceline.v1.VerifierService/Decode"


@dataclass
class Watch:
    """What a verifier process says of itself, and what the kernel says of it."""

    process: VerifierProcess
    metrics_port: int
    most: dict[str, float] = field(default_factory=dict)

    def look(self) -> dict[str, float]:
        """Live and parked sessions, from its metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        now = {}
        for name in ("num_requests_running", "num_sessions_parked"):
            found = re.search(rf'^paceline_{name}{{hop="cloud"}} (\S+)$', text, re.MULTILINE)
            assert found is not None, name
            now[name] = float(found[1])
            self.most[name] = max(self.most.get(name, 0.0), now[name])
        return now

    async def keep_looking(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(0.05)

    async def until_nothing_is_left(self) -> None:
        """No session, live or parked."""
        async with asyncio.timeout(60):
            while any((await asyncio.to_thread(self.look)).values()):
                await asyncio.sleep(0.1)

    @property
    def rss_bytes(self) -> int:
        """Resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) << 10


async def vanish(address: str, *, reads: bool, is_in: Callable[[], None]) -> None:
    """Ask until taken in, then read a little or nothing at all, and go without a word."""
    opening = Open(PROMPT, 100, fill=FillPolicy.UNLIMITED, ignore_eos=True, session_id=new_session_id())
    while True:
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.stream_stream(METHOD)()
            await call.write(encode_request(opening).SerializeToString())
            data = await call.read()
            if data is grpc.aio.EOF:
                continue
            answer = decode_response(pb.DecodeResponse.FromString(data))
            if isinstance(answer, ErrorMessage):
                await asyncio.sleep(0.2)
                continue
            is_in()
            for _ in range(5 if reads else 0):
                await call.read()
            if not reads:
                await asyncio.sleep(1.0)
            call.cancel()
            return


async def wave(watch: Watch) -> None:
    """Ten clients for each session there may be."""
    taken: list[int] = []
    looking = asyncio.create_task(watch.keep_looking())
    try:
        async with asyncio.timeout(600):
            await asyncio.gather(
                *(
                    vanish(watch.process.address, reads=bool(n % 2), is_in=lambda: taken.append(1))
                    for n in range(NUM_CLIENTS)
                )
            )
    finally:
        looking.cancel()
    assert len(taken) == NUM_CLIENTS
    await watch.until_nothing_is_left()


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_memory_is_bounded_under_clients_that_vanish(models: Path, record_property: Any) -> None:
    """Live and parked sessions stay within their bounds and end; the second of two equal waves adds at most 5 % to the
    resident memory."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        metrics_port = probe.getsockname()[1]
    options = [
        *("--max-sessions", str(MAX_SESSIONS), "--max-parked-sessions", str(MAX_PARKED)),
        *("--park-s", str(PARK_S), "--kv-cache-tokens", "8192", "--metrics-port", str(metrics_port)),
    ]
    with verifier_process(models / "base", options) as process:
        watch = Watch(process, metrics_port)
        sizes = [watch.rss_bytes]
        for _ in range(2):
            await wave(watch)
            sizes.append(watch.rss_bytes)
    record_property("resident MB", str([round(size / 1e6, 1) for size in sizes]))
    record_property("at most", str(watch.most))
    assert 0 < watch.most["num_requests_running"] <= MAX_SESSIONS
    assert 0 < watch.most["num_sessions_parked"] <= MAX_PARKED
    assert sizes[2] <= 1.05 * sizes[1]
