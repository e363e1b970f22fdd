"""Padded mode: what a stream sends has one size, whatever it says, and says the same as without."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.session.test_codec import verdicts

from paceline.common.codec import (
    RequestWriter,
    ResponseWriter,
    encode_request,
    encode_response,
    parse_request,
    parse_response,
)
from paceline.common.errors import BadReply, Incompatible, InvalidRequest
from paceline.common.messages import (
    Cancel,
    Close,
    Draining,
    ErrorMessage,
    Finished,
    HopReport,
    Open,
    Opened,
    Provisional,
    ServerMessage,
)
from paceline.common.padding import LEAST, MOST, check_padding, tokens_that_fit
from paceline.common.session import Commit, EdgeSession, Limits, RelaySession, check_open
from paceline.common.tokens import Draft, FinishReason, How, Origin, Rule, SamplingParams, Verdict
from paceline.edge.client import check_request
from paceline.edge.request import GenerationRequest

SIZES = st.sampled_from((LEAST, 256, MOST)) | st.integers(LEAST, MOST)
ID = (1 << 32) - 1
LONGEST = HopReport("n" * 64, ID, ID, ID, ID, 4e9, ID, ID, 4e3, ID)


def opened(pad_to: int, committed: int = 3) -> Opened:
    """A verifier's agreement."""
    return Opened(ID, 64, 16, committed, pad_to=pad_to)


def answers(pad_to: int, *messages: ServerMessage) -> list[bytes]:
    """What a verifier that agreed sends after Opened."""
    writer = ResponseWriter()
    assert len(list(writer.write(opened(pad_to)))) == 1
    return [data for message in messages for data in writer.write(message)]


@given(SIZES, st.booleans(), st.data())
def test_every_request_has_the_size_and_its_meaning(pad_to: int, is_tree: bool, data: st.DataObject) -> None:
    """Blocks of any length up to the limit, with the largest numbers there are, and everything else that goes up."""
    count = data.draw(st.sampled_from((0, 1, tokens_that_fit(pad_to))))
    parents = tuple(range(-1, count - 1)) if is_tree else ()
    block = Draft(ID, (1 << 64) - 1, (ID,) * count, (1.0,) * count, How.SHARED_NOISE, (), parents, True)
    writer = RequestWriter()
    first = Open((ID,) * data.draw(st.integers(1, 99)), 9, pad_to=pad_to)
    assert len(writer.write(first)) % pad_to == 0
    for message in (block, Cancel(), Close()):
        sent = writer.write(message)
        assert len(sent) == pad_to
        assert parse_request(sent) == message


@given(SIZES, verdicts())
def test_every_answer_has_the_size_and_its_meaning(pad_to: int, verdict: Verdict) -> None:
    """Verdicts with the largest numbers, reports of many hops, goodbyes."""
    largest = Verdict(ID, ID, ID, Origin.FILLED, ID, 4e3, 4e3, ID, (), ID, ID - 1)
    for message in (replace(verdict, filled_token_ids=()), largest, Draining(4e6)):
        (sent,) = answers(pad_to, message)
        assert len(sent) == pad_to
        assert parse_response(sent) == message
    finished = Finished(FinishReason.LENGTH, ID, (LONGEST,) * 8)
    (sent,) = answers(pad_to, finished)
    told = parse_response(sent)
    assert len(sent) == pad_to
    assert isinstance(told, Finished)
    assert told.hops == finished.hops[: len(told.hops)]


def test_reports_that_fit_are_kept() -> None:
    """A chain of two hops at the usual size."""
    finished = Finished(
        FinishReason.STOP, 700, (HopReport("metro", 300, 200, 90, 90, 1.5, 4000, 5000, 0.1),) * 2
    )
    (sent,) = answers(256, finished)
    assert parse_response(sent) == finished


@pytest.mark.parametrize("pad_to", [LEAST, 256, MOST])
@pytest.mark.parametrize("is_named", [False, True])
@pytest.mark.parametrize("num_filled", [0, 1, 7, 300])
def test_a_verdict_that_does_not_fit_becomes_several(pad_to: int, is_named: bool, num_filled: int) -> None:
    """They commit, or tell, the same tokens by the same authors."""
    filled = tuple(range(1 << 31, (1 << 31) + num_filled))
    num_accepted = num_filled // 2 if is_named else 2
    verdict = Verdict(3, num_accepted, 9, Origin.BONUS, 1, 0.1, 0.2, 4, filled, author=1)
    message = Provisional(verdict) if is_named else verdict
    sent = answers(pad_to, message)
    assert {len(data) for data in sent} == {pad_to}
    assert (len(sent) > 1) is (len(encode_response(message).SerializeToString()) > pad_to - 3)
    whole = heard(pad_to, [encode_response(message).SerializeToString()])
    parts = heard(pad_to, sent)
    assert parts == whole
    assert len(whole) == num_filled + 1 + (0 if is_named else 2)


