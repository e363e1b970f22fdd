"""What a verifier refuses: each error names the field, the value and the cure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from paceline.common.errors import (
    BadDraft,
    Incompatible,
    InvalidRequest,
    OutOfRange,
    PacelineError,
    UnsupportedVersion,
)
from paceline.common.messages import Open
from paceline.common.sampling.quantised import QuantisedLaw
from paceline.common.session import Limits, check_draft, check_open
from paceline.common.tokens import Draft, How, Rule, SamplingParams

LIMITS = Limits(
    vocab_size=100,
    max_context=50,
    max_draft_tokens=4,
    rules=frozenset({Rule.GREEDY, Rule.COUPLED, Rule.REJECTION}),
    tokenizer_fingerprint=b"ours" * 4,
)
OPEN = Open((1, 2, 3), 10)
LAW = QuantisedLaw((5, 6), (1000, 24))


def warm(**changes: Any) -> Mapping[str, Any]:
    """An Open's changes: coupled, at temperature 1 unless told otherwise."""
    return {"rule": Rule.COUPLED, "sampling": SamplingParams(**{"temperature": 1.0, **changes})}


def history(**changes: Any) -> Mapping[str, Any]:
    """An Open's changes: two tokens of history, with a receipt unless told otherwise."""
    return {"committed_token_ids": (4, 5), "receipt": b"sixteen bytes ok", "receipt_length": 5, **changes}


