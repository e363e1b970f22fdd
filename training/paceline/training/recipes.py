"""The recipe of the shipped models, as one table; ``python -m paceline.training --recipe shipped`` runs it.

The order matters: a target is trained first, then draft models are distilled from the finished target.
"""

from dataclasses import dataclass
from pathlib import Path

from paceline.training.architecture import ModelShape
from paceline.training.card import CardConfig, write_card
from paceline.training.corpus import CorpusConfig, build_corpus
from paceline.training.distillation import DistillConfig, LossWeights, distill
from paceline.training.errors import TrainingError
from paceline.training.loop import RunSettings
from paceline.training.prompts import (
    PromptPlan,
    cut_heldout_prompts,
    cut_long_prompts,
    read_prompts,
    write_prompts,
)
from paceline.training.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from paceline.training.trainer import TrainConfig, train
from paceline.training.transcripts import Portion


@dataclass(frozen=True)
class Stage:
    """One distillation run of a draft model; the next stage begins with its weights."""

    run: RunSettings
    short: tuple[Portion, ...]
    """Text for most of the run."""


@dataclass(frozen=True)
class Recipe:
    """A target and the draft models distilled from it."""

    vocab_size: int
    target: str
    """Name of the target model."""
    shapes: dict[str, ModelShape]
    roles: dict[str, str]
    """First sentence of each model's card."""
    plain: dict[str, RunSettings]
    """Plain training: of the target, and of draft models that do not start from nothing."""
    distilled: dict[str, tuple[Stage, ...]]
    """Distillation of every model but the target."""
    pruned: tuple[str, ...]
    """Draft models that begin as the target with fewer layers."""
    long: tuple[Portion, ...]
    """Text for the end of every stage."""
    heldout: Portion
    """Held-out text that every stage is measured on as it runs."""
    weights: LossWeights
    prompts: PromptPlan
    dates: dict[str, str]
    """When each model's shipped weights were trained, ISO."""


@dataclass(frozen=True)
class Workshop:
    """Where one run of a recipe keeps its files."""

    models: Path
    """Folder the finished models go to, one folder each."""
    work: Path
    """Folder for everything in between: checkpoints, plain draft models, the target's text."""
    corpus: CorpusConfig

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return self.work / "tokenizer"

    @property
    def prompts(self) -> Path:
        """File of held-out prompts."""
        return self.models / "prompts" / "heldout.jsonl"

    def plain(self, name: str) -> Path:
        """Folder of a draft model before distillation."""
        return self.work / "plain" / name


CARD_PROMPTS = 96
"""Held-out prompts that a card's acceptance is measured on: about 6,000 positions, a minute or two."""

OWN_TEXT = (
    Portion(windows=1024, length=256, temperature=0.0),
    Portion(windows=1024, length=256, temperature=0.7),
    Portion(windows=512, length=256, temperature=1.0),
    Portion(windows=1536, length=256, temperature=None),
    # Begun after longer snippets: another piece of text than the first two.
    Portion(windows=1024, length=256, temperature=0.0, prompt_tokens=(24, 72, 136)),
    Portion(windows=1024, length=256, temperature=0.7, prompt_tokens=(24, 72, 136)),
)
"""Mostly text that the target wrote: how it goes on once it has begun to repeat itself."""

FIRST_WORDS = (
    Portion(windows=2048, length=256, temperature=0.0, prompt_tokens=(48, 112, 176)),
    Portion(windows=2048, length=256, temperature=0.7, prompt_tokens=(48, 112, 176)),
    Portion(windows=1024, length=256, temperature=1.0, prompt_tokens=(48, 112, 176)),
)
"""What the target writes just after a longer prompt, which is where a draft model is used."""

SHIPPED = Recipe(
    vocab_size=2048,
    target="base",
    shapes={
        "base": ModelShape(hidden_size=256, num_layers=8, num_heads=4, num_kv_heads=2, mlp_size=704),
        "mid": ModelShape(hidden_size=256, num_layers=4, num_heads=4, num_kv_heads=2, mlp_size=704),
        "pico": ModelShape(hidden_size=128, num_layers=2, num_heads=4, num_kv_heads=2, mlp_size=352),
    },
    roles={
        "base": "The target: the largest of three small language models of Python source code.",
        "mid": "The middle of a cascade: drafts for `base`, verifies for `pico`.",
        "pico": "The drafter: small enough to write ahead on any device.",
    },
    plain={
        "base": RunSettings(steps=960, decay_fraction=1 / 6, long_fraction=0.05, compile=True, threads=1),
        "pico": RunSettings(steps=1000, decay_fraction=0.15, long_fraction=0.05, compile=True, threads=1),
    },
    distilled={
        "pico": (
            Stage(
                RunSettings(
                    steps=3600,
                    warmup_steps=20,
                    decay_fraction=0.4,
                    long_fraction=0.02,
                    compile=True,
                    threads=1,
                ),
                OWN_TEXT,
            ),
        ),
        "mid": (
            Stage(
                RunSettings(
                    steps=1200,
                    learning_rate=1e-3,
                    matrix_learning_rate=0.008,
                    warmup_steps=20,
                    decay_fraction=0.65,
                    long_fraction=0.02,
                    compile=True,
                    threads=1,
                ),
                OWN_TEXT + FIRST_WORDS,
            ),
        ),
    },
    pruned=("mid",),
    long=(Portion(windows=96, length=2048, temperature=None, batch=8),),
    heldout=Portion(windows=64, length=256, temperature=0.0),
    weights=LossWeights(divergence=1.0, variation=1.0, best=0.0),
    prompts=PromptPlan(),
    dates={"base": "2026-11-22", "pico": "2026-11-22", "mid": "2026-11-25"},
)

