"""Prometheus metrics of an endpoint. Suffixes are vLLM's, so that existing dashboards keep working."""

from prometheus_client import generate_latest

from paceline.common.metrics import Instruments
from paceline.common.tokens import Origin
from paceline.edge.request import Report

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_PER_TOKEN = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class EndpointMetrics:
    """Counters of one endpoint; every one carries the hop's name as a label."""

    def __init__(self, hop: str = "edge") -> None:
        make = Instruments(hop)
        self.registry = make.registry
        """What the client behind it counts is kept here too."""
        self._hop = hop
        self._prompt = make.counter("prompt_tokens", "Prompt tokens of texts that ended")
        self._generated = make.counter("generation_tokens", "Tokens written")
        self._unverified = make.counter("unverified_tokens", "Tokens no target has seen")
        self._rounds = make.counter("spec_decode_num_drafts", "Rounds with drafts")
        self._drafted = make.counter("spec_decode_num_draft_tokens", "Tokens sent for verification")
        self._accepted = make.counter("spec_decode_num_accepted_tokens", "Drafted tokens that stand")
        self._reconnects = make.counter("reconnects", "Links that broke and came back within a text")
        self._ended = make.counters("request_success", "Texts that ended", "finished_reason")
        self._refused = make.counters("http_refusals", "Requests that were refused", "status")
        self._running = make.gauge("num_requests_running", "Texts under way")
        self._verifier_up = make.gauge("verifier_up", "Whether the verifier answered last")
        self._first = make.histogram("time_to_first_token_seconds", "Until the first token", _SECONDS)
        self._whole = make.histogram("e2e_request_latency_seconds", "Of a text, in all", _SECONDS)
        self._each = make.histogram("time_per_output_token_seconds", "After the first token", _PER_TOKEN)

    def began(self) -> None:
        """A text is under way."""
        self._running.inc()

    def ended(self, report: Report, reason: str) -> None:
        """A text has ended, or was left."""
        self._running.dec()
        num_written = len(report.token_ids)
        self._ended.labels(self._hop, reason).inc()
        self._prompt.inc(report.num_prompt_tokens)
        self._generated.inc(num_written)
        self._unverified.inc(report.origins.count(Origin.UNVERIFIED))
        self._rounds.inc(sum(one.num_drafted > 0 for one in report.rounds))
        self._drafted.inc(report.drafted_tokens)
        self._accepted.inc(report.accepted_tokens)
        self._reconnects.inc(report.num_reconnects)
        self._whole.observe(report.total_s)
        if num_written:
            self._first.observe(report.ttft_s)
        if num_written > 1:
            self._each.observe((report.total_s - report.ttft_s) / (num_written - 1))

    def refused(self, http_status: int) -> None:
        """A request was answered with an error."""
        self._refused.labels(self._hop, str(http_status)).inc()

    def heard(self, *, is_up: bool) -> None:
        """The verifier answered, or did not."""
        self._verifier_up.set(is_up)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
