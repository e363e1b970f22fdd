"""Blocks on their way: what was sent when, and what an answer says about them. Pure."""

from collections import deque
from dataclasses import dataclass

from paceline.common.tokens import Verdict
from paceline.edge.request import Round


@dataclass(frozen=True, slots=True)
class _Sent:
    end: int
    num_tokens: int
    draft_s: float
    sent_s: float


class Flight:
    """The blocks of one connection that no verdict has settled."""

    def __init__(self) -> None:
        self._sent: deque[_Sent] = deque()
        self._sent_s: dict[int, float] = {}
        """When each block was sent whose credit is not back, by number."""
        self._num_sent = 0

    def add(self, end: int, num_tokens: int, draft_s: float, now_s: float) -> None:
        """A block that ends before absolute position `end` was sent."""
        self._sent.append(_Sent(end, num_tokens, draft_s, now_s))
        self.add_echo(now_s)

    def add_echo(self, now_s: float) -> None:
        """A block that only measures was sent: no commit settles it, and it makes no round."""
        self._num_sent += 1
        self._sent_s[self._num_sent] = now_s

    def round_trip_s(self, verdict: Verdict, now_s: float) -> float | None:
        """Link time of the newest block this verdict surely answers, the verifier's own time taken off; None if that
        cannot be told. Never too short: what the block waited for beyond the stated queue is counted in."""
        sent_s = self._judged_by(verdict) if verdict.num_judged else self._dropped_by(verdict)
        for number in [one for one in self._sent_s if one <= verdict.blocks_settled]:
            del self._sent_s[number]
        return None if sent_s is None else max(now_s - sent_s - verdict.verify_s - verdict.queue_s, 0.0)

    def _judged_by(self, verdict: Verdict) -> float | None:
        until = verdict.base + verdict.num_judged
        return next(
            (block.sent_s for block in reversed(self._sent) if verdict.base < block.end <= until), None
        )

    def _dropped_by(self, verdict: Verdict) -> float | None:
        """An empty verdict answers a stale block as it arrives."""
        says_nothing = verdict.next_token_id is None and not verdict.num_accepted
        return self._sent_s.get(verdict.blocks_settled) if says_nothing else None

    def settle(self, verdict: Verdict, known: int, *, contradicted: bool, now_s: float) -> Round | None:
        """Forget the blocks a verdict settled; they and it make a round. None if it neither settled nor judged any.

        Args:
            known: length of the next hop's text after it.
            contradicted: what was sent before continues a text that is not to be.
        """
        settled: list[_Sent] = []
        while self._sent and (contradicted or self._sent[0].end <= known):
            settled.append(self._sent.popleft())
        if not settled and not verdict.num_judged:
            return None
        return Round(
            num_drafted=sum(block.num_tokens for block in settled),
            num_accepted=min(verdict.num_accepted, verdict.num_judged),
            draft_s=sum(block.draft_s for block in settled),
            round_s=now_s - settled[0].sent_s if settled else 0.0,
            verify_s=verdict.verify_s,
            queue_s=verdict.queue_s,
        )
