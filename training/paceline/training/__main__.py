"""``python -m paceline.training --recipe shipped``: train a family of models again."""

import argparse
from pathlib import Path

from paceline.training.card import write_card
from paceline.training.corpus import CorpusConfig
from paceline.training.distillation import distill
from paceline.training.errors import TrainingError
from paceline.training.recipes import (
    RECIPES,
    Workshop,
    card_config,
    distill_config,
    find_recipe,
    plain_config,
    prepare,
    run_recipe,
)
from paceline.training.trainer import train


def main() -> None:
    """Parse the command line and run a recipe, or one stage of it."""
    parser = argparse.ArgumentParser(prog="python -m paceline.training", description=__doc__)
    parser.add_argument("--recipe", default="shipped", help=f"one of: {', '.join(sorted(RECIPES))}")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder for the finished models")
    parser.add_argument("--work", type=Path, default=Path(".work"), help="folder for checkpoints and caches")
    parser.add_argument("--text", type=Path, help="folder of text files (default: the standard library)")
    parser.add_argument("--pattern", default="*.py", help="which files of --text to read")
    parser.add_argument(
        "--stage", choices=("prepare", "train", "distill", "card"), help="run only this stage"
    )
    parser.add_argument("--model", help="run the stage only for this model")
    options = parser.parse_args()
    workshop = Workshop(
        options.models, options.work, CorpusConfig(folder=options.text, pattern=options.pattern)
    )
    try:
        if options.stage is None:
            run_recipe(options.recipe, workshop)
        else:
            _run_stage(options.recipe, workshop, options.stage, options.model)
    except TrainingError as error:
        parser.error(str(error))


def _run_stage(name: str, workshop: Workshop, stage: str, model: str | None) -> None:
    """Run one stage of a recipe, for one model or all that the stage has."""
    recipe = find_recipe(name)
    if stage == "prepare":
        prepare(recipe, workshop)
        return
    stages = {"train": tuple(recipe.plain), "distill": tuple(recipe.distilled), "card": tuple(recipe.shapes)}
    names = stages[stage]
    if model is not None and model not in names:
        raise TrainingError("model", model, f"this stage has {', '.join(names)}")
    for chosen in (model,) if model is not None else names:
        if stage == "train":
            train(plain_config(recipe, workshop, chosen))
        elif stage == "distill":
            for index in range(len(recipe.distilled[chosen])):
                distill(distill_config(recipe, workshop, chosen, index))
        else:
            write_card(card_config(recipe, workshop, chosen, recipe_name=name))


if __name__ == "__main__":
    main()
