"""Twelve ways to draft with ill will, and whether any of them bends the law of the text.

Three tokens of a vocabulary of sixteen are few enough to know the law of every text exactly. The same texts, under a
verifier that believes the law a client claims, must fail the same test: otherwise it could see nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare
from tests.hostile.raw import Raw, opening

from paceline.cloud.config import VerifierConfig
from paceline.cloud.engine.table import TableEngine
from paceline.common.errors import BadDraft, Status
from paceline.common.hops.grpc import GrpcHop
from paceline.common.messages import Close, ErrorMessage, Finished, Open
from paceline.common.prefix import Prefix
from paceline.common.sampling.quantised import LATTICE, QuantisedLaw
from paceline.common.sampling.rows import NumpyLogitRows
from paceline.common.session import EdgeSession, Limits, VerifierSession
from paceline.common.session.remote import RemoteError
from paceline.common.tokens import Draft, How, Rule, SamplingParams

VOCAB, LENGTH, PROMPT = 16, 3, (1, 2)
WARM = SamplingParams(1.0)
LIMITS = Limits(VOCAB, 64, max_draft_tokens=8)
ENGINE = TableEngine(VOCAB, seed=5, spread=1.0, max_context=64)
SAFE = (Rule.COUPLED, Rule.ONE_HOT)
Probs = np.ndarray
Text = tuple[int, ...]


@cache
def logits(text: Text) -> Any:
    """The target's row after the prompt and this."""
    return ENGINE.logits_after((*PROMPT, *text))


@cache
def law(text: Text) -> Probs:
    """The target's law there."""
    weights = np.exp(logits(text).astype(np.float64))
    return weights / weights.sum()


@cache
def exact() -> Probs:
    """Probability of every text. float64 [VOCAB ** LENGTH]."""
    texts = product(range(VOCAB), repeat=LENGTH)
    return np.array([np.prod([law(text[:at])[text[at]] for at in range(LENGTH)]) for text in texts])


# --- strategies -------------------------------------------------------------------------------------------------------

Claim = tuple[int, Probs]
"""A token, and the law it is said to be drawn from."""


def honest(target: Probs, dice: Any) -> Claim:
    """Draws from a law of its own, and says which."""
    own = 0.5 * target + 0.5 / VOCAB
    return int(np.searchsorted(own.cumsum(), dice.random() * own.sum())), own


def least_likely(target: Probs, dice: Any) -> Claim:
    """What the target would say last, as a deterministic choice."""
    return _certain(int(target.argmin()))


def claims_nearly_0(target: Probs, dice: Any) -> Claim:
    """The least likely token, said to have been nearly impossible: whoever believes it accepts it always."""
    token_id = int(target.argmin())
    claimed = np.full(VOCAB, (1 - 1e-9) / (VOCAB - 1))
    claimed[token_id] = 1e-9
    return token_id, claimed


def claims_nearly_1(target: Probs, dice: Any) -> Claim:
    """The likeliest token, said to be certain: whoever believes it refuses it too often."""
    token_id = int(target.argmax())
    claimed = np.full(VOCAB, 1e-9 / (VOCAB - 1))
    claimed[token_id] = 1 - 1e-9
    return token_id, claimed


def zero_weights(target: Probs, dice: Any) -> Claim:
    """A law without mass."""
    return int(target.argmin()), np.zeros(VOCAB)


def malformed(target: Probs, dice: Any) -> Claim:
    """A law that is none."""
    return int(target.argmin()), np.full(VOCAB, np.nan)


def starves_residual(target: Probs, dice: Any) -> Claim:
    """A token that will be refused, with a law that leaves nothing of the likeliest one to recover."""
    token_id, claimed = int(target.argmin()), np.zeros(VOCAB)
    claimed[target.argmax()] = claimed[token_id] = 0.5
    return token_id, claimed


def constant(target: Probs, dice: Any) -> Claim:
    """Always the same token."""
    return 3, np.full(VOCAB, 1 / VOCAB)


def at_random(target: Probs, dice: Any) -> Claim:
    """Any token."""
    return int(dice.integers(VOCAB)), np.full(VOCAB, 1 / VOCAB)


def _certain(token_id: int) -> Claim:
    return token_id, np.eye(VOCAB)[token_id]


