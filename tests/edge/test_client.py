"""The client's own checks, and the modes that need only one end."""

from typing import Any

import pytest

from paceline.common.errors import Incompatible, InvalidRequest, UnsupportedVersion
from paceline.common.messages import Description, FillPolicy, Opened
from paceline.common.tokens import FinishReason, Origin, Rule, SamplingParams
from paceline.edge.client import Client, check_request
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest, Report, Round
from paceline.edge.run import Run
from paceline.simulation.pair import VirtualWorker


class FixedHop:
    """A hop that only describes."""

    def __init__(self, **changes: Any) -> None:
        served = {
            "software_version": "0",
            "model_name": "m",
            "vocab_size": 64,
            "max_context": 99,
            "max_sessions": 1,
        }
        self.description = Description(**served, max_draft_tokens=4, rules=tuple(Rule), **changes)
        self.is_closed = False

    async def describe(self) -> Description:
        """What it was given."""
        return self.description

    def stream(self) -> Any:
        """Never asked."""
        raise AssertionError("no stream was expected")

    async def close(self) -> None:
        """Remember it."""
        self.is_closed = True


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt_token_ids": ()}, "prompt"),
        ({"prompt_token_ids": (1, -1)}, "prompt_token_ids[1]"),
        ({"prompt_token_ids": (1 << 32,)}, "prompt_token_ids[0]"),
        ({"stop_token_ids": (-5,)}, "stop_token_ids[0]"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 1 << 32}, "max_new_tokens"),
        ({"num_speculative_tokens": 0}, "num_speculative_tokens"),
        ({"seed": -1}, "seed"),
        ({"seed": 1 << 64}, "seed"),
        ({"sampling": SamplingParams(float("nan"))}, "temperature"),
        ({"rule": Rule.COUPLED}, "rule"),
        ({"rule": Rule.GREEDY, "sampling": SamplingParams(1.0)}, "rule"),
    ],
)
def test_a_request_nobody_could_serve_is_refused_at_once(changes: dict[str, Any], field: str) -> None:
    """The error names the field and a cure, before anything is sent."""
    request = GenerationRequest(**{"prompt_token_ids": (1,), **changes})
    with pytest.raises(InvalidRequest) as caught:
        check_request(request)
    assert caught.value.field == field
    assert caught.value.cure


async def test_an_unknown_mode_is_refused_with_the_known_ones() -> None:
    """A misspelt mode is an error that lists the modes."""
    client = Client(None, TableDrafter())
    with pytest.raises(InvalidRequest, match="sync, cloud, local"):
        client.generate(GenerationRequest((1,)), "snyc")
    await client.close()


@pytest.mark.parametrize(
    ("mode", "field"), [("sync", "verifier"), ("cloud", "verifier"), ("local", "draft_model")]
)
async def test_a_mode_says_what_it_needs(mode: str, field: str) -> None:
    """Without a verifier or a drafter the mode that needs it says so."""
    client = Client(None)
    with pytest.raises(InvalidRequest) as caught:
        await client.complete(GenerationRequest((1,)), mode)
    assert caught.value.field == field
    await client.close()


async def test_sync_needs_a_drafter() -> None:
    """Mode sync without a drafter is refused before a stream is opened."""
    async with Client(FixedHop()) as client:
        with pytest.raises(InvalidRequest, match="needs a drafter"):
            await client.complete(GenerationRequest((1,)))


async def test_connecting_checks_version_and_vocabulary() -> None:
    """A verifier of another protocol or vocabulary is refused; an unknown vocabulary is taken."""
    with pytest.raises(UnsupportedVersion):
        await Client(FixedHop(protocol_version=2)).connect()
    with pytest.raises(Incompatible, match="vocabulary"):
        await Client(FixedHop(tokenizer_fingerprint=b"a"), tokenizer_fingerprint=b"b").connect()
    await Client(FixedHop(), tokenizer_fingerprint=b"b").connect()
    await Client(FixedHop(tokenizer_fingerprint=b"a")).connect()
    with pytest.raises(InvalidRequest, match="no verifier"):
        await Client(None).connect()


async def test_closing_the_client_closes_its_hop() -> None:
    """The link belongs to the client."""
    hop = FixedHop()
    async with Client(hop):
        pass
    assert hop.is_closed


async def test_local_text_is_the_drafters_and_marked_so() -> None:
    """Mode local writes the drafter's own greedy text, every token unverified, and stops at a stop token."""
    client = Client(None, TableDrafter(64), eos_token_ids=())
    report = await client.complete(GenerationRequest((1, 2), 30), "local")
    assert len(report.token_ids) == 30
    assert set(report.origins) == {Origin.UNVERIFIED}
    assert report.finish_reason is FinishReason.LENGTH
    stop = report.token_ids[11]
    position = report.token_ids.index(stop)
    again = await client.complete(GenerationRequest((1, 2), 30, stop_token_ids=(stop,)), "local")
    assert again.token_ids == report.token_ids[: position + 1]
    assert again.finish_reason is FinishReason.STOP
    await client.close()


def test_a_report_adds_up() -> None:
    """Rates follow their definitions and are defined for an empty generation."""
    report = Report("sync", Rule.GREEDY, 3)
    assert (report.acceptance_rate, report.mean_acceptance_length, report.tokens_per_s) == (0.0, 1.0, 0.0)
    report.rounds += [Round(4, 3, 0.1, 0.5, 0.2, 0.1), Round(4, 1, 0.1, 0.2, 0.2, 0.1)]
    report.token_ids, report.total_s = [1] * 6, 2.0
    assert (report.drafted_tokens, report.accepted_tokens) == (8, 4)
    assert (report.acceptance_rate, report.mean_acceptance_length, report.tokens_per_s) == (0.5, 3.0, 3.0)
    assert report.rounds[0].network_s == pytest.approx(0.2)
    assert report.rounds[1].network_s == 0.0


@pytest.mark.parametrize(("described", "first"), [(64, 8), (4, 4), (None, 8)])
def test_no_block_is_long_before_the_verifier_that_answers_has_said_what_it_takes(
    described: int | None, first: int
) -> None:
    """Another one than answered when the client connected may take shorter ones; so may whoever answers next."""
    served = None if described is None else Description("0", "m", 64, 99, 1, described, tuple(Rule))
    request = GenerationRequest((1, 2), 9)
    run = Run(request, Report("sync", Rule.GREEDY, 2), VirtualWorker(0.0), verifier=served)
    session = run.session(FillPolicy.OFF)
    for _ in range(2):
        session.open()
        assert run.max_draft_tokens(session) == first
        session.receive(Opened(64, 32, 4, 2))
        assert run.max_draft_tokens(session) == 32
