"""Model folders: bf16 on disk, float32 when loaded.

The weights are rounded to bf16 to halve the repository; ``config.json`` says float32, so that
``from_pretrained(dtype="auto")`` computes in float32 on machines without bf16 arithmetic.
"""

import json
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaForCausalLM

from paceline.training.errors import TrainingError
from paceline.training.tokenizer import END_OF_TEXT_ID


@torch.no_grad()
def round_weights(model: torch.nn.Module) -> None:
    """Round every parameter to the nearest bf16 value in place: what will be read back from disk."""
    for parameter in model.parameters():
        parameter.copy_(parameter.to(torch.bfloat16))


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write weights in bf16 and a configuration that says float32; ``model`` itself is not changed."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # Tied to the embedding; one copy is enough.
    }
    model.save_pretrained(folder, state_dict=weights)
    _declare_float32(folder / "config.json")
    GenerationConfig(
        bos_token_id=END_OF_TEXT_ID, eos_token_id=END_OF_TEXT_ID, pad_token_id=END_OF_TEXT_ID
    ).save_pretrained(folder)


def load_model(folder: Path) -> LlamaForCausalLM:
    """Read a model folder in float32, in evaluation mode.

    Raises:
        TrainingError: the folder holds no model.
    """
    if not (folder / "config.json").is_file():
        raise TrainingError("model", str(folder), "no config.json there: name a model folder")
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    return model


def _declare_float32(path: Path) -> None:
    """Set the data type in ``config.json``, which saving derives from the stored tensors."""
    config = json.loads(path.read_text())
    config.pop("torch_dtype", None)
    config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
