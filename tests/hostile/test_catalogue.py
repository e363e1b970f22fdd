"""The bad-input catalogue: what a verifier is sent that it should not be, and the one answer each gets.

`CASES` is the catalogue for our protocol; every case goes through a real server as raw bytes or messages, with another
session live beside it. Rows that are tested where their subject is are named in `ELSEWHERE`; rows about fields that our
protocol does not have are in `NOT_HERE`, with what it does instead.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from tests.hostile.raw import OPEN, Raw, block, opening
from tests.wire.conftest import Served, served

from paceline.cloud.config import VerifierConfig
from paceline.cloud.engine.table import TableEngine
from paceline.common.codec import encode_request
from paceline.common.errors import Status
from paceline.common.messages import Close, ErrorMessage, Finished, Opened, ServerMessage
from paceline.common.prefix import Prefix
from paceline.common.sampling.quantised import QuantisedLaw
from paceline.common.tokens import Draft, How, Origin, Rule, SamplingParams, Verdict
from paceline.edge.request import GenerationRequest
from paceline.simulation.fuzz import LEAKS
from paceline.v1 import verifier_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="module")

VOCAB = 64
WINDOW = 4
CONFIG = VerifierConfig(max_blocks_in_flight=WINDOW)
CANARY = GenerationRequest((9, 8, 7), 12, num_speculative_tokens=3)
BESIDE = GenerationRequest((4, 5, 6), 3)
HUGE = (1 << 32) - 1
NAN, INF = math.nan, math.inf
WARM = SamplingParams(1.0)
REJECTING = opening(rule=Rule.REJECTION, sampling=WARM)
INVALID = (Status.INVALID_ARGUMENT, "INVALID_REQUEST")
RANGE = (Status.OUT_OF_RANGE, "OUT_OF_RANGE")
UNFIT = (Status.FAILED_PRECONDITION, "INCOMPATIBLE")
SECRET = b"\xff\xff\xff secret"


def warm(**changes: Any) -> Any:
    """OPEN with a law like this."""
    return opening(rule=Rule.COUPLED, sampling=SamplingParams(**{"temperature": 1.0, **changes}))


def wire(**fields: Any) -> bytes:
    """An Open whose protobuf fields are these; what our own encoder would not write."""
    request = encode_request(OPEN)
    for name in fields:
        request.open.ClearField(name)
    request.open.MergeFrom(pb.Open(**fields))
    return request.SerializeToString()


def draft_wire(**fields: Any) -> bytes:
    """A Draft likewise, after the prompt of OPEN."""
    base = {"base": 3, "prefix_hash": block().prefix_hash, "how": 1}
    return pb.DecodeRequest(draft=pb.Draft(**{**base, **fields})).SerializeToString()


def tree(*parents: int, token_ids: tuple[int, ...] = (5, 6, 7)) -> Draft:
    """A tree with these parents."""
    return replace(block(How.ONE_HOT, *token_ids[: len(parents)]), parents=parents)


def sampled(*laws: QuantisedLaw, token_id: int = 5) -> Draft:
    """Token 5, said to be drawn from each of these."""
    return block(How.SAMPLED, *(token_id,) * max(len(laws), 1), laws=laws)


@dataclass(frozen=True)
class Fatal:
    """The stream ends: in-band error first, then the same status; the session is gone."""

    row: str
    messages: tuple[Any, ...]
    answer: tuple[Status, str]
    field: str


@dataclass(frozen=True)
class Refused:
    """One block is refused; the session goes on."""

    row: str
    block: Any
    field: str
    opening: Any = OPEN


@dataclass(frozen=True)
class Taken:
    """Odd, and no error."""

    row: str
    messages: tuple[Any, ...]
    answers: tuple[Any, ...] = field(default=(Opened,))
    """Types of the replies, or what they must equal but for times."""


def fatal_opens() -> list[Fatal]:
    """An Open that cannot be served."""
    lists = {
        "prompt": ((), "prompt", INVALID),
        "prompt: id = V": ((1, VOCAB), "prompt_token_ids[1]", INVALID),
        "prompt: id 2^31": ((1 << 31,), "prompt_token_ids[0]", INVALID),
        "prompt: id 2^32-1": ((HUGE,), "prompt_token_ids[0]", INVALID),
        "prompt + max_new > context": ((1,) * 2000, "max_new_tokens", RANGE),
    }
    cases = [
        Fatal(row, (opening(prompt_token_ids=ids),), told, name) for row, (ids, name, told) in lists.items()
    ]
    values: dict[str, tuple[dict[str, Any], tuple[Status, str], str]] = {
        "protocol_version 0": ({"protocol_version": 0}, _VERSION, "protocol_version"),
        "protocol_version 9": ({"protocol_version": 9}, _VERSION, "protocol_version"),
        "protocol_version 2^32-1": ({"protocol_version": HUGE}, _VERSION, "protocol_version"),
        "tokenizer_digest differs": ({"tokenizer_fingerprint": b"another vocab..."}, UNFIT, "tokenizer"),
        "tokenizer_digest of another length": ({"tokenizer_fingerprint": b"x" * 4000}, UNFIT, "tokenizer"),
        "committed tokens: bad id": ({"committed_token_ids": (VOCAB,)}, INVALID, "committed_token_ids[0]"),
        "committed tokens: longer than max_new": ({"committed_token_ids": (1,) * 21}, INVALID, "committed_token_ids"),
        "max_new_tokens 0": ({"max_new_tokens": 0}, INVALID, "max_new_tokens"),
        "max_new_tokens 2^31-1": ({"max_new_tokens": (1 << 31) - 1}, RANGE, "max_new_tokens"),
        "max_new_tokens 2^32-1": ({"max_new_tokens": HUGE}, RANGE, "max_new_tokens"),
        "stop ids: out of vocabulary": ({"stop_token_ids": (VOCAB,)}, INVALID, "stop_token_ids[0]"),
        "stop ids: > 64": ({"stop_token_ids": (1,) * 65}, INVALID, "stop_token_ids"),
        "rule: greedy at temperature 1": ({"sampling": WARM}, INVALID, "rule"),
        "rule: coupled at temperature 0": ({"rule": Rule.COUPLED}, INVALID, "rule"),
        "deadline: past": ({"deadline_s": 0.001}, (Status.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"), "deadline"),
        "path: too long": ({"path": ("relay",) * 8}, UNFIT, "path"),
        "path: a nameless hop": ({"path": ("",)}, INVALID, "path"),
        "path: a long name": ({"path": ("r" * 65,)}, INVALID, "path"),
        "path: control characters": ({"path": ("\x1b[2J",)}, INVALID, "path"),
        "path: 200,000 empty names": ({"path": ("",) * 200_000}, UNFIT, "path"),
        "request_id: too long": ({"request_id": "x" * 65}, INVALID, "request_id"),
        "request_id: control characters": ({"request_id": "a\nb"}, INVALID, "request_id"),
    }  # fmt: skip
    return cases + [
        Fatal(row, (opening(**change),), told, name) for row, (change, told, name) in values.items()
    ]


_VERSION = (Status.UNIMPLEMENTED, "UNSUPPORTED_VERSION")


def fatal_sampling() -> list[Fatal]:
    """A law that is none."""
    bad = {
        "temperature": (NAN, INF, -INF, -1.0, 101.0),
        "top_p": (NAN, 0.0, -0.5, 1.5, INF),
        "min_p": (NAN, -0.1, 1.1),
        "repetition_penalty": (NAN, 0.0, -1.0, 101.0),
        "presence_penalty": (NAN, 3.0, -3.0),
        "frequency_penalty": (NAN, 3.0, -3.0),
    }
    cases = [
        Fatal(f"{name} {value}", (warm(**{name: value}),), INVALID, name)
        for name, values in bad.items()
        for value in values
    ]
    biases: dict[str, tuple[dict[int, float], str]] = {
        "logit_bias: id out of vocabulary": ({VOCAB: 1.0}, "logit_bias[0]"),
        "logit_bias: NaN": ({7: NAN}, "logit_bias[7]"),
        "logit_bias: infinite": ({7: INF}, "logit_bias[7]"),
        "logit_bias: > 1024": (dict.fromkeys(range(1025), 1.0), "logit_bias"),
    }
    cases += [
        Fatal(row, (warm(logit_bias=MappingProxyType(bias)),), INVALID, name)
        for row, (bias, name) in biases.items()
    ]
    odd = pb.Sampling(logit_bias_token_ids=[1, 2], logit_biases=[0.5])
    return [*cases, Fatal("logit_bias: counts differ", (wire(sampling=odd),), INVALID, "sampling.logit_bias")]


GARBAGE: dict[str, tuple[bytes, str]] = {
    "raw bytes: not protobuf": (SECRET, "message"),
    "raw bytes: a truncated message": (encode_request(OPEN).SerializeToString()[:-1], "message"),
    "raw bytes: groups nested 200 deep": (b"\x5b" * 200 + b"\x5c" * 200, "message"),
    "raw bytes: a packed list that ends within a number": (b"\x0a\x03\x22\x01\x80", "message"),
    "seed: wrong length": (b"\x0a\x05\x31\x01\x02\x03\x04", "message"),
    "oneof: none set": (b"", "payload"),
    "rule unspecified": (wire(rule=0), "rule"),
    "rule unknown": (wire(rule=77), "rule"),
    "fill unspecified": (wire(fill=0), "fill"),
    "fill unknown": (wire(fill=9), "fill"),
}
ORDER = [
    Fatal("first message is a draft", (block(),), INVALID, "payload"),
    Fatal("first message is a draft beyond reading", (draft_wire(how=9),), INVALID, "payload"),
    Fatal("first message is a goodbye", (Close(),), INVALID, "payload"),
    Fatal("second Open", (OPEN, OPEN), INVALID, "open"),
    Fatal(
        "blocks in flight over credit",
        (OPEN, *(Draft(10, 7, (1,), (), How.ONE_HOT) for _ in range(WINDOW + 1))),
        (Status.RESOURCE_EXHAUSTED, "BUSY"),
        "draft",
    ),
]
FATAL = [
    *ORDER,
    *(Fatal(row, (data,), INVALID, name) for row, (data, name) in GARBAGE.items()),
    *(Fatal(f"{row}, later", (OPEN, data), INVALID, name) for row, (data, name) in GARBAGE.items()),
    *fatal_opens(),
    *fatal_sampling(),
]
REFUSED = [
    Refused("draft tokens: > granted", block(How.ONE_HOT, *(1,) * 65), "token_ids"),
    Refused("draft tokens: id = V", block(How.ONE_HOT, VOCAB), "token_ids"),
    Refused("draft tokens: id 2^32-1", block(How.ONE_HOT, HUGE), "token_ids"),
    Refused("base: beyond the context", Draft(5000, 0, (1,), (), How.ONE_HOT), "base"),
    Refused("base: 2^32-1", Draft(HUGE, 0, (1,), (), How.ONE_HOT), "base"),
    Refused("how: unspecified", draft_wire(how=0), "how"),
    Refused("how: unknown", draft_wire(how=9), "how"),
    Refused("how: would bias the rule", block(How.SHARED_NOISE, 5), "how", REJECTING),
    Refused("draft q: wrong count", draft_wire(token_ids=[1], draft_probs_percent=[1, 2]), "draft_probs_percent"),
    Refused("tree parents: wrong count", draft_wire(token_ids=[1], parents_plus_one=[0, 1]), "parents_plus_one"),
    Refused("tree parents: cycle", tree(-1, 1), "parents"),
    Refused("tree parents: forward reference", tree(-1, 0, 7), "parents"),
    Refused("tree parents: 2^32-1", draft_wire(token_ids=[1, 2], parents_plus_one=[0, HUGE]), "parents"),
    Refused("tree parents: first path not first", tree(-1, -1, 0), "parents"),
    Refused("tree parents: equal siblings", tree(-1, -1, token_ids=(5, 5)), "token_ids"),
    Refused("tree parents: more follows", replace(tree(-1, -1), more_follows=True), "more_follows"),
    Refused("tree parents: not agreed on", tree(-1, -1), "parents", replace(OPEN, features=frozenset())),
    Refused("law: missing", sampled(), "laws", REJECTING),
    Refused("law: sum below 1", sampled(QuantisedLaw((5, 6), (1000, 23))), "laws", REJECTING),
    Refused("law: sum above 1", sampled(QuantisedLaw((5, 6), (1000, 1000))), "laws", REJECTING),
    Refused("law: sum 2^32", sampled(QuantisedLaw((5, 6, 7), (HUGE, 1, 1024))), "laws", REJECTING),
    Refused("law: weight 0", sampled(QuantisedLaw((5, 6), (1024, 0))), "laws", REJECTING),
    Refused("law: all weights 0", sampled(QuantisedLaw((5, 6), (0, 0))), "laws", REJECTING),
    Refused("law: token twice", sampled(QuantisedLaw((5, 5), (512, 512))), "laws", REJECTING),
    Refused("law: id out of vocabulary", sampled(QuantisedLaw((5, VOCAB), (512, 512))), "laws", REJECTING),
    Refused("law: empty", sampled(QuantisedLaw((), ())), "laws", REJECTING),
    Refused("law: > 1024 entries", sampled(QuantisedLaw((5,) * 1025, (1,) * 1025)), "laws[0]", REJECTING),
    Refused("law: without the drafted token", sampled(QuantisedLaw((6,), (1024,))), "laws", REJECTING),
    Refused(
        "law: counts differ",
        draft_wire(how=3, token_ids=[1], law_sizes=[2], law_token_ids=[1], law_weights=[1]),
        "law_sizes",
        REJECTING,
    ),
    Refused(
        "law: sizes beyond all bounds",
        draft_wire(how=3, token_ids=[1, 2], law_sizes=[HUGE, 1], law_token_ids=[1], law_weights=[1024]),
        "law_sizes",
        REJECTING,
    ),
    Refused("law: beside a one-hot draft", draft_wire(token_ids=[5], law_sizes=[1], law_token_ids=[5],
            law_weights=[1024]), "laws"),
]  # fmt: skip
STALE = Verdict(4, blocks_settled=2)
TAKEN = [
    Taken("seed: absent", (wire(seed=0),)),
    Taken("features: unknown", (wire(features=[1, 99]),)),
    Taken("unknown fields", (encode_request(OPEN).SerializeToString() + b"\xfa\x3f\x06tenant",)),
    Taken("top_k > V keeps all", (warm(top_k=HUGE),)),
    Taken("max_fill_passes 2^32-1", (opening(max_fill_passes=HUGE),)),
    Taken("committed tokens without a receipt", (opening(committed_token_ids=(5, 6)),)),
    Taken("draft tokens: empty", (OPEN, block()), (Opened, Verdict)),
    Taken(
        "draft repeated (seq)", (OPEN, block(How.ONE_HOT, 1), block(How.ONE_HOT, 1)), (Opened, Verdict, STALE)
    ),
    Taken(
        "base: before the text, saying nothing new",
        (OPEN, block(), Draft(0, 0, (1, 2, 3), (), How.ONE_HOT)),
        (Opened, Verdict, STALE),
    ),
    Taken(
        "prefix_hash: wrong with right base",
        (OPEN, Draft(3, 7, (1,), (), How.ONE_HOT)),
        (Opened, Verdict(3, blocks_settled=1)),
    ),
    Taken("base: beyond the text, early", (OPEN, Draft(9, 7, (1,), (), How.ONE_HOT))),
    Taken(
        "draft q: 2^32-1 percent, never enters sampling",
        (OPEN, draft_wire(token_ids=[1], draft_probs_percent=[HUGE])),
        (Opened, Verdict),
    ),
    Taken(
        "draft tokens: past max_new, cut to fit",
        (opening(max_new_tokens=2), block(How.ONE_HOT, *(1,) * 60)),
        (Opened, Verdict),
    ),
    Taken("cancel twice", (OPEN, b"\x1a\x00", b"\x1a\x00"), (Opened, Finished)),
]
ELSEWHERE = {
    "authorization; model not allowed": "tests/wire/test_identity.py"
    "::test_only_a_certificate_and_a_token_of_one_allowed_tenant_get_in",
    "capacity: sessions": "tests/wire/test_faults.py::test_one_session_too_many_is_told_to_retry",
    "capacity: cache": "tests/wire/test_faults.py::test_a_cache_too_small_is_told_at_open",
    "drain": "tests/wire/test_faults.py::test_draining_lets_live_texts_finish_and_refuses_new_ones",
    "flood without reading": "tests/wire/test_faults.py::test_a_flood_without_reading_is_left_to_flow_control",
    "reply (seen by edge and relay)": "tests/hostile/test_lies.py::test_a_lie_never_becomes_text",
    "target logits": "tests/hostile/test_numerics.py::test_broken_rows_commit_nothing",
    "rule left out by the operator": "tests/hostile/test_strategies.py::test_an_operator_can_refuse_rules_that_trust",
}
NOT_HERE = {
    "tenant field": "there is none; as an unknown field it is ignored, and the tenant is the certificate's or token's",
    "model_digest": "a verifier serves one model, and Describe names it",
    "vocab_size in Open": "not sent: the tokenizer's fingerprint stands for it, ids are checked one by one",
    "tokens as bytes, length % 4": "tokens are packed numbers; one that is cut short is no protobuf",
    "negative ids": "unsigned on the wire: -1 is 2^32-1, which is out of the vocabulary",
    "n, k": "no such fields; one stream is one text",
    "allowed ids": "no such field",
    "stop strings": "the wire knows tokens only; strings are matched at the edge",
    "priority": "no such field",
    "Draft.epoch, Draft.seq": "blocks are addressed by content: whatever repeats, lags or skips is stale or early",
    "draft q: NaN, infinite, negative": "whole percents, for statistics; laws are whole weights",
    "idle": "no limit on silence within a stream: keepalive finds the dead",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Served]:
    """One server for the whole catalogue: what one case did to it the next ones would see."""
    async with served(config=CONFIG) as running:
        yield running


async def beside(served: Served, raw: Raw) -> None:
    """A session that is live beside a malformed one writes its whole text afterwards."""
    told = served.text(BESIDE)
    for index, token_id in enumerate(told):
        prefix = (*BESIDE.prompt_token_ids, *told[:index])
        await raw.send(replace(block(), base=len(prefix), prefix_hash=Prefix(prefix).hash_at(len(prefix))))
        verdict = await raw.read()
        assert isinstance(verdict, Verdict)
        assert verdict.next_token_id == token_id
    assert isinstance(await raw.read(), Finished)


async def assert_unharmed(served: Served, live: Raw) -> None:
    """The session beside it, and a new one, get their texts; nothing of anybody is left."""
    await beside(served, live)
    async with served.client() as client:
        assert (await client.complete(CANARY, "sync")).token_ids == served.text(CANARY)
    await live.send(Close())
    await live.until_end()
    while served.verifier.num_sessions:
        await asyncio.sleep(0.001)
    assert served.engine.cached_tokens() == 0


async def opened_beside(served: Served) -> Raw:
    """A live session of a peer."""
    live = Raw(served.address)
    await live.send(opening(prompt_token_ids=BESIDE.prompt_token_ids, max_new_tokens=BESIDE.max_new_tokens))
    assert isinstance(await live.read(), Opened)
    return live


@pytest.mark.parametrize("case", FATAL, ids=lambda case: case.row)
async def test_what_cannot_be_served_ends_its_stream(server: Served, case: Fatal) -> None:
    """In-band error first, with field and cure and nothing of what was sent; then the same status."""
    async with await opened_beside(server) as live:
        async with Raw(server.address) as raw:
            await raw.send(*case.messages)
            *_, error = await raw.until_end()
            assert isinstance(error, ErrorMessage)
            assert (error.status, error.reason, error.field, error.fatal) == (*case.answer, case.field, True)
            assert error.cure
            assert "secret" not in error.message
            assert len(error.message) < 400
            assert await raw.status() == case.answer[0]
            assert case.answer[1] in await raw.details()
        await assert_unharmed(server, live)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.row)
async def test_a_bad_block_is_refused_and_its_session_goes_on(server: Served, case: Refused) -> None:
    """The block's credit comes back with the error; the next good block is judged as if nothing had happened."""
    async with await opened_beside(server) as live:
        async with Raw(server.address) as raw:
            await raw.send(case.opening, case.block)
            assert isinstance(await raw.read(), Opened)
            error = await raw.read()
            assert isinstance(error, ErrorMessage)
            told = (error.status, error.reason, error.field, error.fatal, error.blocks_settled)
            assert told == (Status.INVALID_ARGUMENT, "BAD_DRAFT", case.field, False, 1)
            assert error.cure
            await raw.send(block())
            verdict = await raw.read()
            assert isinstance(verdict, Verdict)
            assert (verdict.base, verdict.next_origin, verdict.blocks_settled) == (3, Origin.FILLED, 2)
            await raw.send(Close())
            assert await raw.until_end() == []
        await assert_unharmed(server, live)


