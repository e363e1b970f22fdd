"""`paceline topology plan`: what a chain gives before anything is bought."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from paceline.common.errors import InvalidRequest
from paceline.common.speed.costs import Costs, Prediction
from paceline.common.speed.formulas import (
    best_one_ahead_length,
    best_sync_length,
    best_sync_length_closed,
    break_even_bound_s,
    break_even_sync_s,
    predict_cloud,
    predict_colocated,
    predict_local,
    predict_one_ahead,
    predict_sync,
    stream_bound,
)
from paceline.common.speed.stream import predict_stream

_MAX_REQUESTS = 1_000_000
_DAY_S = 86_400.0
_STREAM_BLOCKS = (1, 2, 4, 8, 16)
_AHEAD = 64


@dataclass(frozen=True, slots=True)
class Way:
    """One way of generating."""

    name: str
    block: int
    tokens_per_s: float
    passes_per_token: float
    sessions_per_verifier: float
    """Sessions whose passes, one after another, fill one engine; those that share a pass are more."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Who asks for how much."""

    users: int
    requests_per_day: float
    """Per user."""
    tokens_per_request: int
    target_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """A simulated day of one way of generating."""

    requests: int
    """Simulated; with more than a million a day, a sample of the users."""
    peak_sessions: int
    p50_sessions: float
    p99_sessions: float
    verifiers: int
    """Enough for the 99th percentile."""


