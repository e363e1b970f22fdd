"""When to decode on alone: how long a session waits for a draft before its target pass is spent on one token. Pure.

A verifier that waits `w` seconds for a draft loses `w / s` tokens, at `s` seconds per committed token. One that decodes
on wins a token, and delays the draft that arrives meanwhile by what is left of the pass, `t1 - w`. So waiting pays iff
``w < t1 - s``.

Decisions look at times alone, never at what a draft says: under rejection a filled token is a fresh draw of the target,
and deciding by the drafted token it replaces would bias the text (methods E11).
"""

from dataclasses import dataclass, field

_DOWN, _UP = 0.5, 0.2
"""How far the expected wait follows a shorter and a longer one. A pass that fills makes the next draft later where both
ends share a processor, or where the filled token refutes it: a long wait is believed slowly, or filling would justify
itself.
"""
_KEEP_PACE = 0.95
_SLACK_S = 0.0005
"""A draft a little later than expected is still worth the wait."""
_YIELDED_PASSES = 4
"""Under load a session without drafts leaves so many passes to others, and no more: it never stands still."""
_CROWDED = 0.5
"""Share of passes that serve several sessions' drafts, from which on the verifier counts as loaded."""


@dataclass(slots=True)
class Load:
    """Whether target passes are in demand."""

    _share: float = 0.0

    def observe(self, num_drafting: int) -> None:
        """A pass judged drafts of so many sessions."""
        self._share += 0.05 * ((num_drafting > 1) - self._share)

    @property
    def is_high(self) -> bool:
        """Several sessions' drafts share most passes."""
        return self._share > _CROWDED


@dataclass(slots=True)
class Patience:
    """How long one session waits for a draft."""

    _since_s: float | None = None
    """When the drafter last had reason to begin anew."""
    _was_refuted: bool = True
    _waits_s: dict[bool, float] = field(default_factory=dict)
    """Expected delay of the next draft, after a contradiction and after none."""
    _is_measured: bool = False
    _expects: bool = False
    """Drafts have been coming."""
    _tokens: float = 0.0
    _seconds: float = 0.0
    _committed_s: float | None = None

    def on_draft(self, now_s: float) -> None:
        """A block arrived that continues the text."""
        self._expects = True
        if self._since_s is not None and not self._is_measured:
            self._is_measured = True
            wait_s = now_s - self._since_s
            if wait_s <= 0:
                return  # it came while the pass ran: nobody waited, and nothing is learnt about waiting
            past_s = self._waits_s.get(self._was_refuted, wait_s)
            weight = _DOWN if wait_s < past_s else _UP
            self._waits_s[self._was_refuted] = past_s + weight * (wait_s - past_s)

    def on_wrong_draft(self) -> None:
        """A block arrived that continues another text: its drafter begins anew once it has heard of the last commit."""
        if not self._was_refuted and self._committed_s is not None:
            self._since_s, self._was_refuted, self._is_measured = self._committed_s, True, False

    def on_commit(self, now_s: float, num_tokens: int, *, judged: bool, refuted: bool) -> None:
        """The text grew by `num_tokens`.

        Args:
            judged: by a draft of the client's; else the verifier went on alone, which tells its drafter nothing new.
            refuted: some of that draft does not stand.
        """
        if self._committed_s is not None:
            self._tokens = _KEEP_PACE * self._tokens + num_tokens
            self._seconds = _KEEP_PACE * self._seconds + now_s - self._committed_s
        self._committed_s = now_s
        if judged or self._since_s is None:
            self._since_s, self._was_refuted, self._is_measured = now_s, refuted, False

    def fill_at(self, now_s: float, pass_s: float, load: Load) -> float:
        """From when on the verifier decodes on; at most `now_s` means at once.

        Args:
            pass_s: what a pass over one token takes.
        """
        ready_s = self._committed_s if self._committed_s is not None else now_s
        yielded_s = ready_s + _YIELDED_PASSES * pass_s if load.is_high else now_s
        return max(yielded_s, self._worth_waiting_until(now_s, pass_s))

    def _worth_waiting_until(self, now_s: float, pass_s: float) -> float:
        expected_s = self._waits_s.get(self._was_refuted, self._waits_s.get(not self._was_refuted))
        if not self._expects or self._since_s is None or expected_s is None or not self._tokens:
            return now_s
        worth_s = pass_s - self._seconds / self._tokens
        deadline_s = self._since_s + expected_s + min(expected_s, worth_s) + _SLACK_S
        if worth_s <= 0:
            return now_s
        if now_s >= deadline_s:
            self._expects = False  # none came although one was due: not again before one comes
            return now_s
        left_s = self._since_s + expected_s - now_s
        return min(deadline_s, now_s + worth_s) if left_s < worth_s else now_s
