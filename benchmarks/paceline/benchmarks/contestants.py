"""Who takes part in the comparison; each writes one text for one prompt and tells what it took."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass

from paceline.benchmarks.line_process import LineProcess
from paceline.benchmarks.transformers_worker import Job
from paceline.common.tokens import SamplingParams
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest, Round

ALONE = "transformers"
ASSISTED = "transformers-assisted"
ASSISTED_EQUAL = "transformers-assisted-k"
PREFIX = "paceline-"


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt under one temperature."""

    prompt_token_ids: tuple[int, ...]
    max_new_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One text and its cost."""

    token_ids: tuple[int, ...]
    seconds: float
    target_passes: int
    """Forward passes of the target that yielded tokens, and for transformers the prompt's."""
    drafted: int | None = None
    """Tokens; None where transformers does not tell."""
    accepted: int | None = None
    payload_bytes: int | None = None
    rounds: tuple[Round, ...] = ()

    @property
    def tokens_per_s(self) -> float:
        """Over the whole time, the prompt's included."""
        return len(self.token_ids) / self.seconds


Contestant = Callable[[Task], Awaitable[Sample]]


def transformers_contestant(
    worker: LineProcess, *, is_assisted: bool, num_tokens: Mapping[float, int] | None = None
) -> Contestant:
    """`generate` in the worker; `num_tokens` fixes the assistant's block length, by temperature."""

    async def write(task: Task) -> Sample:
        number = num_tokens[task.temperature] if num_tokens else None
        job = Job(**asdict(task), is_assisted=is_assisted, num_assistant_tokens=number)
        told = worker.ask(asdict(job))  # nothing else runs meanwhile: the event loop may wait with us
        return Sample(tuple(told["token_ids"]), told["seconds"], told["target_passes"])

    return write


def paceline_contestant(edge: Client, mode: str) -> Contestant:
    """Our client in one mode."""

    async def write(task: Task) -> Sample:
        report = await edge.complete(request_of(task), mode)
        traffic = report.traffic
        return Sample(
            token_ids=tuple(report.token_ids),
            seconds=report.total_s,
            target_passes=len(report.rounds) or len(report.token_ids),
            drafted=report.drafted_tokens,
            accepted=report.accepted_tokens,
            payload_bytes=traffic.bytes_up + traffic.bytes_down,
            rounds=tuple(report.rounds),
        )

    return write


def request_of(task: Task) -> GenerationRequest:
    """A task as our client takes it."""
    return GenerationRequest(
        prompt_token_ids=task.prompt_token_ids,
        max_new_tokens=task.max_new_tokens,
        sampling=SamplingParams(temperature=task.temperature),
        seed=task.seed,
        ignore_eos=True,
    )
