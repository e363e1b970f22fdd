"""Loading a target: what comes back, and what is said when a model cannot be one."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
)

from paceline.cloud.engine.base import EngineConfig, Row
from paceline.cloud.engine.paged import PagedEngine
from paceline.cloud.loading import load_target
from paceline.common.errors import Incompatible, InvalidRequest


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny float16 Llama of 64 logits and a tokenizer of 4 tokens."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=[3, 2],
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).half().save_pretrained(path)
    words = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2, "</s>": 3}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", model_max_length=100).save_pretrained(
        path
    )
    return path


def test_target_states_what_the_verifier_must_know(saved: Path) -> None:
    """A loaded target carries the model's logit width, context, stop tokens, vocabulary and size."""
    target = load_target(str(saved))

    assert target.vocab_size == 64
    assert target.vocab == {"<s>": 0, "a": 1, "b": 2, "</s>": 3}
    assert target.eos_token_ids == (2, 3)
    assert target.max_context == 100
    assert target.name == "tiny"
    assert target.dtype == "float32", "float16 is not for CPUs"
    assert target.device == "cpu"
    assert target.weights_bytes == 4 * sum(p.numel() for p in target.model.parameters())
    (rows,) = PagedEngine(target.model, EngineConfig(capacity_tokens=256)).step([Row(0, 0, [1, 2], 1)])
    assert rows.row(0).shape == (64,)


def test_dtype_can_be_chosen(saved: Path) -> None:
    """An explicit dtype is obeyed, and a bfloat16 model runs."""
    target = load_target(str(saved), dtype="bfloat16")

    assert target.dtype == "bfloat16"
    (rows,) = PagedEngine(target.model, EngineConfig(capacity_tokens=256)).step([Row(0, 0, [1, 2], 2)])
    assert rows.row(1).dtype == "float32"


def test_directory_without_tokenizer_has_no_vocabulary(saved: Path, tmp_path: Path) -> None:
    """A model without a tokenizer loads; its context is then the model's own."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((saved / name).read_bytes())

    target = load_target(str(tmp_path))

    assert target.vocab == {}
    assert target.max_context == 128


def test_loading_prints_nothing(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No progress bar and no advice reach the terminal."""
    load_target(str(saved))

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["./no/such/dir", "/no/such/dir", "models/base/extra"])
def test_missing_directory_says_so(name: str) -> None:
    """A path that does not exist is the caller's error, with the cure."""
    with pytest.raises(InvalidRequest, match="no such model directory") as caught:
        load_target(name)
    assert "config.json" in caught.value.cure


def test_directory_without_config(tmp_path: Path) -> None:
    """A directory without config.json is named."""
    with pytest.raises(InvalidRequest, match=r"has no config\.json"):
        load_target(str(tmp_path))


def test_file_instead_of_directory(tmp_path: Path) -> None:
    """A file is not a model directory."""
    (tmp_path / "model.gguf").write_bytes(b"")
    with pytest.raises(InvalidRequest, match="is a file"):
        load_target(str(tmp_path / "model.gguf"))


def test_pickled_weights_are_not_read(saved: Path, tmp_path: Path) -> None:
    """Weights in a format that can run code are named and refused."""
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InvalidRequest, match=r"no \*\.safetensors weights \(it has pytorch_model\.bin\)"):
        load_target(str(tmp_path))


def test_damaged_weights_are_named(saved: Path, tmp_path: Path) -> None:
    """A truncated weights file is an error about that file, not a stack trace."""
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes()[:100])
    with pytest.raises(InvalidRequest, match="damaged"):
        load_target(str(tmp_path))


def test_missing_weights_are_refused(saved: Path, tmp_path: Path) -> None:
    """A checkpoint that lacks a tensor is refused instead of filled with random numbers."""
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    weights = load_file(saved / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidRequest, match=r"lack model\.norm\.weight"):
        load_target(str(tmp_path))


def test_code_in_the_repository_is_not_run(saved: Path, tmp_path: Path) -> None:
    """A model that names code of its own is refused, before transformers sees it."""
    config = json.loads((saved / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text("raise SystemExit('this ran')")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InvalidRequest, match=r"config\.json: 'auto_map' names code"):
        load_target(str(tmp_path))


def test_state_space_model_is_refused(tmp_path: Path) -> None:
    """A Mamba directory is refused by name before its weights are read."""
    MambaForCausalLM(
        MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, state_size=4)
    ).save_pretrained(tmp_path)
    with pytest.raises(Incompatible, match="MambaForCausalLM cannot be a target"):
        load_target(str(tmp_path))


def test_encoder_decoder_is_refused(tmp_path: Path) -> None:
    """A T5 directory is refused by name before its weights are read."""
    T5Config(architectures=["T5ForConditionalGeneration"]).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(
        Incompatible, match="T5ForConditionalGeneration cannot be a target: it is an encoder-decoder"
    ):
        load_target(str(tmp_path))


@pytest.mark.parametrize(
    ("option", "value"), [("device", "gpu9"), ("device", "meta"), ("device", "cuda"), ("dtype", "int3")]
)
def test_unknown_device_and_dtype(saved: Path, option: str, value: str) -> None:
    """A device or dtype that is not there is an error that names the option."""
    if value == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(InvalidRequest) as caught:
        load_target(str(saved), **{option: value})
    assert caught.value.field == option
