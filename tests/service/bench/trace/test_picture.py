"""The picture of a trace."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from service.bench.trace.collector import TracedSpan
from service.bench.trace.picture import draw, tree


def span(name: str, parent: str, start_ms: int, end_ms: int) -> TracedSpan:
    times = start_ms * 1_000_000, end_ms * 1_000_000
    return TracedSpan("mmi-gateway", name, "t", name, parent, *times, {})


SPANS = [
    span("late", "root", 50, 80),
    span("root", "client", 10, 1010),
    span("inner <x>", "early", 21, 22),
    span("early", "root", 20, 40),
]


def test_children_follow_their_parent_by_their_start() -> None:
    rows = [(depth, one.name) for depth, one in tree(SPANS)]
    assert rows == [(0, "root"), (1, "early"), (2, "inner <x>"), (1, "late")]


def test_bars_have_the_length_of_their_spans() -> None:
    document = ET.fromstring(draw(SPANS))
    name = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in document.iter(f"{name}text")]
    assert "inner <x>" in texts and "1.00 s" in texts and "30.0 ms" in texts
    bars = [e for e in document.iter(f"{name}rect") if e.get("rx")]
    widths = [float(bar.get("width", 0)) for bar in bars]
    assert len(bars) == 4 and abs(widths[0] / widths[3] - 1000 / 30) < 1
