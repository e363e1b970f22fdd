"""Plain training."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from paceline.training import CheckpointError, ModelShape, ShapeError, TrainingError, load_model, train
from paceline.training.schedule import Schedule


def _weights(folder: Path) -> torch.Tensor:
    """All weights of a model folder in one vector."""
    return torch.cat([parameter.flatten() for parameter in load_model(folder).parameters()])


def test_twenty_steps_lower_the_loss(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The held-out loss after twenty steps is well below that of a uniform guess."""
    facts = train(world.train_config("lower"))
    last = float(capsys.readouterr().out.split("heldout ")[-1].split()[0])

    assert (facts.steps, facts.kind) == (20, "plain")
    assert last < 0.8 * math.log(300)


def test_a_resumed_run_ends_with_the_same_weights(world: Any) -> None:
    """A run stopped half-way and taken up again equals one that was never stopped, bit for bit."""
    whole, parted = world.train_config("whole"), world.train_config("parted")
    train(whole)
    train(replace(parted, run=replace(parted.run, stop_after=10)))
    train(parted)

    assert torch.equal(_weights(whole.output), _weights(parted.output))


def test_a_run_may_be_lengthened_before_its_decay(world: Any) -> None:
    """A plateau does not know its end: ten steps of a long run, then a shorter plan, equal the shorter run."""
    short, long = world.train_config("short", steps=20), world.train_config("long", steps=40)
    train(short)
    train(replace(long, run=replace(long.run, stop_after=10)))
    train(replace(long, run=short.run))

    assert torch.equal(_weights(short.output), _weights(long.output))


def test_a_checkpoint_of_another_run_is_refused(world: Any) -> None:
    """A checkpoint written with another seed is refused, with the cure."""
    config = world.train_config("other", steps=5)
    train(config)

    with pytest.raises(CheckpointError, match="other settings"):
        train(replace(config, run=replace(config.run, seed=1)))


def test_a_budget_in_minutes_shortens_the_run(world: Any) -> None:
    """A wall-time budget far too small for the steps ends the run early."""
    facts = train(world.train_config("budget", steps=100_000, minutes=0.02, evaluate_every=100_000))

    assert 20 <= facts.steps < 5_000


def test_weights_are_bf16_on_disk_and_float32_when_loaded(world: Any) -> None:
    """The folder stores rounded weights; ``dtype="auto"`` computes in float32; the embedding stays tied."""
    config = world.train_config("stored", steps=2)
    train(config)
    model = AutoModelForCausalLM.from_pretrained(config.output, dtype="auto")
    rounded = [parameter.to(torch.bfloat16).float() for parameter in model.parameters()]
    num_bytes = (config.output / "model.safetensors").stat().st_size

    assert torch.float32 == model.dtype
    assert all(map(torch.equal, rounded, model.parameters()))
    assert num_bytes < 2.2 * sum(parameter.numel() for parameter in model.parameters()) + 4096
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("shape", "field"),
    [
        (ModelShape(30, 1, 1, 1, 64), "num_heads"),
        (ModelShape(64, 1, 3, 1, 64), "num_heads"),
        (ModelShape(128, 1, 4, 3, 64), "num_kv_heads"),
    ],
)
def test_shapes_that_cannot_be_served_are_refused(world: Any, shape: ModelShape, field: str) -> None:
    """Heads that are not a multiple of 32 channels, or do not divide, are refused by name."""
    with pytest.raises(ShapeError, match=field):
        train(replace(world.train_config("shape"), shape=shape))


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("decay_fraction", 1.5), ("minutes", -1.0), ("batch_tokens", 0)]
)
def test_absurd_settings_are_refused(world: Any, field: str, value: float) -> None:
    """Settings that cannot train are refused by name."""
    with pytest.raises(TrainingError, match=field):
        train(world.train_config("absurd", **{field: value}))


def test_windows_longer_than_the_context_are_refused(world: Any) -> None:
    """A window that the model could not read when it is served is refused by name."""
    with pytest.raises(ShapeError, match="max_positions=128"):
        train(world.train_config("long-window", long_window=256))


def test_a_missing_tokenizer_is_refused(world: Any, tmp_path: Path) -> None:
    """A folder without a tokenizer is refused by name."""
    with pytest.raises(TrainingError, match="tokenizer"):
        train(replace(world.train_config("none"), tokenizer=tmp_path))


def test_learning_rate_warms_up_holds_and_decays() -> None:
    """The rate rises over the warm-up, is flat on the plateau, and ends near zero."""
    schedule = Schedule(steps=100, warmup_steps=10, decay_fraction=0.2, long_fraction=0.1)
    factors = [schedule.learning_rate_factor(step) for step in range(100)]

    assert sorted(factors[:10]) == factors[:10]
    assert {1.0} == set(factors[9:80])
    assert 0 < factors[99] < 0.1
    assert schedule.first_long_step() == 90
