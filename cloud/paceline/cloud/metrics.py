"""Prometheus metrics of a verifier. Suffixes are vLLM's, so that existing dashboards keep working."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class VerifierMetrics:
    """Counters of one verifier; every one carries the hop's name as a label."""

    def __init__(self, hop: str = "cloud") -> None:
        self.registry = CollectorRegistry()
        self._hop = hop
        self._drafts = self._counter("spec_decode_num_drafts", "Draft blocks judged")
        self._drafted = self._counter("spec_decode_num_draft_tokens", "Drafted tokens judged")
        self._accepted = self._counter("spec_decode_num_accepted_tokens", "Drafted tokens accepted")
        self._filled = self._counter(
            "spec_decode_num_filled_tokens", "Tokens committed without a client's draft"
        )
        self._prompt = self._counter("prompt_tokens", "Prompt tokens of admitted sessions")
        self._generated = self._counter("generation_tokens", "Tokens committed")
        self._errors = Counter(
            "paceline_errors", "Errors sent to clients", ["hop", "reason"], registry=self.registry
        )
        self._sessions = Gauge(
            "paceline_num_requests_running", "Live sessions", ["hop"], registry=self.registry
        ).labels(hop)
        self._parked = Gauge(
            "paceline_num_sessions_parked", "Caches kept for lost streams", ["hop"], registry=self.registry
        ).labels(hop)
        self._unparked = Counter(
            "paceline_parked_caches",
            "Caches that are parked no more, by why: hit, evicted, expired or dropped",
            ["hop", "why"],
            registry=self.registry,
        )
        self._unproved = self._counter("unproved_tokens", "Tokens of history that came without a receipt")
        self._verify = self._histogram("verify_time_seconds", "From step to verdict", _SECONDS)
        self._step = self._histogram("step_time_seconds", "Engine step", _SECONDS)
        self._batch_sessions = self._histogram("verify_batch_sessions", "Sessions per engine step", _SIZES)
        self._batch_tokens = self._histogram("verify_batch_tokens", "Tokens per engine step", _SIZES)

    def serve(self, port: int) -> None:
        """Expose the metrics on loopback."""
        start_http_server(port, addr="127.0.0.1", registry=self.registry)

    def session_opened(self, num_prompt_tokens: int) -> None:
        """A session was admitted."""
        self._sessions.inc()
        self._prompt.inc(num_prompt_tokens)

    def session_closed(self) -> None:
        """A session is gone."""
        self._sessions.dec()

    def judged(
        self, num_drafted: int, num_accepted: int, num_committed: int, seconds: float, *, is_own: bool = False
    ) -> None:
        """A verdict was given; on a draft of the verifier's own, if `is_own`."""
        if is_own:
            self._filled.inc(num_committed)
        else:
            self._drafts.inc(num_drafted > 0)
            self._drafted.inc(num_drafted)
            self._accepted.inc(num_accepted)
        self._generated.inc(num_committed)
        self._verify.observe(seconds)

    def stepped(self, num_sessions: int, num_tokens: int, seconds: float) -> None:
        """The engine ran one step."""
        self._step.observe(seconds)
        self._batch_sessions.observe(num_sessions)
        self._batch_tokens.observe(num_tokens)

    def parked(self) -> None:
        """A cache is kept for whoever comes back."""
        self._parked.inc()

    def unparked(self, why: str) -> None:
        """It is kept no more."""
        self._parked.dec()
        self._unparked.labels(self._hop, why).inc()

    def unproved(self, num_tokens: int) -> None:
        """History came that no receipt speaks for."""
        self._unproved.inc(num_tokens)

    def failed(self, reason: str) -> None:
        """An error was sent."""
        self._errors.labels(self._hop, reason).inc()

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"paceline_{name}", text, ["hop"], registry=self.registry).labels(self._hop)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"paceline_{name}", text, ["hop"], buckets=buckets, registry=self.registry).labels(
            self._hop
        )
