"""How generations look: coloured tokens and tables for people, one JSON object for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Table
from rich.text import Text

from paceline.common.messages import HopReport
from paceline.common.tokenizer import TextStream, Tokenizer
from paceline.common.tokens import Origin
from paceline.edge.request import Report, TokensEvent

STYLES = {
    Origin.ACCEPTED: "green",
    Origin.RECOVERED: "yellow",
    Origin.BONUS: "cyan",
    Origin.FILLED: "default",
    Origin.UNVERIFIED: "dim",
}
_MEANING = {
    Origin.ACCEPTED: "drafted and accepted",
    Origin.RECOVERED: "corrected",
    Origin.BONUS: "bonus",
    Origin.FILLED: "target alone",
    Origin.UNVERIFIED: "not verified",
}
# A terminal obeys some characters instead of showing them; a model may write any. Line ends and tabs are let through.
_CONTROL = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


@dataclass(frozen=True, slots=True)
class Look:
    """How a generation is to be shown."""

    as_json: bool = False
    explain: bool = False


def result(report: Report, text: str) -> dict[str, Any]:
    """The `--json` object of a generation. Its keys are a contract."""
    rounds = report.rounds
    return {
        "text": text,
        "token_ids": report.token_ids,
        "finish_reason": str(report.finish_reason) if report.finish_reason else None,
        "mode": report.mode,
        "rule": str(report.rule),
        "verified": Origin.UNVERIFIED not in report.origins,
        "usage": {"prompt_tokens": report.num_prompt_tokens, "completion_tokens": len(report.token_ids)},
        "speculation": {
            "rounds": len(rounds),
            "drafted_tokens": report.drafted_tokens,
            "accepted_tokens": report.accepted_tokens,
            "acceptance_rate": report.acceptance_rate,
            "mean_acceptance_length": report.mean_acceptance_length,
            "target_passes": report.num_passes,
            "bytes_up": report.traffic.bytes_up,
            "bytes_down": report.traffic.bytes_down,
        },
        "timing": {
            "ttft_s": report.ttft_s,
            "total_s": report.total_s,
            "tokens_per_s": report.tokens_per_s,
            "draft_s": sum(one.draft_s for one in rounds),
            "verify_s": sum(one.verify_s for one in rounds),
            "network_s": sum(one.network_s for one in rounds),
        },
        "reconnects": report.num_reconnects,
        "hops": hops(report),
        "decisions": [asdict(decision) for decision in report.decisions],
    }


def hops(report: Report) -> list[dict[str, Any]]:
    """What every hop did for a text, from the device to the last; part of the contract of `--json`."""
    device = HopReport(
        name="device",
        verify_s=sum(one.draft_s for one in report.rounds),
        bytes_up=report.traffic.bytes_up,
        bytes_down=report.traffic.bytes_down,
        round_trip_s=report.round_trip_s,
        num_reconnects=report.num_reconnects,
    )
    chain = (device, *report.hops)
    return [
        {
            "name": hop.name or _role(index, len(chain)),
            "role": _role(index, len(chain)),
            "judged_tokens": hop.num_judged,
            "accepted_tokens": hop.num_accepted,
            "acceptance_rate": hop.num_accepted / hop.num_judged if hop.num_judged else 0.0,
            "written_tokens": report.authors.count(index),
            "passes": hop.num_passes,
            "model_s": hop.verify_s,
            "bytes_up": hop.bytes_up,
            "bytes_down": hop.bytes_down,
            "round_trip_s": hop.round_trip_s,
            "reconnects": hop.num_reconnects,
        }
        for index, hop in enumerate(chain)
    ]


def _role(index: int, length: int) -> str:
    if index == 0:
        return "drafter"
    return "verifier" if index == length - 1 else "relay"


def hop_table(report: Report) -> Table:
    """The same for people: who wrote the text, what was checked, what crossed each link."""
    table = Table(title="hops", title_justify="left", box=SIMPLE, pad_edge=False)
    for name in ("hop", "wrote", "accepted of judged", "passes", "model", "link up", "bytes up / down"):
        table.add_column(name, justify="left" if name == "hop" else "right")
    for hop in hops(report):
        is_last = hop["role"] == "verifier"
        table.add_row(
            escape(hop["name"]),
            str(hop["written_tokens"]),
            f"{hop['accepted_tokens']} of {hop['judged_tokens']}" if hop["judged_tokens"] else "-",
            str(hop["passes"]) if hop["passes"] else "-",
            f"{hop['model_s']:.2f} s",
            "-" if is_last else f"{1000 * hop['round_trip_s']:.1f} ms",
            "-" if is_last else f"{hop['bytes_up']} / {hop['bytes_down']}",
        )
    return table


def print_json(value: Any) -> None:
    """Exactly one object on stdout."""
    print(json.dumps(value, ensure_ascii=False))


class TokenPrinter:
    """Prints tokens as they come, coloured by who wrote them; to a pipe or a file the text alone, as it is."""

    def __init__(self, console: Console, tokenizer: Tokenizer) -> None:
        self._console = console
        self._stream: TextStream = tokenizer.stream()

    def show(self, event: TokensEvent) -> None:
        """Print the text an event completes."""
        for token_id, origin in zip(event.token_ids, event.origins, strict=True):
            self.write(self._stream.push(token_id), STYLES[origin])

    def write(self, text: str, style: str) -> None:
        """Print text neither wrapped nor otherwise arranged: it may be code."""
        if self._console.is_terminal:
            segment = Segment(text.translate(_CONTROL), Style.parse(style))
            self._console.print(Segments([segment]), end="", soft_wrap=True)
        elif not self._console.quiet:
            self._console.file.write(text)
            self._console.file.flush()


def legend(origins: Sequence[Origin]) -> Text:
    """What the colours mean, for the origins that occurred; fits on a line of 80 columns."""
    parts = [
        Text.assemble(("■ ", STYLES[origin]), f"{_MEANING[origin]} {origins.count(origin)}")
        for origin in Origin
        if origin in origins
    ]
    return Text(" · ").join(parts)


def brief(report: Report) -> str:
    """A generation in one line."""
    line = f"{len(report.token_ids)} tokens · {report.tokens_per_s:.0f} tokens/s"
    return f"{line} · {report.acceptance_rate:.0%} of the drafts accepted" if report.drafted_tokens else line


def decisions(report: Report) -> Table:
    """What mode auto decided, when, and why."""
    table = Table(title="decisions of mode auto", title_justify="left", box=SIMPLE, pad_edge=False)
    for name in (
        "at token",
        "s",
        "decision",
        "why",
        "round trip",
        "draft token",
        "target pass",
        "acceptance",
    ):
        table.add_column(name, overflow="fold")
    for one in report.decisions:
        known = one.estimates
        table.add_row(
            str(one.position - report.num_prompt_tokens),
            f"{one.at_s:.2f}",
            one.action,
            one.why,
            f"{1000 * known['round_trip_s']:.1f} ms",
            f"{1000 * known['draft_token_s']:.2f} ms",
            f"{1000 * known['verify_fixed_s']:.1f} + {1000 * known['verify_per_token_s']:.2f} n ms",
            f"{known['acceptance']:.2f}",
        )
    return table


def summary(report: Report) -> Table:
    """A small table of what a generation did."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    table.add_row(
        "speed", f"{report.tokens_per_s:.1f} tokens/s ({len(report.token_ids)} in {report.total_s:.2f} s)"
    )
    table.add_row("first token", f"{1000 * report.ttft_s:.0f} ms")
    if report.rounds:
        table.add_row(
            "acceptance",
            f"{report.acceptance_rate:.0%} of {report.drafted_tokens} drafted; "
            f"{report.mean_acceptance_length:.2f} tokens per target pass",
        )
        spent = (sum(r.draft_s for r in report.rounds), sum(r.verify_s for r in report.rounds))
        network_s = sum(r.network_s for r in report.rounds)
        table.add_row("time", f"draft {spent[0]:.2f} s · verify {spent[1]:.2f} s · link {network_s:.2f} s")
    if report.num_passes:
        table.add_row("target passes", f"{report.num_passes / max(len(report.token_ids), 1):.2f} per token")
    if report.num_reconnects:
        times = "once" if report.num_reconnects == 1 else f"{report.num_reconnects} times"
        table.add_row("link", f"lost and found again {times}")
    if report.token_ids and report.mode != "local":
        per_token = (report.traffic.bytes_up + report.traffic.bytes_down) / len(report.token_ids)
        table.add_row("wire", f"{per_token:.0f} bytes per token")
    table.add_row("rule", f"{report.rule}, mode {report.mode}, finish: {report.finish_reason}")
    return table
