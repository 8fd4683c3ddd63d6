"""Plots for the HTML report, as SVG and tables with nothing to load."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from iepile_cli.evaluation.scores import Score

# More bars or cells than these help nobody; the tables have the rest.
MOST_BARS = 60
MOST_TYPES = 20

_ROW, _LEFT, _WIDTH, _RIGHT = 22, 190, 420, 150


def bars(types: dict[str, Score]) -> str:
    """F1 per type as horizontal bars with their 95 % intervals, the most frequent types first."""
    shown = sorted(types.items(), key=lambda pair: (-pair[1].gold, pair[0]))[:MOST_BARS]
    height = _ROW * len(shown) + 24
    width = _LEFT + _WIDTH + _RIGHT
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="F1 per type"'
        f' style="max-width:{width}px">'
    ]
    for mark in range(0, 101, 20):
        x = _x(mark)
        parts.append(
            f'<line class="grid" x1="{x}" y1="0" x2="{x}" y2="{height - 20}"/>'
            f'<text class="axis" x="{x}" y="{height - 6}" text-anchor="middle">{mark}</text>'
        )
    for number, (kind, score) in enumerate(shown):
        parts += _bar(kind, score, number * _ROW + 4)
    return "".join([*parts, "</svg>"])


def _bar(kind: str, score: Score, y: int) -> Iterator[str]:
    middle = y + 7
    yield (
        f'<text x="{_LEFT - 8}" y="{y + 11}" text-anchor="end">{escape(_short(kind))}'
        f"<title>{escape(kind)}</title></text>"
        f'<rect class="track" x="{_LEFT}" y="{y}" width="{_WIDTH}" height="14" rx="2"/>'
        f'<rect class="bar" x="{_LEFT}" y="{y}" width="{_x(score.f1) - _LEFT:.1f}"'
        ' height="14" rx="2"/>'
    )
    if "F1" in score.intervals:
        low, high = (_x(bound) for bound in score.intervals["F1"])
        yield (
            f'<path class="whisker" d="M{low:.1f} {middle}H{high:.1f}'
            f'M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8"/>'
        )
    yield (
        f'<text class="value" x="{_LEFT + _WIDTH + 8}" y="{y + 11}">{score.f1:.1f}'
        f' <tspan class="axis">({score.gold:,} gold)</tspan></text>'
    )


def _short(kind: str) -> str:
    return kind if len(kind) <= 26 else kind[:25] + "…"


def _x(percent: float) -> float:
    return _LEFT + _WIDTH * percent / 100


def matrix(times: dict[str, dict[str, int]]) -> str:
    """Gold types down, predicted types across, darker where more; "" is nothing."""
    totals = {gold: sum(of_gold.values()) for gold, of_gold in times.items() if gold}
    kinds = sorted(totals, key=lambda kind: (-totals[kind], kind))
    # Types that are predicted and never gold, whether where something else is gold or nothing.
    others: dict[str, int] = {}
    for of_gold in times.values():
        for kind, count in of_gold.items():
            if kind and kind not in totals:
                others[kind] = others.get(kind, 0) + count
    kinds += sorted(others, key=lambda kind: (-others[kind], kind))
    hidden = len(kinds) - MOST_TYPES
    kinds = kinds[:MOST_TYPES]
    head = "".join(
        f'<th scope="col"><span>{escape(_short(kind))}</span></th>' for kind in [*kinds, "missed"]
    )
    rows = []
    for gold in [*kinds, ""]:
        of_gold = times.get(gold, {})
        most = max(of_gold.values(), default=0)
        cells = "".join(
            _cell(of_gold.get(kind, 0), most, good=bool(gold) and kind == gold)
            for kind in [*kinds, ""]
        )
        rows.append(f'<tr><th scope="row">{escape(gold or "spurious")}</th>{cells}</tr>')
    note = f"<p class='note'>{hidden} rarer types are not shown.</p>" if hidden > 0 else ""
    return (
        f'<div class="wide"><table class="matrix"><tr><th class="corner">gold ↓ predicted →</th>'
        f"{head}</tr>{''.join(rows)}</table></div>{note}"
    )


def _cell(count: int, most: int, *, good: bool) -> str:
    if not count:
        return "<td></td>"
    share = 0.15 + 0.6 * count / most
    colour = "46,125,50" if good else "198,40,40"
    return f'<td style="background:rgba({colour},{share:.2f})">{count:,}</td>'
