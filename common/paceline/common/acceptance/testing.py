"""A kit that proves a rule exact by arithmetic: `check_acceptance_rule(rule)` raises if it is not.

`explore` runs a piece of code once for every way its random decisions can fall and gives each run its
probability. The code under proof is the rule itself, which takes its randomness as an argument (`Dice`);
what is added up is the law of the text it emits, and what it is compared with is the product of the target's
conditionals.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from paceline.common.acceptance.base import AcceptanceRule, Dice, Judgement
from paceline.common.acceptance.rejection import acceptance_probability, recovery_law
from paceline.common.sampling.choose import Chooser
from paceline.common.sampling.history import History
from paceline.common.sampling.law import Law, greedy_token, target_law
from paceline.common.sampling.noise import Purpose, key, token_uniforms
from paceline.common.sampling.opinion import QuantisedOpinionRows
from paceline.common.sampling.quantised import quantise
from paceline.common.sampling.rows import NumpyLogitRows, TargetRows
from paceline.common.tokens import Draft, How, Rule, SamplingParams
from paceline.common.trees import depths, path_to, principal_length, problem, siblings

Outcome = TypeVar("Outcome")
Option = TypeVar("Option")
Text = tuple[int, ...]
Judge = Callable[[Draft, TargetRows, Dice], Judgement]
"""`AcceptanceRule.judge`, or a mutant of it."""


class TableModel:
    """A language model whose every row is a random table entry of the *whole* text before it.

    Two models with different seeds disagree thoroughly, so every branch of a rule is taken.

    Args:
        vocab_size: Number of tokens.
        seed: Which table.
        sharpness: Scale of the logits; at 1.5 the likeliest of four tokens has a probability of about 0.7.
    """

    def __init__(self, vocab_size: int, seed: int, sharpness: float = 1.5) -> None:
        self.vocab_size = vocab_size
        self._seed = seed
        self._sharpness = sharpness
        self._rows: dict[Text, NDArray[np.float32]] = {}

    def logits(self, text: Text) -> NDArray[np.float32]:
        """The row after `text`. float32 [vocab]."""
        row = self._rows.get(text)
        if row is None:
            place = key(self._seed, len(text), Purpose.DRAFT)
            for token_id in text:
                place = key(place, token_id, Purpose.DRAFT)
            values = token_uniforms(place, 0, np.arange(self.vocab_size))
            row = (self._sharpness * np.log(values / (1.0 - values))).astype(np.float32)
            self._rows[text] = row
        return row

    def rows(self, text: Text, draft_token_ids: Text) -> NumpyLogitRows:
        """The rows after `text` and after each drafted token. float32 [draft + 1, vocab]."""
        return NumpyLogitRows(
            np.stack([self.logits(text + draft_token_ids[:i]) for i in range(len(draft_token_ids) + 1)])
        )

    def law(self, text: Text, params: SamplingParams) -> Law:
        """The law of the token after `text`, all of which counts as generated."""
        return target_law(self.logits(text), params, history_of(text))


def history_of(text: Text) -> History:
    """The history of a text with an empty prompt."""
    history = History()
    for token_id in text:
        history.push(token_id)
    return history


class Branches:
    """One run's path through its random decisions."""

    def __init__(self, path: list[int]) -> None:
        self._path = path
        self._weights: list[list[float]] = []
        self.weight = 1.0

    def choose(self, choices: Sequence[tuple[Option, float]]) -> Option:
        """Decide between values, given with their probabilities. Those of probability 0 are never taken."""
        possible = [choice for choice in choices if choice[1] > 0.0]
        depth = len(self._weights)
        if depth == len(self._path):
            self._path.append(0)
        self._weights.append([weight for _, weight in possible])
        value, weight = possible[self._path[depth]]
        self.weight *= weight
        return value

    def advance(self) -> bool:
        """Move the path on to the next run; False when every run was made."""
        while self._path:
            self._path[-1] += 1
            if self._path[-1] < len(self._weights[len(self._path) - 1]):
                return True
            self._path.pop()
        return False


def options(law: Law) -> list[tuple[int, float]]:
    """A law as values with their probabilities."""
    return list(zip(law.token_ids.tolist(), law.probs.tolist(), strict=True))


