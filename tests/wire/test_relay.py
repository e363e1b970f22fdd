"""Chains of hops over gRPC and in process: the text, or the law, is the last hop's, whatever stands between."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from tests.wire.test_texts import PROMPT, SMALL, p_value, small_engine

from paceline.cloud.config import ServerConfig, VerifierConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.server import Server
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.errors import PacelineError, Unavailable, Unreachable
from paceline.common.hops.base import Hop
from paceline.common.hops.first_reachable import connect_to
from paceline.common.hops.grpc import GrpcHop
from paceline.common.hops.inproc import InProcessHop
from paceline.common.session import RelaySession, Written
from paceline.common.session import steered as steered_module
from paceline.common.tokens import FinishReason, Rule, SamplingParams
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest
from paceline.relay.relay import Relay

MODES = ("auto", "stream", "sync", "cloud")
PENALTIES = {"repetition_penalty": 1.2, "frequency_penalty": 0.2}


def middle(agreement: float = 0.9, seed: int = 7, vocab_size: int = 64, spread: float = 2.0) -> TableEngine:
    """A relay's model that resembles the target."""
    return TableEngine(vocab_size, seed, spread=spread, max_context=1024, resembles=0, agreement=agreement)


@asynccontextmanager
async def connected(way: Hop, drafter: Any = None) -> Any:
    """A client whose chain has answered."""
    client = Client(way, drafter or TableDrafter(64, agreement=0.8, scale=2.0))
    try:
        async with asyncio.timeout(10):
            while client.verifier is None:
                try:
                    await client.connect()
                except Unreachable:
                    await asyncio.sleep(0.02)
        yield client
    finally:
        await client.close()


@pytest.mark.parametrize("hop", ["grpc", "inproc"])
@pytest.mark.parametrize("num_relays", [1, 2])
@pytest.mark.parametrize("rule", [Rule.GREEDY, Rule.COUPLED, Rule.ONE_HOT])
async def test_text_is_the_targets(serve: Any, relay: Any, rule: Rule, num_relays: int, hop: str) -> None:
    """Under greedy, coupled and one-hot, with relays that are right and relays that are wrong, and with penalties."""
    for agreement, penalties in ((0.2, {}), (0.95, {}), (0.9, PENALTIES)):
        sampling = SamplingParams(0.0 if rule is Rule.GREEDY else 0.8, top_p=0.95, **penalties)
        engines = [middle(agreement, 7 + index) for index in range(num_relays)]
        async with serve() as served, relay(served, engines, hop) as (_, way), connected(way) as client:
            for mode in MODES:
                request = GenerationRequest(PROMPT, 30, sampling, rule, seed=5)
                async with asyncio.timeout(20):
                    report = await client.complete(request, mode)
                assert report.token_ids == served.text(request), (mode, agreement)
                assert len(report.hops) == num_relays + 1
                assert all(0 <= author <= num_relays + 1 for author in report.authors)


async def test_stop_tokens_end_the_text_where_they_stand(serve: Any, relay: Any) -> None:
    """Wherever a stop token falls it ends the text; a relay that believes in one too early is overruled."""
    async with (
        serve() as served,
        relay(served, [middle(0.7)], "inproc") as (_, way),
        connected(way) as client,
    ):
        whole = served.text(GenerationRequest(PROMPT, 30))
        for position in range(0, 30, 4):
            for mode in MODES:
                request = GenerationRequest(PROMPT, 30, stop_token_ids=(whole[position], 63))
                async with asyncio.timeout(20):
                    report = await client.complete(request, mode)
                assert report.token_ids == served.text(request), (mode, position)
                assert report.finish_reason is FinishReason.STOP


async def test_a_text_goes_on_after_what_is_committed(serve: Any, relay: Any) -> None:
    """A chain takes up a text where another client left it."""
    async with serve() as served, relay(served, [middle()]) as (_, way), connected(way) as client:
        for rest in (0, 1, 20):
            whole = served.text(GenerationRequest(PROMPT, 30))
            begun = GenerationRequest(PROMPT, 30, committed_token_ids=tuple(whole[: 30 - rest]))
            assert (await client.complete(begun)).token_ids == whole[30 - rest :]


async def test_what_the_last_hop_refuses_is_told_with_its_cure(serve: Any, relay: Any) -> None:
    """A relay passes on why nothing can be served: the hop above is full, or the relay itself is."""
    slow = TableEngine(64, spread=2.0, max_context=1024, step_s=0.005)
    async with (
        serve(slow, VerifierConfig(max_sessions=1)) as served,
        relay(served, [middle()]) as (_, way),
        connected(way) as client,
    ):
        running = aiter(client.generate(GenerationRequest(PROMPT, 900), "cloud"))
        await anext(running)
        with pytest.raises(PacelineError, match="sessions are taken") as caught:
            await client.complete(GenerationRequest(PROMPT, 5), "cloud")
        assert caught.value.cure == "retry"
        await running.aclose()
        with pytest.raises(PacelineError, match="context"):
            await client.complete(GenerationRequest(PROMPT, 5000))


