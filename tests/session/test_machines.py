"""Both protocol ends, connected by a channel that duplicates, reorders, delays, loses and dies; no sockets, no clock.

The oracle is independent of both ends: a plain loop over the target's law. The mutants at the end prove that the
machine would notice each of a dozen known mistakes.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from paceline.cloud.engine.base import Row
from paceline.cloud.engine.table import TableEngine
from paceline.common.acceptance import Judgement, judge
from paceline.common.codec import decode_request, decode_response, encode_request, encode_response
from paceline.common.errors import Busy
from paceline.common.messages import Feature, FillPolicy, Open, ServerMessage
from paceline.common.prefix import Prefix, extend_hash
from paceline.common.sampling.choose import Chooser
from paceline.common.sampling.history import History
from paceline.common.sampling.law import greedy_token, target_law
from paceline.common.sampling.noise import gumbel_pick
from paceline.common.sampling.rows import TargetRows
from paceline.common.session import EdgePhase, EdgeSession, Limits, VerifierPhase, VerifierSession, Work
from paceline.common.session import blocks as blocks_module
from paceline.common.session import verifier as verifier_module
from paceline.common.table_model import table_logits
from paceline.common.tokens import Draft, FinishReason, How, Origin, Rule, SamplingParams

VOCAB = 12
WINDOW = 4
CHUNK = 5
CHANNELS = ["ordered", "reordering", "hostile"]
"""In order, as a stream delivers; in any order; in any order with repetitions and losses."""
PENALTIES = {"repetition_penalty": 1.2, "frequency_penalty": 0.3}


def plain_text(engine: TableEngine, request: Open) -> tuple[int, ...]:
    """What the target writes alone, by a loop that knows nothing of sessions."""
    text, history = list(request.prompt_token_ids), History(request.prompt_token_ids)
    generated: list[int] = []
    while len(generated) < request.max_new_tokens:
        logits = engine.logits_after(text)
        if request.sampling.is_greedy:
            token_id = greedy_token(logits, request.sampling, history)
        else:
            token_id = gumbel_pick(target_law(logits, request.sampling, history), request.seed, len(text))
        text.append(token_id)
        history.push(token_id)
        generated.append(token_id)
        if token_id in request.stop_token_ids:
            break
    return tuple(generated)


class Pair(RuleBasedStateMachine):
    """An edge and a verifier session, with everything that may happen between them."""

    @initialize(
        judged_by=st.sampled_from(list(Rule)),
        fill=st.sampled_from(list(FillPolicy)),
        prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=14),
        max_new_tokens=st.integers(1, 24),
        stop_token_ids=st.sets(st.integers(0, VOCAB - 1), max_size=1),
        seed=st.integers(0, 1 << 20),
        has_penalties=st.booleans(),
        max_draft_tokens=st.sampled_from([3, 6]),
        max_judged_tokens=st.sampled_from([4, 20]),
        channel=st.sampled_from(CHANNELS),
    )
    def begin(
        self,
        judged_by: Rule,
        fill: FillPolicy,
        prompt: list[int],
        max_new_tokens: int,
        stop_token_ids: set[int],
        seed: int,
        has_penalties: bool,
        max_draft_tokens: int,
        max_judged_tokens: int,
        channel: str,
    ) -> None:
        """Open a session with some parameters."""
        self.engine = TableEngine(VOCAB, seed=3, spread=2.0, max_context=64)
        temperature = 0.0 if judged_by is Rule.GREEDY else 0.9
        self.request = Open(
            prompt_token_ids=tuple(prompt),
            max_new_tokens=max_new_tokens,
            sampling=SamplingParams(temperature, **(PENALTIES if has_penalties else {})),
            rule=judged_by,
            fill=fill,
            seed=seed,
            stop_token_ids=tuple(stop_token_ids),
            max_fill_passes=2,
        )
        self.limits = Limits(
            VOCAB,
            64,
            max_draft_tokens=max_draft_tokens,
            max_judged_tokens=max_judged_tokens,
            max_blocks_in_flight=WINDOW,
            features=frozenset(Feature),
        )
        self.oracle = None if judged_by is Rule.REJECTION else plain_text(self.engine, self.request)
        self.is_ordered, self.is_hostile = channel == "ordered", channel == "hostile"
        self.written: set[int] = set()
        self.edge = EdgeSession(self.request)
        self.seen = self.edge.committed.list()
        self.zombies: list[tuple[VerifierSession, Work]] = []
        self.key = 0
        self.connect()

    # --- the world between the two ends -------------------------------------------------------------------------------

    def connect(self) -> None:
        """A fresh stream to a fresh verifier; whatever was under way is lost."""
        self.key += 1
        self.up: list[Draft] = []
        self.down: deque[ServerMessage] = deque()
        self.pending: Work | None = None
        self.is_lossy = self.is_duplicated = False
        opening = decode_request(encode_request(self.edge.open()))
        assert isinstance(opening, Open)
        self.verifier = VerifierSession(opening, self.limits)
        self.reply(self.verifier.opened())
        self.tail = Prefix(self.edge.committed)
        self.drafter_history = History(self.request.prompt_token_ids)

    def reply(self, messages: list[ServerMessage]) -> None:
        self.down.extend(decode_response(encode_response(message)) for message in messages)

    def realign_tail(self) -> None:
        """The drafter learns what is committed: its own text is cut at the first difference."""
        committed, length = self.edge.committed, 0
        while length < min(len(committed), len(self.tail)) and committed[length] == self.tail[length]:
            length += 1
        if length < len(committed):
            self.tail.truncate(length)
            self.tail.extend(committed.list(length))

    @property
    def may_draft(self) -> bool:
        """Whether the client has a credit and anything left to say."""
        return (
            self.edge.phase is not EdgePhase.FINISHED
            and not self.edge.is_complete
            and self.edge.num_blocks_in_flight < WINDOW
        )

    def write(self, count: int, salt: int, rarity: int = 4) -> Draft:
        """Draft on from the client's own tail: mostly right, sometimes wrong; a function of prefix and salt."""
        base, base_hash = len(self.tail), self.tail.hash_at(len(self.tail))
        token_ids, probs, laws = [], [], []
        how = {Rule.COUPLED: How.SHARED_NOISE, Rule.REJECTION: How.SAMPLED}.get(
            self.request.rule, How.ONE_HOT
        )
        chooser = Chooser(
            self.request.rule, replace(self.request.sampling, **NEUTRAL), self.request.seed, VOCAB
        )
        for _ in range(count):
            here = self.tail.hash_at(len(self.tail))
            mixed = table_logits(here, VOCAB, 3, 2.0) + (
                extend_hash(here, salt) % rarity == 0
            ) * table_logits(here, VOCAB, 9, 4.0)
            choice = chooser.choose(mixed, len(self.tail), self.drafter_history)
            token_ids.append(choice.token_id)
            probs.append(choice.prob)
            laws += [choice.law] if choice.law is not None else []
            self.tail.append(choice.token_id)
            self.written.add(self.tail.hash_at(len(self.tail)))
        more = salt % 2 == 1
        return self.edge.block(base, token_ids, probs, how, laws, base_hash=base_hash, more_follows=more)

    def write_tree(self, count: int, num_beside: int) -> Draft:
        """Like `write`, with a second chain beside it that is right where the first is wrong."""
        chain = self.write(count, 1, rarity=1)
        self.edge._in_flight.pop()
        self.edge._sent -= 1
        text, history = Prefix(self.edge.committed), History(self.edge.committed)
        chooser = Chooser(
            self.request.rule, replace(self.request.sampling, **NEUTRAL), self.request.seed, VOCAB
        ).for_sibling(1)
        choices = []
        for _ in range(num_beside):
            choices.append(
                chooser.choose(table_logits(text.hash_at(len(text)), VOCAB, 3, 2.0), len(text), history)
            )
            text.append(choices[-1].token_id)
            self.written.add(text.hash_at(len(text)))
        beside = [choice.token_id for choice in choices]
        parents = [
            *range(-1, count - 1),
            *([-1, *range(count, count + num_beside - 1)] if num_beside else []),
        ]
        if beside and beside[0] == chain.token_ids[0] and chain.how is not How.SAMPLED:
            beside, parents = [], parents[:count]
        laws = [*chain.laws, *(choice.law for choice in choices if choice.law is not None)]
        token_ids = [*chain.token_ids, *beside]
        return self.edge.block(chain.base, token_ids, [], chain.how, laws, parents=parents)

    def deliver_at(self, index: int) -> None:
        block = decode_request(encode_request(self.up.pop(index)))
        assert isinstance(block, Draft)
        if self.verifier.phase is not VerifierPhase.LIVE:
            return
        try:
            self.reply(self.verifier.on_draft(block))
        except Busy:
            assert self.is_duplicated, "only a channel that duplicates can overrun the window"
            self.connect()

    def run(self, session: VerifierSession, key: int, work: Work) -> list[ServerMessage]:
        """What the verifier thread does with one piece of work."""
        row = Row(key, work.past_length, work.token_ids, work.num_logits, work.parents)
        (logits,) = self.engine.step([row])
        if work.draft is None:
            session.on_prefilled(work)
            return []
        history = History(session.request.prompt_token_ids)
        text = session.text.list(len(session.request.prompt_token_ids))
        for token_id in text:
            history.push(token_id)
        token_ids, parents = work.draft.token_ids, work.draft.parents
        with TargetRows(logits, session.request.sampling, history, token_ids, parents) as rows:
            return session.on_judged(
                work, judge(session.request.rule, work.draft, rows, session.request.seed)
            )

    def check_work(self, work: Work) -> None:
        session = self.verifier
        assert work.past_length <= len(session.text) - 1, "the last token's row is needed"
        num_text = len(work.token_ids) - (len(work.draft) if work.draft else 0)
        assert work.token_ids[:num_text] == tuple(
            session.text[work.past_length : work.past_length + num_text]
        )
        assert num_text - (work.draft is not None) <= CHUNK, "more prompt than one chunk"
        if work.draft is not None:
            assert work.draft.base == len(session.text)
            assert work.token_ids[num_text:] == work.draft.token_ids
            assert len(work.draft) <= self.limits.max_judged_tokens
            assert len(session.text) + len(work.draft) + 1 <= session.end, "draft and bonus run past the end"
            hashes = [session.text.hash_at(len(session.text))]
            for parent, token_id in zip(work.parents or count(-1), work.draft.token_ids, strict=False):
                hashes.append(extend_hash(hashes[parent + 1], token_id))
                assert hashes[-1] in self.written, "a token is judged after a prefix it was not drafted for"

    # --- what may happen ----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.may_draft)
    @rule(count=st.integers(0, 3), salt=st.integers(0, 3), restart=st.booleans())
    def draft(self, count: int, salt: int, restart: bool) -> None:
        """The client sends a block: after its own tail, or anew from what is committed."""
        self.realign_tail()
        if restart or len(self.tail) + count > 63:
            self.tail.truncate(len(self.edge.committed))
        # Where blocks may change order, two blocks never say different things about one prefix.
        self.up.append(self.write(count, salt if self.is_ordered else 0))

    @precondition(lambda self: self.may_draft and self.edge.phase is EdgePhase.LIVE)
    @rule(count=st.integers(1, 2), num_beside=st.integers(0, 3), in_turn=st.booleans())
    def draft_tree(self, count: int, num_beside: int, in_turn: bool) -> None:
        """The client sends a tree after what is committed; in rounds, once everything under way has arrived."""
        if in_turn and self.request.fill is FillPolicy.OFF:
            self.settle()
        length = len(self.edge.committed)
        self.realign_tail()
        if not self.may_draft or length > 58:
            return
        if any(block.parents and block.base == length for block in self.edge._in_flight):
            return
        self.tail.truncate(length)
        num_beside = min(num_beside, self.limits.max_draft_tokens - count)
        self.up.append(self.write_tree(count, num_beside))

    @precondition(lambda self: self.up)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """The channel hands a block over: the oldest, or any where it may reorder."""
        self.deliver_at(0 if self.is_ordered else data.draw(st.integers(0, len(self.up) - 1)))

    @precondition(lambda self: self.up and self.is_hostile)
    @rule(data=st.data())
    def duplicate(self, data: st.DataObject) -> None:
        """The channel repeats a block."""
        self.is_duplicated = True
        self.up.append(self.up[data.draw(st.integers(0, len(self.up) - 1))])

    @precondition(lambda self: self.up and self.is_hostile)
    @rule(data=st.data(), resend=st.booleans())
    def lose(self, data: st.DataObject, resend: bool) -> None:
        """The channel drops a block; the client may send it again."""
        block = self.up.pop(data.draw(st.integers(0, len(self.up) - 1)))
        self.is_lossy = True
        is_known = block.base <= len(self.edge.committed)
        if not (resend and self.may_draft and is_known):
            return
        if self.edge.committed.hash_at(block.base) == block.prefix_hash:
            self.up.append(
                self.edge.block(
                    block.base,
                    block.token_ids,
                    block.draft_probs,
                    block.how,
                    block.laws,
                    parents=block.parents,
                    more_follows=block.more_follows,
                )
            )

    @precondition(lambda self: self.pending is None)
    @rule(num_own=st.sampled_from([None, 0, 2, 5]))
    def begin_step(self, num_own: int | None) -> None:
        """The verifier hands work to the engine; where it may fill, it waits or drafts that many tokens itself."""
        self.pending = self.verifier.next_work(CHUNK, lambda: self.own_draft(num_own))
        if self.pending is not None:
            self.check_work(self.pending)

    def own_draft(self, count: int | None) -> Draft | None:
        """What the verifier drafts itself: by another model than the client's."""
        session = self.verifier
        assert session.may_fill, "asked to fill where the policy forbids it"
        if count is None:
            return None
        text, history = Prefix(session.text), History(self.request.prompt_token_ids)
        for token_id in session.text.list(len(self.request.prompt_token_ids)):
            history.push(token_id)
        chooser = Chooser(self.request.rule, self.request.sampling, self.request.seed, VOCAB)
        choices = []
        for _ in range(min(count, session.room)):
            logits = table_logits(text.hash_at(len(text)), VOCAB, 3, 2.0) * np.float32(0.6)
            choices.append(chooser.choose(logits, len(text), history))
            text.append(choices[-1].token_id)
            history.push(choices[-1].token_id)
            self.written.add(text.hash_at(len(text)))
        laws = tuple(choice.law for choice in choices if choice.law is not None)
        return session.own_draft(tuple(choice.token_id for choice in choices), chooser.how, laws)

    @precondition(lambda self: self.pending is not None)
    @rule()
    def end_step(self) -> None:
        """The engine is done."""
        work, self.pending = self.pending, None
        assert work is not None
        self.reply(self.run(self.verifier, self.key, work))

    @precondition(lambda self: self.pending is not None and self.verifier.phase is VerifierPhase.LIVE)
    @rule()
    def report_twice(self) -> None:
        """A result that is reported a second time commits nothing."""
        work, self.pending = self.pending, None
        assert work is not None
        self.reply(self.run(self.verifier, self.key, work))
        if work.draft is not None and self.verifier.phase is VerifierPhase.LIVE:
            length = len(self.verifier.text)
            assert self.verifier.on_judged(work, Judgement(0, 0, Origin.RECOVERED)) == []
            assert len(self.verifier.text) == length

    @precondition(lambda self: self.down and self.edge.phase is not EdgePhase.FINISHED)
    @rule()
    def receive(self) -> None:
        """The client reads an answer."""
        before = len(self.edge.committed)
        commit = self.edge.receive(self.down.popleft())
        grown = self.edge.committed.list(before)
        assert (commit.token_ids if commit else ()) == tuple(grown)
        assert len(self.edge.origins) == len(self.edge.committed) - len(self.request.prompt_token_ids)

    @precondition(lambda self: self.edge.phase is not EdgePhase.FINISHED)
    @rule()
    def cut(self) -> None:
        """The link dies; the client opens again, elsewhere, while the old verifier may still be at work."""
        if self.pending is not None:
            self.zombies.append((self.verifier, self.pending))
        self.verifier.close()
        self.connect()

    @precondition(lambda self: self.zombies)
    @rule()
    def zombie_reports(self) -> None:
        """A result for a dead stream commits nothing."""
        session, work = self.zombies.pop()
        length = len(session.text)
        if work.draft is None:
            session.on_prefilled(work)
        else:
            assert session.on_judged(work, Judgement(0, 0, Origin.RECOVERED)) == []
        assert len(session.text) == length

    @rule(sure=st.integers(0, 9))
    def cancel(self, sure: int) -> None:
        """The client gives up, rarely."""
        if sure == 0 and self.edge.phase is EdgePhase.LIVE:
            self.reply(self.verifier.on_cancel())

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def text_is_the_targets(self) -> None:
        """Nothing lost, repeated or changed at either end; nothing after the end or after a stop token."""
        if not hasattr(self, "edge"):
            return
        mine, theirs = self.edge.committed.list(), self.verifier.text.list()
        assert mine[: len(self.seen)] == self.seen, "committed text changed"
        self.seen = mine
        assert mine == theirs[: len(mine)], "the two ends disagree"
        generated = theirs[len(self.request.prompt_token_ids) :]
        assert len(generated) <= self.request.max_new_tokens
        assert not set(generated[:-1]) & set(self.request.stop_token_ids), "text goes on after a stop token"
        if self.oracle is not None:
            assert tuple(generated) == self.oracle[: len(generated)], "the text is not the target's"

    @invariant()
    def books_add_up(self) -> None:
        """Cached text is committed text; settled never exceeds sent; the window is kept."""
        if not hasattr(self, "edge"):
            return
        assert 0 <= self.verifier._cached <= len(self.verifier.text) - 1
        assert 0 <= self.edge.num_blocks_in_flight <= WINDOW
        if not self.is_duplicated:
            assert self.verifier.blocks_settled <= self.edge._sent

    def settle(self) -> None:
        """Let everything under way arrive and be worked off."""
        while True:
            if self.pending is not None:
                self.end_step()
            elif self.up:
                self.deliver_at(0)
            elif (work := self.verifier.next_work(CHUNK)) is not None:
                self.check_work(work)
                self.pending = work
            elif self.down and self.edge.phase is not EdgePhase.FINISHED:
                self.receive()
            else:
                break
            self.text_is_the_targets()
            self.books_add_up()

    def teardown(self) -> None:
        """From wherever it stands the text comes to its end, and every credit comes back."""
        if not hasattr(self, "edge"):
            return
        for _ in range(200):
            self.settle()
            if self.edge.phase is EdgePhase.FINISHED:
                break
            if not self.is_lossy and not self.is_duplicated:
                assert self.edge.num_blocks_in_flight == 0, "a credit never came back"
                assert self.request.fill in (FillPolicy.OFF, FillPolicy.BOUNDED), (
                    "a filling verifier stands still"
                )
            if self.may_draft:
                self.draft(2, 0, True)
            else:
                assert self.is_lossy or self.is_duplicated, "deadlock"
                self.cut()
        assert self.edge.phase is EdgePhase.FINISHED, "the text never ends"
        generated = self.edge.committed.list(len(self.request.prompt_token_ids))
        if self.edge.finish_reason is not FinishReason.CANCELLED and self.oracle is not None:
            assert tuple(generated) == self.oracle


