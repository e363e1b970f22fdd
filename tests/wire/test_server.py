"""Health, reflection, signals, gRPC's options, and what a token costs on the wire."""

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from paceline.cloud import verifier as verifier_module
from paceline.cloud.config import ServerConfig
from paceline.cloud.engine.base import Row
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.guard import Guard
from paceline.cloud.identity import Authenticator
from paceline.cloud.server import AGE_OPTION, GRACE_OPTION, SERVER_OPTIONS
from paceline.cloud.service import SERVICE_NAME
from paceline.common.errors import Unreachable
from paceline.common.hops.first_reachable import FirstReachable
from paceline.common.hops.grpc import CLIENT_OPTIONS, GrpcHop, keepalive_options
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest


def unknown_options(names: list[str]) -> list[str]:
    """Option names that do not occur in the installed gRPC binary, which ignores them in silence."""
    (binary,) = (Path(grpc.__file__).parent / "_cython").glob("cygrpc*.so")
    data = binary.read_bytes()
    return [name for name in names if name.encode() + b"\0" not in data]


def test_every_grpc_option_exists() -> None:
    """Each configured option is one the installed gRPC knows."""
    assert (
        unknown_options([name for name, _ in (*CLIENT_OPTIONS, *SERVER_OPTIONS, *keepalive_options(10))])
        == []
    )
    assert unknown_options([AGE_OPTION, GRACE_OPTION]) == []


def test_a_misspelt_option_is_noticed() -> None:
    """The check fails for names that merely look right."""
    wrong = [
        "grpc.keepalive_times_ms",
        "grpc.http2.min_recv_ping_interval_without_data_ms",
        "grpc.keepalive_time",
    ]
    assert unknown_options(wrong) == wrong


async def test_health_says_serving_until_it_stops(serve: Any) -> None:
    """The standard health service answers for the server and for the service, and changes when draining begins."""
    async with serve() as served, grpc.aio.insecure_channel(served.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE_NAME):
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await served.server._health.enter_graceful_shutdown()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()


class HeldEngine(TableEngine):
    """A step comes back when it may."""

    def __init__(self) -> None:
        super().__init__(64, spread=2.0, max_context=1024)
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def step(self, rows: Sequence[Row]) -> Any:
        """See `TargetEngine`."""
        self.may_go_on.wait(30)
        return super().step(rows)


