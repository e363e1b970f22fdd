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
    """The text from `base` on: a rewrite. Empty if the text stays as it is."""
    horizon: int
    """Absolute position from which on nothing is to be begun."""
    final_length: int
    """Length of the text that no hop will change any more."""


@dataclass(frozen=True, slots=True)
class Written:
    """What the model of a steered session said in one step, as a draft for the hop above."""

    num_rewrites: int
    """Rewrites the session had heard of: what was written before one is not to be."""
    verdict: Verdict
    token_ids: tuple[int, ...]
    """All tokens of the verdict."""
    probs: tuple[float, ...]
    how: How
    laws: tuple[QuantisedLaw, ...]
    is_repeated: bool = False
    """Said before a rewrite, and it still stands."""


Answer = ServerMessage | Written
"""What a session answers; `Written` only where it is steered."""
