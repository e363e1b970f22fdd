"""What the playground is told of a text on its way: each event with the text of its tokens, and how it goes."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from paceline.common.tokenizer import Tokenizer
from paceline.edge.pacing.estimates import Estimates
from paceline.edge.request import Event, LinkEvent, ProvisionalEvent, Report, RetractedEvent, TokensEvent

_CONTEXT = 16
"""Committed tokens that are decoded before provisional ones: how a token reads depends on a few before it."""


class Teller:
    """Turns the events of one generation into objects for the page.

    Positions count from the first generated token. Each object has `type` and `at_s`.

    Args:
        tokenizer: of the text.
        report: of the generation; grows while it runs.
        estimates: what the client has measured.
        is_direct: the next hop is the last one, and its passes are the target's.
        clock: seconds.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        report: Report,
        estimates: Estimates,
        *,
        is_direct: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._tokenizer = tokenizer
        self._num_prompt_tokens = report.num_prompt_tokens
        self._is_direct = is_direct
        self._clock = clock
        self._began_s = clock()
        self._report = report
        self._estimates = estimates
        self._stream = tokenizer.stream()

    def tell(self, event: Event) -> Iterator[Mapping[str, Any]]:
        """What the page is told of an event that happened now."""
        at_s = self._clock() - self._began_s
        match event:
            case TokensEvent():
                yield {"type": "tokens", "at_s": at_s, **self._tokens(event)}
                yield {"type": "gauges", "at_s": at_s, **self._gauges(at_s)}
            case ProvisionalEvent():
                texts = self._ahead(event)
                yield {
                    "type": "provisional",
                    "at_s": at_s,
                    "position": event.position - self._num_prompt_tokens,
                    "tokens": [{"text": text} for text in texts],
                }
            case RetractedEvent():
                position = event.position - self._num_prompt_tokens
                yield {"type": "retracted", "at_s": at_s, "position": position}
            case LinkEvent():
                yield {"type": "link", "at_s": at_s, "is_up": event.is_up}

    def _tokens(self, event: TokensEvent) -> Mapping[str, Any]:
        tokens = zip(event.token_ids, event.origins, event.authors, strict=True)
        return {
            "position": event.position - self._num_prompt_tokens,
            "tokens": [
                {"text": self._stream.push(token_id), "origin": str(origin), "author": author}
                for token_id, origin, author in tokens
            ],
        }

    def _ahead(self, event: ProvisionalEvent) -> Sequence[str]:
        """The texts of provisional tokens; those between the committed text and them are not known here, which may
        leave a character of several bytes unfinished at the seam."""
        stream = self._tokenizer.stream()
        for token_id in self._report.token_ids[-_CONTEXT:]:
            stream.push(token_id)
        return [stream.push(token_id) for token_id in event.token_ids]

    def _gauges(self, at_s: float) -> Mapping[str, Any]:
        report, estimates = self._report, self._estimates
        pass_s = estimates.decode_s if self._is_direct else 0.0
        count = len(report.token_ids)
        last = report.decisions[-1] if report.decisions else None
        return {
            "tokens_per_s": count / at_s if at_s > 0 else 0.0,
            "cloud_tokens_per_s": 1 / pass_s if pass_s else None,
            "acceptance": report.acceptance_rate if report.drafted_tokens else None,
            "round_trip_s": estimates.round_trip.typical_s,
            "passes_per_token": report.num_passes / count if count else None,
            "action": last.action if last else report.mode,
            "why": last.why if last else "",
        }
