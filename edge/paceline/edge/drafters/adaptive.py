"""Several drafters, of which each block's writer and length are chosen by record, before anything is drawn.

An arm is a drafter with a block length. Its record is committed tokens per second: a committed token counts for the
last block that began at or before its place (accepted tokens and the verifier's own token after them alike), and a
block lasts from its beginning to the beginning of the next one, waiting for the verdict included where the caller
waits. With several blocks in flight a block's time is what it kept the drafter busy; what a contradiction costs shows
in the blocks that were written in vain.

The choice depends on the past alone: choosing by the tokens just drawn would change the target's law under rejection
(methods E11, 6.3). A drafter with nothing to say leaves the block to the next in the order; that it has nothing to
say is known before it draws.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paceline.common.drafter import Drafter, DraftSession, KeepGoing, Proposal, is_even
from paceline.common.errors import InvalidRequest
from paceline.common.sampling.choose import Chooser
from paceline.common.tokens import How
from paceline.edge.drafters.bandit import DiscountedUcb
from paceline.edge.drafters.combined import CombinedDrafter, CombinedSession

LENGTHS = (2, 4, 8)


@dataclass(slots=True)
class _Block:
    """One block that is not settled yet."""

    arm: int
    base: int
    end: int
    """Absolute position after its last token; smaller once what follows is contradicted."""
    began_s: float
    lasted_s: float = 0.0
    """0 until the next block begins."""
    num_tokens: int = 0
    """Committed tokens that count for it."""
    is_in_vain: bool = False
    """It continued a text that was contradicted before it."""


class AdaptiveSession(CombinedSession):
    """A text whose every block is written by the arm of the best record."""

    def __init__(
        self,
        sessions: Sequence[DraftSession],
        lengths: Sequence[int],
        how: How,
        *,
        record: DiscountedUcb,
        clock: Callable[[], float],
        keep_record: Callable[[DiscountedUcb], None],
    ) -> None:
        super().__init__(sessions, how)
        self._arms = [(session, length) for session in sessions for length in lengths]
        self._record = record
        self._clock = clock
        self._keep_record = keep_record
        self._blocks: list[_Block] = []
        self._num_committed = self.length

    def _write(self, limit: int, keep_going: KeepGoing) -> list[Proposal]:
        if limit == 0:
            return []
        now_s = self._clock()
        self._settle(now_s)
        for arm in self._record.ranking():
            session, length = self._arms[arm]
            part = self._write_with(session, min(length, limit), keep_going)
            if len(part):
                self._blocks.append(_Block(arm, part.base, part.base + len(part), now_s))
                return [part]
        return []

    def observe(self, position: int, token_ids: Sequence[int]) -> int:
        """Learn the committed text from `position` on, and what it says of the blocks; see `DraftSession`."""
        num_agreed = super().observe(position, token_ids)
        end = position + len(token_ids)
        if num_agreed < len(token_ids):
            for block in self._blocks:
                block.is_in_vain |= block.base > position + num_agreed
                block.end = min(block.end, end)
        for place in range(self._num_committed, end):
            self._credit(place)
        self._num_committed = max(self._num_committed, end)
        return num_agreed

    def follow(self, position: int, token_ids: Sequence[int]) -> None:
        """Go on after another drafter's tokens; blocks cut off by it are not judged. See `DraftSession.follow`."""
        super().follow(position, token_ids)
        self._blocks = [block for block in self._blocks if block.base < position]
        for block in self._blocks:
            block.end = min(block.end, position)

    def _credit(self, place: int) -> None:
        """Count a committed token for the last block that began at or before it."""
        for block in reversed(self._blocks):
            if block.base <= place and not block.is_in_vain:
                block.num_tokens += 1
                return

    def _settle(self, now_s: float) -> None:
        """Put on record every block of which the text and the clock have told all."""
        if self._blocks and not self._blocks[-1].lasted_s:
            self._blocks[-1].lasted_s = max(now_s - self._blocks[-1].began_s, 1e-9)
        waiting: list[_Block] = []
        for block in self._blocks:
            if block.is_in_vain or block.end <= self._num_committed:
                self._record.learn(block.arm, block.num_tokens, block.lasted_s)
            else:
                waiting.append(block)
        self._blocks = waiting

    def close(self) -> None:
        """Free what the sessions hold, and leave the record for the next text."""
        if not self._is_closed:
            self._keep_record(self._record)
        super().close()


class AdaptiveDrafter(CombinedDrafter):
    """Chooses the writer of each block by what its blocks brought; a new text starts with the last one's record."""

    def __init__(
        self,
        drafters: Sequence[Drafter],
        *,
        lengths: Sequence[int] = LENGTHS,
        record: DiscountedUcb | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Put drafters up for choice.

        Args:
            drafters: the one to try first, first.
            lengths: block lengths to choose from; a caller that asks for fewer tokens gets fewer.
            record: what to begin with, one arm per drafter and length; None begins without.
            clock: seconds, from anywhere.
        Raises:
            InvalidRequest: there is no drafter, or no length, or one below 1.
        """
        super().__init__("adaptive", drafters)
        if not lengths or min(lengths) < 1:
            raise InvalidRequest(
                f"{list(lengths)} are no block lengths", field="drafter.lengths", cure="for example [2, 4, 8]"
            )
        self._lengths = tuple(lengths)
        self._record = record or DiscountedUcb(len(drafters) * len(lengths))
        self._clock = clock
        self._lock = threading.Lock()

    @property
    def is_even(self) -> bool:
        """Whether every part is; writer and length are chosen before anything is drawn. See `drafter.is_even`."""
        return all(is_even(drafter) for drafter in self._drafters)

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> AdaptiveSession:
        """Begin a text with the record of the one closed last."""
        sessions = self._start_all(prompt_token_ids, chooser)
        with self._lock:
            record = self._record.copy()
        return AdaptiveSession(
            sessions,
            self._lengths,
            chooser.how,
            record=record,
            clock=self._clock,
            keep_record=self._keep,
        )

    def _keep(self, record: DiscountedUcb) -> None:
        with self._lock:
            self._record = record
