"""`paceline bench vocab`: what sampling, acceptance and the wire cost at the vocabulary of today's large models.

Both ends run in this process, with tiny random models made on the fly: the models' own time is not the point.
"""

import asyncio
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from paceline.benchmarks.machine import Machine, machine
from paceline.benchmarks.sized_hop import SizedHop
from paceline.benchmarks.statistics import median
from paceline.benchmarks.timed import Stopwatch, TimedDrafter, TimedEngine, TimedRunner
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.hops.inproc import InProcessHop
from paceline.common.sampling.history import History
from paceline.common.sampling.law import target_law
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.client import Client
from paceline.edge.drafters.model import ModelDrafter
from paceline.edge.drafters.torch import TorchRunner
from paceline.edge.request import GenerationRequest, Report

_CONTEXT = 1024
_DISAGREEMENT = 0.15
"""Share of noise in the draft model's logits: some drafts are refused, as in life."""
_PEAKED_STD = 5.0
"""Standard deviation of the logits that gives nuclei of the size language models show."""


@dataclass(frozen=True, slots=True)
class VocabSettings:
    """What is measured."""

    vocab_size: int = 152_000
    top_p: float = 0.95
    temperatures: tuple[float, ...] = (0.7, 1.0)
    max_new_tokens: int = 120
    num_speculative_tokens: int = 5
    seed: int = 0


@dataclass(frozen=True, slots=True)
class VocabRow:
    """Medians over blocks."""

    logits: str
    """`random` as initialised, nearly flat; `peaked` scaled until nuclei look like a language model's."""
    rule: str
    temperature: float
    nucleus_tokens: int
    """Tokens the law keeps, median."""
    acceptance_rate: float
    sampling_ms_per_token: float
    """The drafter's time less its model's."""
    acceptance_ms_per_row: float
    """The verifier's step less the engine's, per row that had to be looked at (accepted tokens and the next one)."""
    wire_bytes_per_token: float
    """Payload of a block per drafted token, its address included."""


@dataclass(frozen=True, slots=True)
class VocabResult:
    """Everything `paceline bench vocab` measures."""

    machine: Machine
    settings: VocabSettings
    rows: list[VocabRow]


def vocabulary(settings: VocabSettings, progress: Callable[[str], None]) -> VocabResult:
    """Run everything."""
    before = machine()
    rows = []
    for kind, std in (("random", None), ("peaked", _PEAKED_STD)):
        progress(f"making models with {kind} logits over {settings.vocab_size} tokens")
        target, draft = _models(settings, std)
        rows += asyncio.run(_measure(kind, target, draft, settings, progress))
    return VocabResult(before, settings, rows)


def _models(settings: VocabSettings, std: float | None) -> tuple[Any, Any]:
    """A random target and a draft model that mostly agrees with it."""
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    config = transformers.LlamaConfig(
        vocab_size=settings.vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=_CONTEXT,
        tie_word_embeddings=False,
        eos_token_id=None,
    )
    target: Any = transformers.LlamaForCausalLM(config)
    target.train(False)
    head = target.lm_head.weight
    with torch.no_grad():
        if std is not None:
            probe = target(input_ids=torch.arange(8)[None]).logits
            head *= std / float(probe.std())
        draft = copy.deepcopy(target)
        draft.lm_head.weight += _DISAGREEMENT * float(head.std()) * torch.randn_like(head)
    return target, draft


async def _measure(
    kind: str, target: Any, draft: Any, settings: VocabSettings, progress: Callable[[str], None]
) -> list[VocabRow]:
    from paceline.cloud.engine.base import EngineConfig
    from paceline.cloud.engine.paged import PagedEngine

    nuclei = {heat: _nucleus(target, settings, heat) for heat in (0.0, *settings.temperatures)}
    engine = TimedEngine(PagedEngine(target, EngineConfig(capacity_tokens=2 * _CONTEXT)))
    verifier = Verifier(engine, TargetInfo("random", "benchmark"))
    verifier.start()
    watch = Stopwatch()
    runner = ModelDrafter(
        "torch", lambda: TimedRunner(TorchRunner(draft, _CONTEXT), watch), settings.vocab_size
    )
    drafter, hop = TimedDrafter(runner, watch), SizedHop(InProcessHop(verifier))
    rows = []
    async with Client(hop, drafter) as client:
        for rule, temperature in _cases(settings):
            progress(f"{kind} logits, {rule} at temperature {temperature}")
            request = _request(settings, rule, temperature)
            for _ in range(2):  # the first one warms up
                report = await client.complete(request, "sync")
                steps_s, model_s = [step.step_s for step in engine.take()], drafter.take()
                sizes, hop.drafts = hop.drafts, []
            rows.append(_row(kind, temperature, nuclei[temperature], report, model_s, steps_s, sizes))
    verifier.stop()
    return rows


def _cases(settings: VocabSettings) -> list[tuple[Rule, float]]:
    sampled = [(rule, heat) for rule in (Rule.COUPLED, Rule.REJECTION) for heat in settings.temperatures]
    return [(Rule.GREEDY, 0.0), *sampled]


def _request(settings: VocabSettings, rule: Rule, temperature: float) -> GenerationRequest:
    return GenerationRequest(
        tuple(range(1, 9)),
        settings.max_new_tokens,
        SamplingParams(temperature=temperature, top_p=settings.top_p if temperature else 1.0),
        rule=rule,
        seed=settings.seed,
        ignore_eos=True,
        num_speculative_tokens=settings.num_speculative_tokens,
    )


def _row(
    kind: str,
    temperature: float,
    nucleus_tokens: int,
    report: Report,
    model_s: list[float],
    steps_s: list[float],
    sizes: list[tuple[int, int]],
) -> VocabRow:
    # A round that only asks for the last token drafts nothing.
    drafted = [(one, step_s) for one, step_s in zip(report.rounds, steps_s, strict=True) if one.num_drafted]
    blocks = [(one, model, step_s) for (one, step_s), model in zip(drafted, model_s, strict=True)]
    return VocabRow(
        logits=kind,
        rule=str(report.rule),
        temperature=temperature,
        nucleus_tokens=nucleus_tokens,
        acceptance_rate=report.acceptance_rate,
        sampling_ms_per_token=median(
            [1e3 * (one.draft_s - model) / one.num_drafted for one, model, _ in blocks]
        ),
        acceptance_ms_per_row=median(
            [1e3 * (one.verify_s - step) / (one.num_accepted + 1) for one, _, step in blocks]
        ),
        wire_bytes_per_token=sum(size for _, size in sizes) / max(sum(count for count, _ in sizes), 1),
    )


def _nucleus(target: Any, settings: VocabSettings, temperature: float) -> int:
    """Median number of tokens a law keeps, over a few positions."""
    import torch

    with torch.inference_mode():
        logits = target(input_ids=torch.arange(16)[None]).logits[0].numpy()
    params = SamplingParams(temperature=temperature, top_p=settings.top_p)
    return int(np.median([len(target_law(row, params, History()).token_ids) for row in logits]))
