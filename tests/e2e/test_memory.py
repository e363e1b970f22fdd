"""Ten times the clients that are admitted, half of them deaf, all of them gone without a word: nothing grows."""

import asyncio
import json
import random
import re
import socket
import urllib.request
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from paceline.cli.verifier_process import VerifierProcess, verifier_process
from paceline.common.codec import decode_response, encode_request
from paceline.common.errors import Status
from paceline.common.messages import ErrorMessage, FillPolicy, Open
from paceline.edge.run import new_session_id
from paceline.v1 import verifier_pb2 as pb

MAX_SESSIONS, MAX_PARKED, PARK_S = 8, 8, 2.0
NUM_CLIENTS = 10 * MAX_SESSIONS
NUM_NEW = 100
WAVES_S = (1800.0, 120.0)
STAY_S = (40.0, 100.0)
"""What a client that was taken in stays."""
IMPATIENCE_S = 10.0
"""How long a refused one waits at most, whatever it was told."""
REST_BYTES = 96 << 20
"""All but weights and cache: buffers of sessions and connections, a step's own tensors, what the allocators keep."""
METHOD = "/paceline.v1.VerifierService/Decode"
NARROW = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))
"""So that what a deaf client leaves unread stays at the verifier."""


@dataclass
class Watch:
    """What a verifier process says of itself, and what the kernel says of it."""

    process: VerifierProcess
    metrics_port: int
    num_looks: int = 0
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
        self._note("resident", self.rss_bytes)
        for name, count in now.items():
            self._note(name, count)
        self.num_looks += 1
        return now

    def _note(self, name: str, value: float) -> None:
        self.most[name] = max(self.most.get(name, 0.0), value)

    async def keep_looking(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(1.0)

    async def until_nothing_is_left(self) -> None:
        """No session, live or parked, and no connection."""
        async with asyncio.timeout(60):
            while any((await asyncio.to_thread(self.look)).values()) or self.num_connections:
                await asyncio.sleep(0.1)

    @property
    def num_connections(self) -> int:
        """Of clients that the kernel knows."""
        port = int(self.process.address.rpartition(":")[2])
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)

    @property
    def rss_bytes(self) -> int:
        """Resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) << 10


def largest_opening(model: dict[str, Any]) -> Open:
    """With the longest prompt that leaves room for a few tokens."""
    length = model["max_position_embeddings"] - NUM_NEW
    prompt = tuple(3 + 7 * at % (model["vocab_size"] - 3) for at in range(length))
    return Open(prompt, NUM_NEW, fill=FillPolicy.UNLIMITED, ignore_eos=True)


@dataclass
class Crowd:
    """Clients that ask and ask, stay a while, and go without a word."""

    address: str
    opening: Open
    num_taken: int = 0
    num_refused: int = 0

    async def come_and_go(self, number: int) -> None:
        """One of them; every second one reads nothing after it was taken in."""
        while True:
            async with grpc.aio.insecure_channel(self.address, options=NARROW) as channel:
                call = await self._taken(channel)
                end_s = asyncio.get_running_loop().time() + random.uniform(*STAY_S)
                async with asyncio.timeout_at(end_s + 60):
                    while (now_s := asyncio.get_running_loop().time()) < end_s:
                        await (call.read() if number % 2 else asyncio.sleep(0))
                        await asyncio.sleep(min(1.0, end_s - now_s))
                call.cancel()

    async def _taken(self, channel: grpc.aio.Channel) -> Any:
        """The stream that was let in, after as many that were not as it takes."""
        while True:
            call = channel.stream_stream(METHOD)()
            opening = replace(self.opening, session_id=new_session_id())
            await call.write(encode_request(opening).SerializeToString())
            answer = decode_response(pb.DecodeResponse.FromString(await call.read()))
            if not isinstance(answer, ErrorMessage):
                self.num_taken += 1
                return call
            assert answer.status is Status.RESOURCE_EXHAUSTED, answer
            self.num_refused += 1
            await asyncio.sleep(min(answer.retry_after_s, IMPATIENCE_S) * random.uniform(1, 1.25))

    async def come(self, seconds: float) -> None:
        """All of them, for so long."""
        clients = [asyncio.create_task(self.come_and_go(number)) for number in range(NUM_CLIENTS)]
        await asyncio.wait(clients, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        failed = [one for one in clients if one.done()]
        for one in clients:
            one.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        for one in failed:
            one.result()


async def wave(watch: Watch, opening: Open, seconds: float) -> Crowd:
    """A crowd, looked at all the while, and gone."""
    crowd, looking = Crowd(watch.process.address, opening), asyncio.create_task(watch.keep_looking())
    await crowd.come(seconds)
    assert not looking.done()
    looking.cancel()
    await watch.until_nothing_is_left()
    return crowd


@pytest.mark.slow
@pytest.mark.vast
@pytest.mark.timeout(3600)
async def test_memory_is_bounded_under_clients_that_vanish(models: Path, record_property: Any) -> None:
    """Half an hour of ten clients per place, with the longest prompts: no more is ever resident than the loaded model,
    the whole cache and a bound on the rest; sessions and connections end; a second wave adds at most 5 %."""
    model = json.loads((models / "base" / "config.json").read_text())
    num_cached = (MAX_SESSIONS + 1) * model["max_position_embeddings"]
    per_token = 2 * 4 * model["num_hidden_layers"] * model["num_key_value_heads"] * model["head_dim"]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        metrics_port = probe.getsockname()[1]
    options = [
        *("--max-sessions", str(MAX_SESSIONS), "--max-parked-sessions", str(MAX_PARKED)),
        *("--park-s", str(PARK_S), "--kv-cache-tokens", str(num_cached), "--metrics-port", str(metrics_port)),
    ]
    with verifier_process(models / "base", options) as process:
        watch = Watch(process, metrics_port)
        sizes = [watch.rss_bytes]
        cap = sizes[0] + num_cached * per_token + REST_BYTES
        for seconds in WAVES_S:
            crowd = await wave(watch, largest_opening(model), seconds)
            sizes.append(watch.rss_bytes)
            record_property("taken in", crowd.num_taken)
            record_property("refused", crowd.num_refused)
            assert crowd.num_taken > seconds / STAY_S[1] * MAX_SESSIONS / 2
            assert crowd.num_refused > crowd.num_taken
    record_property("resident MB", f"{[round(size / 1e6, 1) for size in sizes]}, allowed {cap / 1e6:.1f}")
    record_property("at most", f"{watch.most} in {watch.num_looks} looks")
    assert watch.most["resident"] <= cap
    assert MAX_SESSIONS - 1 <= watch.most["num_requests_running"] <= MAX_SESSIONS
    assert watch.most["num_sessions_parked"] <= MAX_PARKED
    assert sizes[2] <= 1.05 * sizes[1]
