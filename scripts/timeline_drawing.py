"""A timeline for people: in a terminal, and as a picture that a browser shows in light and dark."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from scripts.spans import ANSWER, CREATION, ENGINE, MACHINE, Span

WORTH_A_ROW = 0.015
"""What takes a smaller share of the whole, and nothing waits for, shares a row with its like."""
COLUMNS, NAME_COLUMNS = 100, 44
PARTS = (CREATION, MACHINE, ENGINE, ANSWER)


class Row(NamedTuple):
    """One line of the drawing; times in seconds from the beginning."""

    name: str
    part: str
    start: float
    end: float
    critical: bool


def rows(spans: Sequence[Span], critical: Sequence[Span]) -> list[Row]:
    """What is drawn, part by part: all that was waited for, and what else took long enough."""
    began, ended = min(it.start for it in spans), max(it.end for it in spans)
    least = WORTH_A_ROW * (ended - began)
    found: list[Row] = []
    for part in PARTS:
        own = sorted((it for it in spans if it.part == part), key=lambda it: it.start)
        small = [it for it in own if it not in critical and _is_small(it, least)]
        small = small if len(small) > 1 else []
        for it in own:
            if it not in small:
                found.append(Row(it.name, part, it.start - began, it.end - began, it in critical))
        if small:
            first, last = min(it.start for it in small), max(it.end for it in small)
            name = f"beside them, {len(small)} more"
            found.append(Row(name, part, first - began, last - began, False))
    return found


def _is_small(span: Span, least: float) -> bool:
    """Of what Pulumi makes, only what is waited for is worth a row: there are dozens."""
    return span.part == CREATION or span.seconds < least


def length(seconds: float) -> str:
    """A time in words."""
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def summary(spans: Sequence[Span], critical: Sequence[Span]) -> str:
    """How much of the whole the longest chain is."""
    whole = max(it.end for it in spans) - min(it.start for it in spans)
    chain = sum(it.seconds for it in critical)
    rest = max(0.0, whole - chain)
    return (
        f"Critical path: {length(chain)} of {length(whole)}."
        f" {length(rest)} between its steps: polls, and Pulumi's own work."
    )


def text(spans: Sequence[Span], critical: Sequence[Span], columns: int = COLUMNS) -> list[str]:
    """The timeline for a terminal of so many columns."""
    drawn = rows(spans, critical)
    whole = max(row.end for row in drawn) or 1.0
    width = max(10, min(columns, COLUMNS) - NAME_COLUMNS - 22)
    lines: list[str] = []
    part = ""
    for row in drawn:
        if row.part != part:
            part = row.part
            lines.append(part)
        left = min(round(row.start / whole * width), width - 1)
        bar = max(1, min(round((row.end - row.start) / whole * width), width - left))
        name = f"  {row.name[: NAME_COLUMNS - 2]:<{NAME_COLUMNS - 2}}"
        times = f"{length(row.start):>9} {length(row.end - row.start):>9}"
        lines.append(f"{name} {times}  {' ' * left}{('█' if row.critical else '░') * bar}".rstrip())
    heading = f"  {_since(drawn):<{NAME_COLUMNS - 2}} {'begins at':>9} {'takes':>9}"
    return [heading, *lines, "", f"█ waited for, ░ beside it. {summary(spans, critical)}"]


def _since(drawn: Sequence[Row]) -> str:
    """What its times are counted from."""
    first = min(drawn, key=lambda row: row.start)
    return f"from the beginning of {'pulumi up' if first.part == CREATION else 'its creation'}:"


ROW, LEFT, WIDTH, RIGHT, TOP = 24, 360, 960, 70, 84
STYLE = """
    text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
    .title { font-size: 17px; font-weight: 600; }
    .small { font-size: 12px; fill: #59636e; }
    .part { font-weight: 600; }
    .page { fill: #ffffff; }
    .grid { stroke: #d1d9e0; }
    .critical { fill: #c45500; }
    .beside { fill: #9db8d6; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .small { fill: #9ea7b3; }
      .page { fill: #0d1117; }
      .grid { stroke: #3d444d; }
      .critical { fill: #e69138; }
      .beside { fill: #3d5a80; }
    }
"""


def svg(spans: Sequence[Span], critical: Sequence[Span], title: str) -> str:
    """The timeline as a picture."""
    drawn = rows(spans, critical)
    whole = max(row.end for row in drawn) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / whole
    body: list[str] = []
    y, part = TOP, ""
    for row in drawn:
        if row.part != part:
            part = row.part
            y += 10
            body.append(f'<text class="part" x="24" y="{y + 16}">{escape(part)}</text>')
            y += ROW
        x, wide = LEFT + row.start * scale, max(2.0, (row.end - row.start) * scale)
        kind = "critical" if row.critical else "beside"
        body.append(f'<text x="40" y="{y + 16}">{escape(row.name)}</text>')
        body.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y + 4}" width="{wide:.1f}"'
            f' height="{ROW - 8}" rx="2"/>'
        )
        body.append(
            f'<text class="small" x="{x + wide + 5:.1f}" y="{y + 16}">'
            f"{length(row.end - row.start)}</text>"
        )
        y += ROW
    height = y + 56
    grid = [
        f'<line class="grid" x1="{LEFT + at * scale:.1f}" x2="{LEFT + at * scale:.1f}"'
        f' y1="{TOP}" y2="{y + 6}"/><text class="small" text-anchor="middle"'
        f' x="{LEFT + at * scale:.1f}" y="{TOP - 6}">{_tick(at)}</text>'
        for at in _ticks(whole)
    ]
    caption = f'<text class="small" x="24" y="{TOP - 6}">{_since(drawn)}</text>'
    legend = (
        f'<rect class="critical" x="24" y="{y + 24}" width="22" height="12" rx="2"/>'
        f'<text class="small" x="52" y="{y + 34}">the critical path: all waits for this</text>'
        f'<rect class="beside" x="330" y="{y + 24}" width="22" height="12" rx="2"/>'
        f'<text class="small" x="358" y="{y + 34}">goes on beside it</text>'
    )
    described = escape(summary(spans, critical))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
            ' aria-labelledby="title description">',
            f'<title id="title">{escape(title)}</title>',
            f'<desc id="description">{described}</desc>',
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}"/>',
            f'<text class="title" x="24" y="34">{escape(title)}</text>',
            f'<text class="small" x="24" y="54">{described}</text>',
            caption,
            *grid,
            *body,
            legend,
            "</svg>",
            "",
        ]
    )


def _ticks(whole: float) -> list[float]:
    """Round times, at most eight of them."""
    steps = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
    step = next((it for it in steps if whole / it <= 8), steps[-1])
    return [float(step * number) for number in range(int(whole / step) + 1)]


def _tick(at: float) -> str:
    return f"{at:.0f} s" if at < 120 else f"{at / 60:g} min"
