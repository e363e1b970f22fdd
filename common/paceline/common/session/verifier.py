"""The verifier's end of one generation. It owns the committed text; everything else is a hint or a cache.

    Open ──▶ LIVE ──(stop token, length, cancel)──▶ FINISHED
               └──(fatal error, close, lost stream)──▶ CLOSED

Drive it with `on_draft`, `on_cancel`, `close`; ask `next_work` what the engine should run; report with
`on_prefilled` or `on_judged`. A result that belongs to an older fence, or arrives after the end, commits nothing.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from paceline.common.acceptance import Judgement, judge
from paceline.common.errors import BadDraft, Busy
from paceline.common.messages import Feature, FillPolicy, Finished, HopReport, Open, Opened, ServerMessage
from paceline.common.prefix import Prefix
from paceline.common.sampling.history import History
from paceline.common.sampling.logprobs import token_logprobs
from paceline.common.sampling.quantised import QuantisedLaw
from paceline.common.sampling.rows import LogitRows, TargetRows
from paceline.common.session.blocks import DeadEnds, merge
from paceline.common.session.limits import Limits, check_draft, check_open
from paceline.common.session.steering import Answer
from paceline.common.tokens import Draft, FinishReason, How, Origin, TokenLogprobs, Verdict

DEFAULT_FILL_PASSES = 8
"""Of `FillPolicy.BOUNDED`, where the client names no number."""
_MAX_SCORED = 64
"""Tokens of a prompt scored in one step: each takes a row of the whole vocabulary."""


class VerifierPhase(Enum):
    """Where a session stands."""

    LIVE = auto()
    FINISHED = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class Work:
    """What the engine should run for a session in one step."""

    fence: int
    past_length: int
    """Cached tokens to keep."""
    token_ids: tuple[int, ...]
    """Tokens to run from `past_length` on: text not cached yet, then the draft."""
    draft: Draft | None
    """What is judged; None for a prefill chunk."""
    settles: int = 0
    """Blocks this step answers."""
    is_own: bool = False
    """The draft is the verifier's own, or empty: the client has not seen it."""
    is_scored: bool = False
    """A prefill chunk whose tokens' successors the client wants to know the probability of."""

    @property
    def num_logits(self) -> int:
        """Rows of logits wanted, for the last tokens of `token_ids`."""
        if self.draft is None:
            return len(self.token_ids) if self.is_scored else 0
        return len(self.draft) + 1

    @property
    def parents(self) -> tuple[int, ...]:
        """Of the last tokens of `token_ids`, where the draft is a tree."""
        return () if self.draft is None else self.draft.parents