NEUTRAL = {"repetition_penalty": 1.0, "frequency_penalty": 0.0}
"""The drafter ignores penalties: its law need not be the target's."""

QUIET = settings(
    derandomize=True,
    database=None,
    deadline=None,
    verbosity=Verbosity.quiet,
    suppress_health_check=list(HealthCheck),
)


def test_any_schedule_gives_the_targets_text() -> None:
    """Whatever the channel does, the text is the target's, every credit returns and the text comes to its end."""
    run_state_machine_as_test(Pair, settings=settings(QUIET, max_examples=80, stateful_step_count=40))


@pytest.mark.slow
def test_many_longer_schedules_give_the_targets_text() -> None:
    """The same over many longer schedules."""
    run_state_machine_as_test(Pair, settings=settings(QUIET, max_examples=800, stateful_step_count=80))


# --- mutants ----------------------------------------------------------------------------------------------------------


def no_overlap_check(patch: pytest.MonkeyPatch) -> None:
    """Blocks that overlap the text are appended whole."""
    right = blocks_module._fit
    patch.setattr(
        blocks_module, "_fit", lambda tail, block: 0 if (right(tail, block) or 0) > 0 else right(tail, block)
    )


def no_comparison_of_overlap(patch: pytest.MonkeyPatch) -> None:
    """Where a block overlaps the text, its tokens are taken to be equal."""

    def fit(tail: blocks_module._Tail, block: Draft) -> int | None:
        if block.base > tail.end:
            return -1
        if tail.hash_at(block.base) != block.prefix_hash:
            return None
        if block.base + len(block) <= len(tail.text) and len(block):
            return None
        return min(tail.end - block.base, len(block))

    patch.setattr(blocks_module, "_fit", fit)


