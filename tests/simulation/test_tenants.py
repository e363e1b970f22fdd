"""Quotas, shares, deadlines and waiting for a place, on a virtual clock: the real client, verifier and service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from paceline.cloud.config import VerifierConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.identity import Caller, current_caller
from paceline.cloud.quotas import UNLIMITED, Quota
from paceline.cloud.service import VerifierService
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.errors import DeadlineExceeded, PacelineError, Status
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest
from paceline.simulation.clock import run_virtual
from paceline.simulation.faults import reference
from paceline.simulation.hop import SimulatedHop
from paceline.simulation.link import LinkShape
from paceline.simulation.pair import VirtualRunner, VirtualWorker

VOCAB_SIZE = 17
STEP_S, TOKEN_S = 0.005, 0.001


class World:
    """One verifier and a client on a link of 10 ms."""

    def __init__(self, **config: Any) -> None:
        self.engine = TableEngine(VOCAB_SIZE)
        runner = VirtualRunner(lambda num_tokens: STEP_S + TOKEN_S * num_tokens)
        info = TargetInfo("table", "simulation")
        self.verifier = Verifier(self.engine, info, VerifierConfig(**config), runner=runner)
        drafter = TableDrafter(VOCAB_SIZE, target_seed=0, agreement=0.8)
        self.client = Client(
            SimulatedHop(self.verifier, LinkShape(0.01)), drafter, worker=VirtualWorker(0.001)
        )

    async def write(self, name: str, tenant: str = "", quota: Quota = UNLIMITED, **asked: Any) -> float:
        """One text, which must be the target's own; how long it took."""
        current_caller.set(Caller(tenant, quota=quota))
        begun_s = asyncio.get_running_loop().time()
        request = GenerationRequest(
            tuple(name.encode()[0] % VOCAB_SIZE + n for n in (0, 0)),
            **{"max_new_tokens": 40, "num_speculative_tokens": 8, "request_id": name, **asked},
        )
        report = await self.client.complete(request, "sync")
        assert report.token_ids == reference(self.engine, request)
        return asyncio.get_running_loop().time() - begun_s


@asynccontextmanager
async def world(**config: Any) -> AsyncIterator[World]:
    """Served."""
    one = World(**config)
    one.verifier.start()
    try:
        await one.client.connect()
        yield one
        await one.client.close()
        assert one.verifier.num_sessions == 0
    finally:
        one.verifier.stop()


def start(work: Any) -> "asyncio.Task[float]":
    """In a context of its own, as every call has."""
    return asyncio.create_task(work)


def test_a_paced_text_is_slow_and_whole_and_nobody_elses_is() -> None:
    """A tenant at 20 positions a second gets them and no more; the other one's text takes as long as alone."""

    async def main() -> tuple[float, float, float]:
        async with world() as alone:
            alone_s = await start(alone.write("b", "large"))
        async with world() as both:
            small = start(both.write("a", "small", Quota(positions_per_s=20.0)))
            return alone_s, await start(both.write("b", "large")), await small

    alone_s, large_s, small_s = run_virtual(main())
    assert small_s > 3 * alone_s
    assert large_s < 1.5 * alone_s


def test_positions_are_paid_for_whether_they_stand_or_not() -> None:
    """What a tenant's texts take is at least what the positions run for them cost: prompts, drafts, own tokens."""

    async def main() -> None:
        async with world() as one:
            took_s = await start(one.write("a", "small", Quota(positions_per_s=50.0), max_new_tokens=80))
            did = one.verifier.describe().hops[0]
            num_positions = did.num_judged + did.num_steps
            assert took_s >= num_positions / 50.0 - 1 - 9 / 50.0, "but for one burst, and the last step"

    run_virtual(main())


