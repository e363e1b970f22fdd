"""What a drafter sends."""

from collections.abc import Mapping
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Any

from google.protobuf.message import DecodeError

from paceline.common import messages
from paceline.common.codec.values import (
    FEATURE_OF,
    FEATURES,
    FILL_OF,
    FILLS,
    HOW_OF,
    HOWS,
    PROB_SCALE,
    RULE_OF,
    RULES,
)
from paceline.common.errors import BadDraft, InvalidRequest, PacelineError
from paceline.common.messages import (
    Cancel,
    ClientMessage,
    Close,
    Open,
)
from paceline.common.sampling.quantised import QuantisedLaw
from paceline.common.tokens import Draft, LogprobsRequest, SamplingParams
from paceline.v1 import verifier_pb2 as pb


def encode_request(message: ClientMessage) -> pb.DecodeRequest:
    """Wire form of a message to the verifier."""
    match message:
        case Draft():
            return pb.DecodeRequest(draft=_encode_draft(message))
        case Open():
            return pb.DecodeRequest(open=_encode_open(message))
        case Cancel():
            return pb.DecodeRequest(cancel=pb.Cancel())
        case Close():
            return pb.DecodeRequest(close=pb.Close())


def decode_request(request: pb.DecodeRequest) -> ClientMessage:
    """A message to the verifier.

    Raises:
        InvalidRequest: no payload, or an Open that is malformed.
        BadDraft: a malformed block.
    """
    match request.WhichOneof("payload"):
        case "draft":
            return _decode_draft(request.draft)
        case "open":
            return _decode_open(request.open)
        case "cancel":
            return Cancel()
        case "close":
            return Close()
        case _:
            raise InvalidRequest("no payload set", field="payload", cure="send open, draft, cancel or close")


def parse_request(data: bytes) -> ClientMessage | PacelineError:
    """A message to the verifier from its bytes, or what is wrong with them. Never raises on bad input."""
    try:
        return decode_request(pb.DecodeRequest.FromString(data))
    except PacelineError as error:
        return error
    except DecodeError:
        return InvalidRequest(
            "the bytes are not a DecodeRequest", field="message", cure="use the published protocol"
        )


def _encode_open(message: Open) -> pb.Open:
    return pb.Open(
        protocol_version=message.protocol_version,
        features=sorted(FEATURES[f] for f in message.features),
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        prompt_token_ids=message.prompt_token_ids,
        committed_token_ids=message.committed_token_ids,
        seed=message.seed,
        sampling=_encode_sampling(message.sampling),
        rule=RULES[message.rule],
        fill=FILLS[message.fill],
        max_fill_passes=message.max_fill_passes,
        max_new_tokens=message.max_new_tokens,
        stop_token_ids=message.stop_token_ids,
        ignore_eos=message.ignore_eos,
        path=message.path,
        request_id=message.request_id,
        deadline_ms=max(round(message.deadline_s * 1000), 1) if message.deadline_s else 0,
        pad_to=message.pad_to,
        session_id=message.session_id,
        receipt=message.receipt,
        receipt_length=message.receipt_length,
        attempt=message.attempt,
        logprobs=None
        if message.logprobs is None
        else pb.LogprobsRequest(num_top=message.logprobs.num_top, prompt=message.logprobs.prompt),
    )


def _encode_sampling(params: SamplingParams) -> pb.Sampling:
    return pb.Sampling(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p if params.top_p != 1.0 else None,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty if params.repetition_penalty != 1.0 else None,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias_token_ids=list(params.logit_bias.keys()),
        logit_biases=list(params.logit_bias.values()),
    )


