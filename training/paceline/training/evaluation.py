"""How good a model is on held-out text, and how often a target would accept a draft model's tokens."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import LlamaForCausalLM

from paceline.training.corpus import Module
from paceline.training.errors import TrainingError
from paceline.training.generation import DECODING_ATTENTION, choose, preallocated_cache
from paceline.training.packing import evaluation_windows, in_groups
from paceline.training.storage import load_model
from paceline.training.tokenizer import END_OF_TEXT_ID, encode_modules, load_tokenizer

TEMPERATURES = (0.0, 0.7, 1.0)
"""Temperatures at which acceptance is reported."""


@dataclass(frozen=True)
class HeldoutLoss:
    """Mean loss on text that was never trained on."""

    nats_per_token: float
    bits_per_byte: float


@dataclass(frozen=True)
class Acceptance:
    """Per-token acceptance of a draft model along the target's own continuations."""

    temperature: float
    rejection: float
    """Mean over positions of ``sum_x min(target_probs[x], draft_probs[x])``; at temperature 0, the share of
    positions where both models' most likely tokens agree."""
    coupled: float
    """Share of positions where both models choose the same token under the same Gumbel noise."""
    num_positions: int


@dataclass(frozen=True)
class PairReport:
    """What :func:`evaluate_pair` measured."""

    acceptance: tuple[Acceptance, ...]
    num_prompts: int
    new_tokens: int
    """Tokens the target wrote after each prompt, at most."""

    def at(self, temperature: float) -> Acceptance:
        """The row of one temperature."""
        return next(row for row in self.acceptance if row.temperature == temperature)


@dataclass(frozen=True)
class Padded:
    """Sequences of several lengths, padded on the left."""

    token_ids: torch.Tensor
    """Shape ``(batch, tokens)``, int64."""
    mask: torch.Tensor
    """1 where a token is real, same shape, int64."""

    @property
    def positions(self) -> torch.Tensor:
        """0-based position of every real token; same shape."""
        return (self.mask.cumsum(-1) - 1).clamp(min=0)

    def append(self, token_ids: torch.Tensor) -> "Padded":
        """One more token per row; ``token_ids`` has shape ``(batch,)``."""
        column = token_ids[:, None]
        return Padded(
            torch.cat([self.token_ids, column], 1), torch.cat([self.mask, torch.ones_like(column)], 1)
        )


@torch.no_grad()
def evaluate_heldout(
    model: LlamaForCausalLM, tokenizer: Tokenizer, modules: Sequence[Module], *, window: int = 512
) -> HeldoutLoss:
    """Loss over the whole of ``modules`` in float32, in windows of ``window`` tokens.

    Windows shrink to what the text can fill and the model can read.
    """
    stream = encode_modules(tokenizer, modules)
    window = min(window, len(stream) - 1, model.config.max_position_embeddings)
    windows = evaluation_windows(stream, length=window, count=len(stream))
    total = 0.0
    for rows in in_groups(windows, 8):
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        total += functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item() * len(rows)
    loss = total / len(windows)
    num_bytes = sum(len(module.text.encode()) for module in modules)
    return HeldoutLoss(nats_per_token=loss, bits_per_byte=loss * len(stream) / num_bytes / math.log(2))


