"""`paceline topology plan`: what a chain gives before anything is bought."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from paceline.cli.expectations import Expected, expected
from paceline.cli.written import open_topology
from paceline.common.errors import InvalidRequest
from paceline.common.speed.chain import Chain, worth_of
from paceline.common.speed.costs import Costs
from paceline.common.speed.formulas import (
    best_sync_length,
    best_sync_length_closed,
    break_even_bound_s,
    break_even_sync_s,
    stream_bound,
)
from paceline.common.speed.ways import Way, best_stream, filled_costs, predict_ways
from paceline.simulation.day import Demand, Load, simulate_day


def plan(
    file: Annotated[Path, typer.Argument(help="Topology file.", show_default=False)],
    draft_ms: Annotated[
        float | None, typer.Option(help="Per drafted token on the device; else the file's, else 10.")
    ] = None,
    verify_ms: Annotated[
        float | None, typer.Option(help="Per pass of the last hop; else the file's, else 30.")
    ] = None,
    verify_per_token_ms: Annotated[
        float | None, typer.Option(help="Per token of its pass; else the file's, else 0.2.")
    ] = None,
    rtt_ms: Annotated[
        float | None, typer.Option(help="Round trip below the last hop; else the file's, else 50.")
    ] = None,
    acceptance: Annotated[
        float | None,
        typer.Option(
            help="Share of the tokens from below that stand under the last hop; else the file's, else 0.8."
        ),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            help="Any figure of any hop, as in its section `expect`: metro.verify_ms=12, or "
            "cloud.acceptance.phone=0.7. Repeatable.",
        ),
    ] = None,
    server_draft_ms: Annotated[float, typer.Option(help="Per token of a drafter beside the target.")] = 1.0,
    users: Annotated[int, typer.Option(help="People served.")] = 1000,
    requests_per_day: Annotated[float, typer.Option(help="Per user.")] = 50.0,
    tokens_per_request: Annotated[int, typer.Option(help="Length of an answer.")] = 300,
    target_tokens_per_s: Annotated[float, typer.Option(help="What a user is to get.")] = 20.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated day.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Predict speed, whether each hop pays, break-even round trips and verifiers needed.

    Figures come from the sections `expect` of the file; options win over them (`paceline bench` measures such figures).
    """
    topology = open_topology(file)
    options = {
        "draft_ms": draft_ms,
        "verify_ms": verify_ms,
        "verify_per_token_ms": verify_per_token_ms,
        "rtt_ms": rtt_ms,
        "acceptance": acceptance,
    }
    found = expected(topology, options, expect or [])
    demand = Demand(users, requests_per_day, tokens_per_request, target_tokens_per_s)
    if not 0 <= server_draft_ms < 3.6e6:
        raise InvalidRequest(f"{server_draft_ms} is not a time", field="server_draft_ms", cure="0 or more")
    costs = found.chain.as_costs
    ways = predict_ways(costs, server_draft_ms / 1e3, found.chain.draft_s, filled_costs(found.chain))
    loads = {way.name: simulate_day(way, demand, seed) for way in ways if way.name != "local"}
    report = _report(file, found, ways, loads, demand)
    report["hops"] = [hop.name for hop in topology.hops]
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
        return
    console = Console(highlight=False)
    console.print(_table(ways, loads))
    if len(report["chain"]["terms"]) > 1:
        console.print(_terms_table(report["chain"]["terms"]))
    for line in report["verdict"]:
        console.print(line, soft_wrap=True)


def _report(
    file: Path, found: Expected, ways: list[Way], loads: dict[str, Load], demand: Demand
) -> dict[str, Any]:
    chain = found.chain
    costs = chain.as_costs
    sync = best_sync_length(costs)
    worths = [_worth(chain, index) for index in range(len(chain.hops) - 1)]
    return {
        "file": str(file),
        "assumed": found.assumed,
        "costs": asdict(costs),
        "demand": asdict(demand),
        "ways": [asdict(way) for way in ways],
        "best_sync_length": {"search": sync, "closed_form": best_sync_length_closed(costs)},
        "break_even_rtt_ms": {
            "sync": 1e3 * break_even_sync_s(costs, sync),
            "stream bound": 1e3 * break_even_bound_s(costs),
        },
        "stream_bound_tokens_per_s": stream_bound(costs),
        "chain": {
            "ms_per_token": 1e3 * chain.seconds_per_token,
            "draft_ms": 1e3 * chain.draft_s,
            "terms": [
                {
                    "hop": term.name,
                    "contradictions_per_token": term.contradictions,
                    "journey_ms": 1e3 * term.journey_s,
                    "ms_per_token": 1e3 * term.seconds,
                }
                for term in chain.terms
            ],
        },
        "worth": worths,
        "day": {name: asdict(load) for name, load in loads.items()},
        "verdict": [*_verdict(costs, ways, sync, demand), *map(_worth_in_words, worths), *_assumed(found)],
    }


def _worth(chain: Chain, index: int) -> dict[str, Any]:
    """A hop between: the sums with and without it, and what a stream with fill makes of either."""
    worth, without = worth_of(chain, index), chain.without(index)
    _, best_with = best_stream(filled_costs(chain), fill=True)
    _, best_without = best_stream(filled_costs(without), fill=True)
    below = chain.hops[index - 1].name if index else chain.device
    return {
        "hop": worth.name,
        "pays": best_with.tokens_per_s > best_without.tokens_per_s,
        "with_ms": 1e3 * worth.with_s,
        "without_ms": 1e3 * worth.without_s,
        "with": asdict(best_with),
        "without": asdict(best_without),
        "is_acceptance_without_it_a_guess": below not in chain.hops[index + 1].acceptance,
    }


def _worth_in_words(worth: dict[str, Any]) -> str:
    with_it, without = worth["with"], worth["without"]
    line = (
        f"{worth['hop']} {'pays' if worth['pays'] else 'does not pay'}: "
        f"{with_it['tokens_per_s']:.1f} tokens/s with it, {without['tokens_per_s']:.1f} without; "
        f"{with_it['passes_per_token']:.2f} and {without['passes_per_token']:.2f} target passes per token. "
        f"Without fill, contradictions cost {worth['with_ms']:.1f} and {worth['without_ms']:.1f} ms a token."
    )
    guess = " What would stand without it is a guess: the product of the two steps."
    return line + (guess if worth["is_acceptance_without_it_a_guess"] else "")


def _assumed(found: Expected) -> list[str]:
    if not found.assumed:
        return []
    return [f"Assumed, for nobody said: {', '.join(found.assumed)}."]


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


def _terms_table(terms: list[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("hop", "contradictions/token", "journey ms", "ms/token"):
        table.add_column(name, justify="left" if name == "hop" else "right")
    for term in terms:
        table.add_row(
            term["hop"],
            f"{term['contradictions_per_token']:.3f}",
            f"{term['journey_ms']:.1f}",
            f"{term['ms_per_token']:.1f}",
        )
    return table
