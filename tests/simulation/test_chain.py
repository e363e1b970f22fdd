"""Chains of hops on a virtual clock: the real client, relays and verifier, with links and models to order."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from paceline.common.errors import DeadlineExceeded, Incompatible, Unreachable
from paceline.common.messages import FillPolicy
from paceline.common.speed.objective import Objective
from paceline.edge.request import GenerationRequest, ProvisionalEvent, Report, RetractedEvent, TokensEvent
from paceline.relay.config import RelayConfig
from paceline.simulation.chain import Chain, ChainHop, simulated_chain
from paceline.simulation.clock import run_virtual
from paceline.simulation.link import LinkShape

MODES = ("auto", "stream", "sync", "cloud")
NEAR = ChainHop(0.005, 0.020, 0.0001, acceptance=0.85)
FAR = ChainHop(0.1, 0.030, 0.0002, acceptance=0.93)
ALONE = ChainHop(0.105, 0.030, 0.0002, acceptance=0.8)


async def texts(
    hops: tuple[ChainHop, ...], mode: str = "auto", count: int = 2, length: int = 150, **options: Any
) -> list[Report]:
    """Some texts of a chain, one after another."""
    async with simulated_chain(0.01, hops) as chain:
        return [
            await chain.client.complete(
                GenerationRequest((1, 2, 3, index), length, ignore_eos=True, **options), mode
            )
            for index in range(count)
        ]


def passes_per_token(reports: list[Report]) -> float:
    """Of the last hop's model."""
    num_passes = sum(report.hops[-1].num_passes for report in reports)
    return num_passes / sum(len(report.token_ids) for report in reports)


@pytest.mark.parametrize("mode", MODES)
def test_the_text_is_the_last_hops_at_any_depth(mode: str) -> None:
    """One to four hops above the device, with jitter and a bad relay among them, write one text."""
    jittery = replace(FAR, shape=LinkShape(0.1, jitter_s=0.01, seed=3))
    bad = replace(NEAR, acceptance=0.2)
    chains = ((ALONE,), (NEAR, FAR), (NEAR, bad, jittery), (bad, NEAR, NEAR, jittery))
    written = [[one.token_ids for one in run_virtual(texts(hops, mode))] for hops in chains]
    assert written[1:] == written[:1] * (len(chains) - 1)


def test_a_relay_saves_passes_of_a_target_far_away() -> None:
    """With the target 100 ms away and a good relay near, fewer target passes a token and more tokens a second."""
    straight, relayed = run_virtual(texts((ALONE,))), run_virtual(texts((NEAR, FAR)))
    assert passes_per_token(relayed) < 0.9 * passes_per_token(straight)
    assert sum(one.total_s for one in relayed) < sum(one.total_s for one in straight)


def test_a_relay_that_is_always_wrong_costs_little() -> None:
    """Where its drafts do not pay none are sent: the text comes as fast as the target streams it."""
    useless = (replace(NEAR, acceptance=0.8), replace(FAR, acceptance=0.02))
    cloud = run_virtual(texts((ALONE,), "cloud"))
    relayed = run_virtual(texts(useless))
    assert sum(one.total_s for one in relayed) < 1.1 * sum(one.total_s for one in cloud)


def test_every_hop_says_what_it_did() -> None:
    """The report has one entry a hop, in order; tokens, passes and bytes add up."""
    (report,) = run_virtual(texts((NEAR, NEAR, FAR), count=1))
    assert [hop.name for hop in report.hops] == ["hop-1", "hop-2", "hop-3"]
    assert all(hop.num_accepted <= hop.num_judged for hop in report.hops)
    assert report.hops[-1].num_passes == report.num_passes
    assert all(hop.bytes_up and hop.bytes_down and hop.round_trip_s for hop in report.hops[:-1])
    assert report.hops[-1].bytes_up == 0
    assert len(report.authors) == len(report.token_ids)
    assert set(report.authors) <= {0, 1, 2, 3}
    assert report.authors.count(0) > 0, "some tokens of the device stand"


@pytest.mark.parametrize("kind", ["stall", "reset"])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("mode", ["auto", "sync"])
def test_a_cut_of_either_link_changes_no_token(mode: str, which: int, kind: Any) -> None:
    """Five seconds in the middle of a text, below the relay or above it."""

    async def cut() -> Report:
        async with simulated_chain(0.01, (NEAR, FAR)) as chain:
            task = asyncio.create_task(
                chain.client.complete(GenerationRequest((1, 2, 3, 0), 150, ignore_eos=True), mode)
            )
            await asyncio.sleep(1.5)
            chain.links[which].cut(5.0, kind)
            return await task

    (whole,) = run_virtual(texts((NEAR, FAR), mode, count=1))
    report = run_virtual(cut())
    assert report.token_ids == whole.token_ids
    assert report.num_reconnects == (which == 0 and kind == "reset")
    if which == 1 and kind == "reset":
        assert report.hops[0].num_reconnects == 1


