"""Measuring pairs of models, and their cards."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from paceline.training import (
    CardConfig,
    Prompt,
    PromptPlan,
    TrainingError,
    build_corpus,
    evaluate_heldout,
    evaluate_pair,
    load_model,
    load_tokenizer,
    read_prompts,
    save_tokenizer,
    train,
    train_tokenizer,
    write_card,
)
from paceline.training.evaluation import Padded, continue_batch
from paceline.training.prompts import cut_heldout_prompts, cut_long_prompts, write_prompts

PROMPTS = ("def area(width", "class Shape:\n", "def area_3_4(width, height):\n    return width")


@pytest.fixture(scope="module")
def models(world: Any) -> tuple[Path, Path]:
    """A tiny target and a tiny draft model."""
    target, draft = (
        world.train_config("eval-target", steps=40),
        world.train_config("eval-draft", steps=10, seed=1),
    )
    train(target)
    train(draft)
    return target.output, draft.output


def test_a_model_accepts_its_own_drafts(models: tuple[Path, Path]) -> None:
    """A model measured against itself has acceptance one at every temperature and under both rules."""
    report = evaluate_pair(models[0], models[0], PROMPTS, new_tokens=12)

    for row in report.acceptance:
        assert row.rejection == pytest.approx(1.0, abs=1e-4)
        assert row.coupled == pytest.approx(1.0, abs=1e-4)
    assert 0 < report.at(0.7).num_positions <= 12 * len(PROMPTS)


def test_coupling_accepts_no_more_than_rejection(models: tuple[Path, Path]) -> None:
    """Rejection is the best any rule can do, so coupled acceptance stays below it, up to chance."""
    report = evaluate_pair(*models, PROMPTS * 4, new_tokens=24)

    assert report.at(1.0).coupled <= report.at(1.0).rejection + 0.1
    assert report.at(1.0).rejection < 1.0


def test_padding_changes_nothing(models: tuple[Path, Path]) -> None:
    """A prompt continued beside a longer one gets the same greedy text as alone."""
    model = load_model(models[0])
    prompt = torch.tensor([[5, 6, 7, 8]])
    alone = Padded(prompt, torch.ones_like(prompt))
    beside = Padded(
        torch.tensor([[0, 0, 5, 6, 7, 8], [9, 9, 9, 9, 9, 9]]), torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    )
    rng = torch.Generator()
    first = continue_batch(model, alone, new_tokens=10, temperature=0.0, rng=rng)
    second = continue_batch(model, beside, new_tokens=10, temperature=0.0, rng=rng)

    assert first.token_ids[0, -10:].equal(second.token_ids[0, -10:])


def test_heldout_loss_in_bytes_follows_from_that_in_tokens(world: Any, models: tuple[Path, Path]) -> None:
    """Bits per byte are nats per token, scaled by tokens per byte."""
    corpus, tokenizer = build_corpus(world.corpus), load_tokenizer(models[0])
    loss = evaluate_heldout(load_model(models[0]), tokenizer, corpus.heldout, window=64)
    num_tokens = sum(len(tokenizer.encode(module.text).ids) + 1 for module in corpus.heldout)
    num_bytes = sum(len(module.text.encode()) for module in corpus.heldout)

    assert loss.bits_per_byte == pytest.approx(loss.nats_per_token * num_tokens / num_bytes / math.log(2))


def test_models_with_different_tokenizers_are_refused(
    world: Any, models: tuple[Path, Path], tmp_path: Path
) -> None:
    """Acceptance between models that do not share a vocabulary means nothing, and is refused."""
    save_tokenizer(
        train_tokenizer(build_corpus(world.corpus).train, vocab_size=290), tmp_path, max_length=128
    )

    with pytest.raises(TrainingError, match="draft_dir"):
        evaluate_pair(models[0], tmp_path, PROMPTS)
    with pytest.raises(TrainingError, match="at least one prompt"):
        evaluate_pair(*models, ())


def test_prompts_come_from_heldout_files_alone(world: Any) -> None:
    """Every prompt is a piece of a held-out file within the planned length, and of no training file."""
    corpus, tokenizer = build_corpus(world.corpus), load_tokenizer(world.tokenizer)
    plan = PromptPlan(count=12, min_tokens=8, max_tokens=60)
    prompts = cut_heldout_prompts(corpus, tokenizer, plan)
    texts = {module.name: module.text for module in corpus.heldout}

    assert len({prompt.prompt for prompt in prompts}) == 12
    assert all(prompt.prompt in texts[prompt.source] for prompt in prompts)
    assert not [p for p in prompts if any(p.prompt in module.text for module in corpus.train)]
    assert all(8 <= len(tokenizer.encode(prompt.prompt).ids) <= 60 for prompt in prompts)


def test_long_prompts_stay_below_their_limit(world: Any) -> None:
    """Long prompts may span files but not exceed the planned number of tokens."""
    corpus, tokenizer = build_corpus(world.corpus), load_tokenizer(world.tokenizer)
    prompts = cut_long_prompts(corpus, tokenizer, PromptPlan(long_count=2, long_tokens=500))

    assert all(300 < len(tokenizer.encode(prompt.prompt).ids) <= 520 for prompt in prompts)


def test_too_few_heldout_files_are_refused(world: Any) -> None:
    """Asking for more prompts than the text holds is refused, with the number it holds."""
    corpus, tokenizer = build_corpus(world.corpus), load_tokenizer(world.tokenizer)

    with pytest.raises(TrainingError, match="ask for fewer"):
        cut_heldout_prompts(corpus, tokenizer, PromptPlan(count=5, min_tokens=350, max_tokens=400))
    with pytest.raises(TrainingError, match="long_count"):
        cut_long_prompts(corpus, tokenizer, PromptPlan(long_count=500))


def test_prompt_files_are_read_back(tmp_path: Path) -> None:
    """What is written is read back, and broken files are refused by name."""
    path = tmp_path / "prompts.jsonl"
    prompts = (Prompt("x = 'é'\n", "a.py"), Prompt("y = 1\n", "b.py"))
    write_prompts(prompts, path)

    assert prompts == read_prompts(path)
    path.write_text('{"text": "x"}\n')
    with pytest.raises(TrainingError, match="prompts"):
        read_prompts(path)
    with pytest.raises(TrainingError, match="no such file"):
        read_prompts(tmp_path / "none.jsonl")


def test_cards_state_what_was_measured(world: Any, models: tuple[Path, Path]) -> None:
    """A draft model's card has its acceptance, a target's card has samples; both have their loss and recipe."""
    config = CardConfig(
        model=models[1],
        recipe_command="make it",
        date="2026-11-22",
        target=models[0],
        prompts=PROMPTS,
        new_tokens=8,
        corpus=world.corpus,
    )
    draft = write_card(config).read_text()
    target = write_card(replace(config, model=models[0], target=None)).read_text()

    assert f"## Acceptance under {models[0].name}" in draft
    assert "## Samples" in target
    for card in (draft, target):
        assert "nats per token" in card
        assert "make it" in card
        assert "next-token training" in card
