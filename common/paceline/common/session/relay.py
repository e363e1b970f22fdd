"""One generation as a relay sees it: a verifier to the hop below, a drafter to the hop above. Pure.

The relay's text is what is committed, and after it the opinion of the relay's own model. The hop below knows that
text: every change of it goes down at once, as a provisional verdict, in order. The opinion is what goes up as drafts.
What comes down from above commits some of it or rewrites it:

    below ◀── provisional ── on_written ◀── the relay's own model
    below ◀── provisional, verdict ── on_commit ◀── the hop above
"""

from collections import deque
from dataclasses import dataclass, replace

from paceline.common.drafter import Proposal
from paceline.common.messages import HopReport, Open, Provisional
from paceline.common.prefix import Prefix
from paceline.common.sampling.quantised import QuantisedLaw
from paceline.common.session.edge import Commit
from paceline.common.session.steering import Written
from paceline.common.tokens import How, Origin, Rule, Verdict


@dataclass(frozen=True, slots=True)
class _Said:
    """What the relay's own model thought of a token."""

    prob: float
    law: QuantisedLaw | None


def _told_as(origin: Origin) -> Origin:
    """What the hop below is told of a token that it does not know: it cannot have drafted it."""
    return Origin.FILLED if origin is Origin.ACCEPTED else origin


class RelaySession:
    """See above.

    Args:
        request: the Open of the hop below.
        stop_token_ids: what ends the text, the last hop's own ids included.
    """

    def __init__(self, request: Open, stop_token_ids: frozenset[int]) -> None:
        self.text = Prefix((*request.prompt_token_ids, *request.committed_token_ids))
        self.committed = len(self.text)
        self.num_rewrites = 0
        """Times a hop above made the text another one; the own model has to be told of each."""
        self.report = HopReport()
        """What the relay's own model did for this text."""
        self._num_prompt = len(request.prompt_token_ids)
        self._end = self._num_prompt + request.max_new_tokens
        self._stop_token_ids = stop_token_ids
        self._needs_laws = request.rule is Rule.REJECTION
        self._how = How.ONE_HOT
        self._said: deque[_Said | None] = deque()
        """One entry for each token of the opinion; None where a hop above wrote it."""

    @property
    def is_complete(self) -> bool:
        """The text has its length or ends with a stop token, as far as this hop knows."""
        ends = len(self.text) > self._num_prompt and self.text[-1] in self._stop_token_ids
        return ends or len(self.text) >= self._end

    # --- from the relay's own model -----------------------------------------------------------------------------------

    def on_written(self, written: Written) -> Provisional:
        """Take over what the own model says, unless the text was rewritten meanwhile. The answer also gives credit."""
        verdict = written.verdict
        if not written.is_repeated:
            self._count(verdict, len(written.token_ids))
        if written.num_rewrites != self.num_rewrites:
            return self.credit(verdict)
        assert verdict.base == len(self.text), "between rewrites both hold one text"
        self.text.extend(written.token_ids)
        laws = written.laws or (None,) * len(written.token_ids)
        self._said.extend(_Said(*one) for one in zip(written.probs, laws, strict=True))
        self._how = written.how
        num_told = len(written.token_ids) - (verdict.next_token_id is not None)
        # Every token is named, so no node of a tree need be.
        return Provisional(
            replace(verdict, filled_token_ids=written.token_ids[:num_told], accepted_node=None)
        )

    def credit(self, verdict: Verdict) -> Provisional:
        """Say nothing but how many blocks are settled."""
        return Provisional(
            Verdict(len(self.text), blocks_settled=verdict.blocks_settled, queue_s=verdict.queue_s)
        )

    def _count(self, verdict: Verdict, num_tokens: int) -> None:
        past = self.report
        self.report = replace(
            past,
            num_judged=past.num_judged + verdict.num_judged,
            num_accepted=past.num_accepted + verdict.num_accepted,
            num_passes=past.num_passes + 1,
            num_written=past.num_written + num_tokens - verdict.num_accepted,
            verify_s=past.verify_s + verdict.verify_s,
        )

    # --- from the hop above -------------------------------------------------------------------------------------------

    def on_commit(self, commit: Commit) -> tuple[Verdict | Provisional | None, bool]:
        """Follow the hop above. What to tell the hop below, and whether the text is another one now, which then ends
        with the commit."""
        num_same = 0
        for at, token_id in enumerate(commit.token_ids, commit.position):
            if at >= len(self.text) or self.text[at] != token_id:
                break
            num_same += 1
        own = commit.token_ids[num_same:]
        if own:
            self._rewrite(commit.position + num_same, own)
        if commit.is_final:
            for _ in commit.token_ids:
                self._said.popleft()
            self.committed = commit.position + len(commit.token_ids)
        if not own and not commit.is_final:
            return None, False
        verdict = Verdict(
            base=commit.position,
            num_accepted=num_same,
            next_token_id=own[-1] if own else None,
            next_origin=_told_as(commit.origins[-1]) if own else None,
            filled_token_ids=own[:-1],
            author=commit.authors[-1] if own else 0,
            receipt=commit.verdict.receipt,
        )
        if commit.is_final:
            return verdict, bool(own)
        return Provisional(replace(verdict, base=commit.position + num_same, num_accepted=0)), True

    def _rewrite(self, position: int, token_ids: tuple[int, ...]) -> None:
        self.num_rewrites += 1
        num_kept = position - self.committed
        while len(self._said) > num_kept:
            self._said.pop()
        self.text.truncate(position)
        self.text.extend(token_ids)
        self._said.extend([None] * len(token_ids))

    # --- to the hop above ---------------------------------------------------------------------------------------------

    def drafts(self, start: int, limit: int) -> Proposal:
        """The opinion from absolute position `start` on, at most `limit` tokens. It ends before a token that a hop
        above wrote, if drafts need the law they were drawn from."""
        said: list[_Said] = []
        for index in range(start - self.committed, min(len(self._said), start - self.committed + limit)):
            one = self._said[index]
            if one is None and self._needs_laws:
                break
            said.append(one or _Said(1.0, None))
        laws = tuple(one.law for one in said if one.law is not None)
        token_ids = tuple(self.text[start : start + len(said)])
        return Proposal(start, token_ids, tuple(one.prob for one in said), self._how, laws)
