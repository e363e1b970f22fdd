"""What every drafter owes its callers, as a kit: `check_drafter(make_drafter)` raises on the first broken
promise.

Run it on a drafter of your own; the ones here run it too. Equality is the test throughout: whatever a
session went through (drafts, rejections, full acceptance, duplicates), it must go on exactly as a fresh
session told the same text would. Lossless verification rests on the rest: how a token was chosen is stated
truly, and what was drawn is kept.
"""

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from paceline.common.drafter import Drafter, DraftSession, Proposal
from paceline.common.sampling.choose import Choice, Chooser
from paceline.common.sampling.history import History
from paceline.common.tokens import How, Rule, SamplingParams
from paceline.common.trees import chain, depths, problem

SETTINGS: tuple[tuple[Rule, SamplingParams], ...] = (
    (Rule.GREEDY, SamplingParams()),
    (Rule.GREEDY, SamplingParams(frequency_penalty=0.8, repetition_penalty=1.3)),
    (Rule.COUPLED, SamplingParams(temperature=0.9, top_k=20, top_p=0.95)),
    (Rule.COUPLED, SamplingParams(temperature=1.2, presence_penalty=0.7)),
    (Rule.ONE_HOT, SamplingParams(temperature=0.8)),
    (Rule.REJECTION, SamplingParams(temperature=1.0)),
)
"""Every rule, with and without penalties, which make a law depend on the history and not on the model
alone."""

_SEED = 20
_NUM_WALKS = 4
_WALK_STEPS = 12


class DrafterFault(AssertionError):
    """A drafter broke a promise; the message says which."""


class _RecordingChooser(Chooser):
    """Remembers what it chose, so that a choice that is quietly dropped is seen."""

    def __init__(self, rule: Rule, params: SamplingParams, vocab_size: int) -> None:
        super().__init__(rule, params, _SEED, vocab_size)
        self.made: list[tuple[int, int]] = []

    def choose(self, logits: npt.NDArray[np.float32], position: int, history: History) -> Choice:
        choice = super().choose(logits, position, history)
        self.made.append((position, choice.token_id))
        return choice


class _Case:
    """One drafter under one rule, with a prompt that gives a copying drafter something to copy."""

    def __init__(self, drafter: Drafter, rule: Rule, params: SamplingParams, vocab_size: int) -> None:
        self.drafter = drafter
        self.rule = rule
        self.params = params
        self.vocab_size = vocab_size
        dice = random.Random(7)
        phrase = [dice.randrange(vocab_size) for _ in range(9)]
        self.prompt = [*phrase, dice.randrange(vocab_size), *phrase, dice.randrange(vocab_size), *phrase[:5]]
        self.tolerance = 1e-3

    def chooser(self) -> _RecordingChooser:
        return _RecordingChooser(self.rule, self.params, self.vocab_size)

    def start(self) -> DraftSession:
        return self.drafter.start(self.prompt, self.chooser())

    def told(self, committed: Sequence[int]) -> DraftSession:
        """A fresh session that knows the prompt and `committed` and has drafted nothing."""
        session = self.start()
        session.observe(len(self.prompt), committed)
        return session

    def other(self, token_id: int) -> int:
        """Some other token than `token_id`."""
        return (token_id + 1) % self.vocab_size

    def require(self, holds: bool, promise: str) -> None:
        if not holds:
            raise DrafterFault(f"{self.drafter.name}, rule {self.rule}: {promise}")

    def require_same(self, actual: Proposal, expected: Proposal, promise: str) -> None:
        same = (actual.base, actual.token_ids, actual.how) == (
            expected.base,
            expected.token_ids,
            expected.how,
        )
        self.require(same, f"{promise}\n  got      {actual}\n  expected {expected}")
        near = np.allclose(actual.probs, expected.probs, atol=self.tolerance)
        self.require(near, f"{promise} (the probabilities differ)\n  {actual.probs}\n  {expected.probs}")