class VerifierSession:
    """One generation as the verifier sees it.

    Args:
        request: the client's Open.
        limits: what this verifier accepts.
    Raises:
        PacelineError: from `check_open`.
    """

    def __init__(self, request: Open, limits: Limits) -> None:
        check_open(request, limits)
        self.request = request
        self.limits = limits
        self.phase = VerifierPhase.LIVE
        self.fence = 0
        self.text = Prefix((*request.prompt_token_ids, *request.committed_token_ids))
        self.history = History(request.prompt_token_ids)
        for token_id in request.committed_token_ids:
            self.history.push(token_id)
        self.stop_token_ids = frozenset(request.stop_token_ids) | (
            frozenset() if request.ignore_eos else frozenset(limits.eos_token_ids)
        )
        self.features = request.features & limits.features
        self.end = len(request.prompt_token_ids) + request.max_new_tokens
        self.report = HopReport()
        """What was done for this text."""
        self._cached = 0
        self.num_held = 0
        """Tokens the engine may hold for this session: the cached ones, and what did not become text."""
        self._waiting: deque[Draft] = deque()
        self._dead_ends = DeadEnds(2 * limits.max_blocks_in_flight * (limits.max_draft_tokens + 1))
        self._received = 0
        self._settled = 0
        self._fills_in_row = 0

    def adopt(self, num_cached: int, num_held: int) -> None:
        """Take over what the engine holds from an earlier stream of this session.

        Args:
            num_cached: tokens it begins with that are this text's; fewer than this text has.
            num_held: tokens the engine may hold in all.
        """
        self._cached, self.num_held = num_cached, num_held

    @property
    def cached_token_ids(self) -> Sequence[int]:
        """The part of the text that the engine has run, and would not have to run again."""
        token_ids: Sequence[int] = self.text[: self._cached]
        return token_ids

    # --- messages -----------------------------------------------------------------------------------------------------

    def opened(self, verify_fixed_s: float = 0.0, verify_per_token_s: float = 0.0) -> list[ServerMessage]:
        """The answer to Open; with Finished if the resumed text was complete already."""
        reply: ServerMessage = Opened(
            vocab_size=self.limits.vocab_size,
            max_draft_tokens=self.limits.max_draft_tokens,
            max_blocks_in_flight=self.limits.max_blocks_in_flight,
            committed_length=len(self.text),
            stop_token_ids=tuple(sorted(self.stop_token_ids)),
            features=self.features,
            verify_fixed_s=verify_fixed_s,
            verify_per_token_s=verify_per_token_s,
            pad_to=self.request.pad_to,
            cached_length=self._cached,
        )
        return [reply, *self._finish_if_complete()]

    def on_draft(self, draft: Draft) -> list[ServerMessage]:
        """Take a block. One that says nothing new is dropped; the empty verdict returned for it gives its credit back.

        Raises:
            BadDraft: the block is malformed and settled; the session goes on.
            Busy: the client ignores the window; the stream should end.
        """
        self._received += 1
        if self._received - self._settled > self.limits.max_blocks_in_flight:
            raise Busy(
                f"{self._received - self._settled} blocks in flight; the window is {self.limits.max_blocks_in_flight}",
                field="draft",
                cure="wait for verdicts",
            )
        try:
            self._check_features(draft)
            check_draft(draft, self.request.rule, self.limits)
        except BadDraft:
            self._settled += 1
            raise
        self._waiting.append(draft)
        return [Verdict(base=len(self.text), blocks_settled=self._settled)] if self._drop_stale() else []

    def _check_features(self, draft: Draft) -> None:
        if draft.parents and Feature.TREE not in self.features:
            raise BadDraft(
                f"a tree of {len(draft)} tokens, but trees were not agreed on",
                field="parents",
                cure="name the feature in open; where the verifier does not, send chains",
            )

    def on_unreadable_draft(self) -> None:
        """A block came that is malformed beyond reading; its credit goes back."""
        self._received += 1
        self._settled += 1

    def on_cancel(self) -> list[ServerMessage]:
        """End the text where it stands."""
        return self._finish(FinishReason.CANCELLED) if self.phase is VerifierPhase.LIVE else []

    def close(self) -> None:
        """The client is gone or done; results still under way commit nothing."""
        self.phase = VerifierPhase.CLOSED
        self.fence += 1
        self._waiting.clear()

    # --- work ---------------------------------------------------------------------------------------------------------

    @property
    def blocks_settled(self) -> int:
        """Blocks answered or dropped so far."""
        return self._settled

    @property
    def num_generated(self) -> int:
        """Tokens generated so far, resumed ones included."""
        return len(self.text) - len(self.request.prompt_token_ids)

    @property
    def num_uncached(self) -> int:
        """Committed tokens the engine has yet to run before the next decision, the last one excluded."""
        return len(self.text) - 1 - self._cached

    def next_work(
        self, max_prefill_tokens: int, own_draft: Callable[[], Draft | None] | None = None
    ) -> Work | None:
        """What to run now; None if there is nothing to do until a message arrives.

        Args:
            max_prefill_tokens: longest prefill chunk, so that a long prompt delays nobody by more.
            own_draft: asked where the client sent nothing usable and `may_fill`; None from it waits for the client.
                Left out, the verifier goes on without a draft.
        """
        if self.phase is not VerifierPhase.LIVE:
            return None
        if self._num_unscored > 0:
            num_tokens = min(self._num_unscored, max_prefill_tokens, _MAX_SCORED)
            return replace(self._prefill(num_tokens), is_scored=True)
        if self.num_uncached > max_prefill_tokens:
            return self._prefill(max_prefill_tokens)
        draft, settles = self._usable_draft()
        is_own = draft is None
        if draft is None and self.may_fill:
            draft = own_draft() if own_draft is not None else self.own_draft()
        if draft is None:
            return self._prefill(self.num_uncached) if self.num_uncached else None
        token_ids = (*self.text[self._cached :], *draft.token_ids)
        return Work(self.fence, self._cached, token_ids, draft, settles, is_own)

    @property
    def may_fill(self) -> bool:
        """Whether the policy lets the verifier decode on now. When that is wise under AUTO, clocks decide elsewhere."""
        match self.request.fill:
            case FillPolicy.OFF:
                return False
            case FillPolicy.BOUNDED:
                return self._fills_in_row < (self.request.max_fill_passes or DEFAULT_FILL_PASSES)
            case _:
                return True

    @property
    def final_length(self) -> int:
        """Length of the part of the text that will never change: all of it, but for a relay's."""
        return len(self.text)

    @property
    def has_usable_draft(self) -> bool:
        """Whether a block of the client's waits that continues the text."""
        return bool(self._waiting) and self._usable_draft()[0] is not None

    def contradicts(self, draft: Draft) -> bool:
        """Whether a block continues another text than this one, as far as can be seen."""
        overlap = len(self.text) - draft.base
        if overlap < 0:
            return False
        said = draft.token_ids[:overlap]
        return (
            self.text.hash_at(draft.base) != draft.prefix_hash
            or tuple(self.text[draft.base : draft.base + len(said)]) != said
        )

    @property
    def room(self) -> int:
        """Tokens a draft may have: the verifier's own one follows."""
        return min(self.end - len(self.text) - 1, self.limits.max_judged_tokens)

    @property
    def _num_unscored(self) -> int:
        """Tokens of the prompt, not cached yet, whose successor's probability is wanted."""
        wanted = self.request.logprobs
        return len(self.request.prompt_token_ids) - 1 - self._cached if wanted and wanted.prompt else 0

    def _prefill(self, num_tokens: int) -> Work:
        chunk = tuple(self.text[self._cached : self._cached + num_tokens])
        return Work(self.fence, self._cached, chunk, None)

    def _usable_draft(self) -> tuple[Draft | None, int]:
        """The waiting blocks as one draft, cut so that accepted tokens plus the verifier's own one fit."""
        if not self._waiting:
            return None, 0
        merged = merge(self.text, self._waiting, self.room)
        return merged.draft, len(merged.used)

    def _drop_stale(self) -> bool:
        """Forget waiting blocks the text contains or contradicts; they are settled. Whether there were any."""
        stale = self._dead_ends.stale(self.text, self._waiting, self.final_length)
        self._waiting = deque(block for index, block in enumerate(self._waiting) if index not in stale)
        self._settled += len(stale)
        return bool(stale)

    def own_draft(
        self,
        token_ids: tuple[int, ...] = (),
        how: How = How.ONE_HOT,
        laws: tuple[QuantisedLaw, ...] = (),
    ) -> Draft:
        """A draft of the verifier's own, or none at all, to go on with while the client's are not there."""
        length = len(self.text)
        return Draft(length, self.text.hash_at(length), token_ids, (), how, laws)

    # --- results ------------------------------------------------------------------------------------------------------

    def on_prefilled(self, work: Work, logits: LogitRows | None = None) -> list[ServerMessage]:
        """The engine has cached a prefill chunk; returns what the client wants to know of it.

        Raises:
            TargetNumerics: the target produced NaN or infinity.
        """
        self._hold(work)
        if work.fence != self.fence:
            return []
        self._cached = work.past_length + len(work.token_ids)
        if not work.is_scored or self.request.logprobs is None or logits is None:
            return []
        base, num_top = work.past_length + 1, self.request.logprobs.num_top
        scores = tuple(
            token_logprobs(logits.row(index), self.text[base + index], num_top)
            for index in range(len(work.token_ids))
        )
        return [Verdict(base=base, blocks_settled=self._settled, logprobs=scores)]

    def _hold(self, work: Work) -> None:
        self.num_held = work.past_length + len(work.token_ids)

    def judge(self, work: Work, logits: LogitRows) -> Judgement:
        """What the rule decides about a step's draft, from the target's rows for it. Changes nothing.

        Raises:
            TargetNumerics: the target produced NaN or infinity.
        """
        assert work.draft is not None, "a prefill chunk is not judged"
        request, draft = self.request, work.draft
        with TargetRows(logits, request.sampling, self.history, draft.token_ids, draft.parents) as rows:
            judgement = judge(request.rule, draft, rows, request.seed)
            if request.logprobs is None:
                return judgement
            return replace(judgement, logprobs=_logprobs(draft, judgement, rows, request.logprobs.num_top))

    def on_judged(
        self, work: Work, judgement: Judgement, verify_s: float = 0.0, queue_s: float = 0.0
    ) -> list[Answer]:
        """Commit what the rule decided; returns the verdict, and Finished if the text is complete."""
        self._hold(work)
        base = len(self.text)
        if work.fence != self.fence or self.phase is not VerifierPhase.LIVE or work.draft is None:
            return []
        if work.draft.base != base:  # judged twice, or planned before another result was committed
            return []
        num_accepted, next_token_id, next_origin = self._until_stop(work.draft, judgement)
        path = work.draft.path(judgement.num_accepted, judgement.accepted_node)[:num_accepted]
        accepted = tuple(work.draft.token_ids[node] for node in path)
        for token_id in accepted if next_token_id is None else (*accepted, next_token_id):
            self.text.append(token_id)
            self.history.push(token_id)
        # The last token is always run again with what follows: its row of logits judges the next draft's first token.
        # So is what stands of a tree off its first path: it does not lie where the text wants it.
        num_in_place = sum(node == index for index, node in enumerate(path))
        self._cached = min(base + num_in_place, len(self.text) - 1)
        self._fills_in_row = self._fills_in_row + 1 if work.is_own else 0
        self._drop_stale()
        self._tally(work, num_accepted, len(self.text) - base, verify_s)
        verdict: ServerMessage = Verdict(
            base=base,
            num_accepted=0 if work.is_own else num_accepted,
            next_token_id=next_token_id,
            next_origin=Origin.FILLED if work.is_own and next_origin else next_origin,
            blocks_settled=self._settled,
            verify_s=verify_s,
            queue_s=queue_s,
            num_judged=0 if work.is_own else len(work.draft),
            filled_token_ids=accepted if work.is_own else (),
            accepted_node=path[-1] if work.draft.parents and path else None,
            logprobs=judgement.logprobs[: len(self.text) - base],
        )
        return [verdict, *self._finish_if_complete()]

    def _tally(self, work: Work, num_accepted: int, num_added: int, verify_s: float) -> None:
        judged, accepted = (0, 0) if work.is_own or work.draft is None else (len(work.draft), num_accepted)
        past = self.report
        self.report = HopReport(
            num_judged=past.num_judged + judged,
            num_accepted=past.num_accepted + accepted,
            num_passes=past.num_passes + 1,
            num_written=past.num_written + num_added - accepted,
            verify_s=past.verify_s + verify_s,
        )

    def _until_stop(self, draft: Draft, judgement: Judgement) -> tuple[int, int | None, Origin | None]:
        """A text ends with its first stop token; nothing after it is committed (methods E5)."""
        path = draft.path(judgement.num_accepted, judgement.accepted_node)
        for index, node in enumerate(path):
            if draft.token_ids[node] in self.stop_token_ids:
                return index + 1, None, None
        return judgement.num_accepted, judgement.next_token_id, judgement.next_origin

    def _finish_if_complete(self) -> list[ServerMessage]:
        if self.num_generated and self.text[-1] in self.stop_token_ids:
            return self._finish(FinishReason.STOP)
        if len(self.text) >= self.end:
            return self._finish(FinishReason.LENGTH)
        return []

    def _finish(self, reason: FinishReason) -> list[ServerMessage]:
        self.phase = VerifierPhase.FINISHED
        self._waiting.clear()
        return [Finished(reason, len(self.text))]


def _logprobs(
    draft: Draft, judgement: Judgement, rows: TargetRows, num_top: int
) -> tuple[TokenLogprobs, ...]:
    """Of every token that a judgement commits: row 0 judged the first, row `i + 1` what follows node `i`."""
    path = draft.path(judgement.num_accepted, judgement.accepted_node)
    token_ids = [draft.token_ids[node] for node in path]
    if judgement.next_token_id is not None:
        token_ids.append(judgement.next_token_id)
    judged_by = (0, *(node + 1 for node in path))
    return tuple(
        rows.logprobs(row, token_id, num_top) for row, token_id in zip(judged_by, token_ids, strict=False)
    )
