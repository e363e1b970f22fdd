"""Training small language models for Paceline: corpus, tokenizer, training, distillation, measurement, cards.

Nothing here is needed to serve models; it exists so that the shipped ones can be made again, and so that a
drafter can be distilled for somebody's own text.
"""

from paceline.training.architecture import ModelShape
from paceline.training.card import CardConfig, write_card
from paceline.training.corpus import Corpus, CorpusConfig, Module, build_corpus
from paceline.training.distillation import DistillConfig, LossWeights, distill
from paceline.training.errors import CheckpointError, CorpusError, ShapeError, TrainingError
from paceline.training.evaluation import Acceptance, HeldoutLoss, PairReport, evaluate_heldout, evaluate_pair
from paceline.training.loop import RunSettings
from paceline.training.prompts import Prompt, PromptPlan, read_prompts
from paceline.training.recipes import RECIPES, Recipe, Workshop, run_recipe
from paceline.training.storage import RunFacts, load_model
from paceline.training.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from paceline.training.trainer import TrainConfig, train
from paceline.training.transcripts import Portion

__all__ = [
    "RECIPES",
    "Acceptance",
    "CardConfig",
    "CheckpointError",
    "Corpus",
    "CorpusConfig",
    "CorpusError",
    "DistillConfig",
    "HeldoutLoss",
    "LossWeights",
    "ModelShape",
    "Module",
    "PairReport",
    "Portion",
    "Prompt",
    "PromptPlan",
    "Recipe",
    "RunFacts",
    "RunSettings",
    "ShapeError",
    "TrainConfig",
    "TrainingError",
    "Workshop",
    "build_corpus",
    "distill",
    "evaluate_heldout",
    "evaluate_pair",
    "load_model",
    "load_tokenizer",
    "read_prompts",
    "run_recipe",
    "save_tokenizer",
    "train",
    "train_tokenizer",
    "write_card",
]