def check_drafter(
    make_drafter: Callable[[], Drafter],
    *,
    vocab_size: int = 64,
    settings: Iterable[tuple[Rule, SamplingParams]] = SETTINGS,
    without: Collection["Check"] = (),
) -> None:
    """Put a drafter through every promise under every rule.

    Args:
        make_drafter: loads it; called once.
        vocab_size: ids to use where the drafter has no vocabulary of its own.
        settings: rules and sampling parameters to run.
        without: checks of promises that this drafter does not make. None guards the text: a drafter that is to be
            exact passes `check_proposals_are_sound` and `check_every_choice_is_kept`.
    Raises:
        DrafterFault: the first promise it breaks.
    """
    drafter = make_drafter()
    size = drafter.vocab_size or vocab_size
    for rule, params in settings:
        case = _Case(drafter, rule, params, size)
        for check in (check for check in CHECKS if check not in without):
            try:
                check(case)
            except DrafterFault:
                raise
            except Exception as error:
                promise = (check.__doc__ or "").strip()
                raise DrafterFault(f"{drafter.name}, rule {rule}: {error!r} breaks: {promise}") from error


def check_continues_own_text(case: _Case) -> None:
    """A proposal starts where the text ends, the text grows by it, and the limit holds."""
    session = case.start()
    case.require(session.length == len(case.prompt), "a new session's length is the prompt's")
    case.require(len(session.propose(0)) == 0, "propose(0) writes nothing")
    for limit in (1, 3, 4):
        before = session.length
        proposal = session.propose(limit)
        case.require(proposal.base == before, f"base is {proposal.base}, but the text had {before} tokens")
        case.require(len(proposal) <= limit, f"{len(proposal)} tokens exceed the limit of {limit}")
        case.require(session.length == before + len(proposal), "length grows by what was proposed")
    session.close()


def check_proposals_are_sound(case: _Case) -> None:
    """Ids are in the vocabulary; one finite probability per token; how and laws say what really happened."""
    session = case.start()
    proposal = session.propose(12)
    session.close()
    case.require(all(0 <= t < case.vocab_size for t in proposal.token_ids), "token ids are in the vocabulary")
    case.require(len(proposal.probs) == len(proposal), "there is one probability per token")
    case.require(all(0.0 < prob <= 1.0 for prob in proposal.probs), "probabilities are in (0, 1]")
    allowed = {case.chooser().how, How.ONE_HOT}
    case.require(proposal.how in allowed, f"how={proposal.how} is neither the chooser's nor one-hot")
    check_branches_are_sound(case, proposal)
    if proposal.how is not How.SAMPLED:
        case.require(not proposal.laws, "laws travel with sampled tokens only")
        return
    case.require(len(proposal.laws) == len(proposal), "every sampled token has its law")
    for token_id, prob, law in zip(proposal.token_ids, proposal.probs, proposal.laws, strict=True):
        # A copied token has a law of one token; its probability is then an honest estimate, as it always is.
        is_own = law.prob(token_id) == (1.0 if len(law.token_ids) == 1 else prob)
        case.require(is_own, "the probability is the law's own")


def check_branches_are_sound(case: _Case, proposal: Proposal) -> None:
    """What is proposed beside a chain makes a tree with it, and says of each token what the chain says of its own."""
    branches = proposal.branches
    num_tokens = len(branches.token_ids)
    wrong = problem((*chain(len(proposal)), *branches.parents), len(proposal) + num_tokens)
    case.require(not wrong, f"the branches are no part of a tree: {wrong}")
    case.require(
        all(0 <= t < case.vocab_size for t in branches.token_ids), "branch tokens are in the vocabulary"
    )
    case.require(len(branches.probs) == num_tokens, "every branch token has its probability")
    num_laws = num_tokens if proposal.how is How.SAMPLED else 0
    case.require(len(branches.laws) == num_laws, "branches have laws where the chain has")


def check_every_choice_is_kept(case: _Case) -> None:
    """Whatever the chooser drew is in the text: dropping a token for its value biases the target's law
    (E11)."""
    chooser = case.chooser()
    session = case.drafter.start(case.prompt, chooser)
    written: Counter[tuple[int, int]] = Counter()
    for _ in range(16):
        written += Counter(_places(session.propose(2)))
    session.close()
    # A drafter may also copy, so not every place has a choice; but every choice has its place, once.
    is_whole = not Counter(chooser.made) - written
    case.require(is_whole, "a chosen token was dropped, or chosen twice")


