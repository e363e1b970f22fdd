"""Model cards: what a model is, what it was trained on, and what was measured."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from paceline.training.architecture import num_parameters
from paceline.training.corpus import CorpusConfig, build_corpus
from paceline.training.evaluation import (
    HeldoutLoss,
    Padded,
    PairReport,
    continue_batch,
    evaluate_heldout,
    evaluate_pair,
)
from paceline.training.storage import RunFacts, load_facts, load_model
from paceline.training.tokenizer import load_tokenizer

SAMPLE_PROMPT = "    def __init__(self, name, value=None):"
"""What the sample of a model's own text begins with."""

LIMITS = """\
A toy for tests, demonstrations and measurements on machines without a network: {vocab} tokens of vocabulary,
{positions} tokens of context, Python source only. It writes text that looks like Python; it does not write
programs that work, and it knows nothing. It completes; it does not chat."""


@dataclass(frozen=True)
class CardConfig:
    """What to measure and say about one model."""

    model: Path
    """Folder of the model; ``README.md`` is written there."""
    recipe_command: str
    """Command that trains it again."""
    date: str
    """ISO date of the measurements."""
    role: str = "A small Llama-style causal language model of Python source code."
    """First sentence of the card."""
    corpus_note: str = "the interpreter's own standard library"
    """Where the text came from, in words."""
    target: Path | None = None
    """Folder of the target model, to measure acceptance under it."""
    prompts: tuple[str, ...] = ()
    """Held-out prompts to measure acceptance on."""
    new_tokens: int = 64
    """Tokens the target continues each prompt by."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)


def write_card(config: CardConfig) -> Path:
    """Measure a model in float32 and write its card; returns the card's path."""
    model = load_model(config.model)
    tokenizer = load_tokenizer(config.model)
    corpus = build_corpus(config.corpus)
    loss = evaluate_heldout(model, tokenizer, corpus.heldout)
    sections = [
        _header(config, model),
        _data(config, len(corpus.train), len(corpus.heldout), load_facts(config.model)),
        _loss(loss),
    ]
    if config.target is not None:
        report = evaluate_pair(config.target, config.model, config.prompts, new_tokens=config.new_tokens)
        sections.append(acceptance_table(report, config.target.name))
    else:
        sections.append(_samples(model, config))
    limits = LIMITS.format(vocab=model.config.vocab_size, positions=model.config.max_position_embeddings)
    sections.append(f"## Limits\n\n{limits}\n")
    path = config.model / "README.md"
    path.write_text("\n".join(sections))
    return path


def _header(config: CardConfig, model: LlamaForCausalLM) -> str:
    """Title, front matter and shape."""
    shape = model.config
    return f"""---
library_name: transformers
pipeline_tag: text-generation
license: psfl
tags: [speculative-decoding, code]
---

# {config.model.name}

{config.role}

| | |
|---|---|
| parameters | {num_parameters(model):,} (embedding tied) |
| layers | {shape.num_hidden_layers} of width {shape.hidden_size}, MLP {shape.intermediate_size} |
| query heads | {shape.num_attention_heads} of {shape.head_dim} channels |
| key/value heads | {shape.num_key_value_heads} |
| vocabulary | {shape.vocab_size} byte-level BPE tokens, shared by the family |
| context | {shape.max_position_embeddings} tokens |
| weights | rounded to bf16 on disk, float32 when loaded |
"""


def _data(config: CardConfig, num_train: int, num_heldout: int, facts: RunFacts | None) -> str:
    """What it was trained on, for how long, and how to do it again."""
    lines = [
        "## Training",
        "",
        f"Text: {config.corpus_note}; {num_train} files trained on, {num_heldout} held out "
        "(neither the tokenizer nor any model saw them).",
        "",
    ]
    lines += [f"- {line}" for line in _run_lines(facts)]
    lines += ["", f"Again: `{config.recipe_command}`", f"Date: {config.date}", ""]
    return "\n".join(lines)


def _run_lines(facts: RunFacts | None) -> list[str]:
    """One line per training run, first run first."""
    if facts is None:
        return []
    what = {"plain": "next-token training", "distilled": "distillation from the target's own text"}[
        facts.kind
    ]
    line = f"{what}: {facts.steps} steps, {facts.tokens:,} tokens, {facts.elapsed_s / 60:.0f} minutes"
    return [*_run_lines(facts.start), *_pruning_line(facts.kept_layers), line]


def _pruning_line(kept_layers: tuple[int, ...] | None) -> list[str]:
    """What was cut between two runs, if anything was."""
    if kept_layers is None:
        return []
    return [f"pruning: layers {', '.join(map(str, kept_layers))} of the above were kept, counted from 0"]


def _loss(loss: HeldoutLoss) -> str:
    """Held-out loss."""
    return f"""## Held-out loss

{loss.nats_per_token:.3f} nats per token, {loss.bits_per_byte:.3f} bits per byte
(windows of 512 tokens, float32).
"""


def acceptance_table(report: PairReport, target_name: str) -> str:
    """Acceptance by temperature, as a section of a card."""
    rows = [
        f"| {row.temperature} | {row.rejection:.3f} | {row.coupled:.3f} | {row.num_positions} |"
        for row in report.acceptance
    ]
    return "\n".join(
        [
            f"## Acceptance under {target_name}",
            "",
            f"Per token, along {target_name}'s own continuations ({report.new_tokens} tokens at most) of",
            f"{report.num_prompts} held-out prompts, both models in float32. *Rejection*: sum of the",
            "smaller of the two laws; at temperature 0, agreement of the most likely tokens. *Coupled*: same",
            "choice under the same noise.",
            "",
            "| temperature | rejection | coupled | positions |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _samples(model: LlamaForCausalLM, config: CardConfig) -> str:
    """Text the model writes, greedily and sampled."""
    parts = ["## Samples", "", f"After `{SAMPLE_PROMPT!r}`:", ""]
    for temperature in (0.0, 0.7):
        text = sample_text(model, config.model, SAMPLE_PROMPT, temperature=temperature)
        parts += [f"At temperature {temperature}:", "", "```python", text.rstrip(), "```", ""]
    return "\n".join(parts)


def sample_text(
    model: LlamaForCausalLM,
    folder: Path,
    prompt: str,
    *,
    temperature: float,
    new_tokens: int = 120,
    seed: int = 0,
) -> str:
    """``prompt`` and what ``model`` writes after it; ``folder`` holds the tokenizer."""
    tokenizer = load_tokenizer(folder)
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    rng = torch.Generator().manual_seed(seed)
    start = Padded(ids, torch.ones_like(ids))
    whole = continue_batch(model, start, new_tokens=new_tokens, temperature=temperature, rng=rng)
    text: str = tokenizer.decode(whole.token_ids[0].tolist())
    return text
