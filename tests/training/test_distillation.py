"""Distillation and the target's own text."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from paceline.training import (
    CorpusError,
    DistillConfig,
    LossWeights,
    ModelShape,
    Portion,
    TrainingError,
    distill,
    train,
)
from paceline.training.architecture import build_model, shape_of
from paceline.training.distillation import agreement, distillation_loss
from paceline.training.generation import Transcript, preallocated_cache, read_over, top_of_law, write_on
from paceline.training.storage import load_facts, load_model

SHAPE = ModelShape(64, 2, 2, 1, 64, vocab_size=300, max_positions=128)


@pytest.fixture(scope="module")
def config(world: Any) -> DistillConfig:
    """A distillation of a tiny model from a tiny target."""
    plain = world.train_config("target", steps=60)
    train(plain)
    return DistillConfig(
        target=plain.output,
        output=world.folder / "draft",
        work=world.folder / "draft-work",
        transcripts=world.folder / "transcripts",
        run=replace(plain.run, steps=40),
        short=(
            Portion(windows=16, length=32, temperature=0.7, prompt_tokens=(8,), batch=16),
            Portion(windows=16, length=32, temperature=None, batch=16),
        ),
        long=(Portion(windows=8, length=64, temperature=None, batch=8),),
        heldout=Portion(windows=8, length=32, temperature=0.0, prompt_tokens=(8,), batch=8),
        shape=plain.shape,
        weights=LossWeights(variation=0.5, best=0.1),
        corpus=world.corpus,
    )


def test_distillation_brings_the_laws_together(
    config: DistillConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """The divergence from the target on held-out text falls during a run."""
    facts = distill(config)
    seen = [float(part.split()[0]) for part in capsys.readouterr().out.split("divergence ")[1:]]

    assert (facts.kind, facts.steps) == ("distilled", 40)
    assert seen[-1] < 0.5 * seen[0]


def test_the_target_writes_each_text_once(config: DistillConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """A second draft model of the same target reads the stored text instead of having it written again."""
    distill(replace(config, output=config.output.with_name("first"), work=config.work / "first"))
    capsys.readouterr()
    distill(replace(config, output=config.output.with_name("second"), work=config.work / "second"))

    assert "windows of" not in capsys.readouterr().out


def test_loss_is_smallest_when_the_laws_agree() -> None:
    """All terms but the one for the best token vanish for a model under its own law."""
    logits = torch.randn(4, 7, 50) * 3
    law_ids, law_log_probs = top_of_law(logits)
    weights = LossWeights(divergence=1.0, variation=1.0)
    own = distillation_loss(logits, law_ids, law_log_probs, weights)
    other = distillation_loss(torch.randn(4, 7, 50), law_ids, law_log_probs, weights)

    assert abs(own.item()) < 1e-3
    assert other.item() > 0.1


def test_written_text_carries_the_law_it_was_written_from() -> None:
    """Greedy text follows the stored law, which equals what a plain pass over the same text gives."""
    model = build_model(SHAPE, seed=3).eval()
    written = write_on(model, torch.randint(300, (4, 8)), length=24, temperature=0.0, seed=0)
    read = read_over(model, written.token_ids.long())

    assert written.token_ids[:, 9:].equal(written.law_ids[:, 8:, 0])
    assert torch.allclose(written.law_log_probs.float(), read.law_log_probs.float(), atol=0.05)


def test_step_by_step_equals_one_pass() -> None:
    """The preallocated cache and the decoding attention give the logits of a plain forward pass."""
    model = build_model(SHAPE, seed=4).eval()
    ids = torch.randint(300, (3, 20))
    with torch.no_grad():
        whole = model(ids).logits[:, -1]
        model.set_attn_implementation("paceline_decoding")
        cache = preallocated_cache(model, max_tokens=20)
        model(ids[:, :12], past_key_values=cache)
        for place in range(12, 20):
            last = model(ids[:, place : place + 1], past_key_values=cache).logits[:, -1]

    assert torch.allclose(whole, last, atol=1e-5)


def test_a_model_agrees_with_its_own_transcript() -> None:
    """Acceptance and greedy agreement of a model with itself are one, up to rounding."""
    model = build_model(SHAPE, seed=5).eval()
    transcript = read_over(model, torch.randint(300, (4, 33)))
    figures = agreement(model, transcript)

    assert figures["acceptance"] > 0.99
    assert figures["greedy"] > 0.95
    assert isinstance(transcript, Transcript)


def test_a_draft_can_begin_as_the_target_with_fewer_layers(
    config: DistillConfig, world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given a start and a smaller depth, layers are left out; what was kept is said, and stays on record."""
    plain = world.train_config("deep", steps=60)
    deep = replace(plain, shape=replace(plain.shape, num_layers=3))
    train(deep)
    names = {"output": world.folder / "pruned", "work": world.folder / "pruned-work"}
    shape = replace(plain.shape, num_layers=2)
    facts = distill(replace(config, target=deep.output, start=deep.output, shape=shape, **names))
    (said,) = (line for line in capsys.readouterr().out.splitlines() if "layers kept" in line)

    assert facts.kept_layers is not None
    assert said.endswith(", ".join(map(str, facts.kept_layers)))
    assert shape_of(load_model(world.folder / "pruned")) == shape
    assert load_facts(world.folder / "pruned") == facts


def test_windows_of_mixed_lengths_are_refused(config: DistillConfig) -> None:
    """A portion whose windows do not match the run's is refused by name."""
    with pytest.raises(TrainingError, match="short="):
        distill(replace(config, short=(Portion(windows=4, length=48, temperature=None),)))


def test_prompts_that_fill_the_window_are_refused(config: DistillConfig) -> None:
    """A portion that leaves the target nothing to write is refused by name."""
    portion = Portion(windows=4, length=32, temperature=0.5, prompt_tokens=(32,))
    with pytest.raises(TrainingError, match="prompt_tokens"):
        distill(replace(config, short=(portion,), work=config.work / "refused"))


def test_a_draft_needs_a_beginning(config: DistillConfig) -> None:
    """Neither a folder to begin with nor a shape is refused."""
    with pytest.raises(TrainingError, match="start"):
        distill(replace(config, shape=None))


def test_text_shorter_than_a_window_is_refused(config: DistillConfig) -> None:
    """A held-out half that does not fill one window is refused, with the cure."""
    portion = Portion(windows=4, length=100_000, temperature=None)
    with pytest.raises(CorpusError, match="add text"):
        distill(replace(config, heldout=portion, work=config.work / "short"))