@dataclass
class Strategy:
    """How a client drafts.

    Args:
        claim: one token of it.
        num_tokens: in a block.
        replays: every block is sent again after the next one, and those of earlier texts too.
        resumes: so often before each reply it is heard, the stream breaks and the session is opened again.
    """

    claim: Callable[[Probs, Any], Claim]
    num_tokens: int = 2
    replays: bool = False
    resumes: int = 0
    old: list[Draft] = field(default_factory=list)

    def blocks(self, text: Prefix, dice: Any) -> Iterator[Draft]:
        """What is sent now."""
        if self.replays:
            yield from self.old[-3:]
        said: list[Claim] = []
        for _ in range(self.num_tokens):
            so_far = (*text.list(len(PROMPT)), *(token_id for token_id, _ in said))
            said.append(self.claim(law(so_far[:LENGTH]), dice))
        draft = _draft(text, said)
        if self.replays:
            self.old = [*self.old[-5:], draft]
        yield draft


STRATEGIES: dict[str, Strategy] = {
    "honest": Strategy(honest),
    "least likely token": Strategy(least_likely),
    "claims nearly 0": Strategy(claims_nearly_0),
    "claims nearly 1": Strategy(claims_nearly_1),
    "zero weights everywhere": Strategy(zero_weights),
    "malformed law": Strategy(malformed),
    "residual starving": Strategy(starves_residual),
    "constant token": Strategy(constant),
    "replay of old blocks": Strategy(at_random, replays=True),
    "k = 0": Strategy(honest, num_tokens=0),
    "k = max": Strategy(honest, num_tokens=LIMITS.max_draft_tokens),
    "disconnects before each reply": Strategy(honest, resumes=2),
}
TRUSTING_FAILS = ("claims nearly 0", "residual starving")
"""Where a verifier that believes what it is told is bent furthest; see decision 0010."""


def _draft(text: Prefix, said: list[Claim]) -> Draft:
    """The block on the wire. A law that can be written down as one is; others go out as they are."""
    length = len(text)
    token_ids = tuple(token_id for token_id, _ in said)
    laws = tuple(_quantised(*one) for one in said)
    how = How.SAMPLED if said else How.ONE_HOT
    return Draft(length, text.hash_at(length), token_ids, (1.0,) * len(said), how, laws)


def _quantised(token_id: int, claimed: Probs) -> QuantisedLaw:
    """As close as whole weights come: no drafted token can be said to be rarer than one in LATTICE."""
    if not np.isfinite(claimed).all():
        return QuantisedLaw(tuple(range(VOCAB)), ((1 << 32) - 1,) * VOCAB)
    weights = np.floor(claimed * LATTICE).astype(int)
    if weights.any():
        weights[token_id] = max(weights[token_id], 1)
        weights[int(weights.argmax())] += LATTICE - int(weights.sum())
    kept = [one for one in range(VOCAB) if weights[one]] or [token_id]
    return QuantisedLaw(tuple(kept), tuple(int(weights[one]) for one in kept))


# --- verifiers --------------------------------------------------------------------------------------------------------


def written(strategy: Strategy, rule: Rule, seed: int, dice: Any) -> Text:
    """A text of the real session machine, of which the client says what it likes."""
    # One token more than is looked at, so that drafts never end short of the law's last token.
    request = Open(PROMPT, LENGTH + 1, WARM, rule, seed=seed, ignore_eos=True)
    session = VerifierSession(request, LIMITS)
    while len(session.text) < len(PROMPT) + LENGTH:
        for _ in range(strategy.resumes):
            _step(session, strategy, dice)  # what comes of it nobody hears
            committed = tuple(session.text.list(len(PROMPT)))[: len(session.text) - len(PROMPT) - 1]
            session = VerifierSession(replace(request, committed_token_ids=committed), LIMITS)
        _step(session, strategy, dice)
    return tuple(session.text.list(len(PROMPT)))[:LENGTH]


def _step(session: VerifierSession, strategy: Strategy, dice: Any) -> None:
    for draft in strategy.blocks(session.text, dice):
        try:
            session.on_draft(draft)
        except BadDraft:
            length = len(session.text)
            session.on_draft(Draft(length, session.text.hash_at(length), (), (), How.ONE_HOT))
    work = session.next_work(64)
    assert work is not None
    assert work.draft is not None
    text = tuple(session.text.list(len(PROMPT)))
    token_ids = work.draft.token_ids
    rows = [logits((*text, *token_ids[:index])) for index in range(len(token_ids) + 1)]
    judgement = session.judge(work, NumpyLogitRows(np.stack(rows)))
    session.on_judged(work, judgement)


