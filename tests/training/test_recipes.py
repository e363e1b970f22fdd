"""Recipes, and the command that runs them."""

import sys
from dataclasses import replace
from typing import Any

import pytest

from paceline.training import (
    RECIPES,
    ModelShape,
    Portion,
    PromptPlan,
    RunSettings,
    TrainingError,
    Workshop,
    run_recipe,
)
from paceline.training.__main__ import main
from paceline.training.recipes import SHIPPED, Stage, find_recipe

RUN = RunSettings(steps=4, window=32, long_window=64, batch_tokens=128, warmup_steps=1)
TEXT = (Portion(windows=8, length=32, temperature=0.7, prompt_tokens=(8,), batch=8),)
TINY = replace(
    SHIPPED,
    vocab_size=300,
    shapes={
        name: ModelShape(32, num_layers, 1, 1, 64, vocab_size=300, max_positions=128)
        for name, num_layers in (("base", 3), ("pico", 1), ("mid", 2))
    },
    plain={"base": RUN, "pico": RUN},
    distilled={"pico": (Stage(RUN, TEXT), Stage(replace(RUN, seed=1), TEXT)), "mid": (Stage(RUN, TEXT),)},
    long=(Portion(windows=4, length=64, temperature=None, batch=4),),
    heldout=Portion(windows=4, length=32, temperature=0.0, prompt_tokens=(8,), batch=4),
    pruned=("mid",),
    prompts=PromptPlan(count=4, min_tokens=8, max_tokens=40, long_count=1, long_tokens=200),
)


def test_one_command_makes_a_whole_family(world: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The command line trains the target and the draft model, cuts prompts and writes cards."""
    monkeypatch.setitem(RECIPES, "tiny", TINY)
    folders = [
        "--models",
        str(tmp_path),
        "--work",
        str(tmp_path / "work"),
        "--text",
        str(world.corpus.folder),
    ]
    monkeypatch.setattr(sys, "argv", ["training", "--recipe", "tiny", *folders])
    main()

    assert "2 layers" not in (tmp_path / "pico" / "README.md").read_text()
    assert "| layers | 2 of" in (tmp_path / "mid" / "README.md").read_text()
    assert "- pruning: layers " in (tmp_path / "mid" / "README.md").read_text()
    assert "## Acceptance under base" in (tmp_path / "pico" / "README.md").read_text()
    assert "## Samples" in (tmp_path / "base" / "README.md").read_text()
    assert len((tmp_path / "prompts" / "heldout.jsonl").read_text().splitlines()) == 4


def test_an_unknown_recipe_lists_the_known_ones(tmp_path: Any, world: Any) -> None:
    """A misspelt recipe is refused with the list of those there are."""
    with pytest.raises(TrainingError, match="shipped"):
        run_recipe("shiped", Workshop(tmp_path, tmp_path, world.corpus))


def test_bad_input_ends_the_command_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    """A missing text folder makes the command exit with status 2 and say which folder."""
    missing = tmp_path / "nowhere"
    monkeypatch.setattr(
        sys, "argv", ["training", "--stage", "prepare", "--text", str(missing), "--models", str(tmp_path)]
    )

    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 2
    assert str(missing) in capsys.readouterr().err


def test_shipped_recipe_distils_all_but_the_target() -> None:
    """The target of the shipped recipe is trained plainly, and every other model is distilled from it."""
    recipe = find_recipe("shipped")

    assert recipe.target in recipe.plain
    assert set(recipe.shapes) == set(recipe.roles)
    assert set(recipe.shapes) - {recipe.target} == set(recipe.distilled)
