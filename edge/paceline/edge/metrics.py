"""Prometheus metrics of whoever asks a verifier: a device, or a relay towards the hop above."""

from prometheus_client import CollectorRegistry

from paceline.common.errors import PacelineError
from paceline.common.metrics import CALLING, Acceptance, Instruments, Pace, TextPace
from paceline.edge.request import Event, Report, TokensEvent


class EdgeMetrics:
    """Counters of one client; give it to `Client`, which tells it of every text.

    Args:
        hop: the label's value.
        registry: where they are kept; one of their own unless something else is given.
    """

    def __init__(self, hop: str = "edge", registry: CollectorRegistry | None = None) -> None:
        make = Instruments(hop, CALLING, registry)
        self.hop = hop
        self.registry = make.registry
        self.pace = Pace(make)
        self.acceptance = Acceptance(make)
        self.errors = make.counters("errors", "Texts that ended with an error", "reason")
        self.written = make.counters(
            "tokens_by_origin", "Tokens of texts, by who wrote them: accepted, recovered, bonus, …", "origin"
        )
        self.draft = make.histogram("draft_time_seconds", "Drafting the blocks that one verdict settles")
        self.round = make.histogram(
            "round_time_seconds", "From sending a block to the verdict that settles it"
        )
        self.network = make.histogram(
            "network_time_seconds", "What of a round is neither the verifier's queue nor its step"
        )
        self.round_trip = make.gauge(
            "network_round_trip_seconds", "Round trip of the link, as the last text measured it"
        )
        self.reconnects = make.counter("reconnects", "Links that broke in the middle of a text and came back")
        self.bytes = make.counters(
            "traffic_bytes", "Bytes of messages, without HTTP/2's own; counted at a text's end", "direction"
        )

    def follow(self, report: Report, now_s: float) -> "TextMetrics":
        """A text begins; tell the result what becomes of it."""
        return TextMetrics(self, report, now_s)


class TextMetrics:
    """One text's share of `EdgeMetrics`."""

    def __init__(self, metrics: EdgeMetrics, report: Report, now_s: float) -> None:
        self._metrics = metrics
        self._report = report
        self._pace = TextPace(metrics.pace, report.num_prompt_tokens, now_s)
        self._num_rounds = 0

    def on_event(self, event: Event, now_s: float) -> None:
        """Something happened to the text."""
        if isinstance(event, TokensEvent):
            self._pace.tokens(len(event.token_ids), now_s)
            for origin in event.origins:
                self._metrics.written.labels(self._metrics.hop, origin).inc()
            self._count_rounds()

    def on_end(self, error: BaseException | None, now_s: float) -> None:
        """The text is complete, or has failed, or nobody wants the rest of it."""
        metrics, report = self._metrics, self._report
        self._count_rounds()
        self._pace.ended(now_s)
        if error is None and report.finish_reason is not None:
            self._pace.finished(report.finish_reason)
        elif isinstance(error, PacelineError):
            metrics.errors.labels(metrics.hop, error.reason).inc()
        metrics.reconnects.inc(report.num_reconnects)
        metrics.bytes.labels(metrics.hop, "up").inc(report.traffic.bytes_up)
        metrics.bytes.labels(metrics.hop, "down").inc(report.traffic.bytes_down)
        if report.round_trip_s:
            metrics.round_trip.set(report.round_trip_s)

    def _count_rounds(self) -> None:
        """Those since the last look."""
        rounds = self._report.rounds[self._num_rounds :]
        self._num_rounds += len(rounds)
        for one in rounds:
            self._metrics.acceptance.count(one.num_drafted, one.num_accepted)
            self._metrics.draft.observe(one.draft_s)
            if one.round_s:
                self._metrics.round.observe(one.round_s)
                self._metrics.network.observe(one.network_s)