def _places(proposal: Proposal) -> Iterator[tuple[int, int]]:
    """Position and token of everything proposed, branches as well."""
    branches = proposal.branches
    parents = (*chain(len(proposal)), *branches.parents)
    for depth, token_id in zip(depths(parents), proposal.token_ids + branches.token_ids, strict=True):
        yield proposal.base + depth, token_id


def check_keep_going_stops_after_keeping(case: _Case) -> None:
    """`keep_going` hears each token's probability once; False ends the block with that token in it."""
    session = case.start()
    whole = session.propose(8)
    session.close()
    for wanted in range(1, len(whole) + 1):
        heard: list[float] = []

        def keep_going(prob: float, heard: list[float] = heard, wanted: int = wanted) -> bool:
            heard.append(prob)
            return len(heard) < wanted

        session = case.start()
        block = session.propose(8, keep_going)
        session.close()
        case.require(
            block.token_ids == whole.token_ids[:wanted], "a stopped block is the start of a whole one"
        )
        case.require(tuple(heard) == block.probs, "keep_going hears every written token's probability, once")


def check_block_boundaries_do_not_matter(case: _Case) -> None:
    """Eight calls for one token write what one call for eight writes."""
    session = case.start()
    whole = session.propose(8)
    session.close()
    session = case.start()
    single = [session.propose(1) for _ in range(8)]
    session.close()
    written = tuple(token_id for block in single for token_id in block.token_ids)
    case.require(written == whole.token_ids, f"one at a time gives {written}, at once {whole.token_ids}")


def check_rollback_equals_fresh(case: _Case) -> None:
    """After a rejection at any place the session goes on as a fresh one told the same text."""
    base = len(case.prompt)
    session = case.start()
    drafts = session.propose(6).token_ids
    session.close()
    for kept in range(len(drafts)):
        committed = [*drafts[:kept], case.other(drafts[kept])]
        session = case.start()
        session.propose(6)
        case.require(session.observe(base, committed) == kept, "observe counts the tokens already written")
        case.require(session.length == base + len(committed), "a contradicted text is cut and corrected")
        fresh = case.told(committed)
        case.require_same(
            session.propose(6), fresh.propose(6), "rolled back, a session differs from a fresh one"
        )
        session.close()
        fresh.close()


def check_full_acceptance_equals_fresh(case: _Case) -> None:
    """After full acceptance and a bonus the session goes on as a fresh one (it must read its own last draft:
    E6)."""
    base = len(case.prompt)
    for bonus in range(3):
        session = case.start()
        drafts = session.propose(5).token_ids
        committed = [*drafts, bonus]
        session.observe(base, committed)
        fresh = case.told(committed)
        promise = "after full acceptance and a bonus, a session differs from a fresh one"
        case.require_same(session.propose(5), fresh.propose(5), promise)
        session.close()
        fresh.close()


def check_observe_is_idempotent(case: _Case) -> None:
    """Duplicates, late calls and partial agreement leave the drafts beyond them alone."""
    base = len(case.prompt)
    session, twin = case.start(), case.start()
    drafts = session.propose(6).token_ids
    twin.propose(6)
    for position, token_ids in (
        (base, drafts[:2]),
        (base, drafts[:2]),
        (base, drafts[:4]),
        (base + 1, drafts[1:3]),
        (base, ()),
        (0, case.prompt),
        (base, drafts),
        (base, drafts[:1]),
    ):
        agreed = session.observe(position, token_ids)
        case.require(agreed == len(token_ids), "a call that agrees counts all its tokens")
        case.require(session.length == base + len(drafts), "a call that agrees leaves the length alone")
    twin.observe(base, drafts)
    case.require_same(session.propose(4), twin.propose(4), "duplicates changed what comes next")
    session.close()
    twin.close()


def check_gaps_are_refused(case: _Case) -> None:
    """Text beyond a gap, or instead of the prompt, is a ValueError that changes nothing."""
    session, twin = case.start(), case.start()
    first = case.other(case.prompt[0])
    for position, token_ids in ((len(case.prompt) + 1, [1]), (-1, [1]), (0, [first])):
        try:
            session.observe(position, token_ids)
        except ValueError:
            continue
        case.require(False, f"observe({position}, {token_ids}) was taken without a ValueError")
    case.require_same(session.propose(4), twin.propose(4), "a refused call changed what comes next")
    session.close()
    twin.close()


