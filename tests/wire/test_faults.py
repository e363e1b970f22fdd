"""Bad input, broken targets, vanishing and stubborn clients: one clear answer each, and nobody else is harmed."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from paceline.cloud.config import ServerConfig, VerifierConfig
from paceline.cloud.engine.base import Row
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.server import Server
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.codec import decode_response, encode_request
from paceline.common.errors import Incompatible, InvalidRequest, PacelineError, Status, Unreachable
from paceline.common.hops.grpc import GrpcHop
from paceline.common.messages import (
    Cancel,
    Close,
    Draining,
    ErrorMessage,
    FillPolicy,
    Finished,
    Open,
    Opened,
    ServerMessage,
)
from paceline.common.sampling.quantised import QuantisedLaw
from paceline.common.sampling.rows import NumpyLogitRows
from paceline.common.session import EdgeSession
from paceline.common.tokens import Draft, FinishReason, How, Rule, SamplingParams, Verdict
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest

OPEN = Open((1, 2, 3), 20)
WARM = SamplingParams(1.0)
CANARY = GenerationRequest((9, 8, 7), 16, num_speculative_tokens=3)


class Raw:
    """A stream that sends whatever it is told to, bytes included."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._call = self._channel.stream_stream("/paceline.v1.VerifierService/Decode")()

    async def __aenter__(self) -> "Raw":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        await self._channel.close()

    async def send(self, *messages: Any) -> None:
        """Write messages; a stream that has ended swallows them."""
        for message in messages:
            data = message if isinstance(message, bytes) else encode_request(message).SerializeToString()
            try:
                await self._call.write(data)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return

    async def read(self) -> ServerMessage | None:
        """The next reply; None once the stream has ended, whatever its status."""
        try:
            data = await self._call.read()
        except grpc.aio.AioRpcError:
            return None
        return None if data is grpc.aio.EOF else decode_response(_response(data))

    async def until_end(self) -> list[ServerMessage]:
        """All replies."""
        replies = []
        while (reply := await self.read()) is not None:
            replies.append(reply)
        return replies

    async def status(self) -> Status:
        """What gRPC says in the end."""
        return Status((await self._call.code()).name)

    async def details(self) -> str:
        """Text beside the status."""
        return str(await self._call.details())


def _response(data: bytes) -> Any:
    from paceline.v1 import verifier_pb2

    return verifier_pb2.DecodeResponse.FromString(data)


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


def block(how: How = How.ONE_HOT, *token_ids: int, laws: tuple[QuantisedLaw, ...] = ()) -> Draft:
    """A block after the prompt of OPEN."""
    prefix_hash = EdgeSession(OPEN).committed.hash_at(3)
    return Draft(3, prefix_hash, token_ids, (), how, laws)


def tree(*parents: int, token_ids: tuple[int, ...] = (5, 6, 7)) -> Draft:
    """The same with these parents."""
    return replace(block(How.ONE_HOT, *token_ids[: len(parents)]), parents=parents)


def opening(**changes: Any) -> Open:
    """OPEN, changed."""
    return replace(OPEN, **changes)


REJECTING = opening(rule=Rule.REJECTION, sampling=WARM)
OVERFULL_LAW = QuantisedLaw((5, 6), (1000, 1000))


