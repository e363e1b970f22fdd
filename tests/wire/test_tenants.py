"""No tenant sees, resumes or times another's session: what a stolen session id is worth, and a guessed prompt."""

import asyncio
import random
import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc.aio
import jwt
import pytest

from paceline.cloud.config import AccessConfig, ServerConfig, VerifierConfig
from paceline.cloud.engine.base import Row
from paceline.cloud.engine.table import TableEngine
from paceline.common.codec import encode_request, parse_response
from paceline.common.hops.grpc import GrpcHop
from paceline.common.hops.security import Calling
from paceline.common.messages import Close, ErrorMessage, FillPolicy, Finished, Open, Opened, ServerMessage
from paceline.common.session import EdgeSession
from paceline.common.tokens import Verdict

SECRET = b"a secret that is long enough to sign with"
CANARY = tuple(range(1, 61))
OPEN = Open(CANARY, 8, fill=FillPolicy.UNLIMITED)
TENANTS = ("acme", "rival")
NUM_TIMED = 1000
NUM_GUESSES = 100_000
AT_ONCE = 16
METHOD = "/paceline.v1.VerifierService/Decode"


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
        """A text that is begun and left long before its end; how it is opened again, for less."""
        num_parked = self.served.verifier.num_parked
        begun = replace(OPEN, prompt_token_ids=tuple(prompt), session_id=session_id, max_new_tokens=200)
        session = EdgeSession(begun)
        async with self.hops[tenant].stream() as stream:
            await stream.send(session.open())
            while len(session.committed) < len(prompt) + 2:
                message = await stream.receive()
                assert isinstance(message, Opened | Verdict), message
                session.receive(message)
        while self.served.verifier.num_parked == num_parked:
            await asyncio.sleep(0.001)
        return replace(session.open(), max_new_tokens=OPEN.max_new_tokens)

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


def guess(rng: random.Random, mine: bytes) -> bytes:
    """Another's session id: copied, one bit of it wrong, half of it, or any."""
    one = bytearray(mine)
    match rng.randrange(4):
        case 1:
            one[rng.randrange(16)] ^= 1 << rng.randrange(8)
        case 2:
            one[8:] = rng.randbytes(8)
        case 3:
            one[:] = rng.randbytes(16)
    return bytes(one)


async def answers(channel: grpc.aio.Channel, token: str, opening: Open) -> tuple[ServerMessage, ...]:
    """What an Open is answered, up to the end of the text; with as little work for this side as can be."""
    call = channel.stream_stream(METHOD)(metadata=(("authorization", f"Bearer {token}"),))
    await call.write(encode_request(opening).SerializeToString())
    replies: list[ServerMessage] = []
    while not replies or not isinstance(replies[-1], Finished | ErrorMessage):
        replies.append(_timeless(parse_response(await call.read())))
    await call.done_writing()
    return tuple(replies)


@pytest.mark.parametrize(
    "num_guesses",
    [400, pytest.param(NUM_GUESSES, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
async def test_guessing_finds_nothing(
    serve: Any, folder: Path, record_property: Any, num_guesses: int
) -> None:
    """Ids copied and guessed under another identity, many on one connection: each is answered as one that never was,
    no token is found for it, and what is parked stays where it is until its own tenant comes."""
    listening = ServerConfig("127.0.0.1:0", access=AccessConfig(folder / "secret"))
    engine, config = CountingEngine(64, step_s=0.001), VerifierConfig(park_s=3600.0)
    async with serve(engine, config, listening=listening) as served, AsyncExitStack() as stack:
        house = House(served, folder)
        stack.push_async_callback(house.close)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(served.address))
        ids = [secrets.token_bytes(16) for _ in range(AT_ONCE)]
        parked = [await house.park("acme", one, CANARY[:8]) for one in ids]
        engine.step_s = 0.0
        left = [replace(one, max_new_tokens=len(one.committed_token_ids) + 1) for one in parked]
        num_run, token = engine.num_run, (folder / "rival").read_text()
        fresh = [replace(one, session_id=secrets.token_bytes(16)) for one in left]
        never = [await answers(channel, token, one) for one in fresh]
        num_run, runs = engine.num_run, engine.num_run - num_run
        rng, tries = random.Random(7), iter(range(num_guesses))

        async def keep_guessing(opening: Open, expected: tuple[ServerMessage, ...]) -> None:
            for _ in tries:
                tried = replace(opening, session_id=guess(rng, opening.session_id))
                assert await answers(channel, token, tried) == expected

        await asyncio.gather(*map(keep_guessing, left, never))
        assert (engine.num_run - num_run) * AT_ONCE == num_guesses * runs
        assert served.verifier.num_parked == AT_ONCE
        own = [await house.open("acme", one) for one in left]
        assert [one.cached for one in own] == [9] * AT_ONCE
    record_property("guesses", num_guesses)


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.timeout(1800)
async def test_time_does_not_tell_whose_id_or_prompt_it_was(house: House, record_property: Any) -> None:
    """Times to the first token are of one law (Kolmogorov-Smirnov) for a copied id and one that never was, and for
    another's prompt and one that nobody has; those of the tenant's own id are not, or this would say nothing."""
    samples: dict[str, list[float]] = defaultdict(list)
    for _ in range(NUM_TIMED):
        again = await house.park("acme", secrets.token_bytes(16))
        never = replace(again, session_id=secrets.token_bytes(16))
        unread = replace(again, prompt_token_ids=CANARY[::-1], session_id=secrets.token_bytes(16))
        tries = {"copied": again, "never": never, "unread": unread}
        for kind in secrets.SystemRandom().sample(sorted(tries), 3):
            samples[kind].append((await house.open("rival", tries[kind])).ttft_s)
        samples["own"].append((await house.open("acme", again)).ttft_s)
    chances = {kind: ks_p(samples[kind], samples["never"]) for kind in ("copied", "unread", "own")}
    told = ", ".join(f"{kind} {chance:.2g}" for kind, chance in chances.items())
    record_property(
        "KS p", f"against an id that never was, of a prompt that was read: {told}; {NUM_TIMED} of each"
    )
    assert min(chances["copied"], chances["unread"]) > 0.01 / 2  # two questions of one sample
    assert chances["own"] < 1e-6


def ks_p(one: Sequence[float], other: Sequence[float]) -> float:
    """Chance of a gap between two empirical laws as wide as this one, if they are samples of one law."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(one, other).pvalue)