def explore(run: Callable[[Branches], Outcome]) -> Iterator[tuple[Outcome, float]]:
    """Every outcome of `run` with its probability, one pair for each way its decisions can fall."""
    path: list[int] = []
    while True:
        branches = Branches(path)
        outcome = run(branches)
        yield outcome, branches.weight
        if not branches.advance():
            return


@dataclass(frozen=True)
class Proposal:
    """A draft, and what the enumeration must know about the noise behind it."""

    draft: Draft
    coupled_laws: tuple[Law, ...] = ()
    """With shared noise: the law each token was picked from, for the verifier's pick depends on the same
    noise."""


Propose = Callable[[Branches, Text, int], Proposal]
"""(branches, text, length) -> a block of at most `length` tokens after the text."""


class BranchingDice:
    """Dice that take every way they can fall, with the probabilities the seeded ones have.

    Shared noise ties the verifier's pick to the drafter's. Which joint law the noise gives does not matter
    to an exact rule, as long as the verifier's pick alone has the target's law; here it is the maximal
    coupling.
    """

    def __init__(self, branches: Branches, proposal: Proposal) -> None:
        self._branches = branches
        self._proposal = proposal

    def pick(self, law: Law, position: int) -> int:
        """See `Dice.pick`."""
        index = position - self._proposal.draft.base
        if not 0 <= index < len(self._proposal.coupled_laws):
            return self.draw(law, position)
        drafted, draft_law = self._proposal.draft.token_ids[index], self._proposal.coupled_laws[index]
        if self.accepts(law.prob(drafted), draft_law.prob(drafted), position):
            return drafted
        return self.draw(recovery_law(law, draft_law), position)

    def draw(self, law: Law, position: int) -> int:
        """See `Dice.draw`."""
        return self._branches.choose(options(law))

    def accepts(self, target_prob: float, draft_prob: float, position: int, sibling: int = 0) -> bool:
        """See `Dice.accepts`."""
        chance = acceptance_probability(target_prob, draft_prob)
        return self._branches.choose([(True, chance), (False, 1.0 - chance)])


def propose_sampled(
    model: TableModel, params: SamplingParams, *, more_follows: bool = False, max_tokens: int = 10
) -> Propose:
    """Blocks drawn from the quantised laws that travel with them."""

    def propose(branches: Branches, text: Text, length: int) -> Proposal:
        tokens: Text = ()
        laws = []
        for _ in range(length):
            law = quantise(model.law(text + tokens, params), max_tokens)
            tokens += (branches.choose(options(law.as_law())),)
            laws.append(law)
        return Proposal(block(text, tokens, How.SAMPLED, laws=tuple(laws), more_follows=more_follows))

    return propose


def propose_shared_noise(model: TableModel, params: SamplingParams) -> Propose:
    """Blocks picked with noise the verifier shares."""

    def propose(branches: Branches, text: Text, length: int) -> Proposal:
        tokens: Text = ()
        laws = []
        for _ in range(length):
            law = model.law(text + tokens, params)
            tokens += (branches.choose(options(law)),)
            laws.append(law)
        return Proposal(block(text, tokens, How.SHARED_NOISE), tuple(laws))

    return propose


def propose_likeliest(model: TableModel, params: SamplingParams, *, more_follows: bool = False) -> Propose:
    """Blocks of the draft model's likeliest tokens."""

    def propose(branches: Branches, text: Text, length: int) -> Proposal:
        tokens: Text = ()
        for _ in range(length):
            row = model.logits(text + tokens)
            tokens += (greedy_token(row, params, history_of(text + tokens)),)
        return Proposal(block(text, tokens, How.ONE_HOT, more_follows=more_follows))

    return propose


def propose_relayed(judge: Judge, propose: Propose, model: TableModel, params: SamplingParams) -> Propose:
    """Blocks that a relay corrected with a model of its own: what it emits is drawn from its quantised law (methods
    4.1). The blocks below it are one token shorter, for it adds one of its own."""

    def relay(branches: Branches, text: Text, length: int) -> Proposal:
        below = propose(branches, text, length - 1)
        draft = below.draft
        history = history_of(text)
        with QuantisedOpinionRows(
            model.rows(text, draft.token_ids), params, history, draft.token_ids
        ) as rows:
            tokens = emitted(draft, judge(draft, rows, BranchingDice(branches, below)))
            laws = tuple(
                law for index, token_id in enumerate(tokens) if (law := rows.said(index, token_id)[1])
            )
        return Proposal(block(text, tokens, How.SAMPLED, laws=laws, more_follows=draft.more_follows))

    return relay


