"""No tenant sees, resumes or times another's session: what a stolen session id is worth, and a guessed prompt."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jwt
import pytest

from paceline.cloud.config import AccessConfig, ServerConfig, VerifierConfig
from paceline.cloud.engine.base import Row
from paceline.cloud.engine.table import TableEngine
from paceline.common.hops.grpc import GrpcHop
from paceline.common.hops.security import Calling
from paceline.common.messages import Close, FillPolicy, Finished, Open, Opened, ServerMessage
from paceline.common.session import EdgeSession
from paceline.common.tokens import Verdict

SECRET = b"a secret that is long enough to sign with"
CANARY = tuple(range(1, 61)) * 3
OPEN = Open(CANARY, 8, fill=FillPolicy.UNLIMITED)
TENANTS = ("acme", "rival")
NUM_TIMED = 300


class CountingEngine(TableEngine):
    """Counts the tokens it is given."""

    num_run = 0

    def step(self, rows: Sequence[Row]) -> Any:
        """See `TargetEngine`."""
        self.num_run += sum(len(row.token_ids) for row in rows)
        return super().step(rows)


@dataclass(frozen=True)
class Tried:
    """What came of opening a text."""

    replies: tuple[ServerMessage, ...]
    """Without times, which the verifier measures."""
    num_run: int
    """Tokens that the engine ran for it."""
    ttft_s: float

    @property
    def cached(self) -> int:
        """What was found."""
        opened = self.replies[0]
        assert isinstance(opened, Opened), opened
        return opened.cached_length


class House:
    """A verifier that asks who calls, and the ways of two tenants to it."""

    def __init__(self, served: Any, folder: Path) -> None:
        self.served = served
        self.hops = {
            name: GrpcHop(served.address, calling=Calling(token_file=folder / name)) for name in TENANTS
        }

    async def close(self) -> None:
        """Let go of both ways."""
        for hop in self.hops.values():
            await hop.close()

    async def park(self, tenant: str, session_id: bytes, prompt: Sequence[int] = CANARY) -> Open:
        """A text that is begun and left; how it is opened again."""
        num_parked = self.served.verifier.num_parked
        session = EdgeSession(replace(OPEN, prompt_token_ids=tuple(prompt), session_id=session_id))
        async with self.hops[tenant].stream() as stream:
            await stream.send(session.open())
            while len(session.committed) < len(prompt) + 2:
                message = await stream.receive()
                assert isinstance(message, Opened | Verdict), message
                session.receive(message)
        while self.served.verifier.num_parked == num_parked:
            await asyncio.sleep(0.001)
        return session.open()

    async def open(self, tenant: str, opening: Open) -> Tried:
        """A whole text, with what it cost."""
        num_run, began_s, ttft_s = self.served.engine.num_run, time.perf_counter(), 0.0
        replies: list[ServerMessage] = []
        async with self.hops[tenant].stream() as stream:
            await stream.send(opening)
            while (message := await stream.receive()) is not None:
                ttft_s = ttft_s or (isinstance(message, Verdict) and time.perf_counter() - began_s) or 0.0
                replies.append(_timeless(message))
                if isinstance(message, Finished):
                    await stream.send(Close())
                    break
        return Tried(tuple(replies), self.served.engine.num_run - num_run, ttft_s)


def _timeless(message: ServerMessage) -> ServerMessage:
    match message:
        case Opened():
            return replace(message, verify_fixed_s=0.0, verify_per_token_s=0.0)
        case Verdict():
            return replace(message, verify_s=0.0, queue_s=0.0)
        case Finished():
            return replace(message, hops=())
    return message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A secret, and a token of each tenant."""
    (tmp_path / "secret").write_bytes(SECRET)
    for name in TENANTS:
        claims = {"sub": name, "aud": "paceline", "exp": time.time() + 3600}
        (tmp_path / name).write_text(jwt.encode(claims, SECRET, algorithm="HS256"))
    return tmp_path


@pytest.fixture
async def house(serve: Any, folder: Path) -> Any:
    """A verifier with two tenants; a step takes a millisecond, so that what is cached shows."""
    engine = CountingEngine(64, spread=2.0, max_context=1024, step_s=0.001)
    listening = ServerConfig("127.0.0.1:0", access=AccessConfig(folder / "secret"))
    config = VerifierConfig(prefill_chunk_tokens=8, max_parked_sessions=4096)
    async with serve(engine, config, listening=listening) as served, AsyncExitStack() as stack:
        house = House(served, folder)
        stack.push_async_callback(house.close)
        yield house


async def test_anothers_session_id_is_worth_as_much_as_any_other(house: House) -> None:
    """Copied or guessed, under another identity an id finds nothing and ends nothing: the same answers, the same work.
    Its own tenant does find the cache, or this would say nothing."""
    mine = secrets.token_bytes(16)
    again = await house.park("acme", mine)
    copied = await house.open("rival", again)
    never = await house.open("rival", replace(again, session_id=secrets.token_bytes(16)))
    assert (copied.replies, copied.num_run) == (never.replies, never.num_run)
    assert copied.cached == 0
    own = await house.open("acme", again)
    assert own.cached == len(CANARY) + 1
    assert own.num_run == copied.num_run - own.cached


async def test_a_live_session_is_not_fenced_by_another_tenant(house: House) -> None:
    """Whoever copies the id of a live stream leaves it alone."""
    mine = replace(OPEN, session_id=secrets.token_bytes(16))
    text, copied = await asyncio.gather(house.open("acme", mine), house.open("rival", mine))
    assert text.replies == copied.replies
    assert text.cached == copied.cached == 0


async def test_a_guessed_prompt_does_not_show(house: House) -> None:
    """What one tenant has had read costs another exactly what any prompt costs, and even itself under another id."""
    again = await house.park("acme", secrets.token_bytes(16))
    runs = [
        await house.open(tenant, replace(OPEN, prompt_token_ids=prompt, session_id=secrets.token_bytes(16)))
        for tenant, prompt in (("rival", CANARY), ("rival", CANARY[::-1]), ("acme", CANARY))
    ]
    assert [one.cached for one in runs] == [0, 0, 0]
    assert len({one.num_run for one in runs}) == 1
    assert (await house.open("acme", again)).cached > 0


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.timeout(1800)
async def test_time_does_not_tell_whose_id_it_was(house: House, record_property: Any) -> None:
    """Times to the first token with copied and with never-existing ids are of one law (Kolmogorov-Smirnov); those with
    the tenant's own are not, or this would say nothing."""
    samples: dict[str, list[float]] = {"copied": [], "never": [], "own": []}
    for _ in range(NUM_TIMED):
        again = await house.park("acme", secrets.token_bytes(16))
        tries = {
            "copied": ("rival", again),
            "never": ("rival", replace(again, session_id=secrets.token_bytes(16))),
        }
        for kind in secrets.SystemRandom().sample(sorted(tries), 2):
            samples[kind].append((await house.open(*tries[kind])).ttft_s)
        samples["own"].append((await house.open("acme", again)).ttft_s)
    alike, unlike = (ks_p(samples[kind], samples["never"]) for kind in ("copied", "own"))
    record_property(
        "KS p", f"copied against never {alike:.3f}, own against never {unlike:.1e}; {NUM_TIMED} of each"
    )
    assert alike > 0.01
    assert unlike < 1e-6


def ks_p(one: Sequence[float], other: Sequence[float]) -> float:
    """Chance of a gap between two empirical laws as wide as this one, if they are samples of one law."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(one, other).pvalue)