@pytest.mark.parametrize(
    ("changes", "kind", "field", "shown"),
    [
        ({"protocol_version": 3}, UnsupportedVersion, "protocol_version", "3"),
        ({"tokenizer_fingerprint": b"yours678" * 2}, Incompatible, "tokenizer", "796f757273"),
        ({"prompt_token_ids": ()}, InvalidRequest, "prompt", "0 tokens"),
        ({"prompt_token_ids": (1, 100)}, InvalidRequest, "prompt_token_ids[1]", "100"),
        ({"committed_token_ids": (1 << 31,)}, InvalidRequest, "committed_token_ids[0]", "2147483648"),
        ({"committed_token_ids": (1,) * 11}, InvalidRequest, "committed_token_ids", "11"),
        ({"max_new_tokens": 0}, InvalidRequest, "max_new_tokens", "0"),
        ({"max_new_tokens": (1 << 32) - 1}, OutOfRange, "max_new_tokens", "4294967295"),
        ({"prompt_token_ids": (1,) * 60}, OutOfRange, "max_new_tokens", "60"),
        ({"stop_token_ids": (100,)}, InvalidRequest, "stop_token_ids[0]", "100"),
        ({"stop_token_ids": (1,) * 65}, InvalidRequest, "stop_token_ids", "65"),
        ({"rule": Rule.ONE_HOT}, InvalidRequest, "rule", "one-hot"),
        ({"rule": Rule.COUPLED}, InvalidRequest, "rule", "temperature"),
        (warm() | {"rule": Rule.GREEDY}, InvalidRequest, "rule", "1"),
        (warm(temperature=float("nan")), InvalidRequest, "temperature", "nan"),
        (warm(temperature=float("inf")), InvalidRequest, "temperature", "inf"),
        (warm(temperature=-1.0), InvalidRequest, "temperature", "-1"),
        (warm(temperature=101.0), InvalidRequest, "temperature", "101"),
        (warm(top_p=0.0), InvalidRequest, "top_p", "0.0"),
        (warm(top_p=1.5), InvalidRequest, "top_p", "1.5"),
        (warm(top_p=float("nan")), InvalidRequest, "top_p", "nan"),
        (warm(min_p=-0.1), InvalidRequest, "min_p", "-0.1"),
        (warm(top_k=-1), InvalidRequest, "top_k", "-1"),
        (warm(repetition_penalty=0.0), InvalidRequest, "repetition_penalty", "0.0"),
        (warm(presence_penalty=3.0), InvalidRequest, "presence_penalty", "3.0"),
        (warm(frequency_penalty=-3.0), InvalidRequest, "frequency_penalty", "-3.0"),
        (warm(logit_bias={7: float("nan")}), InvalidRequest, "logit_bias[7]", "nan"),
        (warm(logit_bias={100: 1.0}), InvalidRequest, "logit_bias[0]", "100"),
        (warm(logit_bias=dict.fromkeys(range(1025), 1.0)), InvalidRequest, "logit_bias", "1025"),
        ({"session_id": b"short"}, InvalidRequest, "session_id", "5 bytes"),
        ({"session_id": b"seventeen bytes.."}, InvalidRequest, "session_id", "17 bytes"),
        ({"attempt": (1,) * 10}, InvalidRequest, "attempt", "10 numbers"),
        (history(receipt=b"short"), InvalidRequest, "receipt", "5 bytes"),
        (history(receipt_length=3), InvalidRequest, "receipt_length", "3"),
        (history(receipt_length=6), InvalidRequest, "receipt_length", "6"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_open_is_refused(
    changes: Mapping[str, Any], kind: type[PacelineError], field: str, shown: str
) -> None:
    """An Open that cannot be served is refused with the right error, field, value and a cure."""
    with pytest.raises(PacelineError) as caught:
        check_open(replace(OPEN, **changes), LIMITS)
    error = caught.value
    assert type(error) is kind
    assert error.field == field
    assert shown in error.message
    assert error.cure


@pytest.mark.parametrize(
    "changes",
    [
        {},
        warm(),
        warm(top_p=1e-300, min_p=1.0, temperature=100.0),
        {"rule": Rule.REJECTION},
        {"max_new_tokens": 47},
        {"committed_token_ids": (1,) * 10},
        {"tokenizer_fingerprint": b"ours" * 4},
        {"stop_token_ids": (99,) * 64},
        {"session_id": b"sixteen bytes id"},
        {"attempt": ((1 << 32) - 1,) * 9},
        history(),
        history(receipt_length=4),
        history(receipt=b"", receipt_length=77),
    ],
)
def test_open_is_taken(changes: Mapping[str, Any]) -> None:
    """What is right, up to the very edge of each bound, is served."""
    check_open(replace(OPEN, **changes), LIMITS)


def sampled(*laws: QuantisedLaw) -> Draft:
    """A sampled block of token 5 under each of these laws."""
    return Draft(3, 0, (5,) * max(len(laws), 1), (), How.SAMPLED, laws)


@pytest.mark.parametrize(
    ("draft", "rule", "field", "shown"),
    [
        (Draft(3, 0, (1,) * 5, (), How.ONE_HOT), Rule.GREEDY, "token_ids", "5 tokens"),
        (Draft(51, 0, (1,), (), How.ONE_HOT), Rule.GREEDY, "base", "51"),
        (Draft(3, 0, (100,), (), How.ONE_HOT), Rule.GREEDY, "token_ids", "100"),
        (Draft(3, 0, (1, 2), (), How.ONE_HOT, parents=(-1, 1)), Rule.GREEDY, "parents", "token 1 is 1"),
        (Draft(3, 0, (1,), (), How.SHARED_NOISE), Rule.REJECTION, "how", "biased"),
        (Draft(3, 0, (5,), (), How.ONE_HOT, (LAW,)), Rule.REJECTION, "laws", "no laws"),
        (sampled(), Rule.REJECTION, "laws", "0 laws"),
        (sampled(QuantisedLaw((5,), (1023,))), Rule.REJECTION, "laws", "1023"),
        (sampled(QuantisedLaw((5, 6), (1024, 0))), Rule.REJECTION, "laws", "weight 0"),
        (sampled(QuantisedLaw((5, 5), (512, 512))), Rule.REJECTION, "laws", "twice"),
        (sampled(QuantisedLaw((5, 100), (512, 512))), Rule.REJECTION, "laws", "100"),
        (sampled(QuantisedLaw((6,), (1024,))), Rule.REJECTION, "laws", "probability 0"),
        (sampled(QuantisedLaw((), ())), Rule.REJECTION, "laws", "empty"),
        (sampled(QuantisedLaw((5,) * 1025, (1,) * 1025)), Rule.REJECTION, "laws[0]", "1025"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_draft_is_refused(draft: Draft, rule: Rule, field: str, shown: str) -> None:
    """A malformed block, or one the rule would be biased by, is refused, and the stream goes on."""
    with pytest.raises(BadDraft) as caught:
        check_draft(draft, rule, LIMITS)
    error = caught.value
    assert error.field == field
    assert shown in error.message
    assert error.cure
    assert not error.fatal


@pytest.mark.parametrize(
    ("draft", "rule"),
    [
        (Draft(3, 0, (), (), How.ONE_HOT), Rule.GREEDY),
        (Draft(50, 0, (99,) * 4, (), How.SHARED_NOISE), Rule.COUPLED),
        (sampled(LAW, LAW), Rule.REJECTION),
        (Draft(3, 0, (5,), (), How.ONE_HOT), Rule.REJECTION),
    ],
)
def test_draft_is_taken(draft: Draft, rule: Rule) -> None:
    """A sound block is taken, an empty one included."""
    check_draft(draft, rule, LIMITS)
