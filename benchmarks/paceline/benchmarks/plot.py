"""Line plots as SVG and pages around them, self-contained, for light and dark screens alike. Pure."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 130, 14, 46
_LEGEND_ROW = 16
_Scale = Callable[[float], float]
_STYLE = """
:root{color-scheme:light dark;--ink:#222;--soft:#6b6b6b;--rule:#ddd;--ground:#fff;--line-0:#222;--line-1:#d03b3b;
--line-2:#b86a00;--line-3:#1f6fb5;--line-4:#1d8a3a;--line-5:#8a5a3c;--line-6:#7d7d7d}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e6;--soft:#a3a3a3;--rule:#3a3a3a;--ground:#16181b;--line-0:#f0f0f0;
--line-1:#ff7b72;--line-2:#ffb454;--line-3:#6cb6ff;--line-4:#56d07a;--line-5:#d0a284;--line-6:#8c8c8c}}
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:var(--ink);
background:var(--ground)}
h1,h2{line-height:1.2}p.note{color:var(--soft)}svg{width:100%;height:auto}svg text{fill:var(--soft);font-size:12px}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}
td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid var(--rule);vertical-align:bottom}
td{white-space:nowrap}
td:first-child,th:first-child{text-align:left}
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    """0 to 6; 0 is the ink itself."""
    is_dashed: bool = False


def page(title: str, note: str, body: str) -> str:
    """A whole HTML page; `body` is HTML already."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="note">{escape(note)}</p>{body}</body></html>\n'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def line_plot(lines: Sequence[Line], x_label: str, y_label: str, *, steps: bool = False) -> str:
    """Curves over one pair of axes that begin at 0, with a legend.

    Args:
        steps: values hold until the next point, instead of straight lines between points.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_ticks, y_ticks = _ticks(max(xs, default=0.0)), _ticks(max(ys, default=0.0))
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    x_end, y_end = max(max(xs, default=0.0), x_ticks[1]), y_ticks[-1]

    def across(x: float) -> float:
        return _LEFT + (right - _LEFT) * x / x_end

    def up(y: float) -> float:
        return bottom - (bottom - _TOP) * y / y_end

    grid = "".join(
        f'<line x1="{_LEFT}" x2="{right}" y1="{up(tick):.1f}" y2="{up(tick):.1f}" stroke="var(--rule)"/>'
        f'<text x="{_LEFT - 8}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in y_ticks
    )
    marks = "".join(
        f'<text x="{across(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>'
        for tick in x_ticks
        if tick <= x_end
    )
    curves = "".join(
        f'<polyline points="{_points(line, across, up, steps=steps)}" {_stroke(line)} fill="none"/>'
        for line in lines
    )
    legend = "".join(_legend(line, row, right + 14) for row, line in enumerate(lines))
    middle_x, middle_y = (_LEFT + right) / 2, (_TOP + bottom) / 2
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y_label)} by {escape(x_label)}">'
        f"{grid}{marks}{curves}{legend}"
        f'<text x="{middle_x}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(14 {middle_y}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text></svg>'
    )


def _points(line: Line, across: _Scale, up: _Scale, *, steps: bool) -> str:
    found: list[str] = []
    before: float | None = None
    for x, y in line.points:
        if steps and before is not None:
            found.append(f"{across(x):.1f},{before:.1f}")
        before = up(y)
        found.append(f"{across(x):.1f},{before:.1f}")
    return " ".join(found)


def _stroke(line: Line) -> str:
    dashes = ' stroke-dasharray="5 4"' if line.is_dashed else ""
    return f'stroke="var(--line-{line.colour})" stroke-width="2"{dashes}'


def _legend(line: Line, row: int, x: int) -> str:
    y = _TOP + 8 + _LEGEND_ROW * row
    return (
        f'<line x1="{x}" x2="{x + 20}" y1="{y}" y2="{y}" {_stroke(line)}/>'
        f'<text x="{x + 26}" y="{y + 4}" style="fill:var(--ink)">{escape(line.name)}</text>'
    )


def _ticks(top: float) -> list[float]:
    """Round numbers from 0 to at least `top`."""
    if top <= 0:
        return [0.0, 1.0]
    rough = top / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    return [step * index for index in range(math.ceil(top / step - 1e-9) + 1)]