def no_hash_check(patch: pytest.MonkeyPatch) -> None:
    """The prefix hash is not looked at."""
    right = blocks_module._fit

    def fit(tail: blocks_module._Tail, block: Draft) -> int | None:
        if block.base <= tail.end:
            block = replace(block, prefix_hash=tail.hash_at(block.base))
        return right(tail, block)

    patch.setattr(blocks_module, "_fit", fit)


def fence_ignored(patch: pytest.MonkeyPatch) -> None:
    """A closed session takes results like a live one."""
    patch.setattr(VerifierSession, "close", lambda self: None)


def stale_not_settled(patch: pytest.MonkeyPatch) -> None:
    """Stale blocks are forgotten without giving their credit back."""
    right = VerifierSession._drop_stale

    def drop(self: VerifierSession) -> bool:
        settled = self._settled
        dropped = right(self)
        self._settled = settled
        return dropped

    patch.setattr(VerifierSession, "_drop_stale", drop)


def text_after_stop(patch: pytest.MonkeyPatch) -> None:
    """Accepted tokens after a stop token, and the bonus, are committed."""
    patch.setattr(
        VerifierSession,
        "_until_stop",
        lambda self, draft, judgement: (
            judgement.num_accepted,
            judgement.next_token_id,
            judgement.next_origin,
        ),
    )


