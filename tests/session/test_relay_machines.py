"""Device, relay and target as pure machines, with any order in which their messages may be heard. No sockets, no clock.

The oracle is a plain loop over the target's law; the mutants at the end prove that the schedules would notice mistakes.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from paceline.cloud.engine.base import Row
from paceline.cloud.engine.table import TableEngine
from paceline.common.codec import decode_request, decode_response, encode_request, encode_response
from paceline.common.errors import PacelineError
from paceline.common.messages import FillPolicy, Finished, Open, Provisional
from paceline.common.sampling.choose import Chooser
from paceline.common.sampling.history import History
from paceline.common.sampling.law import greedy_token, target_law
from paceline.common.sampling.noise import gumbel_pick
from paceline.common.session import (
    EdgePhase,
    EdgeSession,
    Limits,
    RelaySession,
    Steer,
    Steered,
    SteeredSession,
    VerifierPhase,
    VerifierSession,
    Work,
    Written,
)
from paceline.common.session import steered as steered_module
from paceline.common.session.blocks import _leads_to as leads_to
from paceline.common.tokens import Draft, How, Origin, Rule, SamplingParams, Verdict

VOCAB = 12
WINDOW = 4


def plain_text(engine: TableEngine, request: Open) -> list[int]:
    """What the target writes alone."""
    text, generated = list(request.prompt_token_ids), []
    while len(generated) < request.max_new_tokens:
        row = engine.logits_after(text)
        history = History(request.prompt_token_ids)
        for token_id in generated:
            history.push(token_id)
        if request.sampling.is_greedy:
            token_id = greedy_token(row, request.sampling, history)
        else:
            token_id = gumbel_pick(target_law(row, request.sampling, history), request.seed, len(text))
        text.append(token_id)
        generated.append(token_id)
        if token_id in request.stop_token_ids:
            break
    return generated


class Station:
    """A verifier session, and a step of its engine that may be under way."""

    def __init__(self, session: VerifierSession, engine: TableEngine, key: int) -> None:
        self.session, self.engine, self.key = session, engine, key
        self.pending: Work | None = None

    def step(self) -> list[Any]:
        """Begin a step, or end the one under way: messages may arrive in between."""
        if self.pending is None:
            self.pending = self.session.next_work(5)
            return []
        work, self.pending = self.pending, None
        row = Row(self.key, work.past_length, work.token_ids, work.num_logits)
        if work.past_length > len(self.engine._texts.get(self.key, ())):
            return []  # the text was rewritten below what this step kept: a later one runs it again
        (logits,) = self.engine.step([row])
        if work.draft is None:
            self.session.on_prefilled(work)
            return []
        return list(self.session.on_judged(work, self.session.judge(work, logits)))


class World:
    """All three ends, and the queues between them.

    Args:
        seed: of the schedule and of everything else.
        rule: how drafts are judged.
    """

    def __init__(self, seed: int, rule: Rule) -> None:
        self.dice = random.Random(seed)
        self.target = TableEngine(VOCAB, 3, spread=2.0, max_context=64)
        agreement = self.dice.choice([0.3, 0.8, 0.95])
        self.middle = TableEngine(VOCAB, 5, spread=2.0, max_context=64, resembles=3, agreement=agreement)
        penalties = self.dice.choice([{}, {"repetition_penalty": 1.2, "frequency_penalty": 0.3}])
        stop_token_ids = self.dice.choice([(), (self.dice.randrange(VOCAB),)])
        self.request = Open(
            prompt_token_ids=tuple(self.dice.randrange(VOCAB) for _ in range(self.dice.randint(1, 9))),
            max_new_tokens=self.dice.randint(1, 20),
            sampling=SamplingParams(0.0 if rule is Rule.GREEDY else 0.9, **penalties),
            rule=rule,
            fill=self.dice.choice([FillPolicy.OFF, FillPolicy.UNLIMITED]),
            seed=seed,
            stop_token_ids=stop_token_ids,
        )
        self.oracle = plain_text(self.target, self.request) if rule is not Rule.REJECTION else None
        self.limits = Limits(VOCAB, 64, max_draft_tokens=6, max_judged_tokens=12, max_blocks_in_flight=WINDOW)
        self.edge = EdgeSession(self.request)
        self.window = self.dice.choice([1, WINDOW])
        """Blocks either drafter has under way: with one, a credit that never comes back is the end."""
        self.is_fickle = self.dice.random() < 0.5
        """Whether the hop above has opinions of its own, which change: it may be a relay."""
        self.num_keys = 0
        self.connect()

    # --- connections --------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """The device opens at a fresh relay, which opens above; nothing else survives."""
        opening = decode_request(encode_request(self.edge.open()))
        assert isinstance(opening, Open)
        self.relay = RelaySession(opening, frozenset(opening.stop_token_ids))
        self.own = self.station(SteeredSession(Steered(opening, depth=0), self.limits), self.middle)
        self.up: deque[Any] = deque()
        self.down: deque[Any] = deque(self.own.session.opened())
        self.to_own: deque[Any] = deque()
        self.from_own: deque[Any] = deque()
        self.horizon = len(self.relay.text)
        self.is_over = False
        # A target that is thought a relay of opinions must write by itself: nothing continues what it never said.
        fill = FillPolicy.UNLIMITED if self.is_fickle else opening.fill
        self.above = EdgeSession(replace(opening, path=("relay",), fill=fill))
        self.connect_above()

    def connect_above(self) -> None:
        """The relay opens at a fresh verifier."""
        opening = decode_request(encode_request(self.above.open()))
        assert isinstance(opening, Open)
        self.top = self.station(VerifierSession(opening, self.limits), self.target)
        self.up_above: deque[Any] = deque()
        self.down_above: deque[Any] = deque(self.top.session.opened())
        self.taken = len(self.above.committed)

    def station(self, session: VerifierSession, engine: TableEngine) -> Station:
        """Another session of an engine."""
        self.num_keys += 1
        return Station(session, engine, self.num_keys)

    # --- what may happen ----------------------------------------------------------------------------------------------

    def events(self) -> list[Callable[[], None]]:
        """Whatever may happen next."""
        queues = (
            (self.up, self.hear_device),
            (self.to_own, self.steer_own),
            (self.from_own, self.hear_own),
            (self.up_above, self.hear_relay),
            (self.down_above, self.hear_above),
            (self.down, self.hear_at_device),
        )
        events = [hear for queue, hear in queues if queue]
        events += [self.step_own, self.step_top]
        if not self.to_own:
            events.append(self.widen)
        if self.edge.num_blocks_in_flight < self.window and not self.edge.is_complete:
            events.append(self.draft)
        if self.is_fickle and not self.down_above and self.above.phase is EdgePhase.LIVE:
            events.append(self.opine)
        if self.above.num_blocks_in_flight < self.window and not self.above.is_complete:
            events.append(self.hand_up)
        return events

    def run(self, num_events: int, cuts: bool) -> None:
        """Random events, then whatever is left until the text is complete."""
        for _ in range(num_events):
            if cuts and self.dice.random() < 0.01:
                self.dice.choice([self.connect, self.connect_above])()
            if self.edge.phase is EdgePhase.FINISHED:
                return
            self.dice.choice(self.events())()
            self.check()
        for _ in range(6000):
            if self.edge.phase is EdgePhase.FINISHED:
                return
            self.dice.choice(self.events())()
            self.check()
        raise AssertionError("the text is never completed")

    def check(self) -> None:
        """What must hold at any moment."""
        generated = self.edge.committed.list(len(self.request.prompt_token_ids))
        if self.oracle is not None:
            assert generated == self.oracle[: len(generated)], "a token the target would not have written"
        if not self.down and self.edge.phase is EdgePhase.LIVE:
            assert self.edge.known.list() == self.relay.text.list(), "the device and the relay differ"
        if not self.to_own and not self.from_own:
            assert self.own.session.text.list() == self.relay.text.list(), (
                "the relay and its own model differ"
            )
            text, waiting = self.own.session.text, self.own.session._waiting
            reachable = {(end, text.hash_at(end)) for end in range(len(text) + 1)}
            for block in waiting:
                reachable |= set(leads_to(block, len(text))) - {(block.base, block.prefix_hash)}
            orphans = {(block.base, block.prefix_hash) for block in waiting} - reachable
            assert not orphans, "a block waits for a text that is not to be"

    # --- the device ---------------------------------------------------------------------------------------------------

    def draft(self) -> None:
        """The device drafts on from what it knows; an empty block asks for a step where the text is complete so far."""
        if self.edge.phase is not EdgePhase.LIVE:
            return
        text = self.edge.known.list()
        token_ids, probs, laws, base = [], [], [], len(text)
        chooser = Chooser(
            self.request.rule, SamplingParams(self.request.sampling.temperature), self.request.seed, VOCAB
        )
        ends = text[-1] in self.request.stop_token_ids or len(text) >= self.edge.end - 1
        for _ in range(0 if ends else self.dice.randint(1, 4)):
            if len(text) >= 62:
                break
            engine = self.middle if self.dice.random() < 0.7 else self.target
            row = engine.logits_after(text)
            choice = chooser.choose(row, len(text), History())
            token_ids.append(choice.token_id)
            probs.append(choice.prob)
            laws += [choice.law] if choice.law is not None else []
            text.append(choice.token_id)
        how = {Rule.REJECTION: How.SAMPLED, Rule.COUPLED: How.SHARED_NOISE}.get(
            self.request.rule, How.ONE_HOT
        )
        self.up.append(self.edge.block(base, token_ids, probs, how if token_ids else How.ONE_HOT, laws))

    def hear_at_device(self) -> None:
        """The device hears the relay."""
        self.edge.receive(decode_response(encode_response(self.down.popleft())))

    # --- the relay ----------------------------------------------------------------------------------------------------

    def hear_device(self) -> None:
        """The relay passes a block on to its own model."""
        self.to_own.append(decode_request(encode_request(self.up.popleft())))

    def steer_own(self) -> None:
        """The own model hears a block, or what the text has become."""
        message, session = self.to_own.popleft(), self.own.session
        assert isinstance(session, SteeredSession)
        if isinstance(message, Steer):
            self.from_own.extend(session.steer(message))
        else:
            assert isinstance(message, Draft)
            self.from_own.extend(session.on_draft(message))

    def step_own(self) -> None:
        """The own model begins or ends a step."""
        self.from_own.extend(self.own.step())

    def hear_own(self) -> None:
        """The relay hears its own model."""
        answer = self.from_own.popleft()
        if isinstance(answer, Written):
            self.tell(self.relay.on_written(answer))
        else:
            assert isinstance(answer, Verdict)
            self.tell(self.relay.credit(answer))

    def tell(self, message: Any) -> None:
        """The relay answers, unless it has said that the text is complete."""
        if not self.is_over:
            self.down.append(message)
        self.is_over = self.is_over or isinstance(message, Finished)

    def widen(self) -> None:
        """The relay lets its own model write further."""
        self.horizon = len(self.relay.text) + self.dice.randint(1, 6)
        self.to_own.append(Steer(len(self.relay.text), (), self.horizon, self.relay.committed))

    def hand_up(self) -> None:
        """The relay drafts for the target; an empty block asks for a step."""
        if self.above.phase is not EdgePhase.LIVE:
            return
        self.taken = max(self.taken, self.relay.committed)
        proposal = self.relay.drafts(self.taken, 6)
        has_said_all = len(self.relay.text) == self.taken and not self.relay.is_complete
        if not proposal and has_said_all and self.taken < self.edge.end - 1:
            return  # it waits for its own model
        base_hash = self.relay.text.hash_at(proposal.base)
        self.up_above.append(
            self.above.block(
                proposal.base,
                proposal.token_ids,
                proposal.probs,
                proposal.how,
                proposal.laws,
                base_hash=base_hash,
            )
        )
        self.taken += len(proposal)

    def hear_above(self) -> None:
        """The relay hears the target."""
        message = decode_response(encode_response(self.down_above.popleft()))
        commit = self.above.receive(message)
        if isinstance(message, Finished):
            self.tell(Finished(message.reason, self.relay.committed))
        if commit is None:
            return
        answer, is_other = self.relay.on_commit(commit)
        if answer is not None:
            self.tell(answer)
        if is_other:
            self.to_own.append(Steer(commit.position, commit.token_ids, self.horizon, self.relay.committed))
            self.taken = commit.position + len(commit.token_ids)

    def opine(self) -> None:
        """The hop above says how the text may go on; the last hop will have the last word."""
        if self.dice.random() < 0.7:
            return
        base = self.dice.randint(len(self.above.committed), len(self.above.known))
        count = min(self.dice.randint(1, 3), self.above.end - base)
        token_ids = [self.dice.randrange(VOCAB) for _ in range(count)]
        if count < 1 or set(token_ids) & set(self.request.stop_token_ids):
            return
        if (
            base > len(self.request.prompt_token_ids)
            and self.above.known[base - 1] in self.request.stop_token_ids
        ):
            return
        verdict = Verdict(base, 0, token_ids[-1], Origin.RECOVERED, filled_token_ids=tuple(token_ids[:-1]))
        self.down_above.append(Provisional(verdict))

    # --- the target ---------------------------------------------------------------------------------------------------

    def hear_relay(self) -> None:
        """The target hears a block."""
        block = decode_request(encode_request(self.up_above.popleft()))
        assert isinstance(block, Draft)
        if self.top.session.phase is VerifierPhase.LIVE:
            self.down_above.extend(self.top.session.on_draft(block))

    def step_top(self) -> None:
        """The target begins or ends a step. A hop with opinions would name what it commits: it knows what it said."""
        base = len(self.top.session.text)
        for answer in self.top.step():
            if self.is_fickle and isinstance(answer, Verdict):
                *filled, last = self.top.session.text[base:]
                answer = replace(
                    answer,
                    num_accepted=0,
                    filled_token_ids=tuple(filled),
                    next_token_id=last,
                    next_origin=Origin.FILLED,
                )
            self.down_above.append(answer)


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("cuts", [False, True])
def test_any_schedule_gives_the_targets_text(rule: Rule, cuts: bool) -> None:
    """The text is the target's, it is completed, and device, relay and own model agree when nothing is on its way."""
    for seed in range(60):
        world = World(seed, rule)
        try:
            world.run(300, cuts)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rule", list(Rule))
