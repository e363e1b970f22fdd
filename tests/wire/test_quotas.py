"""Refusals and quotas over gRPC."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import grpc.aio
import jwt
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status

from paceline.cloud.config import AccessConfig, ServerConfig, VerifierConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.quotas import Quota
from paceline.common.codec import encode_request
from paceline.common.errors import PacelineError, Status
from paceline.common.hops.grpc import GrpcHop
from paceline.common.hops.security import Calling
from paceline.common.messages import FillPolicy, Open
from paceline.common.tokens import Rule
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest, TokensEvent
from paceline.v1 import verifier_pb2 as pb

SECRET = "quite a long secret that nobody knows"
LONG = GenerationRequest((1, 2, 3), 500, fill=FillPolicy.OFF)
SHORT = GenerationRequest((9, 8), 12)


async def refused(address: str) -> tuple[pb.Error, Any]:
    """What a verifier without a place says in its messages, and the call with its status."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream("/paceline.v1.VerifierService/Decode")()
        await call.write(encode_request(Open((1, 2), 5)).SerializeToString())
        reply = pb.DecodeResponse.FromString(await call.read())
        with pytest.raises(grpc.aio.AioRpcError):
            assert await call.read() is not grpc.aio.EOF
        await call.code()
        return reply.error, call


def holding(client: Client) -> "asyncio.Task[None]":
    """A text that is begun and not read on."""

    async def hold() -> None:
        async for event in client.generate(LONG, "sync"):
            if isinstance(event, TokensEvent):
                begun.set()
                await asyncio.Event().wait()

    begun = asyncio.Event()
    task = asyncio.create_task(hold())
    task.add_done_callback(lambda _: begun.set())
    task.begun = begun  # type: ignore[attr-defined]
    return task


async def let_go(task: "asyncio.Task[None]") -> None:
    """End it."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_refusal_is_said_in_band_and_in_the_status(serve: Any) -> None:
    """The error comes first; the status has the same time to come back, as RetryInfo and as pushback."""
    async with serve(config=VerifierConfig(max_sessions=1)) as served, served.client() as client:
        held = holding(client)
        await held.begun.wait()  # type: ignore[attr-defined]
        error, call = await refused(served.address)
        assert error.field == "sessions"
        assert error.retry_after_ms > 0
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        rich = await rpc_status.aio.from_call(call)
        told = RetryInfo()
        assert rich.details[0].Unpack(told)
        assert told.retry_delay.ToMilliseconds() == error.retry_after_ms
        trailing = dict(await call.trailing_metadata())
        assert int(trailing["grpc-retry-pushback-ms"]) == error.retry_after_ms
        await let_go(held)


class StuckEngine(TableEngine):
    """Its step lasts until it is let go on."""

    def __init__(self) -> None:
        super().__init__(64, max_context=1024)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def step(self, rows: Any) -> Any:
        """A step, after a while."""
        self.begun.set()
        self.go_on.wait()
        return super().step(rows)


async def test_a_refusal_does_not_wait_for_the_step_under_way(serve: Any) -> None:
    """While the target is busy with whoever has the place, the next one is told that there is none."""
    engine = StuckEngine()
    async with serve(engine, VerifierConfig(max_sessions=1)) as served, served.client() as client:
        first = asyncio.create_task(client.complete(SHORT, "sync"))
        while not engine.begun.is_set():
            await asyncio.sleep(0)
        try:
            error, _ = await asyncio.wait_for(refused(served.address), 60.0)
            assert error.field == "sessions"
        finally:
            engine.go_on.set()
        assert (await first).token_ids == served.text(SHORT)


async def test_what_no_waiting_mends_tells_no_time(serve: Any) -> None:
    """A session larger than the whole cache is refused without one, and waiting for a place does not try again."""
    async with serve(TableEngine(64, capacity_tokens=128, max_context=1024)) as served:
        request = GenerationRequest((1, 2), 500, wait_s=600.0)
        async with served.client() as client:
            with pytest.raises(PacelineError, match="there are 128") as caught:
                await client.complete(request, "sync")
        assert caught.value.status is Status.RESOURCE_EXHAUSTED
        assert caught.value.retry_after_s == 0


async def test_callers_nobody_asks_are_one_tenant(serve: Any) -> None:
    """Everybody's quota binds them together; a place that comes free is given to the next."""
    access = AccessConfig(quotas={"*": Quota(max_sessions=1)})
    async with (
        serve(listening=ServerConfig("127.0.0.1:0", access=access)) as served,
        served.client() as client,
    ):
        held = holding(client)
        await held.begun.wait()  # type: ignore[attr-defined]
        async with served.client() as second:
            with pytest.raises(PacelineError, match="callers without a tenant is used up") as caught:
                await second.complete(SHORT, "sync")
            assert caught.value.field == "max_sessions"
            await let_go(held)
            patient = GenerationRequest(SHORT.prompt_token_ids, SHORT.max_new_tokens, wait_s=60.0)
            assert (await second.complete(patient, "sync")).token_ids == served.text(SHORT)


async def test_each_tenant_has_its_own(serve: Any, tmp_path: Path) -> None:
    """One that has taken all it may keeps nobody else out."""
    (tmp_path / "secret").write_text(SECRET)
    clients = {}
    for name in ("acme", "lab"):
        claims = {"sub": name, "aud": "paceline", "exp": int(time.time()) + 600}
        (tmp_path / name).write_text(jwt.encode(claims, SECRET, algorithm="HS256"))
    access = AccessConfig(
        tmp_path / "secret", tenants={"acme": frozenset(Rule), "lab": frozenset(Rule)},
        quotas={"acme": Quota(max_sessions=1)},
    )  # fmt: skip
    async with serve(listening=ServerConfig("127.0.0.1:0", access=access)) as served:
        for name in ("acme", "lab"):
            clients[name] = Client(GrpcHop(served.address, calling=Calling(token_file=tmp_path / name)))
        async with clients["acme"] as acme, clients["lab"] as lab:
            held = asyncio.create_task(acme.complete(GenerationRequest((1, 2), 1000), "cloud"))
            while not served.verifier.sessions_by_tenant["acme"]:
                await asyncio.sleep(0)
            with pytest.raises(PacelineError, match="tenant acme is used up"):
                await acme.complete(SHORT, "cloud")
            assert (await lab.complete(SHORT, "cloud")).token_ids == served.text(SHORT)
            await let_go(held)


async def test_a_text_over_its_bytes_is_whole(serve: Any) -> None:
    """However slowly, all of it comes."""
    access = AccessConfig(quotas={"*": Quota(bytes_per_s=1500.0, opens_per_s=5.0, positions_per_s=500.0)})
    async with (
        serve(listening=ServerConfig("127.0.0.1:0", access=access)) as served,
        served.client() as client,
    ):
        request = GenerationRequest((5, 6, 7), 60)
        assert (await client.complete(request, "sync")).token_ids == served.text(request)
