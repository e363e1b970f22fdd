"""Distillation: teach a draft model the target's law, above all on text that the target itself writes."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from paceline.training.architecture import ModelShape, build_model, shape_of
from paceline.training.corpus import CorpusConfig, build_corpus
from paceline.training.errors import TrainingError
from paceline.training.generation import Transcript
from paceline.training.loop import RunSettings, run_steps
from paceline.training.packing import RowSampler, TokenStream
from paceline.training.pruning import prune
from paceline.training.reporting import Reporter
from paceline.training.storage import RunFacts, load_facts, load_model, save_model
from paceline.training.tokenizer import encode_modules, load_tokenizer, save_tokenizer
from paceline.training.trainer import maybe_compiled, use_threads
from paceline.training.transcripts import Portion, cached_portion, join

LEFTOVER_FLOOR = 1e-5
"""Least mass of the lumped rest of a law; keeps its logarithm finite."""

PRUNING_WINDOWS = 32
"""Windows of the target's text on which layers to keep are chosen."""


@dataclass(frozen=True)
class LossWeights:
    """Terms of the distillation loss."""

    divergence: float = 1.0
    """Of the forward Kullback-Leibler divergence, target from draft."""
    variation: float = 0.0
    """Of the total variation distance, which is one minus the acceptance at temperature 1."""
    best: float = 0.0
    """Of the cross-entropy of the target's most likely token, which decides acceptance at temperature 0."""


@dataclass(frozen=True)
class DistillConfig:
    """One distillation run."""

    target: Path
    """Folder of the finished target model."""
    output: Path
    """Folder the draft model is written to."""
    work: Path
    """Folder for the checkpoint."""
    transcripts: Path
    """Folder where the target's text is kept; runs with the same target share it."""
    run: RunSettings
    short: tuple[Portion, ...]
    """Text for most of the run; all portions have ``run.window`` tokens per window."""
    long: tuple[Portion, ...]
    """Text for the end of the run; all portions have ``run.long_window`` tokens per window."""
    heldout: Portion
    """Text cut from held-out files, to measure on."""
    start: Path | None = None
    """Folder of a trained draft model to begin with."""
    shape: ModelShape | None = None
    """Shape of the draft model; needed when ``start`` is not given. If both are, ``start`` is pruned to it."""
    weights: LossWeights = field(default_factory=LossWeights)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)


