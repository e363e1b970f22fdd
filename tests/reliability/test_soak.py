"""`paceline bench soak`: what is held after many streams is what was held before them."""

from dataclasses import replace
from typing import Any

import pytest

from paceline.benchmarks.machine import machine
from paceline.benchmarks.soak import Process, Sample, SoakResult, SoakSettings, slope, soak, soak_html


def sample(num_streams: int, rss_bytes: int) -> Sample:
    """A look at two processes of the same size."""
    process = Process(rss_bytes, 20, 9, 6)
    return Sample(num_streams / 10, num_streams, 0, process, process)


def test_the_slope_leaves_out_the_warm_up() -> None:
    """Memory that grows in the first third alone does not grow."""
    flat = [sample(0, 10_000), sample(10, 90_000), *(sample(count, 100_000) for count in range(40, 130, 10))]
    growing = [replace(one, verifier=replace(one.verifier, rss_bytes=7 * one.num_streams)) for one in flat]

    assert slope(flat, "verifier") == 0
    assert slope(growing, "verifier") == pytest.approx(7)
    assert slope(growing, "edge") == 0
    assert slope(flat[:1], "edge") == 0


def test_the_page_shows_both_processes() -> None:
    """Curves with names, in a page of its own."""
    samples = [sample(count, 100_000 + count) for count in range(0, 100, 10)]
    shown = soak_html(SoakResult(machine(), SoakSettings(), samples, 4, 0, 1.0, 1.0))

    assert shown.count("<polyline") == 7
    assert "verifier" in shown


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_nothing_is_held_after_many_streams(record_property: Any) -> None:
    """Half an hour: sessions, tasks, files and threads are as many as before, and texts are the target's."""
    result = soak(SoakSettings(), print)
    first, last = result.samples[0], result.samples[-1]
    record_property("streams", last.num_streams)
    record_property("left in the middle", result.num_left)
    for end, per_stream in (("verifier", result.verifier_slope), ("edge", result.edge_slope)):
        record_property(f"memory of the {end}", f"{per_stream:.0f} bytes a stream")

    assert result.num_changed == 0
    assert 0.2 < result.num_left / last.num_streams < 0.6
    assert last.sessions == 0
    for end in ("verifier", "edge"):
        before, after = getattr(first, end), getattr(last, end)
        assert after.tasks <= before.tasks, end
        assert after.fds <= before.fds + 1, end
        assert after.threads <= before.threads + 4, end