def check_follows_another_writer(case: _Case) -> None:
    """Told what another drafter wrote, and whatever that replaced, a session goes on as after any text."""
    base = len(case.prompt)
    others = [1, 2, case.prompt[0]]
    fresh = case.told(others)
    expected = fresh.propose(4)
    for own in (0, 2, 5):
        session = case.start()
        session.propose(own)
        session.follow(base, others)
        case.require(session.length == base + len(others), "the text ends with what it follows")
        promise = "a session that follows another writer differs from one told the same text"
        case.require(session.propose(4).token_ids == expected.token_ids, promise)
        session.follow(base + 1, ())
        case.require(session.length == base + 1, "following nothing cuts the text")
        session.observe(base, others)
        case.require_same(session.propose(4), expected, promise)
        session.close()
    _require_refused_follows(case, fresh)
    fresh.close()


def _require_refused_follows(case: _Case, session: DraftSession) -> None:
    length = session.length
    for position in (length + 1, len(case.prompt) - 1):
        try:
            session.follow(position, [1])
        except ValueError:
            case.require(session.length == length, "a refused call leaves the text")
            continue
        case.require(False, f"follow({position}) was taken without a ValueError")


def check_random_walks_equal_fresh(case: _Case) -> None:
    """Any history of proposing and observing ends where a fresh session told the same text would be."""
    for walk in range(_NUM_WALKS):
        dice = random.Random(walk)
        session = case.start()
        committed: list[int] = []
        drafts: list[int] = []
        for _ in range(_WALK_STEPS):
            if dice.random() < 0.6:
                drafts += session.propose(dice.randrange(1, 5)).token_ids
                continue
            kept = dice.randrange(len(drafts) + 1)
            wrong = case.other(drafts[kept]) if kept < len(drafts) else dice.randrange(case.vocab_size)
            start = dice.randrange(len(committed) + 1)
            committed += [*drafts[:kept], wrong]
            session.observe(len(case.prompt) + start, committed[start:])
            drafts = []
        session.observe(len(case.prompt), [*committed, *drafts])
        fresh = case.told([*committed, *drafts])
        case.require_same(
            session.propose(4), fresh.propose(4), "after a random walk, a session is not as fresh"
        )
        session.close()
        fresh.close()


def check_sessions_are_independent(case: _Case) -> None:
    """Sessions that take turns write what each writes alone, and closing one does not touch another."""
    base = len(case.prompt)
    texts = [[token_id] for token_id in (0, 1, 2)]
    alone: list[Proposal] = []
    for text in texts:
        session = case.told(text)
        session.propose(3)
        alone.append(session.propose(3))
        session.close()
    sessions = [case.start() for _ in texts]
    for session, text in zip(sessions, texts, strict=True):
        session.observe(base, text)
    for session in sessions:
        session.propose(3)
    for session, expected in zip(sessions, alone, strict=True):
        case.require_same(session.propose(3), expected, "sessions that take turns disturb each other")
        session.close()


def check_closing_ends_it(case: _Case) -> None:
    """A closed session refuses work, closing again is harmless, and the next session starts clean."""
    first = case.told([1, 2, 3])
    expected = first.propose(4)
    first.close()
    first.close()
    base = len(case.prompt)
    for use in (lambda: first.propose(1), lambda: first.observe(base, [1]), lambda: first.follow(base, [1])):
        try:
            use()
        except ValueError:
            continue
        case.require(False, "a closed session went on working")
    again = case.told([1, 2, 3])
    case.require_same(again.propose(4), expected, "a session is changed by one closed before it")
    again.close()


Check = Callable[[_Case], None]

CHECKS: tuple[Check, ...] = (
    check_continues_own_text,
    check_proposals_are_sound,
    check_every_choice_is_kept,
    check_keep_going_stops_after_keeping,
    check_block_boundaries_do_not_matter,
    check_rollback_equals_fresh,
    check_full_acceptance_equals_fresh,
    check_observe_is_idempotent,
    check_gaps_are_refused,
    check_follows_another_writer,
    check_random_walks_equal_fresh,
    check_sessions_are_independent,
    check_closing_ends_it,
)
