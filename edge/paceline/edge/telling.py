"""What the caller hears of a text: events, in order. Drafts and the state of the link only if it asked for them."""

import asyncio

from paceline.edge.request import (
    Event,
    GenerationRequest,
    LinkEvent,
    ProvisionalEvent,
    RetractedEvent,
    TokensEvent,
)
from paceline.edge.tail import Tail


class Telling:
    """Makes events and holds those nobody has taken yet.

    Args:
        request: what is asked for.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()
        """None wakes the reader without telling it anything."""
        self._tells_more = request.provisional or request.offline
        self._told_until = 0
        """Provisional tokens up to here were told."""

    def tokens(self, event: TokensEvent) -> None:
        """The text has grown."""
        self.events.put_nowait(event)

    def drafts(self, tail: Tail) -> None:
        """What is written beyond the committed text and was not told yet."""
        start, end = max(self._told_until, tail.committed), len(tail.text)
        if start < end:
            self._told_until = end
            self._tell(ProvisionalEvent(start, tuple(tail.text[start:])))

    def retract(self, position: int) -> None:
        """What was told from there on is not to be."""
        if self._told_until > position:
            self._tell(RetractedEvent(position))
            self._told_until = position

    def link(self, *, is_up: bool) -> None:
        """The link to the verifier was lost, or is there again."""
        self._tell(LinkEvent(is_up))

    def _tell(self, event: Event) -> None:
        if self._tells_more:
            self.events.put_nowait(event)