def believed(strategy: Strategy, seed: int, dice: Any) -> Text:
    """A text of the textbook's verifier: it takes the claimed law for the one the token was drawn from."""
    text: Text = ()
    while len(text) < LENGTH:
        target = law(text)
        token_id, claimed = strategy.claim(target, dice)
        if dice.random() * claimed[token_id] < target[token_id]:
            text += (token_id,)
            continue
        residual = np.nan_to_num(np.maximum(target - claimed, 0.0))
        residual = residual if residual.sum() > 0 else target
        text += (int(dice.choice(VOCAB, p=residual / residual.sum())),)
    return text


# --- the test ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """How far texts are from the exact law."""

    p_value: float
    distance: float
    """Total variation."""
    noise: float
    """Of as many honest draws from the law itself, on average."""

    @property
    def is_good(self) -> bool:
        """What P4 promises; twelve strategies share one chance in a thousand."""
        return self.p_value > 0.001 / len(STRATEGIES) and self.distance <= 3 * self.noise


def fit(texts: list[Text]) -> Fit:
    """Chi-square over texts, pooled until five are expected, and total variation."""
    count = len(texts)
    places = Counter(sum(one * VOCAB ** (LENGTH - 1 - at) for at, one in enumerate(text)) for text in texts)
    found = np.array([places[place] for place in range(VOCAB**LENGTH)], dtype=float)
    expected = exact() * count
    starts = _pools(expected)
    p_value = chisquare(
        np.add.reduceat(found, starts), np.add.reduceat(expected, starts), sum_check=False
    ).pvalue
    dice = np.random.default_rng(1)
    draws = dice.multinomial(count, exact() / exact().sum(), size=20)
    noise = float(np.mean([np.abs(draw / count - exact()).sum() / 2 for draw in draws]))
    return Fit(float(p_value), float(np.abs(found / count - exact()).sum() / 2), noise)


def _pools(expected: Probs) -> list[int]:
    """Where to begin pools of neighbouring texts that are expected five times or more."""
    starts, weight = [0], 0.0
    for place, one in enumerate(expected):
        if weight >= 5 and expected[place:].sum() >= 5:
            starts.append(place)
            weight = 0.0
        weight += one
    return starts


def texts_of(write: Callable[[int, Any], Text], count: int) -> list[Text]:
    """So many texts, each with its seed."""
    dice = np.random.default_rng(7)
    return [write(seed, dice) for seed in range(count)]


def fit_of(name: str, rule: Rule, count: int) -> Fit:
    """What comes of a strategy under a rule."""
    strategy = STRATEGIES[name]
    return fit(texts_of(lambda seed, dice: written(strategy, rule, seed, dice), count))


def power_check(count: int) -> dict[str, Fit]:
    """The same test must find fault with verifiers that believe: the textbook's, and our own rule `rejection`."""
    found = {}
    for name in TRUSTING_FAILS:
        textbook = fit(texts_of(partial(believed, STRATEGIES[name]), count))
        ours = fit_of(name, Rule.REJECTION, count)
        assert not textbook.is_good, name
        assert not ours.is_good, name
        found |= {f"textbook, {name}": textbook, f"rejection, {name}": ours}
    assert fit(texts_of(partial(believed, STRATEGIES["honest"]), count)).is_good, (
        "it is the lie that bends it"
    )
    assert fit_of("honest", Rule.REJECTION, count).is_good
    return found


def test_no_strategy_bends_the_law() -> None:
    """Under rules that trust nobody the law is the target's whatever is drafted; a verifier that believes fails."""
    for name in STRATEGIES:
        one = fit_of(name, Rule.COUPLED, 160)
        assert one.is_good, (name, one)
    power_check(160)


@pytest.mark.slow
@pytest.mark.vast
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("rule", SAFE)
@pytest.mark.parametrize("name", STRATEGIES)
def test_no_strategy_bends_the_law_over_many_texts(name: str, rule: Rule, record_property: Any) -> None:
    """The same over a hundred thousand texts of each strategy."""
    one = fit_of(name, rule, NUM_TEXTS)
    record_property("fit", str(one))
    assert one.is_good