@pytest.mark.parametrize(
    ("messages", "status", "field"),
    [
        pytest.param(
            [opening(tokenizer_fingerprint=b"another vocab...")],
            Status.FAILED_PRECONDITION,
            "tokenizer",
            id="wrong tokenizer",
        ),
        pytest.param(
            [opening(protocol_version=9)], Status.UNIMPLEMENTED, "protocol_version", id="wrong version"
        ),
        pytest.param(
            [opening(prompt_token_ids=(64,))],
            Status.INVALID_ARGUMENT,
            "prompt_token_ids[0]",
            id="token out of range",
        ),
        pytest.param([opening(prompt_token_ids=())], Status.INVALID_ARGUMENT, "prompt", id="empty prompt"),
        pytest.param(
            [opening(prompt_token_ids=(1,) * 2000)], Status.OUT_OF_RANGE, "max_new_tokens", id="long prompt"
        ),
        pytest.param(
            [opening(max_new_tokens=0)], Status.INVALID_ARGUMENT, "max_new_tokens", id="no new tokens"
        ),
        pytest.param(
            [opening(max_new_tokens=(1 << 32) - 1)], Status.OUT_OF_RANGE, "max_new_tokens", id="absurd length"
        ),
        pytest.param(
            [opening(sampling=SamplingParams(float("nan")), rule=Rule.COUPLED)],
            Status.INVALID_ARGUMENT,
            "temperature",
            id="temperature is NaN",
        ),
        pytest.param(
            [opening(rule=Rule.GREEDY, sampling=WARM)],
            Status.INVALID_ARGUMENT,
            "rule",
            id="rule does not fit",
        ),
        pytest.param([block()], Status.INVALID_ARGUMENT, "payload", id="draft before open"),
        pytest.param([Close()], Status.INVALID_ARGUMENT, "payload", id="close before open"),
        pytest.param(
            [b"\x12\x02\x28\x09"], Status.INVALID_ARGUMENT, "payload", id="unreadable draft before open"
        ),
        pytest.param([OPEN, OPEN], Status.INVALID_ARGUMENT, "open", id="open twice"),
        pytest.param([b""], Status.INVALID_ARGUMENT, "payload", id="empty message"),
        pytest.param([OPEN, b""], Status.INVALID_ARGUMENT, "payload", id="empty message later"),
        pytest.param([b"\xff\xff\xff secret"], Status.INVALID_ARGUMENT, "message", id="garbage"),
        pytest.param([OPEN, b"\xff\xff\xff secret"], Status.INVALID_ARGUMENT, "message", id="garbage later"),
    ],
)
async def test_a_fatal_mistake_is_named_and_ends_the_stream(
    serve: Any, messages: list[Any], status: Status, field: str
) -> None:
    """The error comes in-band, names its field and cure, ends the stream with its status, and harms nobody else."""
    async with serve() as served:
        async with Raw(served.address) as raw:
            await raw.send(*messages)
            *_, error = await raw.until_end()
            assert isinstance(error, ErrorMessage)
            assert (error.status, error.field, error.fatal) == (status, field, True)
            assert error.cure
            assert "secret" not in error.message
            assert await raw.status() == status
            assert error.reason in await raw.details()
        await assert_unharmed(served)


@pytest.mark.parametrize(
    ("opened", "draft", "field"),
    [
        pytest.param(OPEN, block(How.ONE_HOT, 64), "token_ids", id="token out of range"),
        pytest.param(OPEN, block(How.ONE_HOT, *(1,) * 65), "token_ids", id="block too long"),
        pytest.param(REJECTING, block(How.SAMPLED, 5), "laws", id="sampled without laws"),
        pytest.param(REJECTING, block(How.SAMPLED, 5, laws=(OVERFULL_LAW,)), "laws", id="law not normalised"),
        pytest.param(REJECTING, block(How.SHARED_NOISE, 5), "how", id="biased combination"),
        pytest.param(OPEN, b"\x12\x02\x28\x09", "how", id="unknown way of choosing"),
        pytest.param(OPEN, tree(-1, 1), "parents", id="tree with a cycle"),
        pytest.param(OPEN, tree(-1, 0, 7), "parents", id="tree with a forward reference"),
        pytest.param(OPEN, tree(-1, -1, token_ids=(5, 5)), "token_ids", id="equal siblings"),
        pytest.param(replace(OPEN, features=frozenset()), tree(-1, -1), "parents", id="trees not agreed on"),
        pytest.param(OPEN, Draft(5000, 0, (1,), (), How.ONE_HOT), "base", id="beyond the context"),
    ],
)
async def test_a_bad_block_is_refused_and_the_stream_goes_on(
    serve: Any, opened: Open, draft: Any, field: str
) -> None:
    """A refused block gives its credit back; the next good block is judged as if nothing had happened."""
    async with serve() as served, Raw(served.address) as raw:
        await raw.send(opened, draft)
        assert isinstance(await raw.read(), Opened)
        error = await raw.read()
        assert isinstance(error, ErrorMessage)
        assert (error.field, error.fatal, error.blocks_settled) == (field, False, 1)
        assert error.cure
        await raw.send(block())
        verdict = await raw.read()
        assert isinstance(verdict, Verdict)
        assert verdict.blocks_settled == 2
        await raw.send(Close())
        assert await raw.until_end() == []
        await until_idle(served)