@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case.row)
async def test_what_is_merely_odd_is_taken(server: Served, case: Taken) -> None:
    """Late, repeated, early and superfluous things are no errors."""
    async with await opened_beside(server) as live:
        async with Raw(server.address) as raw:
            for message, expected in zip_longest(case.messages, case.answers):
                await raw.send(message)
                if expected is None:
                    continue
                reply = await raw.read()
                if isinstance(expected, type):
                    assert isinstance(reply, expected)
                else:
                    assert _untimed(reply) == expected
            await raw.send(Close())
            assert all(not isinstance(reply, ErrorMessage) for reply in await raw.until_end())
        await assert_unharmed(server, live)


def _untimed(reply: ServerMessage | None) -> Any:
    return replace(reply, queue_s=0.0, verify_s=0.0) if isinstance(reply, Verdict) else reply


LIBRARY = {
    "raw bytes: > max_receive": ((b"\x00" * (5 << 20),), ()),
    "metadata: > limit": ((OPEN,), (("x-large", "y" * 40_000),)),
}


@pytest.mark.parametrize("row", LIBRARY)
async def test_what_is_too_large_the_library_refuses(server: Served, row: str) -> None:
    """RESOURCE_EXHAUSTED, in gRPC's own words: nothing of it reached us."""
    messages, metadata = LIBRARY[row]
    async with await opened_beside(server) as live:
        async with Raw(server.address, metadata) as raw:
            await raw.send(*messages)
            assert await raw.until_end() == []
            assert await raw.status() is Status.RESOURCE_EXHAUSTED
            await raw.details()
        await assert_unharmed(server, live)


