"""Tiny random models of the architectures drafters meet, and their exports; made once per run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from paceline.edge.export import PRECISIONS, ExportJob, export_all

VOCAB_SIZE = 256


def make_model(folder: Path, architecture: str, **changes: int) -> Path:
    """A random two-layer model of `architecture` (`Llama`, `Qwen2`, `Qwen3`) as a Hugging Face folder."""
    import torch
    import transformers

    torch.manual_seed(1)
    sizes = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": True,
        # Random models are nearly uniform; large weights make laws that differ from position to position.
        "initializer_range": 0.1,
        **changes,
    }
    config = getattr(transformers, f"{architecture}Config")(**sizes)
    getattr(transformers, f"{architecture}ForCausalLM")(config).save_pretrained(folder)
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_tiny_model() -> Callable[..., Path]:
    """Makes a tiny random model: folder, architecture, changed sizes."""
    return make_model


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama."""
    return make_model(tmp_path_factory.mktemp("llama"), "Llama")


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Tiny models are fastest on one thread, above all on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def exported(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Its exports by precision."""
    out = tmp_path_factory.mktemp("exports")
    export_all([ExportJob(model_dir, out / precision, precision) for precision in PRECISIONS])
    return {precision: out / precision for precision in PRECISIONS}
