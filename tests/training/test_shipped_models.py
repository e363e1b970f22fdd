"""The models in the repository."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from paceline.training import CorpusConfig, build_corpus, read_prompts
from paceline.training.corpus import is_heldout
from paceline.training.recipes import SHIPPED

MODELS = Path(__file__).parents[2] / "models"
NAMES = sorted(SHIPPED.shapes)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_model_loads_the_ordinary_way(name: str) -> None:
    """Each model loads through ``AutoModelForCausalLM`` in float32, with the shape of the recipe."""
    model = AutoModelForCausalLM.from_pretrained(MODELS / name, dtype="auto")
    shape = SHIPPED.shapes[name]

    assert torch.float32 == model.dtype
    assert (shape.hidden_size, shape.num_layers) == (model.config.hidden_size, model.config.num_hidden_layers)
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_shipped_models_share_one_tokenizer() -> None:
    """The three tokenizers are the same file, and the vocabulary is the models' own."""
    contents = {(MODELS / name / "tokenizer.json").read_bytes() for name in NAMES}
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "base")

    assert len(contents) == 1
    assert SHIPPED.vocab_size == len(tokenizer)


def test_shipped_models_are_small() -> None:
    """All models together leave room for exported copies below 32 MB."""
    num_bytes = sum(
        path.stat().st_size for path in MODELS.rglob("*") if "onnx" not in path.parts and path.is_file()
    )

    assert num_bytes < 24_000_000


def test_shipped_prompts_are_held_out() -> None:
    """Each prompt's source is held out, and no prompt occurs in any file that was trained on."""
    prompts = read_prompts(MODELS / "prompts" / "heldout.jsonl")
    corpus = build_corpus(CorpusConfig())
    training_text = "\n".join(module.text for module in corpus.train)

    assert len(prompts) >= 160
    assert all(is_heldout(prompt.source, CorpusConfig().heldout_fraction) for prompt in prompts)
    assert not [prompt for prompt in prompts if prompt.prompt in training_text]


def test_shipped_long_prompts_are_long() -> None:
    """The long prompts fill most of 1,500 tokens and come from held-out files."""
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "base")
    prompts = read_prompts(MODELS / "prompts" / "long.jsonl")
    sizes = [len(tokenizer(prompt.prompt)["input_ids"]) for prompt in prompts]
    sources = [source for prompt in prompts for source in prompt.source.split(", ")]

    assert len(prompts) >= 8
    assert min(sizes) > 1300
    assert max(sizes) <= 1536
    assert all(is_heldout(source, CorpusConfig().heldout_fraction) for source in sources)