def evaluate_pair(
    target_dir: Path,
    draft_dir: Path,
    prompts: Sequence[str],
    *,
    new_tokens: int = 64,
    batch_size: int = 32,
    seed: int = 0,
) -> PairReport:
    """Measure acceptance of ``draft_dir`` under ``target_dir``, in float32.

    The target continues every prompt by itself; both models then say what they think of each position of
    that continuation, up to and including the end-of-text token.

    Raises:
        TrainingError: no prompts, or the two folders' tokenizers differ.
    """
    tokenizer = load_tokenizer(target_dir)
    if not prompts:
        raise TrainingError("prompts", [], "give at least one prompt")
    if tokenizer.get_vocab() != load_tokenizer(draft_dir).get_vocab():
        raise TrainingError("draft_dir", str(draft_dir), f"its tokenizer differs from that of {target_dir}")
    target, draft = load_model(target_dir), load_model(draft_dir)
    encoded = sorted((tokenizer.encode(prompt).ids for prompt in prompts), key=len)
    rows = []
    for temperature in TEMPERATURES:
        agreements = [
            _agreement(
                target, draft, batch, new_tokens=new_tokens, temperature=temperature, seed=seed + index
            )
            for index, batch in enumerate(_batches(encoded, batch_size))
        ]
        rejection, coupled = (torch.cat(column) for column in zip(*agreements, strict=True))
        rows.append(Acceptance(temperature, rejection.mean().item(), coupled.mean().item(), len(rejection)))
    return PairReport(acceptance=tuple(rows), num_prompts=len(prompts), new_tokens=new_tokens)


def _batches(encoded: Sequence[Sequence[int]], size: int) -> Iterator[Padded]:
    """Pad sequences in groups of ``size``."""
    for first in range(0, len(encoded), size):
        group = encoded[first : first + size]
        width = max(map(len, group))
        ids = [[END_OF_TEXT_ID] * (width - len(row)) + list(row) for row in group]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in group]
        yield Padded(torch.tensor(ids), torch.tensor(mask))


@torch.no_grad()
def _agreement(
    target: LlamaForCausalLM,
    draft: LlamaForCausalLM,
    prompts: Padded,
    *,
    new_tokens: int,
    temperature: float,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rejection and coupled acceptance at every live position of one batch; two vectors."""
    rng = torch.Generator().manual_seed(seed)
    whole = continue_batch(target, prompts, new_tokens=new_tokens, temperature=temperature, rng=rng)
    written = whole.token_ids[:, -new_tokens:]
    ends = (written == END_OF_TEXT_ID).long()
    live = (ends.cumsum(-1) - ends) == 0
    target_logits, draft_logits = (_logits(model, whole, new_tokens)[live] for model in (target, draft))
    if temperature == 0:
        same = (target_logits.argmax(-1) == draft_logits.argmax(-1)).float()
        return same, same
    target_log = (target_logits / temperature).log_softmax(-1)
    draft_log = (draft_logits / temperature).log_softmax(-1)
    noise = -torch.empty_like(target_log).exponential_(generator=rng).log()
    coupled = ((target_log + noise).argmax(-1) == (draft_log + noise).argmax(-1)).float()
    return torch.minimum(target_log, draft_log).exp().sum(-1), coupled


def _logits(model: LlamaForCausalLM, whole: Padded, new_tokens: int) -> torch.Tensor:
    """Logits that predict each of the last ``new_tokens``; shape ``(batch, new_tokens, vocab)``."""
    output = model(
        input_ids=whole.token_ids,
        attention_mask=whole.mask,
        position_ids=whole.positions,
        use_cache=False,
        logits_to_keep=new_tokens + 1,
    )
    logits: torch.Tensor = output.logits[:, :-1]
    return logits


@torch.no_grad()
def continue_batch(
    model: LlamaForCausalLM, prompts: Padded, *, new_tokens: int, temperature: float, rng: torch.Generator
) -> Padded:
    """The prompts with ``new_tokens`` more tokens each; the caller looks for end-of-text."""
    model.set_attn_implementation(DECODING_ATTENTION)
    cache = preallocated_cache(model, max_tokens=prompts.token_ids.shape[1] + new_tokens)
    whole, newest, positions = prompts, prompts.token_ids, prompts.positions
    for _ in range(new_tokens):
        logits = model(
            input_ids=newest,
            attention_mask=whole.mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        whole = whole.append(choose(logits, temperature, rng))
        newest, positions = whole.token_ids[:, -1:], whole.positions[:, -1:]
    return whole