async def test_an_engine_that_is_stuck_shows(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Health and Describe say so, and a client leaves for another verifier; one that works or waits is not stuck."""
    monkeypatch.setattr(verifier_module, "STUCK_S", 0.3)
    engine, request = HeldEngine(), GenerationRequest((1, 2, 3), 400)
    async with serve(engine) as served, serve() as other, AsyncExitStack() as stack:
        hops = {name: GrpcHop(name, peer_timeout_s=2.0) for name in (served.address, other.address)}
        client = await stack.enter_async_context(Client(FirstReachable(hops)))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(served.address))
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await asyncio.sleep(0.5)
        generation = client.generate(request, "cloud")
        events = aiter(generation)
        await anext(events)
        engine.may_go_on.clear()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(Unreachable, match="at one step for over"):
            served.verifier.describe()
        async for _ in events:
            pass
        assert (generation.report.token_ids, generation.report.num_reconnects) == (other.text(request), 1)
        engine.may_go_on.set()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


async def test_a_caller_who_has_gone_is_no_incident(caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be sent to whoever is not there any more is nobody's fault."""

    async def behaviour(_request: Any, _context: Any) -> None:
        raise grpc.aio.InternalError("Failed execute_batch")

    class Context:
        def auth_context(self) -> dict[str, Any]:
            return {}

        def invocation_metadata(self) -> tuple[()]:
            return ()

    config = ServerConfig("127.0.0.1:0")
    guarded = Guard(Authenticator(config), {}, lambda _: None)._guarded(
        behaviour, "/some/Method", lambda request: request
    )
    with caplog.at_level(logging.INFO):
        assert await guarded(None, Context()) is None
    assert [one.levelname for one in caplog.records] == ["INFO"]


async def test_reflection_lists_the_services(serve: Any) -> None:
    """A generic client can discover the protocol where the operator wants that."""
    shown = ServerConfig("127.0.0.1:0", reflection=True)
    async with serve(listening=shown) as served, grpc.aio.insecure_channel(served.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        reply = await call.read()
        call.cancel()
        names = {service.name for service in reply.list_services_response.service}
        assert names >= {SERVICE_NAME, "grpc.health.v1.Health"}


async def test_describe_tells_what_is_served(serve: Any, fingerprint: bytes) -> None:
    """Describe gives the target's bounds and the rules on offer."""
    async with serve() as served, served.client() as client:
        verifier = client.verifier
        assert verifier is not None
        assert (verifier.model_name, verifier.vocab_size, verifier.max_context) == ("table", 64, 1024)
        assert (verifier.tokenizer_fingerprint, set(verifier.rules)) == (fingerprint, set(Rule))


_PROGRAM = """
import asyncio
from paceline.cloud.config import ServerConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.server import Server, serve_until_signal
from paceline.cloud.verifier import TargetInfo, Verifier
server = Server(Verifier(TableEngine(64, spread=2.0), TargetInfo("table", "0")), ServerConfig("127.0.0.1:0"))
asyncio.run(serve_until_signal(server, lambda address: print(address, flush=True)))
print("ended", flush=True)
"""


async def test_sigterm_lets_a_live_text_finish() -> None:
    """After SIGTERM the process finishes the text under way, refuses new ones, and ends with status 0."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROGRAM, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    address = (await process.stdout.readline()).decode().strip()
    async with Client(GrpcHop(address), TableDrafter(64, scale=2.0)) as client:
        request = GenerationRequest((1, 2, 3), 60, num_speculative_tokens=2)
        whole = (await client.complete(request)).token_ids
        events = aiter(client.generate(request))
        token_ids = [*(await anext(events)).token_ids]
        process.send_signal(signal.SIGTERM)
        token_ids += [token_id async for event in events for token_id in event.token_ids]
        assert token_ids == whole
    assert await process.stdout.read() == b"ended\n"
    assert await process.wait() == 0


# --- bytes ------------------------------------------------------------------------------------------------------------


class CountingProxy:
    """Forwards one TCP port to another and counts payload bytes, both ways together."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self.address = ""

    @asynccontextmanager
    async def before(self, address: str) -> AsyncIterator["CountingProxy"]:
        """Listen in front of an address."""
        host, _, port = address.rpartition(":")
        tasks: set[asyncio.Task[None]] = set()
        writers: list[asyncio.StreamWriter] = []

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while data := await reader.read(65_536):
                    self.num_bytes += len(data)
                    writer.write(data)
                    await writer.drain()
            finally:
                writer.close()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            onward_reader, onward_writer = await asyncio.open_connection(host, int(port))
            writers.extend((writer, onward_writer))
            for pair in ((reader, onward_writer), (onward_reader, writer)):
                tasks.add(asyncio.create_task(forward(*pair)))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


@pytest.mark.parametrize(("temperature", "most"), [(0.0, 48), (0.8, 48)])
async def test_a_token_costs_few_bytes_of_tcp(
    serve: Any, temperature: float, most: float, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """In mode sync at four tokens a block, HTTP/2 included, a committed token costs at most 48 bytes both ways."""
    async with serve() as served, CountingProxy().before(served.address) as proxy:
        drafter = TableDrafter(64, agreement=0.9, scale=2.0)
        async with Client(GrpcHop(proxy.address), drafter) as client:
            request = GenerationRequest((1, 2, 3), 400, SamplingParams(temperature), num_speculative_tokens=4)
            before = proxy.num_bytes
            report = await client.complete(request, "sync")
        per_token = (proxy.num_bytes - before) / len(report.token_ids)
        payload = (report.traffic.bytes_up + report.traffic.bytes_down) / len(report.token_ids)
    with capsys.disabled():
        print(
            f"\n{per_token:.1f} bytes of TCP and {payload:.1f} of messages per committed token, "
            f"acceptance {report.acceptance_rate:.2f}, temperature {temperature}"
        )
    record_property("tcp_bytes_per_token", per_token)
    assert report.acceptance_rate > 0.5
    assert per_token <= most
