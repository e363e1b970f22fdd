"""What each hop counts, against what the client saw; and that everything named anywhere is really there."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from paceline.cli.reference import metric_reference
from paceline.cloud.metrics import VerifierMetrics
from paceline.common.errors import PacelineError
from paceline.edge.request import GenerationRequest

NAME = re.compile(r"\bpaceline_[a-z_]*[a-z]\b")


def values(registries: list[Any]) -> dict[str, float]:
    """Every sample of a scrape of all hops, summed over labels but the hop: `name hop` to value."""
    found: dict[str, float] = {}
    for registry in registries:
        for family in text_string_to_metric_families(generate_latest(registry).decode()):
            for one in family.samples:
                key = f"{one.name} {one.labels['hop']}"
                found[key] = found.get(key, 0.0) + one.value
    return found


async def test_every_hop_counts_what_it_did(chain: Any) -> None:
    """Texts, tokens, drafts and bytes are in the metrics of the hop they belong to, and gauges go back to nothing."""
    async with chain() as running:
        request = GenerationRequest((1, 2, 3), 40, num_speculative_tokens=4)
        report = await running.client.complete(request, "sync")
        counted = values(running.registries)
    for key, value in {
        "paceline_client_generation_tokens_total edge": 40,
        "paceline_client_prompt_tokens_total edge": 3,
        "paceline_client_spec_decode_num_draft_tokens_total edge": report.drafted_tokens,
        "paceline_client_spec_decode_num_accepted_tokens_total edge": report.accepted_tokens,
        "paceline_client_traffic_bytes_total edge": report.traffic.bytes_up + report.traffic.bytes_down,
        "paceline_client_request_success_total edge": 1,
        "paceline_client_request_success_total metro": 1,
        "paceline_request_success_total cloud": 1,
        "paceline_generation_tokens_total cloud": 40,
        "paceline_client_time_to_first_token_seconds_count edge": 1,
        "paceline_time_to_first_token_seconds_count cloud": 1,
        "paceline_kv_cache_capacity_tokens cloud": running.verifier.capacity_tokens,
        "paceline_max_requests cloud": 8,
        "paceline_client_num_requests_running edge": 0,
        "paceline_client_num_requests_running metro": 0,
    }.items():
        assert counted[key] == value, key
    assert counted["paceline_spec_decode_num_drafts_total metro"] > 0
    places = counted["paceline_client_spec_decode_num_accepted_tokens_per_pos_total edge"]
    assert places == report.accepted_tokens
    assert report.accepted_tokens > 0


async def test_a_live_text_fills_the_gauges(chain: Any) -> None:
    """While a text runs it counts as running and its cache as used; when it is left, neither."""
    async with chain() as running:
        events = aiter(running.client.generate(GenerationRequest((1, 2, 3), 400), "cloud"))
        await anext(events)
        live = values(running.registries)
        for hop in ("cloud", "metro"):
            assert live[f"paceline_num_requests_running {hop}"] == 1
            assert 0 < live[f"paceline_kv_cache_usage_perc {hop}"] <= 1
            reserved = live[f"paceline_kv_cache_reserved_tokens {hop}"]
            assert reserved / live[f"paceline_kv_cache_capacity_tokens {hop}"] == pytest.approx(
                live[f"paceline_kv_cache_usage_perc {hop}"]
            )
        await events.aclose()
        names = (
            "client_num_requests_running",
            "num_requests_running",
            "kv_cache_usage_perc",
            "kv_cache_reserved_tokens",
        )
        async with asyncio.timeout(20):  # the hops above hear of it a moment later
            while any(
                value for key, value in values(running.registries).items() if key[9:].split()[0] in names
            ):
                await asyncio.sleep(0.01)


async def test_a_refused_text_is_counted_by_reason(chain: Any) -> None:
    """One that does not fit names the resource there was too little of; it is no success and no live text."""
    async with chain(max_sessions=1) as running:
        request = GenerationRequest((1, 2, 3), 400)
        events = aiter(running.client.generate(request, "cloud"))
        await anext(events)
        with pytest.raises(PacelineError):
            await running.client.complete(request, "cloud")
        text = generate_latest(running.verifier.metrics.registry).decode()
        assert 'paceline_requests_refused_total{hop="cloud",reason="BUSY",resource="sessions"} 1.0' in text
        counted = values(running.registries)
        assert counted["paceline_client_errors_total edge"] == 1
        assert counted["paceline_num_requests_running cloud"] == 1
        await events.aclose()


def test_what_alerts_watch_begins_at_nothing() -> None:
    """Prometheus sees no growth in a counter that is first seen at 1, so these are there before anything went wrong."""
    text = generate_latest(VerifierMetrics("cloud").registry).decode()

    for reason in ("INTERNAL_ERROR", "TARGET_NUMERICS"):
        assert f'paceline_errors_total{{hop="cloud",reason="{reason}"}} 0.0' in text
    for resource in ("sessions", "kv_cache"):
        assert (
            f'paceline_requests_refused_total{{hop="cloud",reason="BUSY",resource="{resource}"}} 0.0' in text
        )


# --- what is named ----------------------------------------------------------------------------------------------------


def _expressions(tree: Any) -> Iterator[str]:
    """Every PromQL expression of a dashboard or a file of rules."""
    if isinstance(tree, dict):
        yield from (
            value
            for key, value in tree.items()
            if key in ("expr", "query", "seriesQuery", "metricsQuery") and isinstance(value, str)
        )
        yield from (found for value in tree.values() for found in _expressions(value))
    elif isinstance(tree, list):
        yield from (found for value in tree for found in _expressions(value))


def _named(file: Path) -> set[str]:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        return set(NAME.findall(text)) - {"paceline_client"}
    tree = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    return {name for expression in _expressions(tree) for name in NAME.findall(expression)}


async def test_every_metric_named_anywhere_is_in_a_scrape(chain: Any, root: Path) -> None:
    """Dashboard, alerts, autoscaling and pages speak only of what a chain that served and refused texts exposes."""
    async with chain(max_sessions=1) as running:
        await running.client.complete(GenerationRequest((1, 2, 3), 20), "sync")
        events = aiter(running.client.generate(GenerationRequest((1, 2, 3), 400), "sync"))
        await anext(events)
        with pytest.raises(PacelineError):
            await running.client.complete(GenerationRequest((1, 2, 3), 400), "cloud")
        await events.aclose()
        scraped = {key.partition(" ")[0] for key in values(running.registries)}
        families = {
            family.name for registry in running.registries for family in registry.collect() if family.samples
        }
    rules, dashboard = root / "deploy/prometheus/alerts.yaml", root / "deploy/grafana/paceline.json"
    files = [rules, dashboard, *(root / "docs").glob("*.md"), root / "deploy/prometheus/adapter.yaml"]
    named = {file.name: _named(file) for file in files}
    unknown = {
        file: sorted(names - scraped - families)
        for file, names in named.items()
        if names - scraped - families
    }

    assert unknown == {}
    assert len(named[dashboard.name]) > 15
    assert len(named[rules.name]) > 5


def test_the_page_of_metrics_is_the_code_s(root: Path) -> None:
    """docs/metrics.md is what `paceline top --reference` prints."""
    assert (root / "docs/metrics.md").read_text(encoding="utf-8") == metric_reference() + "\n"


def test_a_metric_that_is_not_there_is_noticed(tmp_path: Path) -> None:
    """The reader of expressions finds names inside functions, ranges and labels."""
    file = tmp_path / "rules.yaml"
    file.write_text("groups: [{rules: [{expr: 'sum(rate(paceline_x_total{hop=\"a\"}[5m])) > paceline_y'}]}]")

    assert _named(file) == {"paceline_x_total", "paceline_y"}