@pytest.mark.slow
@pytest.mark.vast
@pytest.mark.timeout(3600)
def test_verifiers_that_believe_are_caught_over_many_texts(record_property: Any) -> None:
    """The power of that test: what trusts a client fails it."""
    for name, one in power_check(NUM_TEXTS // 10).items():
        record_property(name, str(one))


NUM_TEXTS = 100_000


def test_disconnecting_rolls_no_dice_again() -> None:
    """Ten thousand streams that break at one position, after whatever draft, all hear one token."""
    dice = np.random.default_rng(3)
    heard = set()
    for attempt in range(300):
        strategy = list(STRATEGIES.values())[attempt % len(STRATEGIES)]
        heard.add(written(strategy, Rule.COUPLED, 11, dice))
    assert len(heard) == 1


@pytest.mark.slow
def test_disconnecting_rolls_no_dice_again_in_ten_thousand_attempts() -> None:
    """The same, as often as is promised; a fresh seed each time gives many tokens."""
    dice = np.random.default_rng(3)
    strategies = list(STRATEGIES.values())
    heard = {written(strategies[at % len(strategies)], Rule.COUPLED, 11, dice) for at in range(10_000)}
    assert len(heard) == 1
    assert len({written(strategies[0], Rule.COUPLED, at, dice)[0] for at in range(200)}) > 4


# --- through gRPC -----------------------------------------------------------------------------------------------------


async def told(hop: GrpcHop, strategy: Strategy, rule: Rule, seed: int, dice: Any) -> Text:
    """A text over a real link; what the client knows of it, it knows from verdicts."""
    session = EdgeSession(Open(PROMPT, LENGTH + 1, WARM, rule, seed=seed, ignore_eos=True))
    breaks = strategy.resumes
    while len(session.committed) < len(PROMPT) + LENGTH:
        async with hop.stream() as stream:
            await stream.send(session.open())
            session.receive(await stream.receive())
            while len(session.committed) < len(PROMPT) + LENGTH:
                length = len(session.committed)
                for draft in strategy.blocks(session.committed, dice):
                    block = session.block(draft.base, draft.token_ids, draft.draft_probs, draft.how, draft.laws,
                                          base_hash=draft.prefix_hash)  # fmt: skip
                    await stream.send(block)
                if breaks:
                    breaks -= 1
                    break
                while len(session.committed) == length:
                    await _hear(stream, session)
                breaks = strategy.resumes
            else:
                await stream.send(Close())
    return tuple(session.committed.list(len(PROMPT)))[:LENGTH]


async def _hear(stream: Any, session: EdgeSession) -> None:
    try:
        reply = await stream.receive()
        if not isinstance(reply, Finished):
            session.receive(reply)
    except RemoteError as refused:
        if refused.fatal:
            raise
        if session.num_blocks_in_flight == 0:
            length = len(session.committed)
            await stream.send(session.block(length, (), (), How.ONE_HOT))


@pytest.mark.parametrize("name", STRATEGIES)
async def test_the_wire_changes_nothing(serve: Any, name: str) -> None:
    """Through gRPC every text is the one that the session machine alone gives: what the edge sends plays no part."""
    dice = np.random.default_rng(9)
    async with serve(TableEngine(VOCAB, seed=5, spread=1.0, max_context=64)) as served:
        hop = GrpcHop(served.address)
        for seed in range(12):
            text = await told(hop, STRATEGIES[name], Rule.COUPLED, seed, dice)
            assert text == written(STRATEGIES["k = 0"], Rule.COUPLED, seed, dice)
        await hop.close()


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_the_wire_changes_nothing_in_many_texts(serve: Any) -> None:
    """The same over many more texts."""
    dice = np.random.default_rng(9)
    async with serve(TableEngine(VOCAB, seed=5, spread=1.0, max_context=64)) as served:
        hop = GrpcHop(served.address)
        for name, seed in product(STRATEGIES, range(1000)):
            text = await told(hop, STRATEGIES[name], Rule.COUPLED, seed, dice)
            assert text == written(STRATEGIES["k = 0"], Rule.COUPLED, seed, dice), (name, seed)
        await hop.close()


async def test_an_operator_can_refuse_rules_that_trust(serve: Any) -> None:
    """A verifier whose operator leaves `rejection` out says so at Open; the rules that trust nobody stay."""
    async with serve(config=VerifierConfig(rules=frozenset({Rule.GREEDY, *SAFE}))) as served:
        async with Raw(served.address) as raw:
            await raw.send(opening(rule=Rule.REJECTION, sampling=WARM))
            (error,) = await raw.until_end()
            assert isinstance(error, ErrorMessage)
            assert (error.status, error.field) == (Status.INVALID_ARGUMENT, "rule")
        async with served.client() as client:
            assert Rule.REJECTION not in client.verifier.rules
