"""Clients from names, and the one without an event loop."""

import threading
import time

import pytest

from paceline.cloud.engine.table import TableEngine
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.errors import InvalidRequest, Unreachable
from paceline.common.hops.inproc import InProcessHop
from paceline.edge import Client, GenerationRequest, SyncClient, TokensEvent, connect
from paceline.edge.drafters.table import TableDrafter

REQUEST = GenerationRequest((1, 2, 3), max_new_tokens=16)


@pytest.fixture
def verifier():
    """A table target."""
    verifier = Verifier(TableEngine(64), TargetInfo("table", "test"))
    verifier.start()
    yield verifier
    verifier.stop()


async def test_a_client_from_names_takes_texts(models) -> None:
    """Prompts are encoded and texts decoded by the draft model's tokenizer; without a verifier it writes alone."""
    async with connect(draft_model=models / "pico") as client:
        report = await client.complete(client.request("import os\n", max_new_tokens=8), "local")
        assert client.text(report) == client.tokenizer.decode(report.token_ids)
        assert len(report.token_ids) == 8


async def test_a_client_from_names_needs_no_draft_model(models) -> None:
    """It has a tokenizer then, and asks the verifier at the address."""
    with pytest.raises(InvalidRequest, match="draft_model"):
        connect("127.0.0.1:1")
    client = connect("127.0.0.1:1", tokenizer=models / "base")
    assert client.has_verifier
    await client.close()


def test_events_come_without_an_event_loop(verifier) -> None:
    """The same text as with one; two threads may write at once."""
    with SyncClient(lambda: Client(InProcessHop(verifier), TableDrafter())) as client:
        generation = client.generate(REQUEST)
        events = [event for event in generation if isinstance(event, TokensEvent)]
        token_ids = [token_id for event in events for token_id in event.token_ids]
        assert token_ids == generation.report.token_ids == client.complete(REQUEST, "cloud").token_ids
        assert client.client.verifier.model_name == "table"
        found: list[list[int]] = []
        threads = [
            threading.Thread(target=lambda: found.append(client.complete(REQUEST).token_ids))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [token_ids] * 3
        with pytest.raises(InvalidRequest, match="no tokenizer"):
            client.request("a")
    client.close()


def test_leaving_early_ends_the_text(verifier) -> None:
    """Nothing of it is left on the verifier; errors reach the caller's thread."""
    with SyncClient(lambda: Client(InProcessHop(verifier), TableDrafter())) as client:
        for _ in client.generate(GenerationRequest((1, 2), max_new_tokens=1500), "sync"):
            break
        assert client.complete(REQUEST).token_ids
        deadline = time.monotonic() + 5
        while verifier.num_sessions and time.monotonic() < deadline:
            time.sleep(0.01)
        assert verifier.num_sessions == 0
        with pytest.raises(InvalidRequest, match="mode"):
            client.generate(REQUEST, "never")


def test_a_verifier_that_is_away_leaves_no_thread(models) -> None:
    """Who connects is told, and the loop's thread is gone."""
    before = threading.active_count()
    with pytest.raises(Unreachable):
        SyncClient(lambda: _away())
    assert threading.active_count() == before


def _away() -> Client:
    class Away:
        async def describe(self) -> None:
            raise Unreachable("nobody answers", field="verifier")

        async def close(self) -> None:
            return

    return Client(Away())
