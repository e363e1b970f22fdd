"""What a stream carries beside its messages."""

import asyncio
from typing import Any

import pytest

from paceline.common import tracing
from paceline.common.hops.base import SESSION_HEADER, stream_headers
from paceline.edge.drafting import ThreadWorker
from paceline.edge.request import GenerationRequest, Report
from paceline.edge.run import Run


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Of every stream that servers of this process were called by."""
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(tracing, "called_by", seen.append)
    return seen


async def test_a_text_s_streams_carry_one_name_that_says_nothing(
    chain: Any, metadata: list[dict[str, str]]
) -> None:
    """Sixteen hexadecimal digits at every hop: the same for the same request id, which they do not show; no trace
    unless there is one."""
    async with chain() as running:
        for name in ("secret-id", "secret-id", "other", "", ""):
            await running.client.complete(GenerationRequest((1, 2, 3), 4, request_id=name), "cloud")
    names = [one[SESSION_HEADER] for one in metadata]

    assert len(names) == 10  # five texts, two hops
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in names)
    assert len(set(names[:4])) == 1
    assert len(set(names)) == 6
    assert not [one for one in metadata if tracing.TRACEPARENT in one]


class _Hop:
    def __init__(self) -> None:
        self.carried: list[str] = []

    def stream(self) -> None:
        self.carried.append(dict(stream_headers.get())[SESSION_HEADER])


def test_a_text_that_comes_back_keeps_its_name() -> None:
    """Every connection of one text has the name of its first; another text has another."""

    async def connect_twice() -> list[str]:
        request, hop = GenerationRequest((1, 2), 4), _Hop()
        run = Run(
            request, Report("cloud", request.effective_rule, 2), ThreadWorker(), hop=hop, verifier=object()
        )
        run.stream()
        run.stream()
        return hop.carried

    first, other = asyncio.run(connect_twice()), asyncio.run(connect_twice())
    assert first[0] == first[1]
    assert first[0] != other[0]