async def test_describe_and_unknown_methods_take_any_bytes(server: Served) -> None:
    """Describe needs nothing of what it is sent; a method that is none is UNIMPLEMENTED; health says what is wrong."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        data = await channel.unary_unary("/paceline.v1.VerifierService/Describe")(SECRET)
        assert pb.DescribeResponse.FromString(data).vocab_size == VOCAB
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/paceline.v1.VerifierService/Shutdown")(SECRET)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/grpc.health.v1.Health/Check")(SECRET)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert not LEAKS.search(str(caught.value.details()).encode())


async def test_a_relay_answers_as_a_verifier_does(server: Served, relay: Any) -> None:
    """The same mistakes at a relay get the same answers; a path that names it is a loop."""
    async with relay(server, [TableEngine(VOCAB, 7, max_context=1024)]) as ((first,), way):
        await first.connected()
        for case in FATAL:
            if case.answer[0] in (Status.RESOURCE_EXHAUSTED, Status.DEADLINE_EXCEEDED):
                continue  # of windows and clocks, which the relay keeps
            async with Raw(way.address) as raw:
                await raw.send(*case.messages)
                *_, error = await raw.until_end()
                assert isinstance(error, ErrorMessage), case.row
                assert (error.status, error.reason, error.field) == (*case.answer, case.field), case.row
        async with Raw(way.address) as raw:
            await raw.send(opening(path=("relay-0",)))
            (error,) = await raw.until_end()
            assert isinstance(error, ErrorMessage)
            assert (error.status, error.field) == (Status.FAILED_PRECONDITION, "path")


async def test_rows_elsewhere_are_there() -> None:
    """Every test that a row is left to exists; every row that is left out has a reason."""
    root = Path(__file__).parents[2]
    for row, name in ELSEWHERE.items():
        path, _, test = name.partition("::")
        assert f"def {test}" in (root / path).read_text(), row
    assert all(NOT_HERE.values())