def _decode_open(message: pb.Open) -> Open:
    return Open(
        protocol_version=message.protocol_version,
        features=frozenset(FEATURE_OF[f] for f in message.features if f in FEATURE_OF),
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        prompt_token_ids=tuple(message.prompt_token_ids),
        committed_token_ids=tuple(message.committed_token_ids),
        seed=message.seed,
        sampling=_decode_sampling(message.sampling),
        rule=_known(RULE_OF, message.rule, "rule"),
        fill=_known(FILL_OF, message.fill, "fill"),
        max_fill_passes=message.max_fill_passes,
        max_new_tokens=message.max_new_tokens,
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        path=tuple(message.path),
        request_id=message.request_id,
        deadline_s=message.deadline_ms / 1000,
        pad_to=message.pad_to,
        session_id=message.session_id,
        receipt=message.receipt,
        receipt_length=message.receipt_length,
        attempt=tuple(message.attempt),
        logprobs=LogprobsRequest(message.logprobs.num_top, message.logprobs.prompt)
        if message.HasField("logprobs")
        else None,
    )


def _decode_sampling(message: pb.Sampling) -> SamplingParams:
    ids, biases = message.logit_bias_token_ids, message.logit_biases
    if len(ids) != len(biases):
        raise InvalidRequest(
            f"{len(ids)} token ids but {len(biases)} biases",
            field="sampling.logit_bias",
            cure="send one per id",
        )
    return SamplingParams(
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else 1.0,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        logit_bias=MappingProxyType(dict(zip(ids, biases, strict=True))),
    )


def _known(table: Mapping[int, Any], number: int, field: str) -> Any:
    if number not in table:
        raise InvalidRequest(
            f"unknown value {number}", field=field, cure=f"one of {', '.join(str(v) for v in table.values())}"
        )
    return table[number]


def _encode_draft(draft: Draft) -> pb.Draft:
    return pb.Draft(
        base=draft.base,
        prefix_hash=draft.prefix_hash,
        token_ids=draft.token_ids,
        draft_probs_percent=[round(prob * PROB_SCALE) for prob in draft.draft_probs],
        how=HOWS[draft.how],
        law_sizes=[len(law.token_ids) for law in draft.laws],
        law_token_ids=[token_id for law in draft.laws for token_id in law.token_ids],
        law_weights=[weight for law in draft.laws for weight in law.weights],
        parents_plus_one=[parent + 1 for parent in draft.parents],
        more_follows=draft.more_follows,
    )


def _decode_draft(message: pb.Draft) -> Draft:
    token_ids = tuple(message.token_ids)
    if message.how not in HOW_OF:
        raise BadDraft(
            f"unknown value {message.how}", field="how", cure="one of one-hot, shared-noise, sampled"
        )
    for field in ("draft_probs_percent", "law_sizes", "parents_plus_one"):
        found = len(getattr(message, field))
        if found not in (0, len(token_ids)):
            raise BadDraft(
                f"{found} entries for {len(token_ids)} tokens", field=field, cure="send none or one per token"
            )
    return Draft(
        base=message.base,
        prefix_hash=message.prefix_hash,
        token_ids=token_ids,
        draft_probs=tuple(percent / PROB_SCALE for percent in message.draft_probs_percent),
        how=HOW_OF[message.how],
        laws=_decode_laws(message),
        parents=tuple(parent - 1 for parent in message.parents_plus_one),
        more_follows=message.more_follows,
    )


def _decode_laws(message: pb.Draft) -> tuple[QuantisedLaw, ...]:
    if not message.law_sizes:
        return ()
    token_ids, weights, bounds = (
        message.law_token_ids,
        message.law_weights,
        [0, *accumulate(message.law_sizes)],
    )
    if not len(token_ids) == len(weights) == bounds[-1]:
        raise BadDraft(
            f"{len(token_ids)} ids and {len(weights)} weights for laws of {bounds[-1]} entries in all",
            field="law_sizes",
            cure="make the three agree",
        )
    return tuple(
        QuantisedLaw(token_ids=tuple(token_ids[start:end]), weights=tuple(weights[start:end]))
        for start, end in pairwise(bounds)
    )


def describe_request() -> pb.DescribeRequest:
    """The question Describe asks."""
    return pb.DescribeRequest(protocol_version=messages.PROTOCOL_VERSION)
