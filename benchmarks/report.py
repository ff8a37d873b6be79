"""From figures to a table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from harness import OURS, V1, Bar, Case

COLUMNS = ("scenario", "mmnpz", "1.0.0", "other peers", "ratio to 1.0.0", "ratio to the others", "bar", "met")


@dataclass(frozen=True)
class Outcome:
    """The figures of a case: for each contender, those of each round."""

    case: Case
    figures: dict[str, list[tuple[float, ...]]]

    def shown(self, contender: str) -> str:
        return self.case.show(*map(median, zip(*self.figures[contender], strict=True)))

    def ratios(self, peer: str) -> list[float]:
        """How many times as good as the peer we are, in each round."""
        pairs = list(zip(self._compared(OURS), self._compared(peer), strict=True))
        if self.case.more_is_better:
            return [_divide(ours, theirs) for ours, theirs in pairs]
        return [_divide(theirs, ours) for ours, theirs in pairs]

    def shown_ratio(self, peer: str) -> str:
        ratios = self.ratios(peer)
        text = f"{median(ratios):.3g}"
        if len(ratios) > 1:
            text += f" ({min(ratios):.3g}–{max(ratios):.3g})"
        return text

    def meets(self, bar: Bar) -> bool:
        if bar.peer is not None:
            return median(self.ratios(bar.peer)) >= bar.limit
        ours = median(self._compared(OURS))
        return ours >= bar.limit if self.case.more_is_better else ours <= bar.limit

    def _compared(self, contender: str) -> list[float]:
        return [figures[0] for figures in self.figures[contender]]

    @property
    def peers(self) -> Sequence[str]:
        return [peer for peer in self.case.contenders if peer not in (OURS, V1)]


def _divide(above: float, below: float) -> float:
    return above / below if below else float("inf")


def table(outcomes: Iterable[Outcome], *, judge: bool) -> str:
    """A Markdown table; without `judge` it does not say whether the bars are met."""
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    for outcome in outcomes:
        bars = outcome.case.bars
        met = ["yes" if outcome.meets(bar) else "**no**" for bar in bars] if judge else []
        lines.append(
            _line(
                (
                    outcome.case.label,
                    outcome.shown(OURS),
                    outcome.shown(V1) if V1 in outcome.figures else "",
                    "; ".join(f"{peer} {outcome.shown(peer)}" for peer in outcome.peers),
                    outcome.shown_ratio(V1) if V1 in outcome.figures else "",
                    "; ".join(f"{peer} {outcome.shown_ratio(peer)}" for peer in outcome.peers),
                    "; ".join(bar.text for bar in bars),
                    "; ".join(met),
                )
            )
        )
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
