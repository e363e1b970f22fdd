"""A model for which another drafter guesses proposes, token for token and law for law, what it proposes alone."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from paceline.common.drafter import Drafter, Proposal
from paceline.common.errors import InvalidRequest
from paceline.common.sampling.choose import Choice, Chooser
from paceline.common.tokenizer import Tokenizer
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.drafters.model import Logits
from paceline.edge.drafters.ngram import NgramDrafter
from paceline.edge.drafters.onnx import OnnxDrafter, OnnxRunner
from paceline.edge.drafters.table import TableDrafter, TableRunner
from paceline.edge.drafters.torch import TorchDrafter
from paceline.edge.drafters.vertical import VerticalDrafter, VerticalSession
from paceline.edge.export import export

RULES = [
    (Rule.GREEDY, SamplingParams()),
    (Rule.GREEDY, SamplingParams(frequency_penalty=0.8, repetition_penalty=1.3)),
    (Rule.COUPLED, SamplingParams(temperature=0.8, top_p=0.95)),
    (Rule.ONE_HOT, SamplingParams(temperature=0.8)),
    (Rule.REJECTION, SamplingParams(temperature=1.0)),
]
CODE = (
    "def first(items):\n    for item in items:\n        return item\n\n\n"
    "def last(items):\n    for item in reversed(items):\n        return item\n\n\ndef longest(items):\n    for"
)


def blocks(drafter: Drafter, prompt: Sequence[int], chooser: Chooser, seed: int) -> list[Proposal]:
    """What a session proposes through a generation of blocks, corrections and bonuses that `seed` decides."""
    dice = random.Random(seed)
    session = drafter.start(prompt, chooser)
    made: list[Proposal] = []
    length = len(prompt)
    for _ in range(12):
        made.append(session.propose(dice.randrange(1, 8)))
        token_ids = made[-1].token_ids
        if dice.random() < 0.5:
            num_kept = dice.randrange(len(token_ids) + 1)
            committed = [*token_ids[:num_kept], dice.randrange(session_vocab(drafter))]
            session.observe(length, committed)
            length += len(committed)
        else:
            length += len(token_ids)
    session.close()
    return made


def session_vocab(drafter: Drafter) -> int:
    """Number of ids it writes."""
    size = drafter.vocab_size
    assert size is not None
    return size


INNER: dict[str, Drafter] = {
    "copies": NgramDrafter(min_ngram=1),
    "a near model": TableDrafter(agreement=0.95),
    "a far model": TableDrafter(own_seed=8, agreement=0.1),
    "itself": TableDrafter(),
    "more ids": TableDrafter(100),
}


@pytest.mark.parametrize(("rule", "params"), RULES, ids=str)
@pytest.mark.parametrize("inner", INNER)
def test_proposals_are_the_models_own(inner: str, rule: Rule, params: SamplingParams) -> None:
    """Whoever guesses, through corrections and bonuses every block equals the model's own, laws included."""
    model = TableDrafter()
    prompt = [*range(64), 3, 4, 5, 3, 4]
    for seed in range(6):
        chooser = Chooser(rule, params, seed, 64)
        for num_guesses in (1, 4):
            ours = blocks(
                VerticalDrafter([model, INNER[inner]], num_guesses=num_guesses), prompt, chooser, seed
            )
            assert ours == blocks(model, prompt, chooser, seed)


def test_right_guesses_save_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """With right guesses one forward serves five tokens; with wrong ones every token takes its own, as before."""
    forwards: list[int] = []
    forward = TableRunner.forward

    def counted(self: TableRunner, past_length: int, token_ids: Sequence[int]) -> Logits:
        if self._drafter is model:
            forwards.append(len(token_ids))
        return forward(self, past_length, token_ids)

    monkeypatch.setattr(TableRunner, "forward", counted)
    model = TableDrafter()
    chooser = Chooser(Rule.GREEDY, SamplingParams(), 0, 64)
    for inner, expected in (
        (TableDrafter(), 4),
        (TableDrafter(own_seed=3, target_seed=7, agreement=0.0), 20),
    ):
        forwards.clear()
        VerticalDrafter([model, inner], num_guesses=4).start([1, 2, 3], chooser).propose(20)
        assert len(forwards) == expected


def test_rows_of_right_guesses_are_kept_between_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one token read no more often than one block of all."""
    reads: list[int] = []
    read = TableRunner.forward_rows

    def counted(self: TableRunner, past_length: int, token_ids: Sequence[int], num_rows: int) -> Logits:
        reads.append(num_rows)
        return read(self, past_length, token_ids, num_rows)

    monkeypatch.setattr(TableRunner, "forward_rows", counted)
    drafter = VerticalDrafter([TableDrafter(), TableDrafter()], num_guesses=4)
    session = drafter.start([1, 2, 3], Chooser(Rule.COUPLED, SamplingParams(1.0), 0, 64))
    for _ in range(10):
        session.propose(1)
    assert reads == [5, 5]


class _BelievesTheGuess(VerticalSession):
    """Proposes a guess the model finds likely enough, without the model's own choice: leniency above 1."""

    def _next(self) -> Choice | None:
        choice = super()._next()
        index = len(self._tokens) - self._rows_base
        if choice is None or index >= len(self._guesses) or choice.law is None:
            return choice
        guess = self._guesses[index]
        prob = choice.law.prob(guess)
        return Choice(guess, prob, choice.law) if prob > 0.05 else choice


