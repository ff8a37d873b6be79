"""Turn figures into tables and plots, and store them in the file that keeps the figures."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import plots
from environment import is_peer
from harness import OURS, V1, Bar, Case, digits

COLUMNS = ("scenario", "mmnpz", "1.0.0", "others", "ratio to 1.0.0", "ratio to the others", "bar", "met")

LEVEL = 1.05
"""A factor: two measurements of the same thing may differ by as much."""


@dataclass(frozen=True)
class Outcome:
    """The figures of a case, for each contender and each round."""

    scenario: str
    label: str
    figures: dict[str, list[tuple[float, ...]]]
    shown: dict[str, str]
    bars: tuple[Bar, ...]
    more_is_better: bool
    headline: str
    plot: str

    @classmethod
    def of(cls, scenario: str, case: Case, figures: dict[str, list[tuple[float, ...]]]) -> "Outcome":
        shown = {
            contender: case.show(*map(median, zip(*rounds, strict=True)))
            for contender, rounds in figures.items()
        }
        return cls(
            scenario, case.label, figures, shown, case.bars, case.more_is_better, case.headline, case.plot
        )

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Outcome":
        figures = {name: [tuple(figure) for figure in rounds] for name, rounds in stored["figures"].items()}
        bars = tuple(Bar(**bar) for bar in stored["bars"])
        return cls(**{**stored, "figures": figures, "bars": bars})

    def value(self, contender: str) -> float:
        return median(self._compared(contender))

    def ratios(self, peer: str, ours: str = OURS, allowance: float = 0.0) -> list[float]:
        """Return how many times as good as the peer mmnpz is, in each round; see `Bar.allowance`."""
        reduced = [max(figure - allowance, 0.0) for figure in self._compared(ours)]
        pairs = list(zip(reduced, self._compared(peer), strict=True))
        if self.more_is_better:
            return [_divide(mine, theirs) for mine, theirs in pairs]
        return [_divide(theirs, mine) for mine, theirs in pairs]

    def shown_ratio(self, peer: str, ours: str = OURS) -> str:
        ratios = self.ratios(peer, ours)
        text = digits(median(ratios))
        if len(ratios) > 1:
            text += f" ({digits(min(ratios))}–{digits(max(ratios))})"
        return text

    def meets(self, bar: Bar) -> bool:
        if bar.peer is not None:
            return median(self.ratios(bar.peer, allowance=bar.allowance)) >= bar.limit
        ours = self.value(OURS)
        return ours >= bar.limit if self.more_is_better else ours <= bar.limit

    def best(self, contenders: Iterable[str]) -> str | None:
        """Return the best of some contenders."""
        order = sorted(contenders, key=self.value, reverse=self.more_is_better)
        return order[0] if order else None

    def _compared(self, contender: str) -> list[float]:
        return [figures[0] for figures in self.figures[contender]]

    @property
    def ours(self) -> Sequence[str]:
        """The contenders that are this mmnpz, one for each way in which it was measured."""
        return [name for name in self.figures if kind(name) == "ours"]

    @property
    def others(self) -> Sequence[str]:
        return [name for name in self.figures if name not in (OURS, V1)]

    @property
    def libraries(self) -> Sequence[str]:
        """The contenders that are libraries, not limits."""
        return [name for name in self.figures if kind(name) == "peer"]


def kind(contender: str) -> str:
    if contender == V1:
        return "before"
    if contender == OURS or contender.startswith(f"{OURS}, "):
        return "ours"
    return "peer" if is_peer(contender) else "limit"


def _divide(above: float, below: float) -> float:
    if below:
        return above / below
    return float("inf") if above else 1.0


# The table of all figures, for a terminal.


def table(outcomes: Iterable[Outcome], *, judge: bool) -> str:
    """Return a Markdown table. With `judge`, it says whether the bars are met."""
    lines = []
    for outcome in outcomes:
        bars = outcome.bars
        met = ["yes" if outcome.meets(bar) else "**no**" for bar in bars] if judge else []
        lines.append(
            (
                outcome.label,
                outcome.shown[OURS],
                outcome.shown.get(V1, ""),
                "; ".join(f"{peer} {outcome.shown[peer]}" for peer in outcome.others),
                outcome.shown_ratio(V1) if V1 in outcome.figures else "",
                "; ".join(f"{peer} {outcome.shown_ratio(peer)}" for peer in outcome.others),
                "; ".join(bar.text for bar in bars),
                "; ".join(met),
            )
        )
    return _table(COLUMNS, lines)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(_line(cells) for cells in (columns, ["---"] * len(columns), *rows))


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# The file that keeps the figures: for each scenario the facts of its run (machine, versions), and its
# outcomes.

Stored = dict[str, dict[str, Any]]


def load(path: Path) -> Stored:
    if not path.exists():
        return {}
    stored: Stored = json.loads(path.read_text(encoding="utf-8"))
    return stored


def save(path: Path, stored: Stored) -> None:
    text = json.dumps(stored, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def entry(facts: dict[str, str], outcomes: Iterable[Outcome]) -> dict[str, Any]:
    return {"facts": facts, "outcomes": [_rounded(asdict(outcome)) for outcome in outcomes]}


def _rounded(stored: dict[str, Any]) -> dict[str, Any]:
    """Round figures to five digits, which is more than another run repeats."""
    stored["figures"] = {
        name: [[float(f"{figure:.5g}") for figure in figures] for figures in rounds]
        for name, rounds in stored["figures"].items()
    }
    return stored


def outcomes_of(entry: dict[str, Any]) -> list[Outcome]:
    return [Outcome.from_json(outcome) for outcome in entry["outcomes"]]


# The pages.

PLOTS = {
    "opening": "Opening a file and reading one array of it",
    "reading": "Looking up each array once, in random order",
    "excerpts": "Short excerpts of long arrays, copied into a batch",
    "cold": "Short excerpts of long arrays that are not in the page cache",
    "writing": "Writing",
    "memory": "Memory of the process",
}

SUMMARY = ("", "mmnpz 2", "mmnpz 1.0", "best peer", "mmnpz 2 beside it")


def summary(outcomes: Iterable[Outcome]) -> str:
    """Return a table of the rows that have a headline, each beside the best peer."""
    rows = []
    for outcome in outcomes:
        if not outcome.headline:
            continue
        peer = outcome.best(outcome.libraries)
        ours = outcome.best(outcome.ours)
        assert ours is not None
        way = ours.removeprefix(OURS).removeprefix(", ")
        rows.append(
            (
                outcome.headline,
                " ".join(filter(None, (outcome.shown[ours], f"({way})" if way else ""))),
                outcome.shown.get(V1, "–"),
                f"{peer} {outcome.shown[peer]}" if peer else "–",
                _verdict(outcome, ours, peer) if peer else "",
            )
        )
    return _table(SUMMARY, rows)


def _verdict(outcome: Outcome, ours: str, peer: str) -> str:
    ratio = median(outcome.ratios(peer, ours))
    if ratio > LEVEL:
        return f"{_times(ratio)} better"
    if ratio < 1 / LEVEL:
        return f"**{peer} is {_times(_divide(1, ratio))} better**"
    return "level"


def _times(ratio: float) -> str:
    if ratio == float("inf"):
        return "∞ ×"
    return f"{ratio:,.0f} ×" if ratio >= 20 else f"{ratio:.2g} ×"


def lost(outcomes: Iterable[Outcome]) -> str:
    """Return a text about the rows in which a peer is better."""
    lines = []
    for outcome in outcomes:
        ours = outcome.best(outcome.ours)
        assert ours is not None
        better = [
            (median(outcome.ratios(peer, ours)), peer)
            for peer in outcome.libraries
            if median(outcome.ratios(peer, ours)) < 1 / LEVEL
        ]
        if better:
            peers = ", ".join(
                f"{peer} ({outcome.shown[peer]}) is {_times(_divide(1, ratio))} better"
                for ratio, peer in sorted(better)
            )
            lines.append(f"- {outcome.label}: {peers} than {ours} ({outcome.shown[ours]}).")
    return "\n".join(lines) or "In no row is a peer better."


def details(outcomes: Sequence[Outcome]) -> str:
    """Return a table of all figures of a scenario, with the ratio of mmnpz to each.

    Contenders are rows if there are more contenders than cases.
    """
    contenders = list(dict.fromkeys(name for outcome in outcomes for name in outcome.figures))

    def cell(outcome: Outcome, contender: str) -> str:
        if contender not in outcome.figures:
            return ""
        shown = outcome.shown[contender]
        return shown if contender == OURS else f"{shown}: {outcome.shown_ratio(contender)}"

    if len(contenders) > len(outcomes):
        columns = ("", *(outcome.label for outcome in outcomes))
        return _table(
            columns, [(name, *(cell(outcome, name) for outcome in outcomes)) for name in contenders]
        )
    rows = [(outcome.label, *(cell(outcome, name) for name in contenders)) for outcome in outcomes]
    return _table(("", *contenders), rows)


def panels(outcomes: Iterable[Outcome], plot: str) -> list[plots.Panel]:
    return [
        plots.Panel(
            outcome.headline or outcome.label,
            [
                plots.Bar(name, outcome.value(name), outcome.shown[name], kind(name))
                for name in outcome.figures
            ],
            outcome.more_is_better,
        )
        for outcome in outcomes
        if outcome.plot == plot
    ]
