"""`paceline bench compare`: Paceline beside what you would use instead, in turn, on the same prompts and models."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import numpy as np

from paceline.benchmarks.contestants import (
    ALONE,
    ASSISTED,
    ASSISTED_EQUAL,
    PREFIX,
    Contestant,
    Sample,
    Task,
    paceline_contestant,
    request_of,
    transformers_contestant,
)
from paceline.benchmarks.counting_proxy import counting_proxy
from paceline.benchmarks.echo import EchoClient
from paceline.benchmarks.edge_probe import EdgeRun, run_edge
from paceline.benchmarks.line_process import LineProcess, peak_memory_bytes
from paceline.benchmarks.machine import Machine, machine
from paceline.benchmarks.overhead import EchoRecord, Overhead, overhead
from paceline.benchmarks.pair import Pair
from paceline.benchmarks.sized_hop import SizedHop
from paceline.benchmarks.statistics import Ratio, Spread, median, paired_ratio, spread
from paceline.cli.verifier_process import VerifierProcess, verifier_process
from paceline.common.hops.base import Hop
from paceline.common.hops.grpc import GrpcHop
from paceline.edge.assemble import EdgeModel
from paceline.edge.client import Client
from paceline.edge.request import Round

Progress = Callable[[str], None]
_ECHOES_PER_PROMPT = 30
_TCP_PROMPTS = _SIZING_PROMPTS = 4


@dataclass(frozen=True, slots=True)
class Settings:
    """What is compared."""

    num_prompts: int = 24
    max_new_tokens: int = 128
    temperatures: tuple[float, ...] = (0.0, 0.7)
    modes: tuple[str, ...] = ("cloud", "sync")
    """Of Paceline. The last one is measured for overhead and bytes, so it should be one that drafts."""
    cold_starts: int = 5
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ContestantResult:
    """One contestant at one temperature."""

    name: str
    temperature: float
    tokens_per_s: Spread
    target_passes_per_token: float
    mean_drafted_tokens: float | None
    """Per round."""
    acceptance_rate: float | None
    payload_bytes_per_token: float | None
    """Protobuf messages both ways, the prompt's included."""
    mismatches: int | None
    """Texts that differ from the reference's (`CompareResult.reference`); None where texts need not be equal."""


@dataclass(frozen=True, slots=True)
class Speedup:
    """One contestant's tokens/s over another's, per prompt."""

    name: str
    over: str
    temperature: float
    ratio: Ratio


@dataclass(frozen=True, slots=True)
class Memory:
    """Largest resident sizes, bytes; None where the kernel does not tell."""

    verifier: int | None
    edge: int | None
    transformers: int | None
    edge_loads_torch: bool


@dataclass(frozen=True, slots=True)
class CompareResult:
    """Everything `paceline bench compare` measures."""

    machine: Machine
    settings: Settings
    target: str
    draft_model: str
    drafter: str
    prompt_tokens: Spread
    contestants: list[ContestantResult]
    speedups: list[Speedup]
    reference: dict[str, str]
    """Per temperature, whose texts the others must equal."""
    assistant_tokens: dict[str, int]
    """Per temperature, the `num_assistant_tokens` of `transformers-assisted-k`."""
    overhead: Overhead
    tcp_bytes_per_token: float
    """Payload of TCP both ways, HTTP/2 and its set-up included; counted by a loopback proxy in a pass of its own."""
    memory: Memory
    cold_start_s: Spread
    """From starting `paceline edge generate` to its first byte of text."""


def compare(pair: Pair, texts: list[str], settings: Settings, progress: Progress) -> CompareResult:
    """Run everything; takes minutes.

    Args:
        pair: the models.
        texts: prompts.
        settings: what is compared.
        progress: told what happens.
    """
    before = machine()
    edge = pair.edge()
    prompts = [edge.tokenizer.encode(text) for text in texts]
    worker = LineProcess("paceline.benchmarks.transformers_worker", str(pair.target), str(pair.draft_model))
    progress("starting a verifier, transformers and an echo, each in a process of its own")
    with worker, LineProcess("paceline.benchmarks.echo") as echo, verifier_process(pair.target) as verifier:
        address = echo.answer()["address"]
        worker.answer()
        stage = Stage(edge, verifier, worker, address, settings, progress)
        outcome = asyncio.run(_perform(stage, prompts))
        progress(f"starting the edge {settings.cold_starts} times")
        starts = [
            run_edge(verifier.address, pair.edge_options(), texts[0], settings.max_new_tokens)
            for _ in range(settings.cold_starts)
        ]
        memory = _memory(verifier.pid, worker.pid, starts)
    samples = outcome.samples
    return CompareResult(
        machine=before,
        settings=settings,
        target=pair.target.name,
        draft_model=pair.draft_model.name,
        drafter=pair.drafter,
        prompt_tokens=spread([float(len(prompt)) for prompt in prompts]),
        contestants=summarise(samples),
        speedups=speedups(samples, settings),
        reference={
            str(temperature): reference_at(samples, temperature) for temperature in settings.temperatures
        },
        assistant_tokens={str(temperature): number for temperature, number in outcome.blocks.items()},
        overhead=overhead(_rounds(samples, PREFIX + settings.modes[-1]), outcome.echoes),
        tcp_bytes_per_token=outcome.tcp_bytes_per_token,
        memory=memory,
        cold_start_s=spread([run.first_token_s for run in starts]),
    )