async def test_a_relay_of_another_vocabulary_serves_nothing(serve: Any) -> None:
    """It says what does not fit instead."""
    async with serve() as served:
        verifier = Verifier(middle(vocab_size=32), TargetInfo("small", "test"))
        odd = Relay(verifier, InProcessHop(served.verifier), name="odd")
        odd.start()
        try:
            await asyncio.sleep(0.1)
            client = Client(InProcessHop(odd))
            with pytest.raises(PacelineError, match="32 token ids, the hop above 64"):
                await client.connect()
        finally:
            await odd.close()


# --- laws -------------------------------------------------------------------------------------------------------------


@dataclass
class Far:
    """What is served, as seen through relays."""

    engine: TableEngine
    way: Hop

    def client(self, drafter: Any) -> Any:
        """See `connected`."""
        return connected(self.way, drafter)


def small_middle(seed: int = 7) -> TableEngine:
    """A relay's model over six tokens that differs from the target at most positions."""
    return middle(0.5, seed, SMALL, 1.0)


async def chain_p_value(
    serve: Any, relay: Any, rule: Rule, num_texts: int, mode: str, num_relays: int = 1
) -> float:
    """Chi-square of texts that came through relays, over gRPC."""
    engines = [small_middle(7 + index) for index in range(num_relays)]
    drafter = TableDrafter(SMALL, agreement=0.4, scale=1.5)
    async with serve(small_engine()) as served, relay(served, engines) as (_, way):
        return await p_value(Far(served.engine, way), drafter, rule, num_texts, mode)


@pytest.mark.parametrize(("mode", "num_relays"), [("sync", 1), ("stream", 1), ("sync", 2)])
async def test_law_is_the_targets(serve: Any, relay: Any, mode: str, num_relays: int) -> None:
    """Texts under rejection pass a chi-square test against the target's exact law, through relays and the wire."""
    assert await chain_p_value(serve, relay, Rule.REJECTION, 600, mode, num_relays) > 1e-4


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("mode", ["sync", "stream", "auto"])
async def test_law_is_the_targets_over_many_texts(serve: Any, relay: Any, mode: str) -> None:
    """The same over ten thousand texts."""
    assert await chain_p_value(serve, relay, Rule.REJECTION, 10_000, mode) > 1e-4


async def test_a_relay_with_the_targets_dice_fails_the_same_test(
    serve: Any, relay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Coins that judged a draft already must not judge the relay's."""
    monkeypatch.setattr(steered_module, "key", lambda seed, _depth, _purpose: seed)
    assert await chain_p_value(serve, relay, Rule.REJECTION, 600, "sync") < 1e-6


async def test_a_relay_that_drops_what_it_corrected_fails_the_same_test(
    serve: Any, relay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passing on only what it accepted, with its own law, is biased (methods 4.1)."""
    honest = RelaySession.drafts

    def accepted_only(session: RelaySession, start: int, limit: int) -> Any:
        told = getattr(session, "accepted_until", start)
        return honest(session, start, max(min(limit, told - start), 0))

    take_over = RelaySession.on_written

    def remember(session: RelaySession, written: Written) -> Any:
        answer = take_over(session, written)
        session.accepted_until = written.verdict.base + written.verdict.num_accepted  # type: ignore[attr-defined]
        return answer

    monkeypatch.setattr(RelaySession, "drafts", accepted_only)
    monkeypatch.setattr(RelaySession, "on_written", remember)
    assert await chain_p_value(serve, relay, Rule.REJECTION, 1500, "sync") < 1e-6


@pytest.mark.parametrize("num_others", [0, 1], ids=["the only one", "one of several"])
async def test_a_relay_that_reached_nobody_says_so_itself(num_others: int) -> None:
    """It answers: whoever asks it is told who does not, and not that the relay is away."""
    away = [f"127.0.0.1:{port}" for port in (1, 2)]
    above = GrpcHop(away[0], connect_timeout_s=0.3)
    relay = Relay(Verifier(TableEngine(SMALL), TargetInfo("mid", "test")), above, name="relay")
    server = Server(relay, ServerConfig("127.0.0.1:0"))
    await server.start()
    hop = connect_to([*away[1:][:num_others], server.address])
    try:
        async with asyncio.timeout(30):
            while away[0] not in str(relay._fault):
                await asyncio.sleep(0.01)
        with pytest.raises(
            Unavailable, match=f"{server.address} answers: .*no verifier answers at {away[0]}"
        ):
            await Client(hop).connect()
    finally:
        await hop.close()
        await server.stop(0)