def cached_not_rolled_back(patch: pytest.MonkeyPatch) -> None:
    """Refused drafts stay in the cache as if committed."""
    right = VerifierSession.on_judged

    def on_judged(self: VerifierSession, work: Work, *args: object) -> list[ServerMessage]:
        messages = right(self, work, *args)  # type: ignore[arg-type]
        if messages and work.draft is not None:
            self._cached = work.past_length + len(work.token_ids)
        return messages

    patch.setattr(VerifierSession, "on_judged", on_judged)


def last_token_counts_as_cached(patch: pytest.MonkeyPatch) -> None:
    """After a block without bonus the last token's row is not run again."""
    right = VerifierSession.on_judged

    def on_judged(self: VerifierSession, work: Work, *args: object) -> list[ServerMessage]:
        base = len(self.text)
        messages = right(self, work, *args)  # type: ignore[arg-type]
        if messages:
            self._cached = base + getattr(messages[0], "num_accepted", 0)
        return messages

    patch.setattr(VerifierSession, "on_judged", on_judged)


def draft_not_cut_to_the_end(patch: pytest.MonkeyPatch) -> None:
    """A draft may run past max_new_tokens."""
    patch.setattr(
        VerifierSession,
        "_usable_draft",
        lambda self: (verifier_module.merge(self.text, self._waiting, self.limits.max_draft_tokens).draft, 1),
    )