def tree_shapes(num_nodes: int) -> list[tuple[int, ...]]:
    """The parents of every well-formed tree of so many nodes."""
    candidates = product(*(range(-1, node) for node in range(num_nodes)))
    return [parents for parents in candidates if not problem(parents, num_nodes)]


def propose_tree(
    models: Sequence[TableModel], params: SamplingParams, parents: Sequence[int], how: How
) -> Propose:
    """Trees of one shape.

    Sampled: the child at place `j` is drawn from the quantised law of model `j`, and its siblings independently of it.
    One-hot: the children are the first model's likeliest tokens. Shared noise: the first child is its pick, the others
    are the token ids after it.
    """
    groups = siblings(parents)

    def propose(branches: Branches, text: Text, length: int) -> Proposal:
        tokens: list[int] = []
        laws, coupled = [], []
        for node, parent in enumerate(parents):
            before = text + tuple(tokens[one] for one in path_to(parents, parent))
            place = groups[parent].index(node)
            if how is How.SAMPLED:
                laws.append(quantise(models[place % len(models)].law(before, params)))
                tokens.append(branches.choose(options(laws[-1].as_law())))
            elif how is How.ONE_HOT:
                tokens.append(int((-models[0].logits(before)).argsort(kind="stable")[place]))
            elif place:
                tokens.append((tokens[groups[parent][0]] + place) % models[0].vocab_size)
            else:
                law = models[0].law(before, params)
                tokens.append(branches.choose(options(law)))
                coupled += [law] if node < principal_length(parents) else []
        draft = block(text, tuple(tokens), how, laws=tuple(laws), parents=tuple(parents))
        return Proposal(draft, tuple(coupled))

    return propose


def block(text: Text, tokens: Text, how: How, **rest: object) -> Draft:
    """A draft of `tokens` after `text`."""
    return Draft(len(text), 0, tokens, (1.0,) * len(tokens), how, **rest)  # type: ignore[arg-type]


def target_rows(target: TableModel, draft: Draft, params: SamplingParams, text: Text = ()) -> TargetRows:
    """The target's rows for a chain or a tree after `text`, all of which counts as generated."""
    if not draft.parents:
        logits = target.rows(text, draft.token_ids)
        return TargetRows(logits, params, history_of(text), draft.token_ids)
    paths = (path_to(draft.parents, node) for node in range(-1, len(draft)))
    texts = [text + tuple(draft.token_ids[node] for node in path) for path in paths]
    logits = NumpyLogitRows(np.stack([target.logits(one) for one in texts]))
    return TargetRows(logits, params, history_of(text), draft.token_ids, draft.parents)


def emitted_joint(
    judge: Judge, propose: Propose, target: TableModel, params: SamplingParams, length: int
) -> NDArray[np.float64]:
    """Joint law of the first `length + 1` tokens when one block of up to `length` tokens, or a tree as deep, is judged.

    What the block leaves open is continued by the target itself. float64 [vocab] * (length + 1).
    """

    def run(branches: Branches) -> Text:
        proposal = propose(branches, (), length)
        draft = proposal.draft
        with target_rows(target, draft, params) as rows:
            judgement = judge(draft, rows, BranchingDice(branches, proposal))
        return emitted(draft, judgement)

    joint = np.zeros((target.vocab_size,) * (length + 1))
    for tokens, weight in explore(run):
        joint[tokens] += weight * target_joint(target, params, length + 1 - len(tokens), tokens)
    return joint


def target_joint(
    model: TableModel, params: SamplingParams, length: int, text: Text = ()
) -> NDArray[np.float64]:
    """Product of the model's conditionals for the `length` tokens after `text`. float64 [vocab] * length."""
    joint = np.zeros((model.vocab_size,) * length)
    if length == 0:
        return np.ones(())
    law = model.law(text, params)
    for token_id, prob in options(law):
        joint[token_id] = prob * target_joint(model, params, length - 1, (*text, token_id))
    return joint


def emitted(draft: Draft, judgement: Judgement) -> Text:
    """The tokens a judgement commits."""
    path = draft.path(judgement.num_accepted, judgement.accepted_node)
    accepted = tuple(draft.token_ids[node] for node in path)
    return accepted if judgement.next_token_id is None else (*accepted, judgement.next_token_id)