def test_many_schedules(rule: Rule) -> None:
    """The same over two thousand schedules a rule."""
    for seed in range(1000, 3000):
        World(seed, rule).run(300, cuts=True)


# --- mutants ----------------------------------------------------------------------------------------------------------


def deaf_to_rewrites(session: SteeredSession, message: Steer) -> list[Any]:
    """The own model only hears of the horizon."""
    session.horizon = message.horizon
    return []


def trusting_written(session: RelaySession, written: Written) -> Any:
    """What the own model says is taken over although the text has changed since."""
    session.text.extend(written.token_ids)
    session._said.extend([None] * len(written.token_ids))
    return session.credit(written.verdict)


def saying_nothing_again(session: SteeredSession, base: int) -> Verdict:
    """What was written beyond a rewrite is kept, and not repeated."""
    return Verdict(base=base, blocks_settled=session.blocks_settled)


def keeping_the_cache(session: SteeredSession, length: int) -> None:
    """The own model's text is cut, and steps under way still count."""
    session.text.truncate(length)
    session.history.truncate(length - len(session.request.prompt_token_ids))


@pytest.mark.parametrize(
    ("owner", "name", "mutant"),
    [
        (steered_module.SteeredSession, "steer", deaf_to_rewrites),
        (RelaySession, "on_written", trusting_written),
        (steered_module.SteeredSession, "_truncate", keeping_the_cache),
        (steered_module.SteeredSession, "_repeated", saying_nothing_again),
    ],
)
def test_planted_bugs_are_caught(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, mutant: Callable[..., Any]
) -> None:
    """Each mutant fails some schedule."""
    monkeypatch.setattr(owner, name, mutant)

    def all_schedules() -> None:
        for seed in range(200):
            World(seed, Rule.GREEDY).run(300, cuts=False)

    with pytest.raises((AssertionError, PacelineError, ValueError, IndexError)):
        all_schedules()