def accepted_from_the_wrong_block(patch: pytest.MonkeyPatch) -> None:
    """The client reads accepted tokens off the newest block in flight."""
    patch.setattr(
        EdgeSession,
        "_drafted_tokens",
        lambda self, num_accepted, _: self._in_flight[-1].token_ids[:num_accepted] if num_accepted else (),
    )


def result_taken_twice(patch: pytest.MonkeyPatch) -> None:
    """A result planned on an older text is committed."""
    right = VerifierSession.on_judged

    def on_judged(self: VerifierSession, work: Work, *args: object) -> list[ServerMessage]:
        if work.draft is not None:
            work = replace(work, draft=replace(work.draft, base=len(self.text)))
        return right(self, work, *args)  # type: ignore[arg-type]

    patch.setattr(VerifierSession, "on_judged", on_judged)


def branches_count_as_cached(patch: pytest.MonkeyPatch) -> None:
    """A path off the first one is taken to lie in the cache as the text has it."""
    right = VerifierSession.on_judged

    def on_judged(self: VerifierSession, work: Work, judgement: Judgement) -> list[ServerMessage]:
        base = len(self.text)
        messages = right(self, work, judgement)
        if messages and work.parents:
            self._cached = min(base + judgement.num_accepted, len(self.text) - 1)
        return messages

    patch.setattr(VerifierSession, "on_judged", on_judged)