def exactness_error(
    judge: Judge, propose: Propose, target: TableModel, params: SamplingParams, length: int
) -> float:
    """Largest difference between the emitted joint law and the target's own."""
    ours = emitted_joint(judge, propose, target, params, length)
    return float(np.abs(ours - target_joint(target, params, length + 1)).max())


@dataclass(frozen=True)
class Pair:
    """A draft model, a target, and the law that is asked for."""

    draft_model: TableModel
    target: TableModel
    params: SamplingParams

    def chooser(self, rule: Rule, seed: int) -> Chooser:
        """The real drafter's choices under `rule`."""
        return Chooser(rule, self.params, seed, self.target.vocab_size)


def speculate(
    judge: Judge, chooser: Chooser, dice: Dice, pair: Pair, *, num_tokens: int, block_lengths: Sequence[int]
) -> Text:
    """The first `num_tokens` tokens of a whole generation with the real drafter's choices and the given dice.

    Blocks take the given lengths in turn; a length of 0 is plain decoding.
    """
    text: Text = ()
    turn = 0
    while len(text) < num_tokens:
        tokens: Text = ()
        choices = []
        for _ in range(block_lengths[turn % len(block_lengths)]):
            before = text + tokens
            choices.append(chooser.choose(pair.draft_model.logits(before), len(before), history_of(before)))
            tokens += (choices[-1].token_id,)
        turn += 1
        laws = tuple(choice.law for choice in choices if choice.law is not None)
        draft = block(text, tokens, chooser.how, laws=laws)
        with TargetRows(pair.target.rows(text, tokens), pair.params, history_of(text), tokens) as rows:
            text += emitted(draft, judge(draft, rows, dice))
    return text[:num_tokens]


PARAMS = (
    SamplingParams(),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.7, top_p=0.8),
    SamplingParams(temperature=1.3, top_k=3, min_p=0.05),
    SamplingParams(temperature=1.0, repetition_penalty=1.4, presence_penalty=0.5, logit_bias={1: 0.7}),
)
"""Laws every exact rule must keep: greedy, plain, truncated, and dependent on the tokens drafted before."""


def check_acceptance_rule(rule: AcceptanceRule, *, vocab_size: int = 3, length: int = 2) -> None:
    """Prove a lossless rule exact for every way of drafting that it accepts.

    Raises:
        AssertionError: the emitted law differs from the target's by more than 1e-12.
    """
    if not rule.lossless:
        raise AssertionError(f"rule {rule.name} says it is not lossless; there is nothing to prove")
    for params, seed in product(PARAMS, range(3)):
        target = TableModel(vocab_size, seed)
        for how, propose in proposers(TableModel(vocab_size, 100 + seed), params):
            if how not in rule.accepts:
                continue
            error = exactness_error(rule.judge, propose, target, params, length)
            if error > 1e-12:
                raise AssertionError(f"rule {rule.name}, drafts by {how}, {params}: off by {error:.3g}")
        if rule.judges_trees:
            _check_trees(rule, target, params, seed)


TREES = ((-1, -1), (-1, 0, -1, 2), (-1, 0, 0, -1))
"""Shapes every rule that judges trees is proved on: siblings, two chains, a fork below a fork."""


def _check_trees(rule: AcceptanceRule, target: TableModel, params: SamplingParams, seed: int) -> None:
    models = [TableModel(target.vocab_size, 100 + seed), TableModel(target.vocab_size, 200 + seed)]
    for parents, how in product(TREES, sorted(rule.accepts)):
        propose = propose_tree(models, params, parents, how)
        error = exactness_error(rule.judge, propose, target, params, max(depths(parents)) + 1)
        if error > 1e-12:
            raise AssertionError(f"rule {rule.name}, trees {parents} by {how}, {params}: off by {error:.3g}")


def proposers(model: TableModel, params: SamplingParams) -> list[tuple[How, Propose]]:
    """Every honest way to draft with `model`."""
    return [
        (How.ONE_HOT, propose_likeliest(model, params)),
        (How.ONE_HOT, propose_likeliest(model, params, more_follows=True)),
        (How.SHARED_NOISE, propose_shared_noise(model, params)),
        (How.SAMPLED, propose_sampled(model, params)),
        (How.SAMPLED, propose_sampled(model, params, max_tokens=2)),
        (How.SAMPLED, propose_sampled(model, params, more_follows=True)),
    ]
