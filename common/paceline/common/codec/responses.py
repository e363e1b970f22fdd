"""What a verifier answers."""

from dataclasses import asdict

from google.protobuf.message import DecodeError

from paceline.common.codec.values import (
    CODES,
    FEATURE_OF,
    FEATURES,
    MICRO,
    NEXT_KIND_OF,
    NEXT_KINDS,
    REASON_OF,
    REASONS,
    RULE_OF,
    RULES,
    STATUS_OF,
)
from paceline.common.errors import BadReply, Status
from paceline.common.messages import (
    Description,
    Draining,
    ErrorMessage,
    Finished,
    HopDescription,
    HopReport,
    Opened,
    Provisional,
    ServerMessage,
)
from paceline.common.tokens import TokenLogprobs, Verdict
from paceline.v1 import verifier_pb2 as pb

_MAX_UINT64 = (1 << 64) - 1


def encode_response(message: ServerMessage) -> pb.DecodeResponse:
    """Wire form of a message to the drafter."""
    match message:
        case Verdict():
            return pb.DecodeResponse(verdict=_encode_verdict(message))
        case Provisional():
            return pb.DecodeResponse(provisional=_encode_verdict(message.verdict))
        case Opened():
            return pb.DecodeResponse(opened=_encode_opened(message))
        case Finished():
            return pb.DecodeResponse(finished=_encode_finished(message))
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
            case "provisional":
                return Provisional(_decode_verdict(response.provisional))
            case "opened":
                return _decode_opened(response.opened)
            case "finished":
                return _decode_finished(response.finished)
            case "draining":
                return Draining(response.draining.grace_ms / 1000)
            case "error":
                return _decode_error(response.error)
    except KeyError as unknown:
        raise BadReply(
            f"the verifier sent an unknown value {unknown} in {kind}", cure="update paceline"
        ) from None
    raise BadReply("the verifier sent an empty message", cure="update paceline")


def parse_response(data: bytes) -> ServerMessage:
    """A message to the drafter from its bytes.

    Raises:
        BadReply: they are none, or as `decode_response`.
    """
    try:
        return decode_response(pb.DecodeResponse.FromString(data))
    except DecodeError:
        raise BadReply(
            "the verifier's message cannot be read", field="message", cure="report this verifier"
        ) from None


def _encode_verdict(verdict: Verdict) -> pb.Verdict:
    return pb.Verdict(
        base=verdict.base,
        num_accepted=verdict.num_accepted,
        next_token_id=verdict.next_token_id or 0,
        next_kind=NEXT_KINDS[verdict.next_origin],
        blocks_settled=verdict.blocks_settled,
        verify_us=round(verdict.verify_s * MICRO),
        queue_us=round(verdict.queue_s * MICRO),
        num_judged=verdict.num_judged,
        filled_token_ids=verdict.filled_token_ids,
        author=verdict.author,
        accepted_node_plus_one=0 if verdict.accepted_node is None else verdict.accepted_node + 1,
        receipt=verdict.receipt,
        logprobs=[one.logprob for one in verdict.logprobs],
        top_token_ids=[token_id for one in verdict.logprobs for token_id, _ in one.top],
        top_logprobs=[logprob for one in verdict.logprobs for _, logprob in one.top],
    )


def _decode_verdict(message: pb.Verdict) -> Verdict:
    origin = NEXT_KIND_OF[message.next_kind]
    return Verdict(
        base=message.base,
        num_accepted=message.num_accepted,
        next_token_id=None if origin is None else message.next_token_id,
        next_origin=origin,
        blocks_settled=message.blocks_settled,
        verify_s=message.verify_us / MICRO,
        queue_s=message.queue_us / MICRO,
        num_judged=message.num_judged,
        filled_token_ids=tuple(message.filled_token_ids),
        author=message.author,
        accepted_node=message.accepted_node_plus_one - 1 if message.accepted_node_plus_one else None,
        receipt=message.receipt,
        logprobs=_decode_logprobs(message),
    )


def _decode_logprobs(message: pb.Verdict) -> tuple[TokenLogprobs, ...]:
    if not message.logprobs:
        return ()
    top = list(zip(message.top_token_ids, message.top_logprobs, strict=False))
    count, rest = divmod(len(top), len(message.logprobs))
    if rest or not len(top) == len(message.top_token_ids) == len(message.top_logprobs):
        raise BadReply("the likeliest tokens are not equally many for each position", field="top_token_ids")
    return tuple(
        TokenLogprobs(logprob, tuple(top[index * count : (index + 1) * count]))
        for index, logprob in enumerate(message.logprobs)
    )


