"""A plot of the rates, as SVG: a group of bars for each scenario, on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from math import ceil, floor, log10

from bench.results import Report, Result, Series

WIDTH, LEFT, RIGHT, TOP = 860, 230, 80, 52
BAR, GAP, TITLE = 16, 12, 20
COLOURS = {"taskd": "#2a78c2", "Workerman": "#a9b0ba"}
OTHER = "#d9a860"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}"'
FONT = 'font-family="sans-serif" font-size="11" fill="#222"'

Across = Callable[[float], float]


def plot(report: Report) -> str:
    """The SVG's text. Only what is counted per second is in it."""
    groups = [(result, series) for result in report.results if (series := _rates(result))]
    medians = [one.median for _, series in groups for one in series]
    # A group's bars begin at the scale's lowest power of ten, which must be below the smallest of them.
    lowest = floor(log10(min(medians, default=1)))
    highest = ceil(log10(max(medians, default=10)))
    height = TOP + sum(TITLE + BAR * len(series) + GAP for _, series in groups)

    def across(value: float) -> float:
        share = (log10(max(value, 10**lowest)) - lowest) / max(1, highest - lowest)
        return LEFT + (WIDTH - LEFT - RIGHT) * share

    lines = [
        f"{SVG.format(w=WIDTH, h=height)} {FONT}>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        _text(8, 18, "Tasks per second: the median, and from the lowest round to the highest (logarithmic)"),
        *_scale(lowest, highest, height, across),
    ]
    y = TOP
    for result, series in groups:
        lines.append(_text(8, y + 14, result.title.replace("`", ""), 'font-weight="bold"'))
        y += TITLE
        for one in series:
            lines += _bar(one, y, across)
            y += BAR
        y += GAP
    return "\n".join([*lines, "</svg>"]) + "\n"


def _rates(result: Result) -> list[Series]:
    return [series for series in result.series if series.unit == "per second" and series.median > 0]


def _scale(lowest: int, highest: int, height: int, across: Across) -> Iterator[str]:
    for power in range(lowest, highest + 1):
        x = across(10.0**power)
        yield f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{height - 4}" stroke="#e3e3e3"/>'
        yield _text(x, TOP - 14, f"{10**power:,}".replace(",", " "), 'text-anchor="middle" fill="#777"')


def _bar(series: Series, y: int, across: Across) -> Iterator[str]:
    low, middle, high = (across(value) for value in (min(series.values), series.median, max(series.values)))
    width, across_y = max(1.0, middle - LEFT), y + BAR / 2
    yield _text(LEFT - 6, y + 12, series.name, 'text-anchor="end"')
    yield f'<rect x="{LEFT}" y="{y + 2}" width="{width:.1f}" height="{BAR - 4}" fill="{_colour(series)}"/>'
    yield f'<line x1="{low:.1f}" y1="{across_y}" x2="{high:.1f}" y2="{across_y}" stroke="#333"/>'
    yield _text(max(middle, high) + 5, y + 12, f"{series.median:,.0f}".replace(",", " "))


def _colour(series: Series) -> str:
    return next((colour for start, colour in COLOURS.items() if series.name.startswith(start)), OTHER)


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y}" {more}>{escape(text)}</text>'
