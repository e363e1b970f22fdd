"""One trace for a text, over every hop, by the real OpenTelemetry SDK; and nothing at all without it."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from paceline.cli.traces import exporter_of
from paceline.common import tracing
from paceline.common.errors import InvalidRequest
from paceline.common.otel import trace_with
from paceline.edge.request import GenerationRequest


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    """Where the spans of this test go."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace_with(provider)
    yield exporter
    tracing.install(None)
    provider.shutdown()


async def finished(exporter: InMemorySpanExporter, count: int) -> list[Any]:
    """Spans once so many whole texts and streams have ended; the last ends after the client has its text."""
    async with asyncio.timeout(20):
        while sum(one.name in ("generation", "decode") for one in exporter.get_finished_spans()) < count:
            await asyncio.sleep(0.01)
    return list(exporter.get_finished_spans())


async def test_one_trace_spans_edge_relay_and_verifier(chain: Any, exported: InMemorySpanExporter) -> None:
    """The edge's text is the root; below it its rounds and the relay's part, below that the relay's rounds and the
    verifier's, each with its steps; nothing belongs to another trace."""
    async with chain() as running:
        request = GenerationRequest((1, 2, 3), 30, num_speculative_tokens=4, request_id="r-1")
        report = await running.client.complete(request, "sync")
        spans = await finished(exported, 4)
    by_id = {one.context.span_id: one for one in spans}

    def above(span: Any) -> list[str]:
        names = []
        while span.parent is not None:
            span = by_id[span.parent.span_id]
            names.append(f"{span.name} {span.attributes['paceline.hop']}")
        return names

    assert len({one.context.trace_id for one in spans}) == 1
    edge, metro = "generation edge", "generation metro"
    parents = {(one.name, one.attributes.get("paceline.hop", ""), *above(one)) for one in spans}
    assert parents == {
        ("generation", "edge"),
        ("round", "", edge),
        ("decode", "metro", edge),
        ("step", "", "decode metro", edge),
        ("generation", "metro", edge),
        ("round", "", metro, edge),
        ("decode", "cloud", metro, edge),
        ("step", "", "decode cloud", metro, edge),
    }
    rounds = [one for one in spans if one.name == "round" and above(one) == [edge]]
    assert sum(one.attributes["paceline.num_accepted"] for one in rounds) == report.accepted_tokens
    bases = {one.attributes["paceline.base"] for one in spans if one.name == "round" and len(above(one)) == 2}
    steps = {one.attributes["paceline.base"] for one in spans if one.name == "step" and len(above(one)) == 3}
    assert bases <= steps
    decoded = [one for one in spans if one.name == "decode"]
    assert {one.attributes["paceline.request_id"] for one in decoded} == {"r-1"}
    assert all(one.start_time <= one.end_time for one in spans)


async def test_two_texts_are_two_traces(chain: Any, exported: InMemorySpanExporter) -> None:
    """Texts at the same time do not end up below one another."""
    async with chain() as running:
        requests = [GenerationRequest((1, 2, seed), 10) for seed in (3, 4)]
        await asyncio.gather(*(running.client.complete(one, "cloud") for one in requests))
        spans = await finished(exported, 8)
    roots = [one for one in spans if one.parent is None]

    assert len({one.context.trace_id for one in spans}) == 2
    assert {one.name for one in roots} == {"generation"}
    assert len(roots) == 2


async def test_a_failed_text_says_so(chain: Any, exported: InMemorySpanExporter) -> None:
    """The root names the error that ended it."""
    async with chain(max_sessions=1) as running:
        events = aiter(running.client.generate(GenerationRequest((1, 2, 3), 400), "cloud"))
        await anext(events)
        with pytest.raises(Exception, match="sessions"):
            await running.client.complete(GenerationRequest((1, 2, 3), 10), "cloud")
        await events.aclose()
        spans = await finished(exported, 2)
    ends = [one.attributes["paceline.ended"] for one in spans if one.name == "generation"]

    assert "RemoteError" in ends


async def test_a_malformed_traceparent_begins_a_trace_of_its_own(exported: InMemorySpanExporter) -> None:
    """What a caller sends is not trusted to be well-formed."""
    for sent in ("", "nonsense", "00-zz-zz-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"):
        tracing.called_by({"traceparent": sent})
        tracing.begin("decode").end()

    assert all(one.parent is None for one in exported.get_finished_spans())


def test_nothing_is_imported_unless_asked_for() -> None:
    """A generation's modules leave OpenTelemetry alone, and without it spans are one and the same nothing."""
    script = (
        "import sys, paceline.cli.main, paceline.edge.client, paceline.relay.relay, paceline.cloud.server\n"
        "from paceline.common import tracing\n"
        "assert tracing.begin('a') is tracing.NO_SPAN and tracing.NO_SPAN.headers == ()\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("environment", "is_asked", "exporter"),
    [
        ({}, False, ""),
        ({}, True, "otlp"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, False, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4317"}, False, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, False, "console"),
        ({"OTEL_TRACES_EXPORTER": "none"}, True, ""),
        ({"OTEL_SDK_DISABLED": "true"}, True, ""),
    ],
)
def test_the_standard_variables_choose(environment: dict[str, str], is_asked: bool, exporter: str) -> None:
    """`--trace` sends to the default collector; what OpenTelemetry's variables say wins."""
    assert exporter_of(environment, is_asked=is_asked) == exporter


def test_an_unknown_exporter_is_refused() -> None:
    """With the variable's name and the cure."""
    with pytest.raises(InvalidRequest, match=r"OTEL_TRACES_EXPORTER.*'zipkin'.*otlp, console or none"):
        exporter_of({"OTEL_TRACES_EXPORTER": "zipkin"}, is_asked=False)