def _encode_finished(message: Finished) -> pb.Finished:
    return pb.Finished(
        reason=REASONS[message.reason],
        committed_length=message.committed_length,
        hops=[
            pb.HopReport(
                name=hop.name,
                num_judged=hop.num_judged,
                num_accepted=hop.num_accepted,
                num_passes=hop.num_passes,
                num_written=hop.num_written,
                verify_us=min(round(hop.verify_s * MICRO), _MAX_UINT64),  # what a hop above said, rounded
                bytes_up=hop.bytes_up,
                bytes_down=hop.bytes_down,
                round_trip_us=round(hop.round_trip_s * MICRO),
                num_reconnects=hop.num_reconnects,
            )
            for hop in message.hops
        ],
    )


def _decode_finished(message: pb.Finished) -> Finished:
    return Finished(
        reason=REASON_OF[message.reason],
        committed_length=message.committed_length,
        hops=tuple(
            HopReport(
                name=hop.name,
                num_judged=hop.num_judged,
                num_accepted=hop.num_accepted,
                num_passes=hop.num_passes,
                num_written=hop.num_written,
                verify_s=hop.verify_us / MICRO,
                bytes_up=hop.bytes_up,
                bytes_down=hop.bytes_down,
                round_trip_s=hop.round_trip_us / MICRO,
                num_reconnects=hop.num_reconnects,
            )
            for hop in message.hops
        ),
    )


def _encode_opened(message: Opened) -> pb.Opened:
    return pb.Opened(
        protocol_version=message.protocol_version,
        features=sorted(FEATURES[f] for f in message.features),
        vocab_size=message.vocab_size,
        max_draft_tokens=message.max_draft_tokens,
        max_blocks_in_flight=message.max_blocks_in_flight,
        stop_token_ids=message.stop_token_ids,
        committed_length=message.committed_length,
        verify_fixed_us=round(message.verify_fixed_s * MICRO),
        verify_per_token_us=round(message.verify_per_token_s * MICRO),
        pad_to=message.pad_to,
        cached_length=message.cached_length,
    )


def _decode_opened(message: pb.Opened) -> Opened:
    return Opened(
        protocol_version=message.protocol_version,
        features=frozenset(FEATURE_OF[f] for f in message.features if f in FEATURE_OF),
        vocab_size=message.vocab_size,
        max_draft_tokens=message.max_draft_tokens,
        max_blocks_in_flight=message.max_blocks_in_flight,
        stop_token_ids=tuple(message.stop_token_ids),
        committed_length=message.committed_length,
        verify_fixed_s=message.verify_fixed_us / MICRO,
        verify_per_token_s=message.verify_per_token_us / MICRO,
        pad_to=message.pad_to,
        cached_length=message.cached_length,
    )


def _encode_error(message: ErrorMessage) -> pb.Error:
    return pb.Error(
        code=CODES[message.status],
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
        status=STATUS_OF.get(message.code, Status.INTERNAL),
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
        rules=[RULES[rule] for rule in description.rules],
        max_sessions=description.max_sessions,
        max_draft_tokens=description.max_draft_tokens,
        device=description.device,
        dtype=description.dtype,
        features=sorted(FEATURES[f] for f in description.features),
        active_sessions=description.active_sessions,
        verify_floor_us=round(description.verify_floor_s * MICRO),
        hops=[pb.HopDescription(**asdict(hop)) for hop in description.hops],
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
        rules=tuple(RULE_OF[rule] for rule in message.rules if rule in RULE_OF),
        max_sessions=message.max_sessions,
        max_draft_tokens=message.max_draft_tokens,
        device=message.device,
        dtype=message.dtype,
        features=frozenset(FEATURE_OF[f] for f in message.features if f in FEATURE_OF),
        active_sessions=message.active_sessions,
        verify_floor_s=message.verify_floor_us / MICRO,
        hops=tuple(
            HopDescription(
                name=hop.name,
                model_name=hop.model_name,
                device=hop.device,
                active_sessions=hop.active_sessions,
                num_judged=hop.num_judged,
                num_accepted=hop.num_accepted,
                num_written=hop.num_written,
                num_steps=hop.num_steps,
            )
            for hop in message.hops
        ),
    )
