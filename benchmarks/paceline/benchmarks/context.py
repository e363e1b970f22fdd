"""`paceline bench context`: what a round costs beside the models, at several lengths of context, on both ends."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from paceline.benchmarks.line_process import LineProcess
from paceline.benchmarks.machine import Machine, machine
from paceline.benchmarks.pair import Pair
from paceline.benchmarks.prompts import prompts_of_length
from paceline.benchmarks.statistics import median
from paceline.benchmarks.timed import Step, Stopwatch, TimedDrafter, TimedOrtSession
from paceline.common.hops.grpc import GrpcHop
from paceline.common.tokens import SamplingParams
from paceline.edge.client import Client
from paceline.edge.draft_model import resolve_draft_model
from paceline.edge.drafters.model import ModelDrafter
from paceline.edge.drafters.onnx import OnnxModel, OnnxRunner
from paceline.edge.request import GenerationRequest, Report, Round


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """What is measured."""

    context_tokens: tuple[int, ...] = (128, 512, 1536)
    num_prompts: int = 4
    max_new_tokens: int = 96
    num_speculative_tokens: int = 5
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ContextRow:
    """Medians over rounds at one length, seconds. The first round of a text, which reads the prompt, is left out."""

    context_tokens: int
    rounds: int
    draft_model_s: float
    draft_other_s: float
    """The drafter's time less its model's."""
    network_s: float
    """The round less the verifier's step and queue: codec, link, event loops, sessions."""
    target_model_s: float
    engine_other_s: float
    """The engine's step less its model's forward pass."""
    judge_s: float
    """Acceptance: the verifier's step less the engine's."""
    loop_s: float
    """Between rounds at the edge: handing over to the drafter's thread and back (mean per round)."""

    @property
    def other_s(self) -> float:
        """Everything that is not a model's time."""
        return self.draft_other_s + self.network_s + self.engine_other_s + self.judge_s + self.loop_s


@dataclass(frozen=True, slots=True)
class ContextResult:
    """Everything `paceline bench context` measures."""

    machine: Machine
    settings: ContextSettings
    target: str
    draft_model: str
    rows: list[ContextRow]
    growth: float
    """Time beside the models at the longest context over that at the shortest."""


def context(
    pair: Pair, texts: list[str], settings: ContextSettings, progress: Callable[[str], None]
) -> ContextResult:
    """Run everything; the drafter is always ONNX."""
    before = machine()
    drafter, tokenizer = _timed_drafter(pair), pair.tokenizer()
    prompts = {
        length: prompts_of_length(texts, tokenizer, length, settings.num_prompts)
        for length in settings.context_tokens
    }
    progress("starting a verifier")
    with LineProcess("paceline.benchmarks.timed_verifier", str(pair.target)) as verifier:
        rows = asyncio.run(_measure(verifier, drafter, prompts, settings, progress))
    return ContextResult(
        machine=before,
        settings=settings,
        target=pair.target.name,
        draft_model=pair.draft_model.name,
        rows=rows,
        growth=rows[-1].other_s / rows[0].other_s,
    )


def _timed_drafter(pair: Pair) -> TimedDrafter:
    watch = Stopwatch()
    model = OnnxModel(resolve_draft_model(pair.draft_model).onnx_dir)
    model.session = TimedOrtSession(model.session, watch)
    shape = model.shape
    drafter = ModelDrafter("onnx", lambda: OnnxRunner(model, shape.context_length), shape.vocab_size)
    return TimedDrafter(drafter, watch)


@dataclass(frozen=True, slots=True)
class _Round:
    """One round, with what only the stop-watches know."""

    report: Round
    draft_model_s: float
    step: Step


@dataclass(slots=True)
class _Found:
    """What was measured at one length."""

    rounds: list[_Round] = field(default_factory=list)
    loop_s: list[float] = field(default_factory=list)


async def _measure(
    verifier: LineProcess,
    drafter: TimedDrafter,
    prompts: Mapping[int, Sequence[tuple[int, ...]]],
    settings: ContextSettings,
    progress: Callable[[str], None],
) -> list[ContextRow]:
    """The lengths in turn, prompt by prompt, so that a change of the machine's mood meets all of them alike."""
    found = {length: _Found() for length in prompts}
    async with Client(GrpcHop(verifier.answer()["address"]), drafter) as client:
        for length in prompts:  # warms up
            await _write(client, verifier, drafter, prompts[length][0], settings)
        for index in range(settings.num_prompts):
            progress(
                f"prompt {index + 1} of {settings.num_prompts}, at {', '.join(map(str, prompts))} tokens"
            )
            for length, texts in prompts.items():
                report, rounds = await _write(client, verifier, drafter, texts[index], settings)
                found[length].rounds += rounds[1:]
                found[length].loop_s.append(_loop_s(report))
    return [_row(length, one.rounds, one.loop_s) for length, one in found.items()]


async def _write(
    client: Client,
    verifier: LineProcess,
    drafter: TimedDrafter,
    prompt: tuple[int, ...],
    settings: ContextSettings,
) -> tuple[Report, list[_Round]]:
    request = GenerationRequest(
        prompt,
        settings.max_new_tokens,
        SamplingParams(temperature=settings.temperature),
        seed=settings.seed,
        ignore_eos=True,
        num_speculative_tokens=settings.num_speculative_tokens,
    )
    report = await client.complete(request, "sync")
    steps = [Step(*step) for step in verifier.ask("steps")]
    model_s = iter(drafter.take())  # a round that only asks for the last token drafts nothing
    return report, [
        _Round(one, next(model_s) if one.num_drafted else 0.0, step)
        for one, step in zip(report.rounds, steps, strict=True)
    ]


def _loop_s(report: Report) -> float:
    """Mean per round of what neither the drafter nor the round counts."""
    counted = sum(one.draft_s + one.round_s for one in report.rounds)
    return (report.total_s - counted) / len(report.rounds)


def _row(context_tokens: int, rounds: Sequence[_Round], loop_s: Sequence[float]) -> ContextRow:
    return ContextRow(
        context_tokens=context_tokens,
        rounds=len(rounds),
        draft_model_s=median([one.draft_model_s for one in rounds]),
        draft_other_s=median([one.report.draft_s - one.draft_model_s for one in rounds]),
        network_s=median([one.report.network_s for one in rounds]),
        target_model_s=median([one.step.forward_s for one in rounds]),
        engine_other_s=median([one.step.step_s - one.step.forward_s for one in rounds]),
        judge_s=median([one.report.verify_s - one.step.step_s for one in rounds]),
        loop_s=median(loop_s),
    )
