"""The grid of `paceline bench link` for people: a table in the terminal, one self-contained page with plots."""

from html import escape

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from paceline.benchmarks.link import CONTESTANTS, Cell, LinkResult, break_even_ms

_COLOURS = {
    "local": "#999999",
    "cloud": "#222222",
    "co-located": "#8c564b",
    "sync": "#d62728",
    "one-ahead": "#ff7f0e",
    "stream": "#1f77b4",
    "auto": "#2ca02c",
}
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 320, 50, 40


def link_tables(result: LinkResult) -> RenderableType:
    """Tokens per second by mode and round trip, a table per temperature."""
    return Group(
        *(_table(result, temperature) for temperature in _temperatures(result)), Text(_footnote(result))
    )


def _table(result: LinkResult, temperature: float) -> Table:
    trips = _round_trips(result)
    table = Table(title=f"tokens/s (x cloud), temperature {temperature:g}", title_justify="left")
    table.add_column("mode")
    for trip in trips:
        table.add_column(f"{trip:g} ms", justify="right")
    table.add_column("break-even", justify="right")
    table.add_column("passes/token", justify="right")
    for mode in _modes(result):
        cells = [_find(result, mode, trip, temperature) for trip in trips]
        even = break_even_ms(result, mode, temperature)
        table.add_row(
            mode,
            *(f"{cell.tokens_per_s:.0f} ({cell.versus_cloud:.2f})" for cell in cells),
            "-" if mode in ("cloud", "local") else "none" if even is None else f"{even:.0f} ms",
            f"{min(c.passes_per_token for c in cells):.2f}-{max(c.passes_per_token for c in cells):.2f}",
        )
    bounds = [_find(result, "stream", trip, temperature).bound_tokens_per_s for trip in trips]
    table.add_row("stream bound", *(f"{bound:.0f}" for bound in bounds), "", "", style="dim")
    return table


def link_html(result: LinkResult) -> str:
    """One page without external assets."""
    parts = [_section(result, temperature) for temperature in _temperatures(result)]
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
        "color:#222;background:#fff}"
        "table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}td,th{padding:.2rem .6rem;"
        "text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}svg{width:100%}"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Paceline over a link</title><style>{style}</style></head><body><h1>Paceline over a link</h1>"
        f"<p>{escape(_footnote(result))}</p>{''.join(parts)}</body></html>\n"
    )


def _section(result: LinkResult, temperature: float) -> str:
    return (
        f"<h2>Temperature {temperature:g}</h2>{_plot(result, temperature)}{_html_table(result, temperature)}"
        f"{_decisions(result, temperature)}"
    )


def _plot(result: LinkResult, temperature: float) -> str:
    trips = _round_trips(result)
    shown = [mode for mode in _modes(result) if mode != "local"]
    top = 1.1 * max(_find(result, mode, trip, temperature).tokens_per_s for mode in shown for trip in trips)
    right = max(trips) or 1.0

    def point(trip: float, rate: float) -> str:
        x = _LEFT + (_WIDTH - _LEFT - 110) * trip / right
        return f"{x:.1f},{(_HEIGHT - _BOTTOM) * (1 - rate / top):.1f}"

    lines = []
    for row, mode in enumerate(shown):
        points = " ".join(point(trip, _find(result, mode, trip, temperature).tokens_per_s) for trip in trips)
        lines.append(f'<polyline points="{points}" fill="none" stroke="{_COLOURS[mode]}" stroke-width="2"/>')
        lines.append(f'<text x="{_WIDTH - 100}" y="{20 + 18 * row}" fill="{_COLOURS[mode]}">{mode}</text>')
    axis_y = _HEIGHT - _BOTTOM
    ticks = "".join(
        f'<text x="{point(trip, 0).split(",")[0]}" y="{axis_y + 16}" text-anchor="middle">{trip:g}</text>'
        for trip in trips
    )
    scale = "".join(
        f'<text x="{_LEFT - 6}" y="{axis_y * (1 - share) + 4:.0f}" text-anchor="end">{top * share:.0f}</text>'
        for share in (0, 0.25, 0.5, 0.75)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" font-size="11" role="img" aria-label="tokens per second by round trip">'
        f'<line x1="{_LEFT}" y1="{axis_y}" x2="{_WIDTH - 110}" y2="{axis_y}" stroke="#888"/>'
        f'<line x1="{_LEFT}" y1="0" x2="{_LEFT}" y2="{axis_y}" stroke="#888"/>{ticks}{scale}{"".join(lines)}'
        f'<text x="{_LEFT}" y="{_HEIGHT - 4}">round trip, ms; upwards: tokens/s</text></svg>'
    )


def _html_table(result: LinkResult, temperature: float) -> str:
    head = "".join(
        f"<th>{name}</th>"
        for name in (
            "mode", "round trip ms", "tokens/s", "x cloud", "inter-token p50 ms", "p95 ms", "passes/token",
            "bytes/token", "wasted drafts/token", "bound tokens/s",
        )
    )  # fmt: skip
    rows = "".join(_html_row(cell) for cell in result.cells if cell.temperature == temperature)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _html_row(cell: Cell) -> str:
    bound = f"{cell.bound_tokens_per_s:.1f}" if cell.bound_tokens_per_s else ""
    values = (
        cell.mode, f"{cell.round_trip_ms:g}", f"{cell.tokens_per_s:.1f}", f"{cell.versus_cloud:.2f}",
        f"{cell.inter_token_p50_ms:.1f}", f"{cell.inter_token_p95_ms:.1f}", f"{cell.passes_per_token:.2f}",
        f"{cell.bytes_per_token:.0f}", f"{cell.wasted_drafts_per_token:.2f}", bound,
    )  # fmt: skip
    return "<tr>" + "".join(f"<td>{value}</td>" for value in values) + "</tr>"


def _decisions(result: LinkResult, temperature: float) -> str:
    lines = [
        f"<li>{cell.round_trip_ms:g} ms: {escape('; '.join(cell.decisions))}</li>"
        for cell in result.cells
        if cell.mode == "auto" and cell.temperature == temperature
    ]
    return f"<details><summary>What mode auto decided</summary><ul>{''.join(lines)}</ul></details>"


def _footnote(result: LinkResult) -> str:
    settings, where = result.settings, result.machine
    kind = "virtual clock" if result.is_virtual else f"{where.cpu}, {where.cores} cores"
    floor = (
        f"; every engine step slowed down to at least {settings.verify_floor_ms:g} ms, for all modes alike"
        if settings.verify_floor_ms
        else ""
    )
    return (
        f"{where.date}, {kind}, commit {where.commit}; medians of {settings.num_prompts} texts of "
        f"{settings.max_new_tokens} tokens{floor}. {result.num_different_texts} texts differ between modes. "
        "local is not verified; co-located is the cloud with a drafter beside the verifier."
    )


def _modes(result: LinkResult) -> list[str]:
    present = {cell.mode for cell in result.cells}
    return [mode for mode in CONTESTANTS if mode in present]


def _round_trips(result: LinkResult) -> list[float]:
    return sorted({cell.round_trip_ms for cell in result.cells})


def _temperatures(result: LinkResult) -> list[float]:
    return sorted({cell.temperature for cell in result.cells})


def _find(result: LinkResult, mode: str, round_trip_ms: float, temperature: float) -> Cell:
    key = (mode, round_trip_ms, temperature)
    return next(one for one in result.cells if (one.mode, one.round_trip_ms, one.temperature) == key)
