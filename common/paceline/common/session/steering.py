"""What a relay and its own verifier tell each other beside the protocol. None of it ever travels."""

from dataclasses import dataclass

from paceline.common.messages import Open, ServerMessage
from paceline.common.sampling.quantised import QuantisedLaw
from paceline.common.tokens import How, Verdict


@dataclass(frozen=True, slots=True)
class Steered:
    """Opens a session whose text the hops above may rewrite."""

    request: Open
    depth: int
    """How many relays stand below this one."""


@dataclass(frozen=True, slots=True)
class Steer:
    """What the text has become, and how far it may be written on."""

    base: int
    token_ids: tuple[int, ...]
    """The text from `base` on. What stands beyond is kept while nothing contradicts it."""
    horizon: int
    """Absolute position from which on nothing is to be begun."""


@dataclass(frozen=True, slots=True)
class Written:
    """What the model of a steered session said in one step, as a draft for the hop above."""

    prefix_hash: int
    """Of the text before it."""
    verdict: Verdict
    token_ids: tuple[int, ...]
    """All tokens of the verdict."""
    probs: tuple[float, ...]
    how: How
    laws: tuple[QuantisedLaw, ...]


Answer = ServerMessage | Written
"""What a session answers; `Written` only where it is steered."""
