"""What one stream sends, as bytes. In padded mode (`Open.pad_to`) its sizes say nothing about what is in it.

Every message is padded to the next multiple of `pad_to`. Drafts are kept within one by whoever writes them
(`paceline.common.padding`), what a verifier answers by the writer here: a verdict that names too many tokens becomes
several, and Finished leaves reports out. Open, Opened and Error may need more; none of them depends on a draft.
"""

from collections.abc import Iterator
from dataclasses import replace

from paceline.common.codec.requests import encode_request
from paceline.common.codec.responses import encode_response
from paceline.common.messages import ClientMessage, Finished, Open, Opened, Provisional, ServerMessage
from paceline.common.tokens import Draft, Verdict

_TAG = 15 << 3 | 2
_HEADER_BYTES = 3
"""The field's tag, and its length, which always takes two bytes: with one or two a size between would be missing."""
_SLACK_BYTES = 8
"""What verdict, field and list need for their lengths, and a later base, beyond a verdict that names no token."""
_ID_BYTES = 5


class RequestWriter:
    """Bytes of what a drafter sends over one stream."""

    def __init__(self) -> None:
        self._pad_to = 0

    def write(self, message: ClientMessage) -> bytes:
        """The message's bytes; an Open says whether it and what follows are padded."""
        if isinstance(message, Open):
            self._pad_to = message.pad_to
        data = _padded(encode_request(message).SerializeToString(), self._pad_to)
        is_limited = self._pad_to and isinstance(message, Draft)
        assert not is_limited or len(data) == self._pad_to, "whoever drafts keeps blocks within one size"
        return data


class ResponseWriter:
    """Bytes of what a verifier sends over one stream."""

    def __init__(self) -> None:
        self._pad_to = 0

    def write(self, message: ServerMessage) -> Iterator[bytes]:
        """The message's bytes, of several messages where it does not fit one; Opened says whether it and what follows
        are padded."""
        if isinstance(message, Opened):
            self._pad_to = message.pad_to
        data = encode_response(message).SerializeToString()
        if not self._pad_to or len(data) <= self._pad_to - _HEADER_BYTES:
            yield _padded(data, self._pad_to)
            return
        for part in _fitting(message, self._pad_to):
            yield _padded(encode_response(part).SerializeToString(), self._pad_to)


def _padded(data: bytes, pad_to: int) -> bytes:
    """The message's bytes with the field `padding` after them, up to a multiple of `pad_to`."""
    if not pad_to:
        return data
    count = -(len(data) + _HEADER_BYTES) % pad_to
    return data + bytes((_TAG, count & 0x7F | 0x80, count >> 7)) + bytes(count)


def _fitting(message: ServerMessage, pad_to: int) -> list[ServerMessage]:
    """What to send instead of a message that does not fit."""
    match message:
        case Finished():
            while message.hops and _size(message) > pad_to - _HEADER_BYTES:
                message = replace(message, hops=message.hops[:-1])
        case Verdict():
            return [*_parts(message, pad_to, is_named=False)]
        case Provisional(verdict):
            return [Provisional(part) for part in _parts(verdict, pad_to, is_named=True)]
    return [message]


def _parts(verdict: Verdict, pad_to: int, *, is_named: bool) -> list[Verdict]:
    """A verdict as several that say the same one after another, the last one with the token that comes next.

    Args:
        is_named: the accepted tokens are among the filled ones, as a provisional verdict has it.
    """
    room = pad_to - _HEADER_BYTES - _SLACK_BYTES - _size(replace(verdict, filled_token_ids=()))
    most, rest = room // _ID_BYTES, verdict
    parts: list[Verdict] = []
    while len(rest.filled_token_ids) > most:
        told = rest.filled_token_ids[:most]
        num_accepted = min(rest.num_accepted, most) if is_named else rest.num_accepted
        parts.append(
            Verdict(
                base=rest.base,
                num_accepted=num_accepted,
                blocks_settled=rest.blocks_settled,
                verify_s=rest.verify_s,
                queue_s=rest.queue_s,
                num_judged=rest.num_judged,
                filled_token_ids=told,
                author=rest.author,
                accepted_node=rest.accepted_node,
            )
        )
        rest = replace(
            rest,
            base=rest.base + most + (0 if is_named else num_accepted),
            num_accepted=rest.num_accepted - num_accepted,
            filled_token_ids=rest.filled_token_ids[most:],
            verify_s=0.0,
            queue_s=0.0,
            num_judged=0,
            accepted_node=None,
        )
    return [*parts, rest]


def _size(message: ServerMessage) -> int:
    return encode_response(message).ByteSize()
