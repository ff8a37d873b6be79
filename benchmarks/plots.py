"""Draw bar charts as SVG, readable on pages of any colours, light or dark."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 760
MARGIN = 16
LABELS = 170
VALUES = 100
BAR, GAP, TITLE, NOTE = 18, 5, 16, 20

MOST_LINEAR = 200
"""The scale is logarithmic if the longest bar is more than this many times as long as the shortest."""

STYLE = """
rect.page { fill: #ffffff }
text { font: 12.5px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2328 }
text.title { font-weight: 600; font-size: 14px }
text.note { fill: #59636e; font-size: 11.5px }
text.ours { font-weight: 600 }
rect.ours { fill: #0969da }
rect.before { fill: #80bbf5 }
rect.peer { fill: #b4bcc5 }
rect.limit { fill: none; stroke: #818b98; stroke-dasharray: 3 2 }
@media (prefers-color-scheme: dark) {
  rect.page { fill: #0d1117 }
  text { fill: #e6edf3 }
  text.note { fill: #9198a1 }
  rect.ours { fill: #4493f8 }
  rect.before { fill: #2b5a94 }
  rect.peer { fill: #525a64 }
  rect.limit { stroke: #9198a1 }
}
"""


@dataclass(frozen=True)
class Bar:
    """The bar of a contender. `kind` is "ours", "before", "peer" or "limit"."""

    label: str
    value: float
    shown: str
    kind: str


@dataclass(frozen=True)
class Panel:
    title: str
    bars: Sequence[Bar]
    more_is_better: bool


def svg(description: str, panels: Iterable[Panel]) -> str:
    """Return an image of panels, one below the other, each with its best bar on top."""
    parts: list[str] = []
    y = MARGIN
    for panel in panels:
        y = _draw(panel, y, parts) + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}"'
            f' role="img" aria-label="{_text(description)}">',
            f"<title>{_text(description)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{y}" rx="6"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _draw(panel: Panel, y: int, parts: list[str]) -> int:
    bars = sorted(panel.bars, key=lambda bar: bar.value, reverse=panel.more_is_better)
    length = Scale([bar.value for bar in bars])
    note = "longer is better" if panel.more_is_better else "shorter is better"
    if length.logarithmic:
        note += ", logarithmic scale"
    parts.append(f'<text class="title" x="{MARGIN}" y="{y + 12}">{_text(panel.title)}</text>')
    y += TITLE
    parts.append(f'<text class="note" x="{MARGIN}" y="{y + 12}">{note}</text>')
    y += NOTE
    for bar in bars:
        width = length(bar.value)
        middle = y + BAR - 5
        x = MARGIN + LABELS
        parts.append(
            f'<text class="{bar.kind}" x="{x - 8}" y="{middle}" text-anchor="end">{_text(bar.label)}</text>'
            f'<rect class="{bar.kind}" x="{x}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>'
            f'<text class="{bar.kind}" x="{x + width + 6:.1f}" y="{middle}">{_text(bar.shown)}</text>'
        )
        y += BAR + GAP
    return y


class Scale:
    """A function from a value to the length of its bar."""

    def __init__(self, values: Sequence[float]) -> None:
        self.room = WIDTH - 2 * MARGIN - LABELS - VALUES
        positive = [value for value in values if value > 0]
        self.most = max(positive, default=1.0)
        least = min(positive, default=1.0)
        self.logarithmic = self.most / least > MOST_LINEAR
        # A logarithmic scale starts below the shortest bar, so that this bar is visible.
        self.start = math.log10(least) - 0.15 * math.log10(self.most / least)

    def __call__(self, value: float) -> float:
        if not self.logarithmic:
            return self.room * max(value, 0) / self.most
        if value <= 0:
            return 0.0
        return self.room * (math.log10(value) - self.start) / (math.log10(self.most) - self.start)


def _text(text: str) -> str:
    return escape(text, {'"': "&quot;"})
