"""The only module that knows both the dataclasses and their protobuf form.

Decoding checks *shape* (one payload, known enums, arrays of matching length) and raises errors of
`paceline.common.errors`; whether values make sense for a given target is `paceline.common.session.limits`' business.
"""

from collections.abc import Mapping
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Any

from google.protobuf.message import DecodeError

from paceline.common import messages
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
    Open,
    Opened,
    ServerMessage,
)
from paceline.common.sampling.quantised import QuantisedLaw
from paceline.common.tokens import Draft, FinishReason, How, Origin, Rule, SamplingParams, Verdict
from paceline.v1 import verifier_pb2 as pb

_PROB_SCALE = 100
_MICRO = 1_000_000

# Generated enum values are numbers at run time and classes of their own to type checkers, hence Any.
_RULES: Mapping[Rule, Any] = {
    Rule.GREEDY: pb.RULE_GREEDY,
    Rule.COUPLED: pb.RULE_COUPLED,
    Rule.ONE_HOT: pb.RULE_ONE_HOT,
    Rule.REJECTION: pb.RULE_REJECTION,
}
_FILLS: Mapping[FillPolicy, Any] = {
    FillPolicy.OFF: pb.FILL_POLICY_OFF,
    FillPolicy.UNLIMITED: pb.FILL_POLICY_UNLIMITED,
}
_FEATURES: Mapping[Feature, Any] = {
    Feature.SPARSE_LAW: pb.FEATURE_SPARSE_LAW,
    Feature.TREE: pb.FEATURE_TREE,
    Feature.RESUME: pb.FEATURE_RESUME,
}
_HOWS: Mapping[How, Any] = {
    How.ONE_HOT: pb.HOW_ONE_HOT,
    How.SHARED_NOISE: pb.HOW_SHARED_NOISE,
    How.SAMPLED: pb.HOW_SAMPLED,
}
_NEXT_KINDS: Mapping[Origin | None, Any] = {
    None: pb.NEXT_KIND_UNSPECIFIED,
    Origin.RECOVERED: pb.NEXT_KIND_RECOVERED,
    Origin.BONUS: pb.NEXT_KIND_BONUS,
    Origin.FILLED: pb.NEXT_KIND_FILLED,
}
_REASONS: Mapping[FinishReason, Any] = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: pb.FINISH_REASON_CANCELLED,
}
_CODES: Mapping[Status, int] = {
    Status.CANCELLED: 1,
    Status.INVALID_ARGUMENT: 3,
    Status.NOT_FOUND: 5,
    Status.RESOURCE_EXHAUSTED: 8,
    Status.FAILED_PRECONDITION: 9,
    Status.OUT_OF_RANGE: 11,
    Status.UNIMPLEMENTED: 12,
    Status.INTERNAL: 13,
    Status.UNAVAILABLE: 14,
    Status.DATA_LOSS: 15,
}


def _reverse(table: Mapping[Any, int]) -> Mapping[int, Any]:
    return {number: value for value, number in table.items()}


_RULE_OF, _FILL_OF, _FEATURE_OF = _reverse(_RULES), _reverse(_FILLS), _reverse(_FEATURES)
_HOW_OF, _NEXT_KIND_OF = _reverse(_HOWS), _reverse(_NEXT_KINDS)
_REASON_OF, _STATUS_OF = _reverse(_REASONS), _reverse(_CODES)


# --- requests ---------------------------------------------------------------------------------------------------------


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
        features=sorted(_FEATURES[f] for f in message.features),
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        prompt_token_ids=message.prompt_token_ids,
        committed_token_ids=message.committed_token_ids,
        seed=message.seed,
        sampling=_encode_sampling(message.sampling),
        rule=_RULES[message.rule],
        fill=_FILLS[message.fill],
        max_new_tokens=message.max_new_tokens,
        stop_token_ids=message.stop_token_ids,
        ignore_eos=message.ignore_eos,
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
        features=frozenset(_FEATURE_OF[f] for f in message.features if f in _FEATURE_OF),
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        prompt_token_ids=tuple(message.prompt_token_ids),
        committed_token_ids=tuple(message.committed_token_ids),
        seed=message.seed,
        sampling=_decode_sampling(message.sampling),
        rule=_known(_RULE_OF, message.rule, "rule"),
        fill=_known(_FILL_OF, message.fill, "fill"),
        max_new_tokens=message.max_new_tokens,
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
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
        draft_probs_percent=[round(prob * _PROB_SCALE) for prob in draft.draft_probs],
        how=_HOWS[draft.how],
        law_sizes=[len(law.token_ids) for law in draft.laws],
        law_token_ids=[token_id for law in draft.laws for token_id in law.token_ids],
        law_weights=[weight for law in draft.laws for weight in law.weights],
        parents_plus_one=[parent + 1 for parent in draft.parents],
        more_follows=draft.more_follows,
    )


def _decode_draft(message: pb.Draft) -> Draft:
    token_ids = tuple(message.token_ids)
    if message.how not in _HOW_OF:
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
        draft_probs=tuple(percent / _PROB_SCALE for percent in message.draft_probs_percent),
        how=_HOW_OF[message.how],
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


# --- responses --------------------------------------------------------------------------------------------------------


def encode_response(message: ServerMessage) -> pb.DecodeResponse:
    """Wire form of a message to the drafter."""
    match message:
        case Verdict():
            return pb.DecodeResponse(verdict=_encode_verdict(message))
        case Opened():
            return pb.DecodeResponse(opened=_encode_opened(message))
        case Finished():
            return pb.DecodeResponse(
                finished=pb.Finished(
                    reason=_REASONS[message.reason], committed_length=message.committed_length
                )
            )
        case Draining():
            return pb.DecodeResponse(draining=pb.Draining(grace_ms=round(message.grace_s * 1000)))
        case ErrorMessage():
            return pb.DecodeResponse(error=_encode_error(message))


