"""`paceline top` against a live verifier process, and its arithmetic."""

import asyncio
import io
import json
import socket
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from paceline.cli.top import samples, scrape, table
from paceline.cli.verifier_process import verifier_process
from paceline.common.errors import Unreachable
from paceline.edge.request import GenerationRequest


@pytest.fixture
def unused_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """A `paceline` process, to its end."""
    command = [sys.executable, "-m", "paceline.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


async def test_every_hop_of_a_live_chain_is_shown(chain: Any, unused_port: int) -> None:
    """While a text runs, one look at the relay's endpoint shows it serving and calling, with its batches and cache."""
    async with chain() as running:
        running.relay.metrics.serve(unused_port)
        url = f"http://127.0.0.1:{unused_port}/metrics"
        before = await asyncio.to_thread(scrape, url)
        events = aiter(running.client.generate(GenerationRequest((1, 2, 3), 400), "cloud"))
        await anext(events)
        serving, calling = samples(before, await asyncio.to_thread(scrape, url), 1.0)
        await events.aclose()

    assert (serving.hop, serving.role, serving.num_running, serving.max_running) == ("metro", "serving", 1, 8)
    assert (calling.hop, calling.role, calling.num_running) == ("metro", "calling", 1)
    assert serving.batch_sessions == 1
    assert serving.cache_usage is not None
    assert serving.cache_usage > 0
    assert calling.tokens_per_s > 0
    console = Console(width=80, file=io.StringIO())
    console.print(table([serving, calling]))
    shown = console.file.getvalue()
    assert "1 of 8" in shown
    assert "metro, to the hop above" in shown
    assert "…" not in shown


@pytest.mark.slow
def test_the_command_shows_a_live_verifier(models, unused_port) -> None:
    """After a text, one look gives its hop with limits, refusals and counts, as JSON and as a table; the logs are JSON
    where that was asked for."""
    options = ["--metrics-port", str(unused_port), "--max-sessions", "5"]
    with verifier_process(models / "base", options) as verifier:
        written = run(
            "edge", "generate", "--verifier", verifier.address, "--mode", "cloud", "--tokenizer", models / "base",
            "--max-new-tokens", "8", "--prompt", "def f(", "--drafter", "ngram", "--json",
        )  # fmt: skip
        assert written.returncode == 0, written.stderr
        url = f"http://127.0.0.1:{unused_port}"
        looked = run("top", "--metrics", url, "--once", "--json", "--interval-s", "0.1")
        shown = run("top", "--metrics", url, "--once", "--interval-s", "0.1")
        total = scrape(f"{url}/metrics")[("paceline_generation_tokens_total", "cloud")]
    assert looked.returncode == 0, looked.stderr
    (hop,) = json.loads(looked.stdout)["hops"]

    assert (hop["hop"], hop["role"], hop["num_running"], hop["max_running"]) == ("cloud", "serving", 0, 5)
    assert (hop["cache_usage"], hop["num_refused"], hop["tokens_per_s"]) == (0, 0, 0)
    assert total == 8
    assert "cloud" in shown.stdout
    assert "0 of 5" in shown.stdout


def test_rates_are_between_two_looks() -> None:
    """Counters give rates, histograms means, and a hop that restarted counts from nothing."""
    name = "paceline_{}".format
    before = {(name("num_requests_running"), "a"): 1.0, (name("generation_tokens_total"), "a"): 100.0}
    now = {
        (name("num_requests_running"), "a"): 3.0,
        (name("max_requests"), "a"): 4.0,
        (name("generation_tokens_total"), "a"): 150.0,
        (name("step_time_seconds_sum"), "a"): 1.0,
        (name("step_time_seconds_count"), "a"): 4.0,
        (name("spec_decode_num_accepted_tokens_total"), "a"): 3.0,
        (name("spec_decode_num_draft_tokens_total"), "a"): 4.0,
    }
    (one,) = samples(before, now, 2.0)
    assert (one.num_running, one.max_running, one.tokens_per_s, one.step_s, one.acceptance_rate) == (
        3,
        4,
        25,
        0.25,
        0.75,
    )
    assert (one.ttft_s, one.num_waiting, one.cache_usage) == (None, None, None)
    (restarted,) = samples({(name("generation_tokens_total"), "a"): 1000.0}, now, 2.0)
    assert restarted.tokens_per_s == 75


def test_nobody_there_is_one_line(unused_port: int) -> None:
    """An endpoint that does not answer is named, with the cure, and exit code of an unreachable peer."""
    with pytest.raises(Unreachable, match=r"no answer from .*--metrics-port"):
        scrape(f"http://127.0.0.1:{unused_port}/metrics")