def accepted_from_the_first_path(patch: pytest.MonkeyPatch) -> None:
    """The client reads the tokens accepted of a tree off its first path."""
    patch.setattr(
        EdgeSession, "_path_to", lambda self, node, num_accepted: self._trees()[0].token_ids[:num_accepted]
    )


def trees_are_joined(patch: pytest.MonkeyPatch) -> None:
    """A tree is treated as the chain of its tokens."""
    right = blocks_module.merge

    def merge(text: Prefix, blocks: list[Draft], max_tokens: int) -> blocks_module.Merged:
        return right(text, [replace(block, parents=()) for block in blocks], max_tokens)

    patch.setattr(verifier_module, "merge", merge)


def reopened_without_the_text(patch: pytest.MonkeyPatch) -> None:
    """Reopening forgets to carry the committed text."""
    right = EdgeSession.open
    patch.setattr(EdgeSession, "open", lambda self: replace(right(self), committed_token_ids=()))


MUTANTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    no_overlap_check,
    no_comparison_of_overlap,
    no_hash_check,
    fence_ignored,
    stale_not_settled,
    text_after_stop,
    cached_not_rolled_back,
    last_token_counts_as_cached,
    draft_not_cut_to_the_end,
    accepted_from_the_wrong_block,
    branches_count_as_cached,
    accepted_from_the_first_path,
    trees_are_joined,
    result_taken_twice,
    reopened_without_the_text,
]


@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_planted_bugs_are_caught(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each planted bug makes the machine fail."""
    plant(monkeypatch)
    hunt = settings(QUIET, max_examples=600, stateful_step_count=40, phases=[Phase.generate])
    with pytest.raises(Exception) as caught:  # noqa: PT011 - an assertion, a refusal or an index, as the bug has it
        run_state_machine_as_test(Pair, settings=hunt)
    assert not isinstance(caught.value, AttributeError)
