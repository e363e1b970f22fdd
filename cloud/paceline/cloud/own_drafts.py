"""A drafter beside the target, for the tokens a verifier writes while the client's drafts are not there."""

import time

from paceline.common.calibration import Calibration
from paceline.common.cost import CostLine
from paceline.common.drafter import Drafter, DraftSession
from paceline.common.sampling.choose import Chooser
from paceline.common.session import VerifierSession
from paceline.common.tokens import Draft, Rule

_LONGEST = 16
_FIXED = 4
"""Under rejection: what is drafted must not depend on the tokens drafted (methods E11)."""
_PROBE_EVERY = 16
_PROBE = 2


class OwnDrafts:
    """Drafts for one session as far as they pay: while a further token is worth more than its drafting and its row.

    Args:
        drafter: who writes.
        session: whose text.
    """

    def __init__(self, drafter: Drafter, session: VerifierSession) -> None:
        request = session.request
        chooser = Chooser(request.rule, request.sampling, request.seed, session.limits.vocab_size)
        self._own: DraftSession = drafter.start(request.prompt_token_ids, chooser)
        self._session = session
        self._seen = len(request.prompt_token_ids)
        self._confidence = Calibration()
        self._drafting = CostLine()
        self._probs: tuple[float, ...] = ()
        self._num_asked = 0
        self._is_fixed = request.rule is Rule.REJECTION

    def draft(self, cost: CostLine) -> Draft:
        """What to judge in the next pass; may be empty."""
        text, session = self._session.text, self._session
        if len(text) > self._seen:
            self._own.observe(self._seen, text.list(self._seen))
            self._seen = len(text)
        self._num_asked += 1
        standing, least = 1.0, self._least_standing(cost)

        def keep_going(prob: float) -> bool:
            nonlocal standing
            standing *= self._confidence.chance(prob)
            return self._is_fixed or standing > least

        began_s = time.perf_counter()
        proposal = self._own.propose(min(self._limit(least), session.room), keep_going)
        if len(proposal):
            self._drafting.observe(len(proposal), time.perf_counter() - began_s)
        self._probs = proposal.probs
        if proposal.base != len(text):  # its context is full
            return session.own_draft()
        return session.own_draft(proposal.token_ids, proposal.how, proposal.laws)

    def judged(self, num_accepted: int) -> None:
        """So many of the last draft's tokens stand."""
        for index, prob in enumerate(self._probs[: num_accepted + 1]):
            self._confidence.observe(prob, index < num_accepted)
        self._probs = ()

    def close(self) -> None:
        """Free what is held."""
        self._own.close()

    def _limit(self, least: float) -> int:
        if self._is_fixed:
            return _FIXED
        if least < 1:
            return _LONGEST
        return _PROBE if self._num_asked % _PROBE_EVERY == 0 else 0

    def _least_standing(self, cost: CostLine) -> float:
        """Chance of standing at which a token saves what it costs; one that stands saves a pass, less its own row."""
        mean = self._confidence.mean
        saved_s = mean * (cost.fixed_s + cost.per_token_s) * (1 - mean)
        if not saved_s:
            return 0.0
        return (self._drafting.per_token_s + cost.per_token_s) / saved_s
