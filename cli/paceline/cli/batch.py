"""Batch generation: JSON lines in, JSON lines out, several texts at a time, a progress bar."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from paceline.cli import show
from paceline.cli.inputs import BatchItem, read_batch
from paceline.common.errors import InvalidRequest, OutOfRange, PacelineError
from paceline.common.tokenizer import Tokenizer
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest


@dataclass(frozen=True, slots=True)
class Job:
    """A batch to run."""

    prompts_file: Path
    output: Path | None
    """None: standard output."""
    concurrency: int
    mode: str
    template: GenerationRequest


async def run(job: Job, client: Client, tokenizer: Tokenizer) -> None:
    """Generate every line, in any order; the output is in the order of the input.

    Raises:
        InvalidRequest: the input is malformed; nothing was generated.
        PacelineError: the verifier refused a line or went away; lines already complete have been written.
    """
    items = read_batch(job.prompts_file, job.template, tokenizer)
    with _writer(job.output) as file:
        async with client:
            _check_lengths(items, client)
            if job.output is not None:
                file.truncate(0)
            with _progress() as progress:
                bar = progress.add_task("generating", total=len(items))
                await _run_all(job, items, client, tokenizer, file, lambda: progress.advance(bar))
    if job.output is not None:
        Console(stderr=True).print(f"{len(items)} texts in {job.output}", highlight=False, soft_wrap=True)


def _check_lengths(items: list[BatchItem], client: Client) -> None:
    """One line too long for the target should not end a batch after an hour."""
    for item in items:
        wanted = len(item.request.prompt_token_ids) + item.request.max_new_tokens
        if client.verifier is not None and wanted > client.verifier.max_context:
            raise OutOfRange(
                f"prompt of {len(item.request.prompt_token_ids)} tokens + max_new_tokens "
                f"{item.request.max_new_tokens} is more than the model's context of {client.verifier.max_context}",
                field=f"line {item.index + 1}: max_new_tokens",
                cure="ask for fewer tokens, or shorten the prompt",
            )


async def _run_all(
    job: Job,
    items: list[BatchItem],
    client: Client,
    tokenizer: Tokenizer,
    file: TextIO,
    advance: Callable[[], None],
) -> None:
    """Run the items with bounded concurrency; write each line as soon as all before it are written."""
    room = asyncio.Semaphore(job.concurrency)

    async def one(item: BatchItem) -> str:
        async with room:
            try:
                report = await client.complete(item.request, job.mode)
            except PacelineError as error:
                error.field = (
                    f"line {item.index + 1}: {error.field}" if error.field else f"line {item.index + 1}"
                )
                raise
        advance()
        result = {"index": item.index, **show.result(report, tokenizer.decode(report.token_ids))}
        return json.dumps(result, ensure_ascii=False)

    tasks = [asyncio.create_task(one(item)) for item in items]
    try:
        for task in tasks:
            file.write(await task + "\n")
            file.flush()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _writer(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    try:
        file = output.open("a", encoding="utf-8")  # emptied only once there is something to write
    except OSError as error:
        raise InvalidRequest(
            f"{output}: {error.strerror}", field="output", cure="name a writable file"
        ) from None
    with file:
        yield file


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