RECIPES = {"shipped": SHIPPED}
"""Recipes by name."""


def find_recipe(name: str) -> Recipe:
    """Look a recipe up.

    Raises:
        TrainingError: no such recipe; lists those there are.
    """
    if name not in RECIPES:
        raise TrainingError("recipe", name, f"choose one of {', '.join(sorted(RECIPES))}")
    return RECIPES[name]


def run_recipe(name: str, workshop: Workshop) -> None:
    """Run every stage of a recipe; stages that are finished or begun resume from their files."""
    recipe = find_recipe(name)
    prepare(recipe, workshop)
    for model in recipe.plain:
        train(plain_config(recipe, workshop, model))
    for model, stages in recipe.distilled.items():
        for index in range(len(stages)):
            distill(distill_config(recipe, workshop, model, index))
    for model in recipe.shapes:
        write_card(card_config(recipe, workshop, model, recipe_name=name))


def prepare(recipe: Recipe, workshop: Workshop) -> None:
    """Train the tokenizer and cut the held-out prompts."""
    corpus = build_corpus(workshop.corpus)
    if not (workshop.tokenizer / "tokenizer.json").is_file():
        length = max(shape.max_positions for shape in recipe.shapes.values())
        save_tokenizer(
            train_tokenizer(corpus.train, vocab_size=recipe.vocab_size), workshop.tokenizer, max_length=length
        )
    tokenizer = load_tokenizer(workshop.tokenizer)
    write_prompts(cut_heldout_prompts(corpus, tokenizer, recipe.prompts), workshop.prompts)
    write_prompts(
        cut_long_prompts(corpus, tokenizer, recipe.prompts), workshop.prompts.with_name("long.jsonl")
    )


def plain_config(recipe: Recipe, workshop: Workshop, model: str) -> TrainConfig:
    """Plain training of one model of a recipe."""
    is_target = model == recipe.target
    return TrainConfig(
        output=workshop.models / model if is_target else workshop.plain(model),
        tokenizer=workshop.tokenizer,
        work=workshop.work / "runs" / f"{model}-plain",
        shape=recipe.shapes[model],
        run=recipe.plain[model],
        corpus=workshop.corpus,
    )


def distill_config(recipe: Recipe, workshop: Workshop, model: str, index: int) -> DistillConfig:
    """Stage ``index`` of the distillation of one draft model of a recipe."""
    stage = recipe.distilled[model][index]
    return DistillConfig(
        target=workshop.models / recipe.target,
        output=_stage_output(recipe, workshop, model, index),
        work=workshop.work / "runs" / f"{model}-distilled-{index}",
        transcripts=workshop.work / "transcripts",
        run=stage.run,
        short=stage.short,
        long=recipe.long,
        heldout=recipe.heldout,
        start=_stage_start(recipe, workshop, model, index),
        shape=recipe.shapes[model],
        weights=recipe.weights,
        corpus=workshop.corpus,
    )


def _stage_start(recipe: Recipe, workshop: Workshop, model: str, index: int) -> Path | None:
    """Folder of the model a stage begins with: the stage before, the target to prune, or plain training."""
    if index > 0:
        return _stage_output(recipe, workshop, model, index - 1)
    if model in recipe.pruned:
        return workshop.models / recipe.target
    return workshop.plain(model) if model in recipe.plain else None


def _stage_output(recipe: Recipe, workshop: Workshop, model: str, index: int) -> Path:
    """Folder a stage writes to; the last one writes the finished model."""
    is_last = index == len(recipe.distilled[model]) - 1
    return workshop.models / model if is_last else workshop.work / "distilled" / f"{model}-{index}"


def card_config(recipe: Recipe, workshop: Workshop, model: str, *, recipe_name: str) -> CardConfig:
    """The card of one model of a recipe."""
    is_target = model == recipe.target
    return CardConfig(
        model=workshop.models / model,
        recipe_command=f"python -m paceline.training --recipe {recipe_name}",
        date=recipe.dates[model],
        role=recipe.roles[model],
        target=None if is_target else workshop.models / recipe.target,
        prompts=tuple(prompt.prompt for prompt in read_prompts(workshop.prompts)[:CARD_PROMPTS]),
        corpus=workshop.corpus,
    )
