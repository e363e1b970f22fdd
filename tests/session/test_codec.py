"""The wire form: round trips, malformed input, and how few bytes a token costs."""

import random
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.common.codec import (
    decode_description,
    decode_request,
    decode_response,
    encode_description,
    encode_request,
    encode_response,
    parse_request,
)
from paceline.common.errors import BadDraft, BadReply, InvalidRequest, PacelineError, Status
from paceline.common.messages import (
    Cancel,
    ClientMessage,
    Close,
    Description,
    Draining,
    ErrorMessage,
    Feature,
    FillPolicy,
    Finished,
    HopDescription,
    HopReport,
    Open,
    Opened,
    Provisional,
    ServerMessage,
)
from paceline.common.sampling.quantised import LATTICE, QuantisedLaw
from paceline.common.tokens import Draft, FinishReason, How, Origin, Rule, SamplingParams, Verdict
from paceline.v1 import verifier_pb2 as pb

U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
IDS = st.lists(U32, max_size=5).map(tuple)
MICROS = st.integers(0, 4_000_000_000).map(lambda us: us / 1_000_000)
MILLIS = st.integers(0, 4_000_000_000).map(lambda ms: ms / 1000)
FEATURES = st.frozensets(st.sampled_from(list(Feature)))
FLOAT = st.floats(width=32)

SAMPLING = st.builds(
    SamplingParams,
    st.floats(0, 100),
    U32,
    st.floats(0.01, 1),
    st.floats(0, 1),
    st.floats(0.01, 100),
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.dictionaries(U32, st.floats(-100, 100, width=32), max_size=3).map(MappingProxyType),
)
OPENS = st.builds(
    Open,
    IDS,
    U32,
    SAMPLING,
    st.sampled_from(list(Rule)),
    st.sampled_from(list(FillPolicy)),
    U64,
    IDS,
    IDS,
    st.booleans(),
    st.binary(max_size=16),
    U32,
    FEATURES,
    U32,
    st.lists(st.text(), max_size=3).map(tuple),
    st.text(),
    MILLIS,
    session_id=st.binary(max_size=16),
    receipt=st.binary(max_size=16),
    receipt_length=U32,
    pad_to=U32,
    attempt=st.lists(U32, max_size=3).map(tuple),
)
LAWS = st.lists(st.tuples(U32, U32), max_size=4).map(
    lambda pairs: QuantisedLaw(*map(tuple, zip(*pairs, strict=True))) if pairs else QuantisedLaw((), ())
)


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    """Any block whose parts fit each other in number."""
    token_ids = draw(IDS)
    each = len(token_ids)
    probs = draw(st.sampled_from([0, each]))
    return Draft(
        draw(U32),
        draw(U64),
        token_ids,
        tuple(draw(st.integers(0, 100)) / 100 for _ in range(probs)),
        draw(st.sampled_from(list(How))),
        tuple(draw(LAWS) for _ in range(draw(st.sampled_from([0, each])))),
        tuple(draw(st.integers(-1, 9)) for _ in range(draw(st.sampled_from([0, each])))),
        draw(st.booleans()),
    )


@st.composite
def verdicts(draw: st.DrawFn) -> Verdict:
    """Any verdict; a next token has an origin."""
    origin = draw(st.sampled_from([None, Origin.RECOVERED, Origin.BONUS, Origin.FILLED]))
    next_token_id = None if origin is None else draw(U32)
    return Verdict(
        draw(U32),
        draw(U32),
        next_token_id,
        origin,
        draw(U32),
        draw(MICROS),
        draw(MICROS),
        draw(U32),
        draw(IDS),
        draw(U32),
        draw(st.none() | st.integers(0, (1 << 32) - 2)),
        draw(st.binary(max_size=16)),
    )


U64_COUNTS = st.integers(0, (1 << 63) - 1)
HOP_REPORTS = st.builds(HopReport, st.text(), U32, U32, U32, U32, MICROS, U64_COUNTS, U64_COUNTS, MICROS, U32)
HOP_DESCRIPTIONS = st.builds(
    HopDescription, st.text(), st.text(), st.text(), U32, U64_COUNTS, U64_COUNTS, U64_COUNTS, U64_COUNTS
)


