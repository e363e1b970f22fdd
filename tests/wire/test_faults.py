"""Bad input, broken targets, vanishing and stubborn clients: one clear answer each, and nobody else is harmed."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.hostile.raw import OPEN, Raw, block, opening

from paceline.cloud.config import ServerConfig, VerifierConfig
from paceline.cloud.engine.base import Row
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.server import Server
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.errors import Incompatible, InvalidRequest, PacelineError, Status, Unreachable
from paceline.common.hops.grpc import GrpcHop
from paceline.common.messages import (
    Cancel,
    Draining,
    ErrorMessage,
    FillPolicy,
    Finished,
    Opened,
)
from paceline.common.sampling.rows import NumpyLogitRows
from paceline.common.tokens import Draft, FinishReason, How, Verdict
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest

CANARY = GenerationRequest((9, 8, 7), 16, num_speculative_tokens=3)


async def assert_unharmed(served: Any) -> None:
    """A canary gets its text, and nothing of anybody is left behind."""
    async with served.client() as client:
        assert (await client.complete(CANARY, "sync")).token_ids == served.text(CANARY)
    await until_idle(served)


async def until_idle(served: Any) -> None:
    """Wait until no session is left, then look at the books."""
    while served.verifier.num_sessions:
        await asyncio.sleep(0)
    assert served.engine.cached_tokens() == 0
    served.engine.check_integrity()


async def test_one_session_too_many_is_told_to_retry(serve: Any) -> None:
    """When all sessions are taken, the next one is refused with a time to retry; later there is room again."""
    async with serve(config=VerifierConfig(max_sessions=1)) as served:
        async with Raw(served.address) as first, Raw(served.address) as second:
            await first.send(OPEN)
            assert isinstance(await first.read(), Opened)
            await second.send(OPEN)
            (error,) = await second.until_end()
            assert isinstance(error, ErrorMessage)
            assert (error.status, error.field) == (Status.RESOURCE_EXHAUSTED, "sessions")
            assert error.retry_after_s > 0
        await until_idle(served)
        await assert_unharmed(served)


async def test_a_cache_too_small_is_told_at_open(serve: Any) -> None:
    """A session that would not fit into the cache is refused before it has cost anything."""
    engine = TableEngine(64, capacity_tokens=128, max_context=1024)
    async with serve(engine) as served:
        async with Raw(served.address) as raw:
            await raw.send(opening(max_new_tokens=500))
            (error,) = await raw.until_end()
            assert isinstance(error, ErrorMessage)
            assert (error.status, error.field) == (Status.RESOURCE_EXHAUSTED, "kv_cache")
        await assert_unharmed(served)


class BrokenEngine(TableEngine):
    """Raises for sessions whose text begins with 13."""

    def step(self, rows: Sequence[Row]) -> list[NumpyLogitRows]:
        """A step, unless it goes wrong."""
        results = super().step(rows)
        if any(self._texts[row.key][0] == 13 for row in rows):
            raise RuntimeError("password=hunter2")
        return results


async def test_an_exception_leaves_the_process_as_an_incident(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns an incident id and not the exception; the operator finds both in the log."""
    with caplog.at_level(logging.ERROR):
        async with serve(BrokenEngine(64, max_context=1024)) as served:
            async with Raw(served.address) as raw:
                await raw.send(opening(prompt_token_ids=(13, 1), fill=FillPolicy.UNLIMITED))
                *_, error = await raw.until_end()
                assert isinstance(error, ErrorMessage)
                assert (error.status, error.reason) == (Status.INTERNAL, "INTERNAL_ERROR")
                assert "hunter2" not in str(error)
                assert "hunter2" not in await raw.details()
                incident = error.cure.split("incident ")[1].split()[0]
                assert incident in caplog.text
                assert "hunter2" in caplog.text
            await assert_unharmed(served)