@dataclass(frozen=True)
class Pool:
    """Windows to draw batches from."""

    transcript: Transcript
    sampler: RowSampler

    def batch(self, index: int) -> Transcript:
        """Batch number ``index``."""
        return self.transcript.take(self.sampler.rows(index))

    def sample(self, count: int) -> Transcript:
        """About ``count`` windows, or all if there are fewer, spread evenly over the portions."""
        return self.transcript.take(slice(None, None, max(1, len(self.transcript) // count)))


@dataclass(frozen=True)
class Origin:
    """Where a draft model's first weights come from."""

    start: RunFacts | None = None
    """The run that made them; ``None`` for fresh ones, or a model made elsewhere."""
    kept_layers: tuple[int, ...] | None = None
    """Which layers of that model were kept, if not all."""


@dataclass(frozen=True)
class DistillationObjective:
    """Distance from the target's law, on short windows first and long ones at the end."""

    model: LlamaForCausalLM
    forward: Callable[..., Any]
    """The model, perhaps compiled."""
    short: Pool
    long: Pool
    heldout: Transcript
    weights: LossWeights

    def loss(self, step: int, first_long_step: int) -> tuple[torch.Tensor, int]:
        """Mean loss over batch ``step``."""
        is_long = step >= first_long_step
        batch = self.long.batch(step - first_long_step) if is_long else self.short.batch(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.forward(input_ids=batch.token_ids[:, :-1].long(), use_cache=False).logits
        loss = distillation_loss(logits, batch.law_ids, batch.law_log_probs, self.weights)
        return loss, batch.num_tokens

    def measure(self) -> dict[str, float]:
        """Divergence, acceptance at temperature 1 and agreement at 0, on held-out text."""
        return agreement(self.model, self.heldout)


def distill(config: DistillConfig) -> RunFacts:
    """Distil a draft model, resuming where an earlier call stopped, and write it to ``output``.

    Raises:
        TrainingError: settings, folders or checkpoint that cannot be used; the message says which.
    """
    _check(config)
    use_threads(config.run.threads)
    target = load_model(config.target)
    tokenizer = load_tokenizer(config.target)
    corpus = build_corpus(config.corpus)
    stream = encode_modules(tokenizer, corpus.train)
    with Reporter(config.output.name) as reporter:
        short = _pool(config, config.short, target, stream, reporter)
        model, origin = _starting_model(config, short, reporter)
        objective = DistillationObjective(
            model=model,
            forward=maybe_compiled(model, config.run),
            short=short,
            long=_pool(config, config.long, target, stream, reporter),
            heldout=cached_portion(
                target,
                encode_modules(tokenizer, corpus.heldout),
                config.heldout,
                folder=config.transcripts,
                seed=config.run.seed,
                reporter=reporter,
            ),
            weights=config.weights,
        )
        progress = run_steps(
            model,
            objective,
            config.run,
            checkpoint=config.work / "checkpoint.safetensors",
            run_key=_run_key(config, target, model),
            reporter=reporter,
        )
    facts = RunFacts(
        "distilled", progress.step, progress.tokens, progress.elapsed_s, origin.start, origin.kept_layers
    )
    save_model(model, config.output, facts)
    save_tokenizer(tokenizer, config.output, max_length=model.config.max_position_embeddings)
    return facts


def _check(config: DistillConfig) -> None:
    """Refuse settings that do not fit together."""
    config.run.check()
    if config.start is None and config.shape is None:
        raise TrainingError("start", None, "give a model folder to begin with, or a shape")
    for name, portions, length in (
        ("short", config.short, config.run.window),
        ("long", config.long, config.run.long_window),
    ):
        if not portions or any(portion.length != length for portion in portions):
            raise TrainingError(
                name, portions, f"needs at least one portion, all with windows of {length} tokens"
            )


def _starting_model(config: DistillConfig, text: Pool, reporter: Reporter) -> tuple[LlamaForCausalLM, Origin]:
    """The draft model to begin with, and where it comes from; layers are chosen on ``text``."""
    if config.start is None:
        assert config.shape is not None  # Checked before.
        return build_model(config.shape, seed=config.run.seed), Origin()
    model, facts = load_model(config.start), load_facts(config.start)
    if config.shape is None or config.shape == shape_of(model):
        return model, Origin(facts)
    sample = text.sample(PRUNING_WINDOWS)
    model, kept = prune(model, config.shape, lambda pruned: agreement(pruned, sample)["divergence"])
    reporter.line(f"layers kept: {', '.join(map(str, kept))}")
    return model, Origin(facts, kept)


def _pool(
    config: DistillConfig,
    portions: tuple[Portion, ...],
    target: LlamaForCausalLM,
    stream: TokenStream,
    reporter: Reporter,
) -> Pool:
    """All windows of several portions, each portion with a seed of its own."""
    transcript = join(
        [
            cached_portion(
                target,
                stream,
                portion,
                folder=config.transcripts,
                seed=config.run.seed + 1_000_003 * (index + 1),
                reporter=reporter,
            )
            for index, portion in enumerate(portions)
        ]
    )
    batch_size = max(1, config.run.batch_tokens // portions[0].length)
    return Pool(transcript, RowSampler(len(transcript), batch_size, config.run.seed))


def _run_key(config: DistillConfig, target: LlamaForCausalLM, model: LlamaForCausalLM) -> str:
    """Names what a checkpoint must agree on. The number of steps may change: see ``schedule``."""
    run = config.run
    settings = (config.short, config.weights, run.batch_tokens, run.window, run.learning_rate, run.seed)
    digest = hashlib.sha256(f"{settings}{run.matrix_learning_rate}".encode())
    for parameter in (*target.parameters(), *model.parameters()):
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def distillation_loss(
    logits: torch.Tensor, law_ids: torch.Tensor, law_log_probs: torch.Tensor, weights: LossWeights
) -> torch.Tensor:
    """Mean distance between the target's law and the draft model's.

    Args:
        logits: the draft model's, shape ``(..., vocab)``.
        law_ids: the target's most likely ids, best first, shape ``(..., LAW_SIZE)``.
        law_log_probs: their log-probabilities, same shape. What is left counts as one further token.
    Returns:
        Weighted sum of the terms of :class:`LossWeights`, in nats, a scalar.
    """
    target_log, draft_log = paired_laws(logits, law_ids, law_log_probs)
    target = target_log.exp()
    loss = weights.divergence * (target * (target_log - draft_log)).sum(-1)
    if weights.variation:
        loss = loss + weights.variation * 0.5 * (target - draft_log.exp()).abs().sum(-1)
    if weights.best:
        loss = loss - weights.best * draft_log[..., 0]
    return loss.mean()


def paired_laws(
    logits: torch.Tensor, law_ids: torch.Tensor, law_log_probs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-laws of target and draft over the target's best ids and one lump; shape ``(..., LAW_SIZE + 1)``."""
    draft_log = logits.float().log_softmax(-1).gather(-1, law_ids.long())
    return _with_rest(law_log_probs.float()), _with_rest(draft_log)


def _with_rest(log_probs: torch.Tensor) -> torch.Tensor:
    """Append the log of the mass that the listed tokens leave over."""
    rest = (1 - log_probs.exp().sum(-1, keepdim=True)).clamp(min=LEFTOVER_FLOOR)
    return torch.cat([log_probs, rest.log()], dim=-1)


@torch.no_grad()
def agreement(model: LlamaForCausalLM, transcript: Transcript, *, rows_at_once: int = 16) -> dict[str, float]:
    """How close ``model`` is to the law in ``transcript``, averaged over positions.

    Returns:
        ``divergence`` in nats; ``acceptance``, one minus the total variation; ``greedy``, the share of
        positions where the most likely tokens agree.
    """
    model.train(False)
    sums = torch.zeros(3)
    for first in range(0, len(transcript), rows_at_once):
        rows = slice(first, first + rows_at_once)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=transcript.token_ids[rows, :-1].long(), use_cache=False).logits
        law_ids = transcript.law_ids[rows]
        target_log, draft_log = paired_laws(logits, law_ids, transcript.law_log_probs[rows])
        target, draft = target_log.exp(), draft_log.exp()
        sums += torch.stack(
            [
                (target * (target_log - draft_log)).sum(),
                torch.minimum(target, draft).sum(),
                (logits.argmax(-1) == law_ids[..., 0]).sum().float(),
            ]
        )
    means = (sums / transcript.num_tokens).tolist()
    return dict(zip(("divergence", "acceptance", "greedy"), means, strict=True))