ERRORS = st.builds(
    ErrorMessage,
    st.sampled_from(list(Status)),
    st.text(),
    st.text(),
    st.text(),
    st.text(),
    MILLIS,
    st.booleans(),
    U32,
)
RESPONSES = st.one_of(
    verdicts(),
    st.builds(Provisional, verdicts()),
    st.builds(Opened, U32, U32, U32, U32, IDS, FEATURES, U32, MICROS, MICROS, cached_length=U32, pad_to=U32),
    st.builds(
        Finished, st.sampled_from(list(FinishReason)), U32, st.lists(HOP_REPORTS, max_size=3).map(tuple)
    ),
    st.builds(Draining, MILLIS),
    ERRORS,
)


@settings(deadline=None, max_examples=150)
@given(st.one_of(OPENS, drafts(), st.just(Cancel()), st.just(Close())))
def test_requests_survive_the_wire(message: ClientMessage) -> None:
    """Every message to the verifier comes back from its bytes as it was."""
    data = encode_request(message).SerializeToString()
    assert parse_request(data) == message
    assert decode_request(pb.DecodeRequest.FromString(data)) == message


@settings(deadline=None, max_examples=150)
@given(RESPONSES)
def test_responses_survive_the_wire(message: ServerMessage) -> None:
    """Every message to the drafter comes back from its bytes as it was."""
    data = encode_response(message).SerializeToString()
    assert decode_response(pb.DecodeResponse.FromString(data)) == message


@settings(deadline=None, max_examples=30)
@given(
    st.builds(
        Description, st.text(), st.text(), U32, U32, U32, U32, st.lists(st.sampled_from(list(Rule))).map(tuple),
        st.binary(max_size=16), IDS, FEATURES, st.text(), st.text(), U32, U32, MICROS,
        st.lists(HOP_DESCRIPTIONS, max_size=3).map(tuple),
    )
)  # fmt: skip
def test_descriptions_survive_the_wire(description: Description) -> None:
    """What a verifier serves comes back from its bytes as it was."""
    data = encode_description(description).SerializeToString()
    assert decode_description(pb.DescribeResponse.FromString(data)) == description


def test_random_bytes_never_raise() -> None:
    """Ten thousand random strings, and as many damaged messages, parse to a message or to an error of ours."""
    dice = random.Random(0)
    law = QuantisedLaw((5, 6), (1000, 24))
    sound = [
        encode_request(message).SerializeToString()
        for message in (Open((1, 2), 5), Draft(3, 4, (5,), (0.5,), How.SAMPLED, (law,)), Cancel(), Close())
    ]
    for index in range(10_000):
        parsed = parse_request(dice.randbytes(dice.randrange(40)))
        assert isinstance(parsed, PacelineError | Open | Draft | Cancel | Close)
        damaged = bytearray(sound[index % 4])
        for _ in range(dice.randrange(1, 4)):
            if damaged:
                damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        assert isinstance(parse_request(bytes(damaged)), PacelineError | Open | Draft | Cancel | Close)


