"""Padded mode, as far as it is a matter of limits: what may be asked for, and what fits. Pure.

In padded mode every message of a stream has one size, so that sizes on the wire say nothing about drafts and verdicts.
`paceline.common.codec.padded` makes them so; whoever drafts keeps blocks short enough.
"""

from paceline.common.errors import InvalidRequest
from paceline.common.tokens import Rule

LEAST = 128
"""Bytes. A verdict without filled tokens fits whatever its numbers are, and a receipt with it."""
MOST = 4096
BLOCK = 5
"""Tokens of a block where nobody asks for a number: in padded mode it does not adapt."""
_BLOCK_BYTES = 40
"""A draft block without tokens, at most, its padding's header included."""
_TOKEN_BYTES = 8
"""A drafted token at most: its id (5), its probability (1), its parent (2)."""


def tokens_that_fit(pad_to: int) -> int:
    """Tokens a block may have so that it fits, whatever they are."""
    return (pad_to - _BLOCK_BYTES) // _TOKEN_BYTES


def check_padding(pad_to: int, rule: Rule) -> None:
    """Refuse a size no message would fit, and a rule whose blocks fit none.

    Raises:
        InvalidRequest: naming the field, the value and the cure.
    """
    if pad_to and not LEAST <= pad_to <= MOST:
        raise InvalidRequest(
            f"{pad_to} is neither 0 nor in {LEAST}..{MOST} bytes",
            field="pad_to",
            cure="256 fits most uses; 0 turns padding off",
        )
    if pad_to and rule is Rule.REJECTION:
        raise InvalidRequest(
            "rejection sends laws, which fit no fixed size",
            field="pad_to",
            cure="use the rule coupled, whose texts have the same law",
        )