def decode_response(response: pb.DecodeResponse) -> ServerMessage:
    """A message to the drafter.

    Raises:
        BadReply: the verifier sent nothing, or a value this version does not know.
    """
    kind = response.WhichOneof("payload")
    try:
        match kind:
            case "verdict":
                return _decode_verdict(response.verdict)
            case "opened":
                return _decode_opened(response.opened)
            case "finished":
                return Finished(_REASON_OF[response.finished.reason], response.finished.committed_length)
            case "draining":
                return Draining(response.draining.grace_ms / 1000)
            case "error":
                return _decode_error(response.error)
    except KeyError as unknown:
        raise BadReply(
            f"the verifier sent an unknown value {unknown} in {kind}", cure="update paceline"
        ) from None
    raise BadReply("the verifier sent an empty message", cure="update paceline")


def _encode_verdict(verdict: Verdict) -> pb.Verdict:
    return pb.Verdict(
        base=verdict.base,
        num_accepted=verdict.num_accepted,
        next_token_id=verdict.next_token_id or 0,
        next_kind=_NEXT_KINDS[verdict.next_origin],
        blocks_settled=verdict.blocks_settled,
        verify_us=round(verdict.verify_s * _MICRO),
        queue_us=round(verdict.queue_s * _MICRO),
    )


def _decode_verdict(message: pb.Verdict) -> Verdict:
    origin = _NEXT_KIND_OF[message.next_kind]
    return Verdict(
        base=message.base,
        num_accepted=message.num_accepted,
        next_token_id=None if origin is None else message.next_token_id,
        next_origin=origin,
        blocks_settled=message.blocks_settled,
        verify_s=message.verify_us / _MICRO,
        queue_s=message.queue_us / _MICRO,
    )


def _encode_opened(message: Opened) -> pb.Opened:
    return pb.Opened(
        protocol_version=message.protocol_version,
        features=sorted(_FEATURES[f] for f in message.features),
        vocab_size=message.vocab_size,
        max_draft_tokens=message.max_draft_tokens,
        max_blocks_in_flight=message.max_blocks_in_flight,
        stop_token_ids=message.stop_token_ids,
        committed_length=message.committed_length,
        verify_fixed_us=round(message.verify_fixed_s * _MICRO),
        verify_per_token_us=round(message.verify_per_token_s * _MICRO),
    )


def _decode_opened(message: pb.Opened) -> Opened:
    return Opened(
        protocol_version=message.protocol_version,
        features=frozenset(_FEATURE_OF[f] for f in message.features if f in _FEATURE_OF),
        vocab_size=message.vocab_size,
        max_draft_tokens=message.max_draft_tokens,
        max_blocks_in_flight=message.max_blocks_in_flight,
        stop_token_ids=tuple(message.stop_token_ids),
        committed_length=message.committed_length,
        verify_fixed_s=message.verify_fixed_us / _MICRO,
        verify_per_token_s=message.verify_per_token_us / _MICRO,
    )


def _encode_error(message: ErrorMessage) -> pb.Error:
    return pb.Error(
        code=_CODES[message.status],
        reason=message.reason,
        field=message.field,
        message=message.message,
        cure=message.cure,
        retry_after_ms=round(message.retry_after_s * 1000),
        fatal=message.fatal,
        blocks_settled=message.blocks_settled,
    )


def _decode_error(message: pb.Error) -> ErrorMessage:
    return ErrorMessage(
        status=_STATUS_OF.get(message.code, Status.INTERNAL),
        reason=message.reason,
        message=message.message,
        field=message.field,
        cure=message.cure,
        retry_after_s=message.retry_after_ms / 1000,
        fatal=message.fatal,
        blocks_settled=message.blocks_settled,
    )


# --- Describe ---------------------------------------------------------------------------------------------------------


def encode_description(description: Description) -> pb.DescribeResponse:
    """Wire form of what a verifier serves."""
    return pb.DescribeResponse(
        protocol_version=description.protocol_version,
        software_version=description.software_version,
        model_name=description.model_name,
        vocab_size=description.vocab_size,
        tokenizer_fingerprint=description.tokenizer_fingerprint,
        max_context=description.max_context,
        eos_token_ids=description.eos_token_ids,
        rules=[_RULES[rule] for rule in description.rules],
        max_sessions=description.max_sessions,
        max_draft_tokens=description.max_draft_tokens,
        device=description.device,
        dtype=description.dtype,
        features=sorted(_FEATURES[f] for f in description.features),
        active_sessions=description.active_sessions,
    )


def decode_description(message: pb.DescribeResponse) -> Description:
    """What a verifier serves."""
    return Description(
        protocol_version=message.protocol_version,
        software_version=message.software_version,
        model_name=message.model_name,
        vocab_size=message.vocab_size,
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        max_context=message.max_context,
        eos_token_ids=tuple(message.eos_token_ids),
        rules=tuple(_RULE_OF[rule] for rule in message.rules if rule in _RULE_OF),
        max_sessions=message.max_sessions,
        max_draft_tokens=message.max_draft_tokens,
        device=message.device,
        dtype=message.dtype,
        features=frozenset(_FEATURE_OF[f] for f in message.features if f in _FEATURE_OF),
        active_sessions=message.active_sessions,
    )


def describe_request() -> pb.DescribeRequest:
    """The question Describe asks."""
    return pb.DescribeRequest(protocol_version=messages.PROTOCOL_VERSION)
