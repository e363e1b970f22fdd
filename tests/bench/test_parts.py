"""The instruments measure what they say."""

import asyncio
import json
import os
import struct
import sys
from pathlib import Path

import pytest

from paceline.benchmarks.compare import Settings, reference_at, speedups, summarise
from paceline.benchmarks.contestants import ALONE, ASSISTED, Sample
from paceline.benchmarks.counting_proxy import counting_proxy
from paceline.benchmarks.echo import EchoClient
from paceline.benchmarks.line_process import LineProcess, peak_memory_bytes
from paceline.benchmarks.machine import machine
from paceline.benchmarks.prompts import BUILT_IN, load_prompts, prompts_of_length
from paceline.benchmarks.recorded import RecordedDrafts
from paceline.common.errors import InvalidRequest, Unreachable
from paceline.common.sampling.choose import Chooser
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.drafters import load_drafter
from paceline.edge.request import Round


def sample(seconds: float, token_ids: tuple[int, ...] = (1, 2, 3, 4)) -> Sample:
    """Four tokens in two rounds."""
    rounds = (Round(3, 2, 0.1, 0.2, 0.1, 0.0), Round(3, 0, 0.1, 0.2, 0.1, 0.0))
    return Sample(token_ids, seconds, 2, drafted=6, accepted=2, payload_bytes=80, rounds=rounds)


def test_summary_counts_texts_that_differ_from_the_reference() -> None:
    """At temperature 0 every contestant must write what the target alone writes."""
    samples = {
        (0.0, ALONE): [sample(2.0), sample(2.0)],
        (0.0, "paceline-sync"): [sample(1.0), sample(1.0, (9,) * 4)],
    }
    alone, ours = summarise(samples)
    assert (alone.mismatches, ours.mismatches) == (0, 1)
    assert (ours.tokens_per_s.median, ours.target_passes_per_token) == (4.0, 0.5)
    assert (ours.acceptance_rate, ours.mean_drafted_tokens, ours.payload_bytes_per_token) == (
        1 / 3,
        3.0,
        20.0,
    )


def test_at_temperature_only_our_texts_must_be_equal() -> None:
    """Transformers draws its own numbers, so its texts are not compared."""
    samples = {
        (0.7, ALONE): [sample(2.0, (8,) * 4)],
        (0.7, "paceline-cloud"): [sample(1.0)],
        (0.7, "paceline-sync"): [sample(1.0)],
    }
    assert reference_at(samples, 0.7) == "paceline-cloud"
    assert [one.mismatches for one in summarise(samples)] == [None, 0, 0]


def test_speedups_are_per_prompt() -> None:
    """Twice and four times as fast on two prompts is three times in the median."""
    samples = {
        (0.0, ASSISTED): [sample(2.0), sample(8.0)],
        (0.0, "paceline-sync"): [sample(1.0), sample(2.0)],
    }
    (found,) = speedups(samples, Settings(modes=("sync",)))
    assert (found.name, found.over, found.ratio.median) == ("paceline-sync", ASSISTED, 3.0)


def test_prompts_are_spread_over_the_file(tmp_path: Path) -> None:
    """Two of six prompts come from its beginning and its middle."""
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": str(index)}) + "\n" for index in range(6)))
    assert load_prompts(file, 2) == ["0", "3"]


def test_without_a_file_there_are_built_in_prompts() -> None:
    """A clone without prompt files can still be measured."""
    assert load_prompts(None, 3) == [BUILT_IN[0], BUILT_IN[2], BUILT_IN[5]]


def test_a_malformed_prompt_file_is_named(tmp_path: Path) -> None:
    """The error says which file is wrong and what belongs in it."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"text": "x"}\n')
    with pytest.raises(InvalidRequest, match=r"prompts\.jsonl.*one \{\"prompt\""):
        load_prompts(file, 1)


def test_long_prompts_have_exactly_the_length_asked_for() -> None:
    """Texts follow each other until the length is reached, each prompt beginning with another one."""

    class Letters:
        def encode(self, text: str) -> tuple[int, ...]:
            return tuple(map(ord, text))

    prompts = prompts_of_length(["abc", "de"], Letters(), 7, 2)  # type: ignore[arg-type]
    assert ["".join(map(chr, prompt)) for prompt in prompts] == ["abcdeab", "deabcde"]


def test_a_replay_repeats_the_recording() -> None:
    """Recorded blocks come back at their positions, and nothing is proposed elsewhere."""
    drafts = RecordedDrafts()
    chooser = Chooser(Rule.GREEDY, SamplingParams(), 0, 64)
    recording = drafts.record(load_drafter("table", {})).start((1, 2, 3), chooser)
    first = recording.propose(4)
    replay = drafts.replay().start((1, 2, 3), chooser)
    assert replay.propose(4) == first
    replay.observe(3, (*first.token_ids[:2], 63))
    assert len(replay.propose(4)) == 0


def test_the_machine_says_when_it_is_busy() -> None:
    """A load above half a core per core earns a warning, one below none."""
    from dataclasses import replace

    here = machine()
    assert replace(here, load_average=0.4, cores=1).warning is None
    assert "worth little" in str(replace(here, load_average=0.6, cores=1).warning)


def test_echo_and_proxy_carry_and_count_every_byte() -> None:
    """What an echo sends through the proxy is counted, HTTP/2 framing on top."""

    async def exchange(address: str) -> tuple[int, int, int]:
        async with counting_proxy(address) as counted, EchoClient(counted.address) as client:
            seconds = await client.round_trips(20, 1000, 500)
        return len(seconds), counted.bytes_up, counted.bytes_down

    with LineProcess("paceline.benchmarks.echo") as echo:
        count, up, down = asyncio.run(exchange(echo.answer()["address"]))
    assert count == 20
    assert 20_000 < up < 24_000
    assert 10_000 < down < 14_000


def test_what_the_far_end_waited_is_taken_off() -> None:
    """A far end that says it waited 1,000 s leaves an exchange of about -1,000 s."""

    class FarEnd:
        async def write(self, request: bytes) -> None:
            assert len(request) == 40

        async def read(self) -> bytes:
            return struct.pack(">d", 1000.0).ljust(20)

    client = EchoClient("nowhere:1")
    client._call = FarEnd()
    assert [round(seconds, -1) for seconds in asyncio.run(client.round_trips(2, 40, 20))] == [-1000.0] * 2


def test_a_child_that_fails_says_why() -> None:
    """The last line of what it printed becomes the error."""
    with (
        LineProcess("paceline.benchmarks.no_such_module") as child,
        pytest.raises(Unreachable, match="No module"),
    ):
        child.answer()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_peak_memory_of_this_process_is_known() -> None:
    """A Python process holds more than a megabyte, and a dead one holds nothing."""
    assert (peak_memory_bytes(os.getpid()) or 0) > 1 << 20
    assert peak_memory_bytes(1 << 30) is None
