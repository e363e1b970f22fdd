"""`paceline top`: what the hops of a chain are doing, live, from their Prometheus endpoints."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from paceline.cli.reference import metric_reference
from paceline.common.errors import InvalidRequest, Unreachable

_TIMEOUT_S = 5.0
_LARGEST = 64 << 20
Scrape = dict[tuple[str, str], float]
"""Values by metric and hop, summed over all other labels."""


@dataclass(frozen=True, slots=True)
class HopSample:
    """One hop between two looks at it. Rates are per second; None where nothing happened to measure."""

    hop: str
    role: str
    """`serving`, or `calling` for what it sends to the hop above."""
    num_running: int
    max_running: int | None
    num_waiting: int | None
    cache_usage: float | None
    """0 to 1."""
    step_s: float | None
    batch_sessions: float | None
    batch_tokens: float | None
    tokens_per_s: float
    drafts_per_s: float
    acceptance_rate: float | None
    ttft_s: float | None
    queue_s: float | None
    num_refused: int
    """Since the hop started."""
    num_errors: int


def scrape(url: str) -> Scrape:
    """What an endpoint says now.

    Raises:
        Unreachable: nobody answers there.
        InvalidRequest: it is no Prometheus endpoint.
    """
    from prometheus_client.parser import text_string_to_metric_families

    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as reply:
            text = reply.read(_LARGEST).decode("utf-8")
        values: Scrape = {}
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                if not one.name.endswith(("_bucket", "_created")) and "hop" in one.labels:
                    key = (one.name, one.labels["hop"])
                    values[key] = values.get(key, 0.0) + one.value
    except (urllib.error.URLError, OSError):
        raise Unreachable(
            f"no answer from {url}", field="metrics", cure="serve with --metrics-port PORT, and name it here"
        ) from None
    except ValueError:
        raise InvalidRequest(f"{url} is no Prometheus endpoint", field="metrics", cure="check it") from None
    return values


def samples(before: Scrape, now: Scrape, seconds: float) -> list[HopSample]:
    """Each hop between two scrapes; what serves first, then what calls."""
    found = []
    for prefix, role in (("paceline_", "serving"), ("paceline_client_", "calling")):
        hops = sorted({hop for name, hop in now if name == f"{prefix}num_requests_running"})
        found += [_sample(_Between(before, now, prefix, hop), role, seconds) for hop in hops]
    return found


@dataclass(frozen=True, slots=True)
class _Between:
    before: Scrape
    now: Scrape
    prefix: str
    hop: str

    def value(self, name: str) -> float | None:
        return self.now.get((self.prefix + name, self.hop))

    def count(self, name: str) -> int:
        return round(self.value(name) or 0)

    def gain(self, name: str) -> float:
        """How much a counter grew; all of it if its process started anew."""
        now = self.value(name) or 0.0
        then = self.before.get((self.prefix + name, self.hop), 0.0)
        return now - then if now >= then else now

    def ratio(self, above: str, below: str) -> float | None:
        return self.gain(above) / self.gain(below) if self.gain(below) else None

    def mean(self, histogram: str) -> float | None:
        return self.ratio(f"{histogram}_sum", f"{histogram}_count")


def _sample(between: _Between, role: str, seconds: float) -> HopSample:
    limit, waiting = between.value("max_requests"), between.value("num_requests_waiting")
    return HopSample(
        hop=between.hop,
        role=role,
        num_running=between.count("num_requests_running"),
        max_running=None if limit is None else round(limit),
        num_waiting=None if waiting is None else round(waiting),
        cache_usage=between.value("kv_cache_usage_perc"),
        step_s=between.mean("step_time_seconds"),
        batch_sessions=between.mean("verify_batch_sessions"),
        batch_tokens=between.mean("verify_batch_tokens"),
        tokens_per_s=between.gain("generation_tokens_total") / seconds,
        drafts_per_s=between.gain("spec_decode_num_drafts_total") / seconds,
        acceptance_rate=between.ratio(
            "spec_decode_num_accepted_tokens_total", "spec_decode_num_draft_tokens_total"
        ),
        ttft_s=between.mean("time_to_first_token_seconds"),
        queue_s=between.mean("request_queue_time_seconds"),
        num_refused=between.count("requests_refused_total"),
        num_errors=between.count("errors_total"),
    )


def table(hops: Sequence[HopSample]) -> Table:
    """The same for people: a column for each hop, so that it fits a narrow terminal."""
    shown = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    shown.add_column("", style="dim")
    for one in hops:
        title = one.hop if one.role == "serving" else f"{one.hop}, to the hop above"
        shown.add_column(title, justify="right", header_style="bold")
    for label, show in _ROWS.items():
        shown.add_row(label, *map(show, hops))
    return shown


def _number(value: float | None, scale: float = 1.0) -> str:
    return "–" if value is None else f"{scale * value:.1f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _texts(one: HopSample) -> str:
    return str(one.num_running) if one.max_running is None else f"{one.num_running} of {one.max_running}"


_ROWS: Mapping[str, Callable[[HopSample], str]] = {
    "texts": _texts,
    "found no room in the last step": lambda one: "–" if one.num_waiting is None else str(one.num_waiting),
    "cache set aside": lambda one: _share(one.cache_usage),
    "engine step, ms": lambda one: _number(one.step_s, 1000),
    "texts in a step": lambda one: _number(one.batch_sessions),
    "tokens in a step": lambda one: _number(one.batch_tokens),
    "drafts wait for a step, ms": lambda one: _number(one.queue_s, 1000),
    "tokens per second": lambda one: _number(one.tokens_per_s),
    "drafts per second": lambda one: _number(one.drafts_per_s),
    "drafted tokens accepted": lambda one: _share(one.acceptance_rate),
    "first token after, ms": lambda one: _number(one.ttft_s, 1000),
    "texts refused, ever": lambda one: str(one.num_refused) if one.role == "serving" else "–",
    "errors, ever": lambda one: str(one.num_errors),
}


def top(
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            help="URL of a hop's Prometheus endpoint; repeat for several.", envvar="PACELINE_METRICS"
        ),
    ] = None,
    interval_s: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Look twice, show what happened between, and end.")
    ] = False,
    reference: Annotated[
        bool, typer.Option("--reference", help="Describe every metric in Markdown, and end.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON on stdout, one object for each look.")
    ] = False,
) -> None:
    """Show what verifiers and relays are doing: texts, batches, queue, cache, acceptance, tokens per second."""
    if reference:
        print(metric_reference())
        return
    urls = [_checked(url) for url in metrics or ["http://127.0.0.1:9090/metrics"]]
    console = Console()
    before, then_s = _all(urls), time.monotonic()
    with Live(console=console, auto_refresh=False, screen=False, transient=True) as live:
        while True:
            time.sleep(interval_s)
            now, now_s = _all(urls), time.monotonic()
            hops = samples(before, now, now_s - then_s)
            before, then_s = now, now_s
            if as_json:
                print(
                    json.dumps({"interval_s": interval_s, "hops": [asdict(hop) for hop in hops]}), flush=True
                )
            elif not once:
                live.update(table(hops), refresh=True)
            if once:
                break
    if not as_json:
        console.print(table(hops))


def _checked(url: str) -> str:
    given = url if "://" in url else f"http://{url}"
    scheme, _, rest = given.partition("://")
    if scheme not in ("http", "https") or not rest:
        raise InvalidRequest(
            f"{url!r} is no URL", field="metrics", cure="for example http://127.0.0.1:9090/metrics"
        )
    return given if "/" in rest else f"{given}/metrics"


def _all(urls: Sequence[str]) -> Scrape:
    found: dict[Any, float] = {}
    for url in urls:
        found |= scrape(url)
    return found
