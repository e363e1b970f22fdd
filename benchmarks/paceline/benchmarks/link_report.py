"""The grid of `paceline bench link` for people: tables in the terminal, one self-contained page with plots."""

from html import escape

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from paceline.benchmarks.link import CONTESTANTS, BreakEven, Cell, LinkResult
from paceline.benchmarks.plot import Line, line_plot, page
from paceline.benchmarks.plot import table as html_table

_COLOURS = {"cloud": 0, "sync": 1, "one-ahead": 2, "stream": 3, "auto": 4, "co-located": 5, "local": 6}
_CHECK_WITHIN = 0.1


def link_tables(result: LinkResult) -> RenderableType:
    """Tokens per second by mode and round trip, a table per temperature."""
    tables = [_table(result, temperature) for temperature in _temperatures(result)]
    checks = [
        _check_table(result, temperature) for temperature in _temperatures(result) if _is_checked(result)
    ]
    return Group(*tables, *checks, Text(_footnote(result)))


def _table(result: LinkResult, temperature: float) -> Table:
    trips = _round_trips(result)
    table = _grid(f"tokens/s (x cloud), temperature {temperature:g}", result)
    table.add_column("break-even", justify="right")
    table.add_column("passes/token", justify="right")
    for mode in _modes(result):
        cells = [_find(result, mode, trip, temperature) for trip in trips]
        table.add_row(
            mode,
            *(f"{cell.tokens_per_s:.0f} ({cell.versus_cloud:.2f})" for cell in cells),
            _break_even(result, mode, temperature),
            f"{min(c.passes_per_token for c in cells):.2f}-{max(c.passes_per_token for c in cells):.2f}",
        )
    bounds = [_bound(_find(result, "stream", trip, temperature)) for trip in trips]
    table.add_row("stream bound", *bounds, "", "", style="dim")
    return table


def _check_table(result: LinkResult, temperature: float) -> Table:
    table = _grid(f"real / virtual tokens/s (ratio), temperature {temperature:g}", result)
    for mode in _modes(result):
        cells = [_find(result, mode, trip, temperature) for trip in _round_trips(result)]
        if any(cell.virtual_tokens_per_s for cell in cells):
            table.add_row(mode, *map(_check, cells))
    return table


def _grid(title: str, result: LinkResult) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("mode")
    for trip in _round_trips(result):
        table.add_column(f"{trip:g} ms", justify="right")
    return table


def _check(cell: Cell) -> str:
    virtual = cell.virtual_tokens_per_s
    if not virtual:
        return ""
    ratio = cell.tokens_per_s / virtual
    mark = "" if abs(ratio - 1) <= _CHECK_WITHIN else " !"
    return f"{cell.tokens_per_s:.0f} / {virtual:.0f} ({ratio:.2f}){mark}"


def link_html(result: LinkResult) -> str:
    """One page without external assets."""
    body = "".join(_section(result, temperature) for temperature in _temperatures(result))
    return page("Paceline over a link", _footnote(result), body)


def _section(result: LinkResult, temperature: float) -> str:
    return (
        f"<h2>Temperature {temperature:g}</h2>{_plot(result, temperature)}"
        f"<h3>Break-even: from this round trip on the cloud is faster</h3>{_html_break_evens(result, temperature)}"
        f"<h3>Every cell</h3>{_html_cells(result, temperature)}{_decisions(result, temperature)}"
    )


def _plot(result: LinkResult, temperature: float) -> str:
    trips = _round_trips(result)
    lines = [
        Line(
            mode,
            [(trip, _find(result, mode, trip, temperature).tokens_per_s) for trip in trips],
            _COLOURS[mode],
        )
        for mode in _modes(result)
        if mode != "local"
    ]
    streams = [_find(result, "stream", trip, temperature) for trip in trips]
    bounds = [(one.round_trip_ms, one.measured.bound_tokens_per_s) for one in streams if one.measured]
    bound = Line("stream bound", bounds, _COLOURS["stream"], is_dashed=True)
    return line_plot([*lines, bound], "round trip (ms)", "tokens per second")


def _html_break_evens(result: LinkResult, temperature: float) -> str:
    rows = [
        [one.mode, _round_trip(one, result)] for one in result.break_evens if one.temperature == temperature
    ]
    return html_table(("mode", "break-even round trip"), rows)


def _html_cells(result: LinkResult, temperature: float) -> str:
    head = (
        "mode", "round trip ms", "tokens/s", "cloud tokens/s", "x cloud", "stream bound tokens/s", "inter-token p50 ms",
        "p95 ms", "passes/token", "bytes/token", "wasted drafts/token",
    )  # fmt: skip
    checked = ("real / virtual tokens/s (ratio)",) if _is_checked(result) else ()
    cells = [cell for cell in result.cells if cell.temperature == temperature]
    return html_table((*head, *checked), [_html_row(cell, is_checked=_is_checked(result)) for cell in cells])


def _html_row(cell: Cell, *, is_checked: bool) -> list[str]:
    values = [
        cell.mode, f"{cell.round_trip_ms:g}", f"{cell.tokens_per_s:.1f}", f"{cell.cloud_tokens_per_s:.1f}",
        f"{cell.versus_cloud:.2f}", _bound(cell), f"{cell.inter_token_p50_ms:.1f}", f"{cell.inter_token_p95_ms:.1f}",
        f"{cell.passes_per_token:.2f}", f"{cell.bytes_per_token:.0f}", f"{cell.wasted_drafts_per_token:.2f}",
    ]  # fmt: skip
    return [*values, _check(cell)] if is_checked else values


def _decisions(result: LinkResult, temperature: float) -> str:
    lines = [
        f"<li>{cell.round_trip_ms:g} ms: {escape('; '.join(cell.decisions))}</li>"
        for cell in result.cells
        if cell.mode == "auto" and cell.temperature == temperature
    ]
    return f"<details><summary>What mode auto decided</summary><ul>{''.join(lines)}</ul></details>"


def _bound(cell: Cell) -> str:
    return f"{cell.measured.bound_tokens_per_s:.0f}" if cell.measured else ""


def _break_even(result: LinkResult, mode: str, temperature: float) -> str:
    key = (mode, temperature)
    return next(
        (_round_trip(one, result) for one in result.break_evens if (one.mode, one.temperature) == key), "-"
    )


def _round_trip(one: BreakEven, result: LinkResult) -> str:
    if one.round_trip_ms is None:
        return f"beyond {max(_round_trips(result)):g} ms"
    return f"{one.round_trip_ms:.0f} ms"


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
        "local is not verified; co-located is the cloud with a drafter beside the verifier; the bound is that of a "
        "stream without fill whose drafts stand independently of each other."
    )


def _is_checked(result: LinkResult) -> bool:
    return result.settings.is_checked


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