async def test_a_bug_while_planning_does_not_end_the_verifier(
    serve: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If planning a step raises, live sessions get an incident and the next ones are served."""
    from paceline.common.session import VerifierSession

    async with serve() as served:
        with monkeypatch.context() as patch:
            patch.setattr(VerifierSession, "next_work", lambda self, *_: 1 / 0)
            async with Raw(served.address) as raw:
                await raw.send(OPEN)
                *_, error = await raw.until_end()
                assert isinstance(error, ErrorMessage)
                assert error.reason == "INTERNAL_ERROR"
        assert "ZeroDivisionError" in caplog.text
        await assert_unharmed(served)


# --- clients that vanish, stall or dawdle -----------------------------------------------------------------------------


async def test_a_client_that_disappears_leaves_nothing_behind(serve: Any) -> None:
    """When a client dies in the middle of a text its session is freed."""
    async with serve() as served:
        for _ in range(3):
            async with Raw(served.address) as raw:
                await raw.send(opening(max_new_tokens=500, fill=FillPolicy.UNLIMITED))
                for _ in range(5):
                    assert await raw.read() is not None
            await until_idle(served)
        await assert_unharmed(served)


async def test_leaving_a_generation_early_frees_its_session(serve: Any) -> None:
    """Closing the iterator in the middle of a text frees the session on the verifier."""
    async with serve() as served, served.client() as client:
        for mode in ("sync", "cloud"):
            events = aiter(client.generate(GenerationRequest((1, 2), 500), mode))
            await anext(events)
            await events.aclose()  # type: ignore[attr-defined]
            await until_idle(served)


async def test_cancel_ends_the_text_where_it_stands(serve: Any) -> None:
    """Cancel is answered with Finished at the length committed so far, and the stream ends well."""
    async with serve() as served, Raw(served.address) as raw:
        await raw.send(OPEN, block(How.ONE_HOT, 4, 5))
        assert isinstance(await raw.read(), Opened)
        verdict = await raw.read()
        assert isinstance(verdict, Verdict)
        await raw.send(Cancel())
        length = 3 + verdict.num_accepted + 1
        assert [as_told(one) for one in await raw.until_end()] == [Finished(FinishReason.CANCELLED, length)]
        await until_idle(served)


async def test_a_client_that_never_reads_delays_nobody(serve: Any) -> None:
    """Whoever leaves replies unread stops being served; others go on, and it goes on when it reads."""
    config = VerifierConfig(max_unread_replies=4)
    request = GenerationRequest((5, 6), 300)
    async with serve(config=config) as served:
        async with served.client(hop="inproc") as client:
            stalled = aiter(client.generate(request, "cloud"))
            first = await anext(stalled)
            hop = client._hop
            assert hop is not None
            async with hop.stream() as unread:
                await unread.send(opening(max_new_tokens=900, fill=FillPolicy.UNLIMITED))
                await assert_text(served, CANARY)
                rest = [token_id async for event in stalled for token_id in event.token_ids]
                assert [*first.token_ids, *rest] == served.text(request)
        await until_idle(served)


async def test_a_stalled_stream_stops_and_resumes(serve: Any) -> None:
    """Behind gRPC a session with too many unread replies pauses, and wakes without help once they are read."""
    async with serve(config=VerifierConfig(max_unread_replies=2)) as served:
        async with Raw(served.address) as raw:
            await raw.send(opening(max_new_tokens=300, fill=FillPolicy.UNLIMITED))
            await assert_text(served, CANARY)
            replies = await raw.until_end()
            assert as_told(replies[-1]) == Finished(FinishReason.LENGTH, 303)
        await until_idle(served)


async def test_a_flood_without_reading_is_left_to_flow_control(serve: Any) -> None:
    """A client that sends stale blocks and reads nothing cannot make replies pile up without bound."""
    async with serve(config=VerifierConfig(max_unread_replies=8)) as served:
        async with Raw(served.address) as raw:
            await raw.send(OPEN)
            stale = Draft(1, 7, (1,), (), How.ONE_HOT)
            writer = asyncio.create_task(raw.send(*[stale] * 3000))
            await assert_text(served, CANARY)
            await assert_text(served, CANARY)
            ports = list(served.verifier._desk._ports.values())
            assert all(port.num_unread <= 8 + 2 * 16 for port in ports)
            writer.cancel()
            await asyncio.wait({writer})
        await until_idle(served)


def as_told(message: Any) -> Any:
    """An end without what was done for the text: that is counted and timed."""
    return replace(message, hops=()) if isinstance(message, Finished) else message


async def assert_text(served: Any, request: GenerationRequest, mode: str = "auto") -> None:
    """Another client gets its text."""
    async with served.client() as client:
        assert (await client.complete(request, mode)).token_ids == served.text(request)


async def test_a_slow_drafter_delays_nobody(serve: Any) -> None:
    """While one session waits for drafts, another takes as many steps as it would alone (its prompt may take one)."""
    async with serve() as served:
        before = served.engine.steps
        await assert_text(served, CANARY, "sync")
        alone = served.engine.steps - before
        async with Raw(served.address) as idle:
            await idle.send(OPEN, block(How.ONE_HOT, 1))
            assert isinstance(await idle.read(), Opened)
            assert isinstance(await idle.read(), Verdict)
            before = served.engine.steps
            await assert_text(served, CANARY, "sync")
            assert abs(served.engine.steps - before - alone) <= 1


# --- the hop itself ---------------------------------------------------------------------------------------------------


async def test_nobody_there_is_unreachable_with_a_cure() -> None:
    """An address where nothing listens is named, with a cure and its exit code."""
    async with asyncio.timeout(20):
        hop = GrpcHop("127.0.0.1:1", connect_timeout_s=0.2)
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1") as caught:
            await Client(hop).connect()
        assert (caught.value.exit_code, bool(caught.value.cure)) == (4, True)
        async with hop.stream() as stream:
            await stream.send(OPEN)
            with pytest.raises(Unreachable):
                await stream.receive()
        await hop.close()


@pytest.mark.parametrize(
    "address", ["", "localhost", "host:", ":7443", "host:port", "host:70000", "host:-1", "1:2:"]
)
def test_malformed_addresses_are_refused(address: str) -> None:
    """What is not HOST:PORT is refused before any connection, with an example."""
    with pytest.raises(InvalidRequest) as caught:
        GrpcHop(address)
    assert (caught.value.exit_code, caught.value.field) == (2, "verifier")


@pytest.mark.parametrize("peer_timeout_s", [1.9, 3601.0, float("nan"), -1.0])
def test_times_that_keepalive_cannot_keep_are_refused(peer_timeout_s: float) -> None:
    """By either end, with the range."""
    for make in (
        lambda: GrpcHop("127.0.0.1:7443", peer_timeout_s=peer_timeout_s),
        ServerConfig(peer_timeout_s=peer_timeout_s).check,
    ):
        with pytest.raises(InvalidRequest, match=r"2\.\.3600") as caught:
            make()
        assert caught.value.field == "peer_timeout_s"


@pytest.mark.parametrize("address", ["[::1]:7443", "a.example:1", "127.0.0.1:65535"])
async def test_sound_addresses_are_taken(address: str) -> None:
    """Names, IPv4 and bracketed IPv6 addresses are taken."""
    await GrpcHop(address).close()


async def test_a_port_in_use_is_named(serve: Any) -> None:
    """Two verifiers cannot share a port by mistake."""
    async with serve() as served:
        other = Server(Verifier(TableEngine(64), TargetInfo("t", "0")), ServerConfig(served.address))
        with pytest.raises(InvalidRequest, match=served.address) as caught:
            await other.start()
        assert (caught.value.exit_code, caught.value.field) == (2, "listen")
        await assert_unharmed(served)


async def test_a_server_that_is_no_verifier_is_named() -> None:
    """A gRPC server without the service is told apart from nobody being there."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    hop = GrpcHop(f"127.0.0.1:{port}")
    with pytest.raises(Incompatible, match="not a Paceline verifier"):
        await hop.describe()
    await hop.close()
    await server.stop(0)


# --- draining ---------------------------------------------------------------------------------------------------------


async def test_draining_lets_live_texts_finish_and_refuses_new_ones(serve: Any) -> None:
    """After stop begins, live streams hear of it and finish; a new session is sent elsewhere."""
    async with serve() as served, Raw(served.address) as live, Raw(served.address) as late:
        await live.send(opening(max_new_tokens=1))
        assert isinstance(await live.read(), Opened)
        stopping = asyncio.create_task(served.server.stop(30))
        assert isinstance(await live.read(), Draining)
        await late.send(OPEN)
        (refused,) = await late.until_end()
        assert isinstance(refused, ErrorMessage)
        assert refused.status is Status.UNAVAILABLE
        await live.send(block())
        assert isinstance(await live.read(), Verdict)
        assert [as_told(one) for one in await live.until_end()] == [Finished(FinishReason.LENGTH, 4)]
        await stopping
        served.server.stop = _nothing  # stopped already


async def _nothing(_drain_s: float) -> None:
    return None


async def test_a_stopped_verifier_says_so(serve: Any) -> None:
    """In process too, a stream to a verifier that has stopped ends with a clear error."""
    async with serve() as served:
        client = served.client(hop="inproc")
        await client.connect()
    with pytest.raises(PacelineError, match="going away"):
        await client.complete(CANARY)
    await client.close()