@pytest.mark.parametrize(
    ("request_", "kind", "field"),
    [
        (pb.DecodeRequest(), InvalidRequest, "payload"),
        (pb.DecodeRequest(open=pb.Open(fill=1)), InvalidRequest, "rule"),
        (pb.DecodeRequest(open=pb.Open(rule=77, fill=1)), InvalidRequest, "rule"),  # type: ignore[arg-type]
        (pb.DecodeRequest(open=pb.Open(rule=1)), InvalidRequest, "fill"),
        (
            pb.DecodeRequest(open=pb.Open(rule=1, fill=1, sampling=pb.Sampling(logit_bias_token_ids=[1]))),
            InvalidRequest,
            "sampling.logit_bias",
        ),
        (pb.DecodeRequest(draft=pb.Draft()), BadDraft, "how"),
        (pb.DecodeRequest(draft=pb.Draft(how=9)), BadDraft, "how"),  # type: ignore[arg-type]
        (
            pb.DecodeRequest(draft=pb.Draft(how=1, token_ids=[1], draft_probs_percent=[1, 2])),
            BadDraft,
            "draft_probs_percent",
        ),
        (
            pb.DecodeRequest(draft=pb.Draft(how=1, token_ids=[1], parents_plus_one=[1, 2])),
            BadDraft,
            "parents_plus_one",
        ),
        (pb.DecodeRequest(draft=pb.Draft(how=3, token_ids=[1], law_sizes=[1, 1])), BadDraft, "law_sizes"),
        (
            pb.DecodeRequest(
                draft=pb.Draft(how=3, token_ids=[1], law_sizes=[2], law_token_ids=[1], law_weights=[1])
            ),
            BadDraft,
            "law_sizes",
        ),
        (
            pb.DecodeRequest(
                draft=pb.Draft(how=3, token_ids=[1], law_sizes=[1], law_token_ids=[1], law_weights=[1, 2])
            ),
            BadDraft,
            "law_sizes",
        ),
        (
            pb.DecodeRequest(
                draft=pb.Draft(how=3, token_ids=[1, 2], law_sizes=[(1 << 32) - 1, 1], law_token_ids=[1])
            ),
            BadDraft,
            "law_sizes",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_malformed_requests_are_named(
    request_: pb.DecodeRequest, kind: type[PacelineError], field: str
) -> None:
    """A well-formed protobuf that is no message of ours gives the right error, field and cure, and never raises."""
    error = parse_request(request_.SerializeToString())
    assert type(error) is kind
    assert error.field == field
    assert error.cure


def test_bytes_that_are_no_protobuf_are_named() -> None:
    """Garbage is a fatal error of the caller's; its content is not echoed."""
    error = parse_request(b"\xff\xffpassword")
    assert isinstance(error, InvalidRequest)
    assert error.fatal
    assert "password" not in str(error)


@pytest.mark.parametrize(
    "response",
    [
        pb.DecodeResponse(),
        pb.DecodeResponse(finished=pb.Finished()),
        pb.DecodeResponse(finished=pb.Finished(reason=9)),  # type: ignore[arg-type]
        pb.DecodeResponse(verdict=pb.Verdict(next_kind=9)),  # type: ignore[arg-type]
    ],
)
def test_malformed_responses_are_refused(response: pb.DecodeResponse) -> None:
    """A verifier that sends nothing, or a value this version does not know, breaks the protocol."""
    with pytest.raises(BadReply):
        decode_response(response)


def test_unknown_features_and_statuses_are_ignored() -> None:
    """What a newer peer offers beyond this version is skipped, not refused."""
    opened = decode_response(pb.DecodeResponse(opened=pb.Opened(features=[1, 99])))  # type: ignore[list-item]
    assert isinstance(opened, Opened)
    assert opened.features == {Feature.SPARSE_LAW}
    error = decode_response(pb.DecodeResponse(error=pb.Error(code=99)))
    assert isinstance(error, ErrorMessage)
    assert error.status is Status.INTERNAL


# --- sizes ------------------------------------------------------------------------------------------------------------

VOCAB, BASE = 152_000, 100_000
DICE = random.Random(1)


def ids(count: int) -> tuple[int, ...]:
    """Token ids as a large vocabulary has them."""
    return tuple(DICE.sample(range(VOCAB), count))


@pytest.mark.parametrize(("length", "most"), [(5, 10.0), (8, 8.0), (16, 6.5), (32, 6.0)])
def test_a_draft_token_costs_few_bytes(length: int, most: float) -> None:
    """Ids, confidences and the block's address are at most 8 bytes a token from eight tokens on."""
    draft = Draft(BASE, (1 << 64) - 1, ids(length), (0.937,) * length, How.SHARED_NOISE)
    assert len(encode_request(draft).SerializeToString()) / length <= most


def test_a_sampled_draft_token_costs_at_most_64_bytes() -> None:
    """With a ten-token law each, drafted tokens are at most 64 bytes."""
    laws = tuple(QuantisedLaw(tuple(sorted(ids(10))), (*(103,) * 9, LATTICE - 927)) for _ in range(5))
    draft = Draft(BASE, (1 << 64) - 1, tuple(law.token_ids[0] for law in laws), (0.1,) * 5, How.SAMPLED, laws)
    assert len(encode_request(draft).SerializeToString()) / 5 <= 64


def test_a_verdict_costs_at_most_32_bytes() -> None:
    """A verdict deep in a long text, after a slow step, is at most 32 bytes."""
    verdict = Verdict(BASE, 5, VOCAB - 1, Origin.RECOVERED, 20_000, 0.25, 0.25)
    assert len(encode_response(verdict).SerializeToString()) <= 32
