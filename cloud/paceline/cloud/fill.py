"""When to decode on alone: how long a session waits for a draft before its target pass is spent on one token. Pure.

Let a pass take `t1`, the draft come after ``w <= t1``, and a drafted token stand with chance `a`. Either way the text
reaches the next contradiction in as many tokens. A verifier that waits is there after ``w + t1``. One that decodes on
is there after `t1` if its token is the contradiction, and else, with chance `a`, after a second pass, over what is left
of the draft: ``t1 + a t1``. So waiting pays iff ``w < a t1``. Three things make it pay less:

- after `k` tokens on its own the draft on its way may be refuted already; it is alive with chance ``a^k``;
- a drafter too slow to write as far as the contradiction sets the pace itself, whoever waits: only the share `r` of
  drafts that are refuted in the end was long enough;
- where going on alone commits `f` tokens a pass (a drafter beside the verifier) and a pass over a draft `y`, waiting
  has to beat that: ``w + t1 < t1 y / f``.

So a wait is worth ``t1 min(r a^(k+1), y / f - 1)``.

Decisions look at times alone, never at what a draft says: under rejection a filled token is a fresh draw of the target,
and deciding by the drafted token it replaces would bias the text (methods E11).
"""

from dataclasses import dataclass, field

_DOWN, _UP = 0.5, 0.2
"""How far the expected wait follows a shorter and a longer one. A pass that fills makes the next draft later where both
ends share a processor, or where the filled token refutes it: a long wait is believed slowly, or filling would justify
itself.
"""
_KEEP = 0.95
"""Weight of the past in running shares, per pass."""
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
class _Share:
    """A running ratio of two sums."""

    part: float
    whole: float = 1.0

    def observe(self, part: float, whole: float) -> None:
        self.part = _KEEP * self.part + part
        self.whole = _KEEP * self.whole + whole

    @property
    def value(self) -> float:
        return self.part / self.whole


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
    _ready_s: float | None = None
    """Since when it could go on: when the text last grew, before that when this was asked first."""
    _num_alone: int = 0
    """Tokens committed since then without a draft."""
    _standing: _Share = field(default_factory=lambda: _Share(0.7))
    """Of judged tokens."""
    _refuted: _Share = field(default_factory=lambda: _Share(1.0))
    """Of judged drafts."""
    _checked: _Share = field(default_factory=lambda: _Share(2.0))
    """Tokens per pass over a draft of the client's."""
    _alone: _Share = field(default_factory=lambda: _Share(1.0))
    """Tokens per pass without one."""

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
        if not self._was_refuted and self._ready_s is not None:
            self._begin(self._ready_s, was_refuted=True)

    def on_commit(
        self, now_s: float, num_tokens: int, *, judged: bool, num_accepted: int, refuted: bool
    ) -> None:
        """The text grew by `num_tokens`.

        Args:
            judged: by a draft of the client's; else the verifier went on alone, which tells its drafter nothing new.
            num_accepted: tokens of that draft that stand.
            refuted: some of that draft does not stand.
        """
        if judged:
            self._standing.observe(num_accepted, num_accepted + refuted)
            self._refuted.observe(refuted, 1)
        (self._checked if judged else self._alone).observe(num_tokens, 1)
        self._ready_s = now_s
        self._num_alone += num_tokens
        if judged or self._since_s is None:
            self._begin(now_s, was_refuted=refuted)

    def _begin(self, now_s: float, *, was_refuted: bool) -> None:
        self._since_s, self._was_refuted = now_s, was_refuted
        self._is_measured, self._num_alone = False, 0

    def fill_at(self, now_s: float, pass_s: float, load: Load) -> float:
        """From when on the verifier decodes on; at most `now_s` means at once.

        Args:
            pass_s: what a pass over one token takes.
        """
        if self._ready_s is None:
            self._ready_s = now_s
        yielded_s = self._ready_s + _YIELDED_PASSES * pass_s if load.is_high else now_s
        return max(yielded_s, self._worth_waiting_until(now_s, pass_s))

    def _worth_waiting_until(self, now_s: float, pass_s: float) -> float:
        expected_s = self._waits_s.get(self._was_refuted, self._waits_s.get(not self._was_refuted))
        if not self._expects or self._since_s is None or expected_s is None:
            return now_s
        gain = self._refuted.value * self._standing.value ** (self._num_alone + 1)
        worth_s = pass_s * min(gain, self._checked.value / self._alone.value - 1)
        deadline_s = self._since_s + expected_s + min(expected_s, worth_s) + _SLACK_S
        if worth_s <= 0:
            return now_s
        if now_s >= deadline_s:
            self._expects = False  # none came although one was due: not again before one comes
            return now_s
        left_s = self._since_s + expected_s - now_s
        return min(deadline_s, now_s + worth_s) if left_s < worth_s else now_s
