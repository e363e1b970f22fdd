"""A verifier that lies, over gRPC, to a client and to a relay: no lie becomes text, and the error says whose fault it
is."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from paceline.cloud.config import ServerConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.server import Server
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.errors import PacelineError, Status
from paceline.common.hops.grpc import GrpcHop
from paceline.common.messages import FillPolicy
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest
from paceline.relay.relay import Relay
from paceline.v1 import verifier_pb2 as pb

VOCAB = 64
HUGE = (1 << 32) - 1
REQUEST = GenerationRequest(
    (1, 2, 3), 20, num_speculative_tokens=3, fill=FillPolicy.OFF, reconnect_s=1.0, deadline_s=20.0
)


def opened(**changes: Any) -> pb.DecodeResponse:
    """The usual beginning, changed."""
    usual = {"protocol_version": 1, "vocab_size": VOCAB, "max_draft_tokens": 8, "max_blocks_in_flight": 4,
             "committed_length": 3}  # fmt: skip
    return pb.DecodeResponse(opened=pb.Opened(**{**usual, **changes}))


def verdict(base: int = 3, **fields: Any) -> pb.DecodeResponse:
    """A verdict."""
    return pb.DecodeResponse(verdict=pb.Verdict(base=base, **fields))


TRUE = verdict(next_token_id=5, next_kind=3)
"""What commits token 5."""
EARLY = pb.DecodeResponse(finished=pb.Finished(reason=2, committed_length=4))
LIES: dict[str, tuple[Sequence[Any], list[int]]] = {
    "bytes that are no message": ([b"\xff\xff"], []),
    "an empty message": ([opened(), b""], []),
    "opened: another vocabulary": ([opened(vocab_size=HUGE)], []),
    "opened: another length": ([opened(committed_length=40)], []),
    "opened: no window": ([opened(max_blocks_in_flight=0)], []),
    "opened: blocks of nothing": ([opened(max_draft_tokens=0)], []),
    "opened twice": ([opened(), opened()], []),
    "verdict before opened": ([TRUE], []),
    "accepted > drafted": ([opened(), TRUE, verdict(4, num_accepted=9)], [5]),
    "accepted 2^32-1": ([opened(), TRUE, verdict(4, num_accepted=HUGE)], [5]),
    "base not asked": ([opened(), TRUE, verdict(9, next_token_id=1, next_kind=3)], [5]),
    "token = V": ([opened(), TRUE, verdict(4, next_token_id=VOCAB, next_kind=3)], [5]),
    "filled token 2^32-1": ([opened(), TRUE, verdict(4, filled_token_ids=[HUGE])], [5]),
    "more than may follow": ([opened(), TRUE, verdict(4, filled_token_ids=[1] * 60)], [5]),
    "an unknown kind": ([opened(), TRUE, verdict(4, next_token_id=1, next_kind=9)], [5]),
    "a node of no tree": ([opened(), TRUE, verdict(4, num_accepted=1, accepted_node_plus_one=3)], [5]),
    "an author beyond any chain": ([opened(), TRUE, verdict(4, next_token_id=1, next_kind=3, author=HUGE)], [5]),
    "finished too early": ([opened(), TRUE, EARLY], [5]),
    "finished for no reason": ([opened(), TRUE, pb.DecodeResponse(finished=pb.Finished(committed_length=4))], [5]),
    "an opinion beyond the text": ([opened(), TRUE, pb.DecodeResponse(provisional=pb.Verdict(base=9))], [5]),
}  # fmt: skip


class Liar(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Serves a script."""

    def __init__(self, script: Sequence[Any]) -> None:
        self.script = [one if isinstance(one, bytes) else one.SerializeToString() for one in script]

    def service(self, handler_call_details: Any) -> Any:
        """Describe is honest."""

        async def describe(request: bytes, context: Any) -> bytes:
            return pb.DescribeResponse(
                protocol_version=1, vocab_size=VOCAB, max_context=1024, max_sessions=9, max_draft_tokens=8,
                rules=[1, 2, 3, 4],
            ).SerializeToString()  # fmt: skip

        async def decode(requests: AsyncIterator[bytes], context: Any) -> None:
            for data in self.script:
                await context.write(data)
            async for _ in requests:
                pass

        if handler_call_details.method.endswith("Describe"):
            return grpc.unary_unary_rpc_method_handler(describe)
        return grpc.stream_stream_rpc_method_handler(decode)


@asynccontextmanager
async def lied_to(script: Sequence[Any], *, is_relayed: bool) -> AsyncIterator[Client]:
    """A client of a liar, or of a relay before it."""
    async with AsyncExitStack() as stack:
        liar = grpc.aio.server()
        liar.add_generic_rpc_handlers((Liar(script),))
        hop = GrpcHop(f"127.0.0.1:{liar.add_insecure_port('127.0.0.1:0')}")
        await liar.start()
        stack.push_async_callback(liar.stop, 0)
        if is_relayed:
            engine = TableEngine(VOCAB, 7, max_context=1024)
            relay = Relay(Verifier(engine, TargetInfo("table", "test")), hop, name="relay")
            server = Server(relay, ServerConfig("127.0.0.1:0"))
            await server.start()
            stack.push_async_callback(server.stop, 0)
            await relay.connected()
            hop = GrpcHop(server.address)
        yield await stack.enter_async_context(Client(hop, TableDrafter(VOCAB, agreement=0.8, scale=2.0)))


@pytest.mark.parametrize("is_relayed", [False, True], ids=["edge", "relay"])
@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_never_becomes_text(lie: str, is_relayed: bool) -> None:
    """The text ends with BAD_REPLY, the verifier's fault; what was committed before the lie stands, no more."""
    script, told = LIES[lie]
    async with lied_to(script, is_relayed=is_relayed) as client:
        generation = client.generate(REQUEST, "sync")
        with pytest.raises(PacelineError) as caught:
            async for _ in generation:
                pass
        assert (caught.value.reason, caught.value.status) == ("BAD_REPLY", Status.DATA_LOSS)
        assert caught.value.exit_code == 5
        assert generation.report.token_ids == told


async def test_a_time_to_come_back_that_never_ends_is_not_waited_for() -> None:
    """Told to come back in 49 days, a client that gives up after a second gives up at once."""
    error = pb.Error(code=14, reason="UNREACHABLE", message="later", retry_after_ms=HUGE, fatal=True)
    script = [opened(), TRUE, pb.DecodeResponse(error=error)]
    async with lied_to(script, is_relayed=False) as client:
        with pytest.raises(PacelineError) as caught:
            await client.complete(REQUEST, "sync")
        assert caught.value.status is Status.UNAVAILABLE


async def test_what_a_stranger_says_is_fit_for_a_terminal() -> None:
    """Control characters and endless texts of an error do not reach whoever reads it."""
    error = pb.Error(
        code=3, reason="\x1b[2J", message="\x1b]0;owned\x07" + "x" * 9000, cure="a\nb", fatal=True
    )
    async with lied_to([pb.DecodeResponse(error=error)], is_relayed=False) as client:
        with pytest.raises(PacelineError) as caught:
            await client.complete(REQUEST, "sync")
    told = f"{caught.value} {caught.value.reason}"
    assert told.isprintable()
    assert len(told) < 1100