def test_many_sessions_of_one_tenant_do_not_slow_another_beyond_its_share() -> None:
    """With forty sessions of another tenant beside it a text has half the steps; in one queue it would have a fifth."""

    async def main() -> tuple[float, float]:
        async with world(max_step_tokens=20) as alone:
            alone_s = await start(alone.write("b", "modest"))
        async with world(max_step_tokens=20) as both:
            greedy = [start(both.write("a", "greedy", max_new_tokens=200)) for _ in range(40)]
            await asyncio.sleep(0.5)
            modest_s = await start(both.write("b", "modest"))
            for one in greedy:
                one.cancel()
            await asyncio.gather(*greedy, return_exceptions=True)
            await asyncio.sleep(1.0)
        return alone_s, modest_s

    alone_s, modest_s = run_virtual(main())
    full_step_s = STEP_S + 20 * TOKEN_S
    assert modest_s < 40 * 2 * full_step_s, "no more than a step under way and one of its own a token"
    assert modest_s < 3 * alone_s


def test_a_text_that_would_be_late_goes_first_among_its_tenants() -> None:
    """Beside twenty others one text meets a deadline that it misses in its turn."""

    async def main(*, with_deadline: bool) -> float:
        async with world(max_step_tokens=20) as one:
            others = [start(one.write("a", max_new_tokens=200)) for _ in range(20)]
            await asyncio.sleep(0.5)
            took_s = await start(one.write("b", deadline_s=1.5 if with_deadline else 0.0))
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await asyncio.sleep(1.0)
        return took_s

    assert run_virtual(main(with_deadline=False)) > 2.0
    assert run_virtual(main(with_deadline=True)) < 1.5


def test_a_session_quota_is_kept_and_given_back() -> None:
    """Of five texts two are written at a time, the others when told; all become whole."""

    async def main() -> int:
        async with world() as one:
            quota, most = Quota(max_sessions=2), 0
            texts = [start(one.write(f"{name}", "acme", quota, wait_s=600.0)) for name in "abcde"]
            while not all(text.done() for text in texts):
                await asyncio.sleep(0.01)
                most = max(most, one.verifier.sessions_by_tenant["acme"])
            await asyncio.gather(*texts)
            return most

    assert run_virtual(main()) == 2


def test_a_text_waits_for_a_place_only_if_asked_to() -> None:
    """Without patience a full verifier's refusal is the answer; with it the text comes when there is room. Patience
    that ends before the time to come back does not begin."""

    async def main() -> None:
        async with world(max_sessions=1) as one:
            first = start(one.write("a", max_new_tokens=200))
            await asyncio.sleep(0.1)
            for wait_s in (0.0, 0.5):
                with pytest.raises(
                    PacelineError, match=r"all 1 sessions are taken \(retry after \d.\d s\)"
                ) as refused:
                    await start(one.write("b", wait_s=wait_s))
                assert refused.value.status is Status.RESOURCE_EXHAUSTED
                assert refused.value.exit_code == 4
            assert await start(one.write("b", wait_s=600.0)) > 0
            assert first.done()
            await first

    run_virtual(main())


def test_deadlines_end_waiting() -> None:
    """A text that waits for a place has no more time than another."""

    async def main() -> None:
        async with world(max_sessions=1) as one:
            first = start(one.write("a", max_new_tokens=400))
            await asyncio.sleep(0.1)
            with pytest.raises(DeadlineExceeded):
                await start(one.write("b", wait_s=600.0, deadline_s=2.0))
            await first

    run_virtual(main())


def test_bytes_beyond_the_quota_take_their_time() -> None:
    """A tenant's streams together get one burst and then the rate; others are not waited for."""

    async def main() -> None:
        service = VerifierService(World().verifier)
        loop = asyncio.get_running_loop()
        acme, other = (Caller(name, quota=Quota(bytes_per_s=100.0)) for name in ("acme", "other"))
        await service._spend(acme, 90)
        assert loop.time() == pytest.approx(0.0, abs=1e-6)
        waiting = [asyncio.create_task(service._spend(acme, 105)) for _ in range(2)]
        await asyncio.sleep(0)
        await service._spend(other, 100)
        await service._spend(Caller("free"), 10_000)
        assert loop.time() == pytest.approx(0.0, abs=1e-6)
        await asyncio.gather(*waiting)
        assert loop.time() == pytest.approx(2.0)

    run_virtual(main())