def plan(
    file: Annotated[Path, typer.Argument(help="Topology file.", show_default=False)],
    draft_ms: Annotated[float, typer.Option(help="Per drafted token on the device.")] = 10.0,
    verify_ms: Annotated[float, typer.Option(help="Per target pass.")] = 30.0,
    verify_per_token_ms: Annotated[float, typer.Option(help="Per token of a pass.")] = 0.2,
    rtt_ms: Annotated[float, typer.Option(help="Round trip between device and target.")] = 50.0,
    acceptance: Annotated[float, typer.Option(help="Share of drafted tokens that stand, 0 to 1.")] = 0.8,
    server_draft_ms: Annotated[float, typer.Option(help="Per token of a drafter beside the target.")] = 1.0,
    users: Annotated[int, typer.Option(help="People served.")] = 1000,
    requests_per_day: Annotated[float, typer.Option(help="Per user.")] = 50.0,
    tokens_per_request: Annotated[int, typer.Option(help="Length of an answer.")] = 300,
    target_tokens_per_s: Annotated[float, typer.Option(help="What a user is to get.")] = 20.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated day.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Predict speed, break-even round trips and verifiers needed, from given costs (`paceline bench` measures them)."""
    from paceline.common.config import load_topology

    topology = load_topology(file)
    costs = Costs(draft_ms / 1e3, verify_ms / 1e3, verify_per_token_ms / 1e3, rtt_ms / 1e3, acceptance)
    demand = _checked(Demand(users, requests_per_day, tokens_per_request, target_tokens_per_s))
    if not 0 <= server_draft_ms < 3.6e6:
        raise InvalidRequest(f"{server_draft_ms} is not a time", field="server_draft_ms", cure="0 or more")
    ways = predict(costs, server_draft_ms / 1e3)
    loads = {way.name: simulate_day(way, demand, seed) for way in ways if way.name != "local"}
    report = _report(file, costs, ways, loads, demand)
    report["hops"] = [hop.name for hop in topology.hops]
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
        return
    console = Console(highlight=False)
    console.print(_table(ways, loads))
    for line in report["verdict"]:
        console.print(line, soft_wrap=True)


def _checked(demand: Demand) -> Demand:
    for name in ("users", "requests_per_day", "tokens_per_request", "target_tokens_per_s"):
        value = getattr(demand, name)
        if not 0 < value < 1e12:
            raise InvalidRequest(f"{value} is not above 0", field=name, cure="give a number above 0")
    return demand


def predict(costs: Costs, server_draft_s: float) -> list[Way]:
    """Every way of generating at its best block length."""
    sync, ahead = best_sync_length(costs), best_one_ahead_length(costs)
    rows: list[tuple[str, int, Prediction]] = [
        ("local", 0, predict_local(costs)),
        ("cloud", 0, predict_cloud(costs)),
        ("co-located", 0, predict_colocated(costs, server_draft_s)),
        ("sync", sync, predict_sync(costs, sync)),
        ("one-ahead", ahead, predict_one_ahead(costs, ahead)),
    ]
    for name, fill in (("stream", False), ("stream + fill", True)):
        best = max(_STREAM_BLOCKS, key=lambda block: _stream(costs, block, fill=fill).tokens_per_s)
        rows.append((name, best, _stream(costs, best, fill=fill)))
    return [
        Way(name, block, one.tokens_per_s, one.passes_per_token, _sessions(costs, one))
        for name, block, one in rows
    ]


def _stream(costs: Costs, block: int, *, fill: bool) -> Prediction:
    return predict_stream(costs, block, max(block, _AHEAD), fill=fill)


def _sessions(costs: Costs, one: Prediction) -> float:
    passes_per_s = one.tokens_per_s * one.passes_per_token
    return 1 / (passes_per_s * costs.decode_s) if passes_per_s else math.inf


def simulate_day(way: Way, demand: Demand, seed: int) -> Load:
    """Poisson arrivals over a day that is busiest in the evening; up to a million requests.

    A request lasts as long as its tokens at this way's speed, or at the wanted one if that is lower.
    """
    wanted = demand.users * demand.requests_per_day
    dice = np.random.default_rng(seed)
    count = int(dice.poisson(min(wanted, _MAX_REQUESTS)))
    scale = wanted / max(min(wanted, _MAX_REQUESTS), 1.0)
    # 1 + 0.8 sin, busiest at 18 o'clock: thinning a uniform day.
    times = dice.uniform(0, _DAY_S, int(count * 2.2) + 16)
    busy = 1 + 0.8 * np.sin(2 * np.pi * (times / _DAY_S - 0.5))
    times = np.sort(times[dice.uniform(0, 1.8, len(times)) < busy][:count])
    lasts = dice.exponential(demand.tokens_per_request, len(times)) / min(
        way.tokens_per_s, demand.target_tokens_per_s
    )
    at = np.arange(0, _DAY_S, 60.0)
    live = np.searchsorted(times, at, side="right") - np.searchsorted(
        np.sort(times + lasts), at, side="right"
    )
    sessions = live * scale
    p99 = float(np.quantile(sessions, 0.99))
    # A session that wants less than the way gives leaves the rest of its passes to others.
    share = min(1.0, demand.target_tokens_per_s / way.tokens_per_s)
    return Load(
        requests=len(times),
        peak_sessions=int(sessions.max()),
        p50_sessions=float(np.quantile(sessions, 0.5)),
        p99_sessions=p99,
        verifiers=max(math.ceil(p99 * share / way.sessions_per_verifier), 1),
    )


def _report(
    file: Path, costs: Costs, ways: list[Way], loads: dict[str, Load], demand: Demand
) -> dict[str, Any]:
    sync = best_sync_length(costs)
    return {
        "file": str(file),
        "costs": asdict(costs),
        "demand": asdict(demand),
        "ways": [asdict(way) for way in ways],
        "best_sync_length": {"search": sync, "closed_form": best_sync_length_closed(costs)},
        "break_even_rtt_ms": {
            "sync": 1e3 * break_even_sync_s(costs, sync),
            "stream bound": 1e3 * break_even_bound_s(costs),
        },
        "stream_bound_tokens_per_s": stream_bound(costs),
        "day": {name: asdict(load) for name, load in loads.items()},
        "verdict": _verdict(costs, ways, sync, demand),
    }


def _verdict(costs: Costs, ways: list[Way], sync: int, demand: Demand) -> list[str]:
    rate = {way.name: way.tokens_per_s for way in ways}
    gain = rate["stream + fill"] / rate["cloud"]
    lines = [
        f"Drafting on the device gives {rate['stream + fill']:.1f} tokens/s against {rate['cloud']:.1f} from the cloud "
        f"alone ({gain:.2f}x) at {1e3 * costs.round_trip_s:g} ms; rounds break even below "
        f"{max(1e3 * break_even_sync_s(costs, sync), 0):.0f} ms, a stream without fill below "
        f"{max(1e3 * break_even_bound_s(costs), 0):.0f} ms."
    ]
    if gain < 1.05:
        lines.append("Over this link drafting on the device does not make a user's text faster.")
    if rate["co-located"] > rate["stream + fill"]:
        lines.append(
            f"A drafter beside the target would give {rate['co-located']:.1f}: take it where the server has room for "
            "one; the device's drafts save the server that work."
        )
    if max(rate["stream + fill"], rate["co-located"]) < demand.target_tokens_per_s:
        lines.append(f"No way reaches the wanted {demand.target_tokens_per_s:g} tokens/s.")
    return lines


def _table(ways: list[Way], loads: dict[str, Load]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("way", "block", "tokens/s", "passes/token", "sessions/verifier", "verifiers"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for way in ways:
        load = loads.get(way.name)
        table.add_row(
            way.name,
            str(way.block or "-"),
            f"{way.tokens_per_s:.1f}",
            f"{way.passes_per_token:.2f}",
            "-" if load is None else f"{way.sessions_per_verifier:.1f}",
            "-" if load is None else str(load.verifiers),
        )
    return table
