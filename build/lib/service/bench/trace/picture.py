"""A trace as an SVG picture: one bar per span, below its parent, over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from html import escape

from service.bench.trace.collector import TracedSpan

_ROW, _WIDTH, _NAMES, _MARGIN = 20, 1100, 330, 12
_COLOURS = {
    "mmi-gateway": "#4a6fa5",
    "mmi-text-worker": "#3d8f6a",
    "mmi-image-worker": "#b5713c",
}
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)


def tree(spans: Sequence[TracedSpan]) -> list[tuple[int, TracedSpan]]:
    """Spans with their depth, each followed by its children in the order of their start."""
    children: defaultdict[str, list[TracedSpan]] = defaultdict(list)
    known = {span.span_id for span in spans}
    for span in sorted(spans, key=lambda span: span.started_ns):
        children[span.parent_id if span.parent_id in known else ""].append(span)
    rows: list[tuple[int, TracedSpan]] = []

    def add(parent: str, depth: int) -> None:
        for span in children[parent]:
            rows.append((depth, span))
            add(span.span_id, depth + 1)

    add("", 0)
    return rows


def draw(spans: Sequence[TracedSpan]) -> str:
    """The picture as an SVG document."""
    rows = tree(spans)
    start = min(span.started_ns for span in spans)
    seconds = (max(span.ended_ns for span in spans) - start) / 1e9
    scale = (_WIDTH - _NAMES - 2 * _MARGIN - 60) / seconds
    height = (len(rows) + 2) * _ROW + 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        *_axis(seconds, scale, height),
    ]
    for number, (depth, span) in enumerate(rows):
        parts += _bar(span, depth, _MARGIN + (number + 1) * _ROW, start, scale)
    parts += [*_legend(height), "</svg>"]
    return "\n".join(parts) + "\n"


def _axis(seconds: float, scale: float, height: int) -> list[str]:
    step = next((s for s in _STEPS_S if seconds / s <= 10), _STEPS_S[-1])
    parts = []
    for number in range(int(seconds / step) + 1):
        x = _NAMES + _MARGIN + number * step * scale
        bottom = height - _MARGIN - _ROW
        parts.append(f'<path d="M{x:.1f} {_MARGIN + 8}V{bottom}" stroke="#dddddd"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{_MARGIN + 4}" fill="#666666">{number * step:g} s</text>'
        )
    return parts


def _bar(span: TracedSpan, depth: int, y: int, start: int, scale: float) -> list[str]:
    x = _NAMES + _MARGIN + (span.started_ns - start) / 1e9 * scale
    length_s = (span.ended_ns - span.started_ns) / 1e9
    width = max(1.5, length_s * scale)
    colour = _COLOURS.get(span.service, "#888888")
    opacity = 0.35 if span.name in ("queue wait", "relay", "append") else 0.9
    return [
        f'<text x="{_MARGIN + 14 * depth}" y="{y + 13}">{escape(span.name)}</text>',
        f'<rect x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="{_ROW - 7}" rx="2" '
        f'fill="{colour}" fill-opacity="{opacity}"/>',
        f'<text x="{x + width + 4:.1f}" y="{y + 13}" fill="#444444">{_length(length_s)}</text>',
    ]


def _legend(height: int) -> list[str]:
    parts, x = [], _MARGIN
    for service, colour in _COLOURS.items():
        parts.append(f'<rect x="{x}" y="{height - 24}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 17}" y="{height - 14}">{service}</text>')
        x += 150
    return parts


def _length(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
