"""A tiny random pair with a tokenizer, and the drafter's export in a cache of its own; made once per run."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel


@dataclass(frozen=True, slots=True)
class TinyPair:
    """Folders of a target and of a draft model that mostly agrees with it."""

    target: Path
    draft_model: Path


def make_pair(folder: Path) -> TinyPair:
    """Two random two-layer models over bytes; the draft model is the target with a little noise."""
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    target = transformers.LlamaForCausalLM(config)
    draft = copy.deepcopy(target)
    with torch.no_grad():
        for weight in draft.parameters():
            weight += 0.05 * weight.std() * torch.randn_like(weight)
    alphabet = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE(vocab=alphabet, merges=[]))
    pair = TinyPair(folder / "target", folder / "draft")
    for model, place in ((target, pair.target), (draft, pair.draft_model)):
        model.save_pretrained(place)
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(place)
    return pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyPair]:
    """The pair, with `$XDG_CACHE_HOME` set aside for its export."""
    folder = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield make_pair(folder)
