"""`paceline bench endpoint`: what the local endpoint adds to the client it stands before."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from urllib.parse import urlsplit

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from paceline.benchmarks.machine import Machine, machine
from paceline.benchmarks.pair import Pair
from paceline.benchmarks.statistics import Ratio, Spread, median, paired_ratio, spread
from paceline.cli.verifier_process import endpoint_process, verifier_process
from paceline.common.hops.grpc import GrpcHop
from paceline.common.tokens import SamplingParams
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest

_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """What is measured."""

    num_prompts: int = 24
    max_new_tokens: int = 96
    verify_floor_ms: float = 30.0
    mode: str = "auto"
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """One text."""

    token_count: int
    first_s: float
    total_s: float
    text: str

    @property
    def tokens_per_s(self) -> float:
        """Over the whole time."""
        return self.token_count / self.total_s


@dataclass(frozen=True, slots=True)
class EndpointResult:
    """Everything `paceline bench endpoint` measures."""

    machine: Machine
    settings: EndpointSettings
    target: str
    draft_model: str
    client_tokens_per_s: Spread
    endpoint_tokens_per_s: Spread
    tokens_per_s: Ratio
    """Of the endpoint over the client's, text by text."""
    client_first_s: Spread
    endpoint_first_s: Spread
    first_added_s: float
    """Median of the differences, text by text."""
    mismatches: int
    """Texts that differ."""


def endpoint(
    pair: Pair, texts: Sequence[str], settings: EndpointSettings, progress: Callable[[str], None]
) -> EndpointResult:
    """Write every text once with the client in this process and once over HTTP, in random order."""
    before = machine()
    floor = ["--verify-floor-ms", str(settings.verify_floor_ms)]
    progress("starting a verifier and an endpoint")
    with (
        verifier_process(pair.target, floor) as verifier,
        endpoint_process(verifier.address, [*pair.edge_options(), "--mode", settings.mode]) as served,
    ):
        pairs = asyncio.run(_pairs(pair, verifier.address, served.address, texts, settings, progress))
    clients, endpoints = zip(*pairs, strict=True)
    return EndpointResult(
        machine=before,
        settings=settings,
        target=pair.target.name,
        draft_model=pair.draft_model.name,
        client_tokens_per_s=spread([one.tokens_per_s for one in clients]),
        endpoint_tokens_per_s=spread([one.tokens_per_s for one in endpoints]),
        tokens_per_s=paired_ratio(
            [one.tokens_per_s for one in endpoints],
            [one.tokens_per_s for one in clients],
            seed=settings.seed,
        ),
        client_first_s=spread([one.first_s for one in clients]),
        endpoint_first_s=spread([one.first_s for one in endpoints]),
        first_added_s=median([two.first_s - one.first_s for one, two in pairs]),
        mismatches=sum(one.text != two.text for one, two in pairs),
    )


async def _pairs(
    pair: Pair,
    address: str,
    url: str,
    texts: Sequence[str],
    settings: EndpointSettings,
    progress: Callable[[str], None],
) -> list[tuple[Written, Written]]:
    edge, dice = pair.edge(), random.Random(settings.seed)
    fingerprint = edge.tokenizer.fingerprint
    pairs = []
    async with Client(GrpcHop(address), edge.drafter, tokenizer_fingerprint=fingerprint) as client:

        async def direct(text: str) -> Written:
            request = GenerationRequest(
                edge.tokenizer.encode(text),
                settings.max_new_tokens,
                SamplingParams(settings.temperature),
                seed=settings.seed,
            )
            report = await client.complete(request, settings.mode)
            text = edge.tokenizer.decode(report.token_ids)
            return Written(len(report.token_ids), report.ttft_s, report.total_s, text)

        async def over_http(text: str) -> Written:
            return await asyncio.to_thread(_asked, url, text, settings)

        for text in texts[:2]:  # both learn the link's and the models' costs
            await direct(text)
            await over_http(text)
        for index, text in enumerate(texts, 1):
            progress(f"text {index} of {len(texts)}")
            ways = [direct, over_http]
            dice.shuffle(ways)
            written = {way: await way(text) for way in ways}
            pairs.append((written[direct], written[over_http]))
    return pairs


def _asked(url: str, prompt: str, settings: EndpointSettings) -> Written:
    """A streamed completion, by as little code as a caller can have."""
    body = {
        "prompt": prompt,
        "max_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began_s, first_s, text, count = time.perf_counter(), 0.0, "", 0
    with closing(HTTPConnection(urlsplit(url).netloc, timeout=_TIMEOUT_S)) as link:
        link.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        reply = link.getresponse()
        while line := reply.readline():
            if not line.startswith(b"data: {"):
                continue
            first_s = first_s or time.perf_counter() - began_s
            event = json.loads(line.removeprefix(b"data: "))
            text += "".join(choice["text"] for choice in event["choices"])
            count = event["usage"]["completion_tokens"] if event.get("usage") else count
    return Written(count, first_s, time.perf_counter() - began_s, text)


def endpoint_table(result: EndpointResult) -> RenderableType:
    """Both ways, and what the endpoint adds."""
    settings, ratio = result.settings, result.tokens_per_s
    table = Table(
        title=f"{settings.num_prompts} prompts × {settings.max_new_tokens} tokens, mode {settings.mode}, in turn; "
        f"target {result.target}, at least {settings.verify_floor_ms:g} ms a pass",
        title_justify="left",
    )
    for name in ("", "tokens/s", "quartiles", "first token", "quartiles"):
        table.add_column(name, justify="left" if not name else "right")
    for name, speed, first in (
        ("Client.generate", result.client_tokens_per_s, result.client_first_s),
        ("edge serve", result.endpoint_tokens_per_s, result.endpoint_first_s),
    ):
        table.add_row(
            name,
            f"{speed.median:.1f}",
            f"{speed.low:.1f}-{speed.high:.1f}",
            f"{1000 * first.median:.1f} ms",
            f"{1000 * first.low:.1f}-{1000 * first.high:.1f}",
        )
    added = (
        f"speed {ratio.median:.3f}× (95 % interval {ratio.low:.3f}-{ratio.high:.3f}), first token "
        f"{1000 * result.first_added_s:+.1f} ms, {result.mismatches} texts differ"
    )
    return Group(table, Text(added))