# --- the run ----------------------------------------------------------------------------------------------------------

Samples = dict[tuple[float, str], list[Sample]]
"""By temperature and contestant: one per prompt, in the prompts' order."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What the run needs."""

    edge: EdgeModel
    verifier: VerifierProcess
    worker: LineProcess
    echo_address: str
    settings: Settings
    progress: Progress

    @asynccontextmanager
    async def client(self, hop: Hop) -> AsyncIterator[Client]:
        """Our end of a link."""
        fingerprint, eos = self.edge.tokenizer.fingerprint, self.edge.eos_token_ids
        async with Client(
            hop, self.edge.drafter, tokenizer_fingerprint=fingerprint, eos_token_ids=eos
        ) as client:
            yield client


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one run measured."""

    samples: Samples
    echoes: EchoRecord
    blocks: dict[float, int]
    """Mean block length by temperature, before the run."""
    tcp_bytes_per_token: float


async def _perform(stage: Stage, prompts: list[tuple[int, ...]]) -> _Outcome:
    settings = stage.settings
    # Not the first prompt: a drafter keeps the cache of the text it closed last.
    warm = Task(prompts[-1], min(32, settings.max_new_tokens), settings.temperatures[0], settings.seed)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(stage.client(GrpcHop(stage.verifier.address)))
        echo = await stack.enter_async_context(EchoClient(stage.echo_address))
        stage.progress("warming up; measuring blocks and messages")
        sizes = {heat: await _message_sizes(stage, prompts, heat) for heat in settings.temperatures}
        first = sizes[settings.temperatures[0]]
        echoes = EchoRecord(bytes_up=first.bytes_up, bytes_down=first.bytes_down)
        await echo.round_trips(_ECHOES_PER_PROMPT, echoes.bytes_up, echoes.bytes_down)
        blocks = {heat: max(1, round(size.mean_drafted)) for heat, size in sizes.items()}
        contestants = _contestants(stage, client, blocks)
        for write in contestants.values():
            await write(warm)
            await write(warm)
        samples = await _in_turn(stage, contestants, prompts, echo, echoes)
    stage.progress("counting bytes on TCP")
    return _Outcome(samples, echoes, blocks, await _tcp_bytes_per_token(stage, prompts[:_TCP_PROMPTS]))


async def _in_turn(
    stage: Stage,
    contestants: dict[str, Contestant],
    prompts: list[tuple[int, ...]],
    echo: EchoClient,
    echoes: EchoRecord,
) -> Samples:
    """Every contestant on every prompt; who begins changes from prompt to prompt."""
    settings = stage.settings
    samples: Samples = {(heat, name): [] for heat in settings.temperatures for name in contestants}
    order = np.random.default_rng(settings.seed).permutation(list(contestants)).tolist()
    drafting = PREFIX + settings.modes[-1]
    for temperature in settings.temperatures:
        for index, prompt in enumerate(prompts):
            stage.progress(f"temperature {temperature}: prompt {index + 1} of {len(prompts)}")
            task = Task(prompt, settings.max_new_tokens, temperature, settings.seed + index)
            turn = index % len(order)
            for name in order[turn:] + order[:turn]:
                samples[temperature, name].append(await contestants[name](task))
            await _echo(echo, echoes, samples[temperature, drafting][-1])
    return samples


async def _echo(echo: EchoClient, echoes: EchoRecord, latest: Sample) -> None:
    """Exchanges back to back, and in the rhythm of the rounds just measured."""
    sizes, rounds = (echoes.bytes_up, echoes.bytes_down), latest.rounds or (Round(0, 0, 0.0, 0.0, 0.0, 0.0),)
    pause_s, wait_s = (median([one.draft_s for one in rounds]), median([one.verify_s for one in rounds]))
    echoes.back_to_back_s += await echo.round_trips(_ECHOES_PER_PROMPT, *sizes)
    echoes.in_rhythm_s += await echo.round_trips(_ECHOES_PER_PROMPT, *sizes, pause_s=pause_s, wait_s=wait_s)


def _contestants(stage: Stage, client: Client, blocks: dict[float, int]) -> dict[str, Contestant]:
    return {
        ALONE: transformers_contestant(stage.worker, is_assisted=False),
        ASSISTED: transformers_contestant(stage.worker, is_assisted=True),
        ASSISTED_EQUAL: transformers_contestant(stage.worker, is_assisted=True, num_tokens=blocks),
        **{PREFIX + mode: paceline_contestant(client, mode) for mode in stage.settings.modes},
    }


@dataclass(frozen=True, slots=True)
class _Sizes:
    mean_drafted: float
    bytes_up: int
    bytes_down: int


async def _message_sizes(stage: Stage, prompts: list[tuple[int, ...]], temperature: float) -> _Sizes:
    """What a round carries, from a few texts that are not measured."""
    hop, settings = SizedHop(GrpcHop(stage.verifier.address)), stage.settings
    async with stage.client(hop) as client:
        for index, prompt in enumerate(prompts[:_SIZING_PROMPTS]):
            task = Task(prompt, settings.max_new_tokens, temperature, settings.seed + index)
            await client.complete(request_of(task), settings.modes[-1])
    drafts = hop.drafts or [(1, 8)]
    return _Sizes(
        mean_drafted=sum(count for count, _ in drafts) / len(drafts),
        bytes_up=round(median([size for _, size in drafts])),
        bytes_down=round(median([float(size) for size in hop.verdict_bytes])),
    )


async def _tcp_bytes_per_token(stage: Stage, prompts: list[tuple[int, ...]]) -> float:
    settings, num_tokens = stage.settings, 0
    async with (
        counting_proxy(stage.verifier.address) as counted,
        stage.client(GrpcHop(counted.address)) as client,
    ):
        for index, prompt in enumerate(prompts):
            task = Task(prompt, settings.max_new_tokens, settings.temperatures[0], settings.seed + index)
            report = await client.complete(request_of(task), settings.modes[-1])
            num_tokens += len(report.token_ids)
    return (counted.bytes_up + counted.bytes_down) / num_tokens


# --- what comes of it -------------------------------------------------------------------------------------------------


def summarise(samples: Samples) -> list[ContestantResult]:
    """One line per contestant and temperature."""
    return [_summary(samples, temperature, name) for temperature, name in samples]


def _summary(samples: Samples, temperature: float, name: str) -> ContestantResult:
    mine = samples[temperature, name]
    tokens = sum(len(sample.token_ids) for sample in mine)
    drafted = sum(sample.drafted or 0 for sample in mine)
    rounds = sum(len(sample.rounds) for sample in mine)
    payload = [sample.payload_bytes for sample in mine if sample.payload_bytes is not None]
    return ContestantResult(
        name=name,
        temperature=temperature,
        tokens_per_s=spread([sample.tokens_per_s for sample in mine]),
        target_passes_per_token=sum(sample.target_passes for sample in mine) / tokens,
        mean_drafted_tokens=drafted / rounds if rounds else None,
        acceptance_rate=sum(sample.accepted or 0 for sample in mine) / drafted if drafted else None,
        payload_bytes_per_token=sum(payload) / tokens if payload else None,
        mismatches=_mismatches(samples, temperature, name),
    )


def reference_at(samples: Samples, temperature: float) -> str:
    """Whose texts the others must equal: with temperature, only ours are a function of prompt and seed alone."""
    if temperature == 0:
        return ALONE
    return next(name for heat, name in samples if heat == temperature and name.startswith(PREFIX))


def _mismatches(samples: Samples, temperature: float, name: str) -> int | None:
    if temperature > 0 and not name.startswith(PREFIX):
        return None
    expected = samples[temperature, reference_at(samples, temperature)]
    pairs = zip(samples[temperature, name], expected, strict=True)
    return sum(mine.token_ids != theirs.token_ids for mine, theirs in pairs)


def speedups(samples: Samples, settings: Settings) -> list[Speedup]:
    """Every mode of ours over everybody else, per prompt."""
    found = []
    for temperature, name in samples:
        for mode in settings.modes:
            ours = PREFIX + mode
            if name == ours or (name.startswith(PREFIX) and mode != settings.modes[-1]):
                continue
            mine = [sample.tokens_per_s for sample in samples[temperature, ours]]
            theirs = [sample.tokens_per_s for sample in samples[temperature, name]]
            ratio = paired_ratio(mine, theirs, seed=settings.seed)
            found.append(Speedup(ours, name, temperature, ratio))
    return found


def _rounds(samples: Samples, name: str) -> list[float]:
    """Seconds on the link of every round but the first of a text, which also carries the prompt."""
    return [
        one.network_s
        for (_, contestant), found in samples.items()
        if contestant == name
        for sample in found
        for one in sample.rounds[1:]
    ]


def _memory(verifier_pid: int, worker_pid: int, starts: list[EdgeRun]) -> Memory:
    peaks = [run.peak_memory_bytes for run in starts if run.peak_memory_bytes is not None]
    return Memory(
        verifier=peak_memory_bytes(verifier_pid),
        edge=max(peaks) if peaks else None,
        transformers=peak_memory_bytes(worker_pid),
        edge_loads_torch=any(run.loads_torch for run in starts),
    )
