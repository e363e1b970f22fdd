"""Text to distil on, with the target's law at every position, written once and kept.

Acceptance is measured along the target's own continuations, so most of the text is the target's own. Its law
(the best tokens, and the mass of the rest as one lump) is stored beside it, so that distilling any number
of draft models pays for the target's passes once.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from paceline.training.errors import TrainingError
from paceline.training.generation import Transcript, cut_prompts, read_over, write_on
from paceline.training.packing import TokenStream
from paceline.training.reporting import Reporter

READ_TOKENS_AT_ONCE = 8192
"""Tokens per pass of the target over given text; bounds memory."""


@dataclass(frozen=True)
class Portion:
    """One part of the distillation text: windows of one length from one source."""

    windows: int
    length: int
    """Tokens predicted per window."""
    temperature: float | None
    """Temperature the target writes at; ``None`` takes corpus text as it stands."""
    prompt_tokens: tuple[int, ...] = (16, 48, 96)
    """Corpus tokens that each self-written window begins with; batches take turns."""
    batch: int = 128
    """Windows written at once."""

    def check(self) -> None:
        """Refuse a portion that leaves the target nothing to write.

        Raises:
            TrainingError: names the field to change.
        """
        if self.temperature is not None and max(self.prompt_tokens) >= self.length:
            raise TrainingError("prompt_tokens", self.prompt_tokens, f"must be below length={self.length}")
        if self.windows < 1:
            raise TrainingError("windows", self.windows, "must be at least 1")


def cached_portion(
    target: LlamaForCausalLM,
    stream: TokenStream,
    portion: Portion,
    *,
    folder: Path,
    seed: int,
    reporter: Reporter,
) -> Transcript:
    """Read a portion from ``folder``, or write it there first."""
    portion.check()
    path = folder / f"{_portion_key(target, stream, portion, seed)}.safetensors"
    if path.is_file():
        return Transcript(**load_file(path))
    transcript = write_portion(target, stream, portion, seed=seed, reporter=reporter)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({name: held.contiguous() for name, held in vars(transcript).items()}, partial)
    partial.replace(path)
    return transcript


def write_portion(
    target: LlamaForCausalLM, stream: TokenStream, portion: Portion, *, seed: int, reporter: Reporter
) -> Transcript:
    """Let the target write, or read, every window of one portion."""
    parts = []
    for number, first in enumerate(range(0, portion.windows, portion.batch)):
        count = min(portion.batch, portion.windows - first)
        parts.append(_write_batch(target, stream, portion, number=number, count=count, seed=seed + first))
        source = "corpus" if portion.temperature is None else f"temperature {portion.temperature}"
        reporter.line(f"{source}: {first + count}/{portion.windows} windows of {portion.length}")
    return join(parts)


def _write_batch(
    target: LlamaForCausalLM, stream: TokenStream, portion: Portion, *, number: int, count: int, seed: int
) -> Transcript:
    """One batch of windows; ``number`` decides how long their prompts are."""
    if portion.temperature is None:
        windows = cut_prompts(stream, count=count, prompt_tokens=portion.length + 1, seed=seed)
        return read_over(target, windows, rows_at_once=max(1, READ_TOKENS_AT_ONCE // portion.length))
    prompt_tokens = portion.prompt_tokens[number % len(portion.prompt_tokens)]
    prompts = cut_prompts(stream, count=count, prompt_tokens=prompt_tokens, seed=seed)
    return write_on(target, prompts, length=portion.length, temperature=portion.temperature, seed=seed)


def join(parts: Sequence[Transcript]) -> Transcript:
    """One transcript out of several whose windows have the same length."""
    return Transcript(
        token_ids=torch.cat([part.token_ids for part in parts]),
        law_ids=torch.cat([part.law_ids for part in parts]),
        law_log_probs=torch.cat([part.law_log_probs for part in parts]),
    )


def _portion_key(target: LlamaForCausalLM, stream: TokenStream, portion: Portion, seed: int) -> str:
    """Names what a stored portion depends on: the target's weights, the text, the plan, the seed."""
    digest = hashlib.sha256(f"{portion}{seed}".encode())
    digest.update(stream.tobytes())
    for parameter in target.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()[:24]
