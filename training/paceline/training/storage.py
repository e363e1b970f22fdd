"""Model folders: bf16 on disk, float32 when loaded.

The weights are rounded to bf16 to halve the repository; ``config.json`` says float32, so that
``from_pretrained(dtype="auto")`` computes in float32 on machines without bf16 arithmetic.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaForCausalLM
from transformers.utils import logging

from paceline.common.model_files import check_model_files, check_safetensors
from paceline.training.errors import TrainingError
from paceline.training.tokenizer import END_OF_TEXT_ID

FACTS_FILE = "training.json"
"""Beside the weights: what the model card says about the run."""


@dataclass(frozen=True)
class RunFacts:
    """How a model came to be."""

    kind: str
    """``plain`` or ``distilled``."""
    steps: int
    tokens: int
    """Tokens predicted during training, repetitions counted."""
    elapsed_s: float
    """Wall time of training, in seconds."""
    start: "RunFacts | None"
    """The run whose weights this one began with."""
    kept_layers: tuple[int, ...] | None = None
    """Which of that run's layers, if it did not begin with all of them."""


def save_model(model: LlamaForCausalLM, folder: Path, facts: RunFacts) -> None:
    """Write weights in bf16 and a configuration that says float32; ``model`` itself is not changed."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # Tied to the embedding; one copy is enough.
    }
    with _no_progress_bar():
        model.save_pretrained(folder, state_dict=weights)
    _declare_float32(folder / "config.json")
    ids = {"bos_token_id": END_OF_TEXT_ID, "eos_token_id": END_OF_TEXT_ID, "pad_token_id": END_OF_TEXT_ID}
    generation = GenerationConfig(**ids)  # type: ignore[no-untyped-call]  # Not annotated there.
    generation.save_pretrained(folder)
    (folder / FACTS_FILE).write_text(json.dumps(asdict(facts), indent=2) + "\n")


def load_model(folder: Path) -> LlamaForCausalLM:
    """Read a model folder in float32, in evaluation mode.

    Raises:
        TrainingError: the folder holds no model.
    """
    if not (folder / "config.json").is_file():
        raise TrainingError("model", str(folder), "no config.json there: name a model folder")
    check_model_files(folder)
    check_safetensors(folder)
    with _no_progress_bar():
        model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    model.train(False)
    return model


def load_facts(folder: Path) -> RunFacts | None:
    """What is known of the run that made a model; ``None`` for a model made elsewhere."""
    path = folder / FACTS_FILE
    return _facts(json.loads(path.read_text())) if path.is_file() else None


def _facts(values: dict[str, Any] | None) -> RunFacts | None:
    """Rebuild nested facts from JSON."""
    if values is None:
        return None
    kept = values.pop("kept_layers", None)  # Runs that kept all layers need not say so.
    start = _facts(values.pop("start"))
    return RunFacts(**values, start=start, kept_layers=None if kept is None else tuple(kept))


def _declare_float32(path: Path) -> None:
    """Set the data type in ``config.json``, which saving derives from the stored tensors."""
    config = json.loads(path.read_text())
    config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep ``transformers`` from drawing bars for files that take milliseconds."""
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # Not annotated there.
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # Not annotated there.
