"""Render the pages that show figures, from the file that keeps the figures."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import plots
import report
from report import Outcome

ROOT = Path(__file__).resolve().parent.parent

FIGURES = ROOT / "docs" / "benchmarks.json"
PAGE = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "_static"
README = ROOT / "README.md"

BEGIN = "<!-- Made by `make bench`; what is written here is lost. -->"
END = "<!-- End of what `make bench` made. -->"

SAME = ("Python", "mmnpz", "mmnpz 1.0.0", "peers", "processor", "kernel")
"""The facts that all scenarios should have in common. The page shows those of a scenario that differ."""


def render() -> None:
    """Write the page, its images, and the table in the README."""
    stored = report.load(FIGURES)
    outcomes = [outcome for entry in stored.values() for outcome in report.outcomes_of(entry)]
    images = _draw(outcomes)
    PAGE.write_text(_page(stored, outcomes, images), encoding="utf-8")
    _replace_in(README, _excerpt(stored, outcomes, images))


def _draw(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Draw the images, and return the title of each by its name."""
    IMAGES.mkdir(exist_ok=True)
    drawn = {}
    for plot, title in report.PLOTS.items():
        path = IMAGES / f"{plot}.svg"
        panels = report.panels(outcomes, plot)
        path.unlink(missing_ok=True)
        if panels:
            path.write_text(plots.svg(title, panels), encoding="utf-8")
            drawn[plot] = title
    return drawn


def _page(stored: report.Stored, outcomes: Sequence[Outcome], images: dict[str, str]) -> str:
    common = _common(stored)
    facts = {**common, "rounds": _rounds(outcomes)}
    parts = [
        "# Benchmarks",
        BEGIN,
        "What mmnpz costs, beside mmnpz 1.0.0 and beside the libraries that people use for the same. Each"
        " contender runs in a process of its own, all take turns, and each is checked to have read what was"
        " written. `make bench` repeats it; `benchmarks/README.md` in the repository says how each peer is"
        " set up, and how it is measured.",
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
        "The best peer is that of the row. Ratios are medians of those within rounds, so that the quotient of"
        " two figures need not be the ratio.",
        report.summary(outcomes),
        "## Where a peer is better",
        report.lost(outcomes),
        "## Pictures",
        *(f"### {title}\n\n![{title}](_static/{plot}.svg)" for plot, title in images.items()),
        "## All figures",
        "Behind each figure: how many times as good mmnpz 2 is, in time, bytes or share; in brackets, the"
        " lowest and the highest of the rounds. What is no library is a limit: what the machine allows.",
    ]
    for scenario, entry in stored.items():
        parts += [f"### `{scenario}`", report.details(report.outcomes_of(entry))]
        differing = {
            name: entry["facts"].get(name) for name in SAME if entry["facts"].get(name) != common[name]
        }
        if differing or entry["facts"]["date"] != common["date"]:
            differing["date"] = entry["facts"]["date"]
            parts.append(
                "Measured with: " + "; ".join(f"{name} {value}" for name, value in differing.items()) + "."
            )
    return "\n\n".join(parts) + "\n"


def _common(stored: report.Stored) -> dict[str, str]:
    """Return the facts of the machine on which most scenarios were measured, from the last of its runs."""
    found = [entry["facts"] for entry in stored.values()]
    counts = Counter(facts["processor"] for facts in found)
    return max(found, key=lambda facts: (counts[facts["processor"]], facts["date"]))


def _rounds(outcomes: Sequence[Outcome]) -> str:
    """Return the number of rounds as text: a range, if scenarios were run with different numbers."""
    counts = sorted({len(rounds) for outcome in outcomes for rounds in outcome.figures.values()})
    return f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"


def _excerpt(stored: report.Stored, outcomes: Sequence[Outcome], images: dict[str, str]) -> str:
    """Return the text of the section in the README."""
    facts = _common(stored)
    shown = [plot for plot in ("excerpts",) if plot in images]
    parts = [
        report.summary(outcomes),
        *(f"![{images[plot]}](docs/_static/{plot}.svg)" for plot in shown),
        f"Medians of {_rounds(outcomes)} rounds on {facts['processor']}, "
        f"Python {facts['Python'].split()[-1]}, mmnpz {facts['mmnpz']} "
        f"(1.0.0: {facts['mmnpz 1.0.0']}), {facts['peers']}; {facts['date']}."
        " `make bench` repeats it. [All figures](docs/benchmarks.md), and"
        " [what is measured](benchmarks/README.md).",
    ]
    return "\n\n".join(parts)


def _replace_in(page: Path, text: str) -> None:
    """Replace the text between the two comments in a page."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{page} lacks the marks {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
