"""Prometheus instruments of one hop, whichever end it is: every one carries the hop's name as a label.

Names end as vLLM's do, so that what is known of vLLM's dashboards holds here. A hop that serves counts under
`paceline_`, what it sends to the hop above under `paceline_client_`; a relay does both, into one registry.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

SERVING, CALLING = "paceline_", "paceline_client_"
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
NUM_POSITIONS = 16
"""Places in a draft that are counted one by one; what stands behind them is in the totals only."""


class Instruments:
    """Makes instruments of one hop.

    Args:
        hop: the label's value.
        prefix: what names begin with.
        registry: where they are kept; one of their own unless something else is given.
    """

    def __init__(self, hop: str, prefix: str = SERVING, registry: CollectorRegistry | None = None) -> None:
        self.hop = hop
        self.registry = registry or CollectorRegistry()
        self._prefix = prefix

    def counter(self, name: str, text: str) -> Counter:
        """Only grows; its name gets the suffix `_total`."""
        return self.counters(name, text).labels(self.hop)

    def counters(self, name: str, text: str, *labels: str) -> Counter:
        """One counter for each value of the labels; the first label is the hop."""
        return Counter(self._prefix + name, text, ["hop", *labels], registry=self.registry)

    def gauge(self, name: str, text: str) -> Gauge:
        """A value that goes up and down."""
        return Gauge(self._prefix + name, text, ["hop"], registry=self.registry).labels(self.hop)

    def histogram(self, name: str, text: str, buckets: Sequence[float] = SECONDS) -> Histogram:
        """How values are spread; seconds unless other buckets are given."""
        one = Histogram(self._prefix + name, text, ["hop"], buckets=buckets, registry=self.registry)
        return one.labels(self.hop)

    def serve(self, port: int, host: str = "127.0.0.1") -> None:
        """Expose the whole registry over plain HTTP.

        Raises:
            OSError: the port is taken.
        """
        start_http_server(port, addr=host, registry=self.registry)


class Acceptance:
    """What became of drafts, under the four names every engine with speculation has.

    Args:
        instruments: where it is counted.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._drafts = instruments.counter("spec_decode_num_drafts", "Draft blocks judged")
        self._drafted = instruments.counter("spec_decode_num_draft_tokens", "Drafted tokens judged")
        self._accepted = instruments.counter("spec_decode_num_accepted_tokens", "Drafted tokens accepted")
        by_place = instruments.counters(
            "spec_decode_num_accepted_tokens_per_pos",
            f"Drafted tokens accepted, by their place in the draft; the first {NUM_POSITIONS} only",
            "position",
        )
        self._by_place = [by_place.labels(instruments.hop, str(place)) for place in range(NUM_POSITIONS)]

    def count(self, num_drafted: int, num_accepted: int) -> None:
        """A draft was judged; nothing is counted where none was there."""
        if not num_drafted:
            return
        self._drafts.inc()
        self._drafted.inc(num_drafted)
        self._accepted.inc(num_accepted)
        for place in self._by_place[:num_accepted]:
            place.inc()


class Pace:
    """When the tokens of texts came, and how texts ended.

    Args:
        instruments: where it is counted.
    """

    def __init__(self, instruments: Instruments) -> None:
        self.hop = instruments.hop
        self.running = instruments.gauge("num_requests_running", "Live texts")
        self.prompt = instruments.counter("prompt_tokens", "Prompt tokens of texts begun")
        self.generated = instruments.counter("generation_tokens", "Tokens committed")
        self.first = instruments.histogram(
            "time_to_first_token_seconds", "From a text's beginning to its first token"
        )
        self.between = instruments.histogram(
            "inter_token_latency_seconds",
            "Between two verdicts of a text, over the tokens of the second; once for each verdict",
        )
        self.whole = instruments.histogram(
            "e2e_request_latency_seconds", "From a text's beginning to its end, however it ended"
        )
        self.success = instruments.counters(
            "request_success", "Texts that ended as they should", "finished_reason"
        )


class TextPace:
    """One text's share of a `Pace`.

    Args:
        pace: where it is counted.
        num_prompt_tokens: it begins with.
        now_s: by whatever clock the rest is given.
    """

    def __init__(self, pace: Pace, num_prompt_tokens: int, now_s: float) -> None:
        self._pace = pace
        self._began_s = now_s
        self._last_s: float | None = None
        pace.running.inc()
        pace.prompt.inc(num_prompt_tokens)

    def tokens(self, count: int, now_s: float) -> None:
        """So many tokens were committed."""
        if not count:
            return
        self._pace.generated.inc(count)
        if self._last_s is None:
            self._pace.first.observe(now_s - self._began_s)
        else:
            self._pace.between.observe((now_s - self._last_s) / count)
        self._last_s = now_s

    def finished(self, reason: str) -> None:
        """The text is complete."""
        self._pace.success.labels(self._pace.hop, reason).inc()

    def ended(self, now_s: float) -> None:
        """Nothing more comes, for whatever reason."""
        self._pace.running.dec()
        self._pace.whole.observe(now_s - self._began_s)
