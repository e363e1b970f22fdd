"""Prometheus metrics of a verifier, or of a relay's own model."""

from prometheus_client import CollectorRegistry

from paceline.common.errors import Busy, InternalError, PacelineError, TargetNumerics
from paceline.common.metrics import SIZES, Acceptance, Instruments, Pace, TextPace


class VerifierMetrics:
    """Counters of one verifier.

    Args:
        hop: the label's value.
    """

    def __init__(self, hop: str = "cloud") -> None:
        make = self._instruments = Instruments(hop)
        self._pace = Pace(make)
        self._acceptance = Acceptance(make)
        self._filled = make.counter(
            "spec_decode_num_filled_tokens", "Tokens committed without a client's draft"
        )
        self._errors = make.counters("errors", "Errors sent to clients", "reason")
        self._refused = make.counters(
            "requests_refused",
            "Texts that were not taken; resource says what there was too little of, if that was why",
            "reason",
            "resource",
        )
        # A counter that first appears at 1 has not grown as far as Prometheus can see; what alerts watch begins at 0.
        for error in (InternalError(""), TargetNumerics("")):
            self._errors.labels(hop, error.reason)
        for resource in ("sessions", "kv_cache"):
            self._refused.labels(hop, Busy("").reason, resource)
        self._parked = make.gauge("num_sessions_parked", "Caches kept for lost streams")
        self._unparked = make.counters(
            "parked_caches", "Caches that are parked no more, by why: hit, evicted, expired or dropped", "why"
        )
        for why in ("hit", "evicted", "expired", "dropped"):
            self._unparked.labels(hop, why)
        self._unproved = make.counter("unproved_tokens", "Tokens of history that came without a receipt")
        self._waiting = make.gauge("num_requests_waiting", "Live texts for which the last step had no room")
        self._cache_used = make.gauge("kv_cache_usage_perc", "Share of the cache set aside for texts, 0 to 1")
        self._cache_tokens = make.gauge("kv_cache_reserved_tokens", "Cache tokens set aside for texts")
        self._cache_size = make.gauge("kv_cache_capacity_tokens", "Cache tokens there are")
        self._max_sessions = make.gauge("max_requests", "Texts that are taken at a time")
        self._queue = make.histogram(
            "request_queue_time_seconds", "From a draft's arrival to the step that judges it"
        )
        self._verify = make.histogram("verify_time_seconds", "From step to verdict")
        self._step = make.histogram("step_time_seconds", "Engine step")
        self._batch_sessions = make.histogram("verify_batch_sessions", "Texts per engine step", SIZES)
        self._batch_tokens = make.histogram("verify_batch_tokens", "Tokens per engine step", SIZES)

    @property
    def hop(self) -> str:
        """The label's value."""
        return self._instruments.hop

    @property
    def registry(self) -> CollectorRegistry:
        """Where everything is kept, and where a relay keeps what it sends to the hop above."""
        return self._instruments.registry

    def serve(self, port: int, host: str = "127.0.0.1") -> None:
        """Expose the metrics."""
        self._instruments.serve(port, host)

    def room(self, max_sessions: int, capacity_tokens: int) -> None:
        """What there is to give out."""
        self._max_sessions.set(max_sessions)
        self._cache_size.set(capacity_tokens)
        self._cache_used.set(0)

    def session_opened(self, num_prompt_tokens: int, now_s: float) -> TextPace:
        """A session was admitted; the result is told of its tokens and its end."""
        return TextPace(self._pace, num_prompt_tokens, now_s)

    def reserved(self, num_tokens: int, capacity_tokens: int) -> None:
        """So much of the cache is set aside now."""
        self._cache_tokens.set(num_tokens)
        self._cache_used.set(num_tokens / capacity_tokens if capacity_tokens else 0.0)

    def planned(self, num_left: int) -> None:
        """A step was planned; so many sessions found no room in it."""
        self._waiting.set(num_left)

    def judged(self, num_drafted: int, num_accepted: int, seconds: float, queue_s: float) -> None:
        """A verdict on a client's drafts was given, which lay there for `queue_s` before the step."""
        self._acceptance.count(num_drafted, num_accepted)
        self._queue.observe(queue_s)
        self._verify.observe(seconds)

    def filled(self, num_committed: int, seconds: float) -> None:
        """A verdict was given on a draft of the verifier's own."""
        self._filled.inc(num_committed)
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
        self._unparked.labels(self._instruments.hop, why).inc()

    def unproved(self, num_tokens: int) -> None:
        """History came that no receipt speaks for."""
        self._unproved.inc(num_tokens)

    def failed(self, error: PacelineError, *, is_open: bool) -> None:
        """An error was sent, to a text or to one that was not taken."""
        self._errors.labels(self._instruments.hop, error.reason).inc()
        if not is_open:
            resource = error.field if isinstance(error, Busy) else ""
            self._refused.labels(self._instruments.hop, error.reason, resource).inc()