async def screen(chain: Chain, request: GenerationRequest) -> tuple[list[int], list[int], int]:
    """Verified tokens, the screen as events of drafts leave it, and how many tokens were taken back."""
    verified: list[int] = []
    shown: list[int] = []
    retracted, start = 0, len(request.prompt_token_ids)
    async for event in chain.client.generate(request, "stream"):
        match event:
            case TokensEvent():
                assert event.position == start + len(verified)
                verified.extend(event.token_ids)
                shown[event.position - start : event.position - start + len(event.token_ids)] = (
                    event.token_ids
                )
            case ProvisionalEvent():
                assert event.position == start + len(shown), "provisional tokens follow what is shown"
                shown.extend(event.token_ids)
            case RetractedEvent():
                retracted += len(shown) - (event.position - start)
                del shown[event.position - start :]
    return verified, shown, retracted


def test_what_relays_think_is_shown_and_taken_back() -> None:
    """Provisional tokens of device and relays end as the verified text, whatever was taken back meanwhile."""

    async def main() -> tuple[list[int], list[int], int]:
        async with simulated_chain(0.01, (NEAR, replace(NEAR, acceptance=0.6), FAR)) as chain:
            return await screen(
                chain, GenerationRequest((1, 2, 3, 0), 150, ignore_eos=True, provisional=True)
            )

    verified, shown, retracted = run_virtual(main())
    assert verified == shown == run_virtual(texts((ALONE,), count=1))[0].token_ids
    assert retracted > 0


def test_sixteen_texts_at_once_are_the_texts_written_alone() -> None:
    """They share every hop's engine."""

    async def main() -> list[list[int]]:
        async with simulated_chain(0.01, (NEAR, FAR)) as chain:
            requests = [GenerationRequest((1, 2, index), 40 + index, ignore_eos=True) for index in range(16)]
            together = await asyncio.gather(*(chain.client.complete(one) for one in requests))
            alone = [await chain.client.complete(one, "cloud") for one in requests]
            assert [one.token_ids for one in together] == [one.token_ids for one in alone]
            return [one.token_ids for one in together]

    assert len(run_virtual(main())) == 16


def test_a_deadline_travels_along_the_chain() -> None:
    """A text that takes too long ends with the reason, and every hop is free again."""

    async def main() -> int:
        async with simulated_chain(0.01, (NEAR, FAR)) as chain:
            request = GenerationRequest((1, 2, 3), 4000, ignore_eos=True, deadline_s=2.0)
            with pytest.raises(DeadlineExceeded):
                await chain.client.complete(request)
            await asyncio.sleep(1)
            return chain.relays[0].num_sessions + chain.relays[0].verifier.num_sessions

    assert run_virtual(main()) == 0


def test_a_text_that_is_given_up_frees_every_hop() -> None:
    """Leaving a generation in the middle is heard by the last hop."""

    async def main() -> tuple[int, int]:
        async with simulated_chain(0.01, (NEAR, NEAR, FAR)) as chain:
            generation = chain.client.generate(GenerationRequest((1, 2, 3), 4000, ignore_eos=True))
            events = aiter(generation)
            for _ in range(30):
                await anext(events)
            await events.aclose()  # type: ignore[attr-defined]
            await asyncio.sleep(2)
            top = chain.relays[-1].client.verifier
            assert top is not None
            live = await chain.links[-1].describe()
            return sum(relay.num_sessions for relay in chain.relays), live.active_sessions

    assert run_virtual(main()) == (0, 0)


def test_a_chain_that_loops_is_refused() -> None:
    """A request that has been here already is not passed on."""

    async def main() -> None:
        async with simulated_chain(0.01, (NEAR, FAR)) as chain:
            await chain.client.complete(GenerationRequest((1, 2), 5, path=("elsewhere",)))
            await chain.client.complete(GenerationRequest((1, 2), 5, path=("hop-1",)))

    with pytest.raises(Exception, match="loops") as caught:
        run_virtual(main())
    assert caught.value.exit_code == Incompatible.exit_code  # type: ignore[attr-defined]


def test_a_hop_above_that_stays_away_is_named() -> None:
    """The relay gives up after a while, and says whom it could not reach."""

    async def main() -> None:
        config = RelayConfig(reconnect_s=3.0)
        async with simulated_chain(0.01, (NEAR, FAR), config=config) as chain:
            task = asyncio.create_task(
                chain.client.complete(GenerationRequest((1, 2, 3), 400, ignore_eos=True, reconnect_s=1.0))
            )
            await asyncio.sleep(1.5)
            chain.links[1].cut(60.0, "reset")
            await task

    with pytest.raises(Exception, match="cut") as caught:
        run_virtual(main())
    assert caught.value.exit_code == Unreachable.exit_code  # type: ignore[attr-defined]


def test_thrift_is_kept_along_the_chain() -> None:
    """With throughput as the objective no hop spends passes on filling."""
    thrifty = {"objective": Objective(1.0)}
    reports = run_virtual(texts((NEAR, FAR), **thrifty))
    filled = run_virtual(texts((NEAR, FAR), fill=FillPolicy.AUTO))
    assert passes_per_token(reports) <= passes_per_token(filled)
