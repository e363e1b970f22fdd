"""What the playground is told."""

from pathlib import Path

from paceline.common.tokenizer import Tokenizer
from paceline.common.tokens import Origin, Rule
from paceline.edge.pacing.estimates import Estimates
from paceline.edge.request import LinkEvent, ProvisionalEvent, Report, RetractedEvent, TokensEvent
from paceline.edge.serve.telling import Teller


def test_events_are_told_with_text_counted_from_the_prompt(models: Path) -> None:
    """Tokens, drafts, retractions and the link; speed and acceptance with every verdict."""
    tokenizer = Tokenizer(models / "base")
    ids = tokenizer.encode("def f(x):\n    return x")
    report, times = Report("stream", Rule.GREEDY, 3), iter([0.0, 0.5, 1.0, 1.5, 2.0])
    teller = Teller(tokenizer, report, Estimates(), clock=lambda: next(times))
    (ahead,) = teller.tell(ProvisionalEvent(3, ids[:3]))
    assert (ahead["type"], ahead["position"], ahead["at_s"]) == ("provisional", 0, 0.5)
    (back,) = teller.tell(RetractedEvent(5))
    assert (back["type"], back["position"]) == ("retracted", 2)
    report.token_ids.extend(ids)
    told, gauges = teller.tell(
        TokensEvent(3, ids, (Origin.ACCEPTED,) * 2 + (Origin.FILLED,) * (len(ids) - 2), (0,) * len(ids))
    )
    assert "".join(one["text"] for one in told["tokens"]) == tokenizer.decode(ids)
    assert [one["origin"] for one in told["tokens"]][:3] == ["accepted", "accepted", "filled"]
    assert gauges["tokens_per_s"] == len(ids) / 1.5
    assert gauges["acceptance"] is None
    (link,) = teller.tell(LinkEvent(is_up=False))
    assert link["is_up"] is False