async def test_a_client_that_ignores_the_window_is_cut_off(serve: Any) -> None:
    """More blocks in flight than the window has room for end the stream with RESOURCE_EXHAUSTED."""
    async with serve(config=VerifierConfig(max_blocks_in_flight=3)) as served:
        async with Raw(served.address) as raw:
            await raw.send(OPEN, *(Draft(10, 7, (1,), (), How.ONE_HOT) for _ in range(4)))
            *_, error = await raw.until_end()
            assert isinstance(error, ErrorMessage)
            assert (error.status, error.field, error.fatal) == (Status.RESOURCE_EXHAUSTED, "draft", True)
            assert await raw.status() is Status.RESOURCE_EXHAUSTED
        await assert_unharmed(served)


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
    """Goes wrong for sessions whose text begins with 13."""

    def __init__(self, how: str) -> None:
        super().__init__(64, max_context=1024)
        self.how = how

    def step(self, rows: Sequence[Row]) -> list[NumpyLogitRows]:
        """A step, with what is wrong in it."""
        results = super().step(rows)
        for index, row in enumerate(rows):
            if self._texts[row.key][0] != 13:
                continue
            if self.how == "raise":
                raise RuntimeError("password=hunter2")
            results[index] = NumpyLogitRows(np.full((row.num_logits, 64), np.nan, np.float32))
        return results


@pytest.mark.parametrize("sampling", [SamplingParams(), WARM])
async def test_nan_logits_commit_nothing(serve: Any, sampling: SamplingParams) -> None:
    """A target that produces NaN ends that text with INTERNAL; no token is committed."""
    rule = Rule.GREEDY if sampling.is_greedy else Rule.COUPLED
    async with serve(BrokenEngine("nan")) as served:
        async with Raw(served.address) as raw:
            await raw.send(
                opening(prompt_token_ids=(13, 1), sampling=sampling, rule=rule, fill=FillPolicy.UNLIMITED)
            )
            opened, error = await raw.until_end()
            assert isinstance(opened, Opened)
            assert isinstance(error, ErrorMessage)
            assert (error.status, error.reason) == (Status.INTERNAL, "TARGET_NUMERICS")
        await assert_unharmed(served)


async def test_an_exception_leaves_the_process_as_an_incident(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns an incident id and not the exception; the operator finds both in the log."""
    with caplog.at_level(logging.ERROR):
        async with serve(BrokenEngine("raise")) as served:
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
    async with serve(config=VerifierConfig(park_s=0)) as served, served.client() as client:
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


class _Garbage(grpc.GenericRpcHandler):
    """Answers everything with bytes that are no message."""

    def service(self, handler_call_details: Any) -> Any:
        """A handler for any method."""

        async def unary(request: bytes, context: Any) -> bytes:
            return b"\xff\xff"

        async def stream(requests: Any, context: Any) -> None:
            await context.write(b"\xff\xff")

        if handler_call_details.method.endswith("Describe"):
            return grpc.unary_unary_rpc_method_handler(unary)
        return grpc.stream_stream_rpc_method_handler(stream)


async def test_a_verifier_that_sends_garbage_is_refused() -> None:
    """Bytes that are no message are the verifier's fault and raise no traceback."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Garbage(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    hop = GrpcHop(f"127.0.0.1:{port}")
    with pytest.raises(PacelineError) as caught:
        await hop.describe()
    assert caught.value.status in (Status.DATA_LOSS, Status.INTERNAL)
    async with hop.stream() as stream:
        await stream.send(OPEN)
        with pytest.raises(PacelineError) as caught:
            await stream.receive()
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