def heard(pad_to: int, sent: list[bytes]) -> list[tuple[int, Origin, int]]:
    """What a client that drafted two tokens makes of these answers: token, origin, author."""
    session = EdgeSession(Open((1, 2, 3), 1000, pad_to=pad_to))
    session.receive(opened(pad_to))
    session.block(3, (7, 8), (0.5, 0.5), How.ONE_HOT)
    commits = [session.receive(parse_response(data)) for data in sent]
    return [
        one
        for commit in commits
        if isinstance(commit, Commit)
        for one in zip(commit.token_ids, commit.origins, commit.authors, strict=True)
    ]


def test_errors_are_multiples_and_lose_nothing() -> None:
    """What went wrong is told in full."""
    error = ErrorMessage.of(InvalidRequest("x" * 300, field="f", cure="c"))
    (sent,) = answers(256, error)
    assert len(sent) == 512
    assert parse_response(sent) == error


def test_nothing_is_padded_unless_asked_for() -> None:
    """A stream without the wish is as it was, byte for byte."""
    writer, answer = RequestWriter(), ResponseWriter()
    for message in (Open((1,), 2), Close()):
        assert writer.write(message) == encode_request(message).SerializeToString()
    for reply in (opened(0), Verdict(1, 0, 5, Origin.FILLED)):
        assert [*answer.write(reply)] == [encode_response(reply).SerializeToString()]


@pytest.mark.parametrize("pad_to", [1, LEAST - 1, MOST + 1, -1])
def test_sizes_that_fit_nothing_are_refused(pad_to: int) -> None:
    """By name, value and cure."""
    with pytest.raises(InvalidRequest, match=f"pad_to: {pad_to} is neither 0 nor in 128..4096"):
        check_padding(pad_to, Rule.COUPLED)


def test_both_ends_refuse_laws_in_padded_messages() -> None:
    """The cure is named."""
    params = SamplingParams(1.0)
    with pytest.raises(InvalidRequest, match=r"rejection sends laws.*coupled"):
        check_open(Open((1,), 2, params, Rule.REJECTION, pad_to=256), Limits(8, 99))
    with pytest.raises(InvalidRequest, match=r"rejection sends laws.*coupled"):
        check_request(GenerationRequest((1,), 2, params, Rule.REJECTION, pad_to=256))


def test_blocks_that_do_not_fit_are_refused_before_anything_is_sent() -> None:
    """The most that fit is named."""
    fit = tokens_that_fit(128)
    check_request(GenerationRequest((1,), 9, num_speculative_tokens=fit, pad_to=128))
    with pytest.raises(InvalidRequest, match=f"blocks of {fit + 1} tokens.*at most {fit}"):
        check_request(GenerationRequest((1,), 9, num_speculative_tokens=fit + 1, pad_to=128))


def test_a_verifier_that_does_not_pad_is_left() -> None:
    """What it would have leaked is not asked for."""
    session = EdgeSession(Open((1, 2, 3), 10, pad_to=256))
    with pytest.raises(Incompatible, match=r"pad_to: the verifier pads messages to 0 bytes .*not to 256"):
        session.receive(opened(0))


def test_bytes_that_are_no_answer_are_a_bad_reply() -> None:
    """No exception of the parser's gets out."""
    with pytest.raises(BadReply, match="cannot be read"):
        parse_response(b"\xff\xff")


def test_a_relay_tells_no_next_token_to_be_accepted() -> None:
    """Where a message from above ends with a token that this relay drafted and has taken back since, the hop below
    never heard of it: on the wire no next token is called accepted."""
    relay: Any = RelaySession(Open((1, 2, 3), 10), frozenset())
    verdict = Verdict(3, 1, filled_token_ids=(7,))
    told, _ = relay.on_commit(Commit(3, (7,), (Origin.ACCEPTED,), (0,), verdict, is_final=False))
    assert parse_response(encode_response(told).SerializeToString()) == told
