"""A relay's own end of one generation: a verifier session whose text the hops above may rewrite.

Its model judges what the hop below drafts and writes on where nothing is drafted, as any verifier's. What it says is an
opinion: it becomes the relay's draft for the hop above, and only what the last hop says is committed. So such a session
never finishes a text; it writes as far as its `horizon`, and `steer` tells it what the text has become.

Under rejection what it says is drawn from its own law, made sparse and quantised first (methods 6.1), with dice of its
own: coins shared with the hop above would correlate its choices with their acceptance.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from paceline.common.acceptance import Judgement, judge
from paceline.common.messages import Feature, ServerMessage
from paceline.common.sampling.noise import Purpose, key
from paceline.common.sampling.opinion import OpinionRows, QuantisedOpinionRows
from paceline.common.sampling.quantised import QuantisedLaw
from paceline.common.sampling.rows import LogitRows
from paceline.common.session.blocks import orphans
from paceline.common.session.limits import Limits
from paceline.common.session.steering import Answer, Steer, Steered, Written
from paceline.common.session.verifier import VerifierPhase, VerifierSession, Work
from paceline.common.tokens import Draft, How, Origin, Rule, Verdict


@dataclass(frozen=True, slots=True)
class _Said:
    """What the own model thought of a token."""

    prob: float
    law: QuantisedLaw | None
    is_accepted: bool
    """The hop below drafted it."""


class SteeredSession(VerifierSession):
    """See above.

    Args:
        opening: the client's Open, and where in the chain this hop stands.
        limits: what this hop accepts.
    """

    def __init__(self, opening: Steered, limits: Limits) -> None:
        super().__init__(opening.request, limits)
        # What it says becomes a chain, and so must be what it is asked; how likely it is only the last hop could say.
        self.features -= {Feature.TREE, Feature.LOGPROBS}
        self.horizon = self._final_length = len(self.text)
        request = opening.request
        self._num_rewrites = 0
        self._is_rejection = request.rule is Rule.REJECTION
        self._dice_seed = (
            key(request.seed, opening.depth, Purpose.RELAY) if self._is_rejection else request.seed
        )
        self._said: dict[int, _Said] = {}
        """By position, for as long as the text there may change."""

    def steer(self, message: Steer) -> list[Answer]:
        """Follow the hops above. What was written beyond a rewrite that agrees with it is said again, for the relay
        heeds nothing from before; an empty verdict gives back the credit of blocks that became stale."""
        answers: list[Answer] = []
        if message.token_ids:
            self._rewrite(message.base, message.token_ids)
            end = message.base + len(message.token_ids)
            answers += [self._repeated(end)] if len(self.text) > end else []
        self.horizon, self._final_length = message.horizon, message.final_length
        for position in [one for one in self._said if one < self._final_length]:
            del self._said[position]
        if self._drop_stale():
            answers.append(Verdict(base=len(self.text), blocks_settled=self._settled))
        return answers

    def _rewrite(self, base: int, token_ids: tuple[int, ...]) -> None:
        self._num_rewrites += 1
        for at, token_id in enumerate(token_ids, base):
            if at < len(self.text) and self.text[at] == token_id:
                continue
            if at < len(self.text):
                self._truncate(at)
            self.text.append(token_id)
            self.history.push(token_id)

    def _truncate(self, length: int) -> None:
        self.fence += 1
        self._dead_ends.bury(self.text, length)
        self.text.truncate(length)
        self.history.truncate(length - len(self.request.prompt_token_ids))
        self._cached = min(self._cached, length - 1)  # the last token is always run again

    @property
    def final_length(self) -> int:
        """See `VerifierSession.final_length`."""
        return self._final_length

    def _drop_stale(self) -> bool:
        """See `VerifierSession._drop_stale`. A text that may be cut can have been past what a block continues and be
        short of it again. Blocks arrive in the order they were written: what is not there by then never will be."""
        has_stale = super()._drop_stale()
        lost = orphans(self.text, self._waiting)
        self._waiting = deque(block for index, block in enumerate(self._waiting) if index not in lost)
        self._settled += len(lost)
        return has_stale or bool(lost)

    @property
    def is_resting(self) -> bool:
        """Nothing is to be written: far enough ahead, or the text is complete as far as this hop knows."""
        is_stopped = self.num_generated > 0 and self.text[-1] in self.stop_token_ids
        return is_stopped or len(self.text) >= min(self.horizon, self.end)

    def next_work(
        self, max_prefill_tokens: int, own_draft: Callable[[], Draft | None] | None = None
    ) -> Work | None:
        """See `VerifierSession.next_work`; while resting the cache follows the text, and nothing else is done."""
        if not self.is_resting:
            return super().next_work(max_prefill_tokens, own_draft)
        num_tokens = min(self.num_uncached, max_prefill_tokens)
        return self._prefill(num_tokens) if num_tokens > 0 and self.phase is VerifierPhase.LIVE else None

    def judge(self, work: Work, logits: LogitRows) -> Judgement:
        """See `VerifierSession.judge`; remembers what the tokens were drawn from."""
        assert work.draft is not None, "a prefill chunk is not judged"
        request, draft = self.request, work.draft
        rows_of = QuantisedOpinionRows if self._is_rejection else OpinionRows
        with rows_of(logits, request.sampling, self.history, draft.token_ids, draft.parents) as rows:
            judgement = judge(request.rule, draft, rows, self._dice_seed)
            path = draft.path(judgement.num_accepted, judgement.accepted_node)
            token_ids = [draft.token_ids[node] for node in path]
            if judgement.next_token_id is not None:
                token_ids.append(judgement.next_token_id)
            judged_by = (0, *(node + 1 for node in path))
            for place, (row, token_id) in enumerate(zip(judged_by, token_ids, strict=False)):
                is_accepted = place < len(path) and not work.is_own
                self._said[draft.base + place] = _Said(*rows.said(row, token_id), is_accepted)
        return judgement

    def on_judged(
        self, work: Work, judgement: Judgement, verify_s: float = 0.0, queue_s: float = 0.0
    ) -> list[Answer]:
        """See `VerifierSession.on_judged`; a verdict becomes a draft for the hop above."""
        answers = super().on_judged(work, judgement, verify_s, queue_s)
        return [self._written(one) if isinstance(one, Verdict) else one for one in answers]

    def _written(self, verdict: Verdict) -> Written:
        token_ids = tuple(self.text[verdict.base :])
        said = [self._said[position] for position in range(verdict.base, len(self.text))]
        laws = tuple(one.law for one in said if one.law is not None)
        probs = tuple(one.prob for one in said)
        return Written(self._num_rewrites, verdict, token_ids, probs, self._how, laws)

    def _repeated(self, base: int) -> Written:
        *filled, last = self.text[base:]
        is_accepted = [self._said[position].is_accepted for position in range(base, len(self.text))]
        verdict = Verdict(
            base=base,
            num_accepted=(*is_accepted[:-1], False).index(False),
            next_token_id=last,
            next_origin=Origin.FILLED,
            blocks_settled=self._settled,
            filled_token_ids=tuple(filled),
        )
        return replace(self._written(verdict), is_repeated=True)

    @property
    def _how(self) -> How:
        if self._is_rejection:
            return How.SAMPLED
        return How.ONE_HOT if self.request.sampling.is_greedy else How.SHARED_NOISE

    def _finish_if_complete(self) -> list[ServerMessage]:
        return []  # only the last hop knows