def test_a_lenient_mutant_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that believes likely guesses differs from the model alone under rejection, where it would be biased."""
    monkeypatch.setattr("paceline.edge.drafters.vertical.VerticalSession", _BelievesTheGuess)
    model, inner = TableDrafter(), TableDrafter(own_seed=8)
    chooser = Chooser(Rule.REJECTION, SamplingParams(temperature=1.0), 1, 64)
    ours = blocks(VerticalDrafter([model, inner]), [1, 2, 3], chooser, 1)
    assert ours != blocks(model, [1, 2, 3], chooser, 1)


def test_guesses_end_where_the_context_does() -> None:
    """A model whose context is nearly full is never fed beyond it, and proposes what it proposes alone."""
    model = TableDrafter(max_length=12)
    chooser = Chooser(Rule.GREEDY, SamplingParams(), 0, 64)
    ours = VerticalDrafter([model, TableDrafter()], num_guesses=6).start([1, 2, 3], chooser).propose(20)
    assert ours == model.start([1, 2, 3], chooser).propose(20)
    assert ours.base + len(ours) == 13


def test_a_failing_forward_leaves_the_text_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the model breaks in the middle of a block, the next call goes on as if it had not been asked."""
    model = TableDrafter()
    chooser = Chooser(Rule.GREEDY, SamplingParams(), 0, 64)
    session = VerticalDrafter([model, TableDrafter(own_seed=8)]).start([1, 2, 3], chooser)
    expected = model.start([1, 2, 3], chooser).propose(8)
    read = TableRunner.forward_rows
    answers = iter([True, True, False])

    def broken(self: TableRunner, past_length: int, token_ids: Sequence[int], num_rows: int) -> Logits:
        if not next(answers):
            raise RuntimeError("out of memory")
        return read(self, past_length, token_ids, num_rows)

    monkeypatch.setattr(TableRunner, "forward_rows", broken)
    with pytest.raises(RuntimeError):
        session.propose(8)
    monkeypatch.setattr(TableRunner, "forward_rows", read)
    assert session.length == 3
    assert session.propose(8) == expected


# --- real models ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_torch_thread")
def test_rows_of_the_torch_drafter_are_those_of_single_steps(model_dir: Path) -> None:
    """Several rows of one forward equal the rows of as many forwards."""
    drafter = TorchDrafter(model_dir)
    text = [5, 9, 200, 31, 7, 7, 90, 12, 44, 3]
    one, many = (drafter.take_runner(text)[0] for _ in range(2))
    expected = np.stack([one.forward(index, [token_id]).copy() for index, token_id in enumerate(text)])
    np.testing.assert_allclose(many.forward_rows(0, text, 10), expected, atol=1e-4)  # type: ignore[attr-defined]
    np.testing.assert_allclose(many.forward_rows(4, text[4:], 3), expected[7:], atol=1e-4)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize(("rule", "params"), RULES, ids=str)
def test_the_shipped_drafter_writes_what_it_writes_alone(
    models: Path, rule: Rule, params: SamplingParams
) -> None:
    """Pico on torch, with copies as guesses, proposes 64 tokens of code identical to its own."""
    pico = TorchDrafter(models / "pico")
    prompt = Tokenizer(models / "pico").encode(CODE)
    chooser = Chooser(rule, params, 11, 2048)
    alone = pico.start(prompt, chooser).propose(64)
    ours = VerticalDrafter([pico, NgramDrafter(min_ngram=1)]).start(prompt, chooser).propose(64)
    assert (ours.base, ours.token_ids, ours.how) == (alone.base, alone.token_ids, alone.how)
    assert np.allclose(ours.probs, alone.probs, atol=2e-3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_export_with_all_rows_reads_guesses(model_dir: Path, tmp_path: Path) -> None:
    """Exported with all rows, an ONNX drafter's rows are those of single steps, across chunks too."""
    folder = export(model_dir, tmp_path / "rows", "fp32", all_rows=True)
    drafter = OnnxDrafter(folder, all_rows=True)
    assert drafter.max_rows > 1
    dice = random.Random(2)
    text = [dice.randrange(256) for _ in range(300)]
    one, many = OnnxRunner(drafter.model, 512), OnnxRunner(drafter.model, 512)
    expected = np.stack([one.forward(index, [token_id]).copy() for index, token_id in enumerate(text)])
    np.testing.assert_allclose(many.forward_rows(0, text, 5), expected[-5:], atol=1e-3)
    np.testing.assert_allclose(many.forward_rows(100, text[100:103], 3), expected[100:103], atol=1e-3)
    chooser = Chooser(Rule.COUPLED, SamplingParams(temperature=1.0), 3, 256)
    ours = VerticalDrafter([drafter, NgramDrafter(min_ngram=1)]).start(text, chooser).propose(64)
    assert ours.token_ids == drafter.start(text, chooser).propose(64).token_ids


def test_an_export_with_one_row_is_refused(models: Path) -> None:
    """An export that tells only what comes last cannot check guesses; the message says how to make one that can."""
    with pytest.raises(
        InvalidRequest, match=r"drafter\.drafters: .*after its last token only.*all_rows: true"
    ):
        VerticalDrafter([OnnxDrafter(models / "pico"), NgramDrafter()])
