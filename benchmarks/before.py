"""Compare this mmnpz with another build: ``python benchmarks/before.py PYTHON``. See the README beside it."""

import argparse
import importlib
import sys
import tempfile
from collections.abc import Iterator
from math import inf
from pathlib import Path
from statistics import median

from data import OWN, SAVEZ, Plan
from environment import Unusable, is_peer
from harness import OURS, V1, Case, digits
from run import SCENARIOS, Failed, Pythons, absolute, data_folder, measure


class OwnFiles(Plan):
    """The files of mmnpz and of `numpy.savez`: no peer is measured."""

    def archive(self, writer: str, content: str, members: int, *, on_disk: bool = False) -> Path:
        if writer not in {OWN, SAVEZ}:
            return Path()
        return super().archive(writer, content, members, on_disk=on_disk)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "python", type=absolute, help="the interpreter of an environment with the other build"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--rounds", type=int, default=5, help="how often each build runs (5)")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=SCENARIOS, metavar="NAME")
    return parser.parse_args()


def rows(scenario: str, case: Case, rounds: int, builds: tuple[Pythons, Pythons]) -> Iterator[str]:
    """Measure what a case measures of mmnpz, the builds in turn, and yield a row for each contender."""
    for contender in case.contenders:
        if contender == V1 or is_peer(contender) or not contender.startswith(OURS):
            continue
        figures: tuple[list[tuple[float, ...]], ...] = ([], [])
        try:
            measure(scenario, case, contender, 0, builds[0])
        except Failed:
            yield f"| {case.label}: {contender} | not there | | |"
            continue
        for number in range(rounds):
            # The first of a round changes, so that neither always runs behind the other.
            for which in (number % 2, 1 - number % 2):
                figures[which].append(measure(scenario, case, contender, number, builds[which]))
        before, now = ([figure[0] for figure in found] for found in figures)
        pairs = list(zip(before, now, strict=True))
        ratio = median(_ratio(*(pair if case.more_is_better else pair[::-1])) for pair in pairs)
        shown = [case.show(*map(median, zip(*found, strict=True))) for found in figures]
        yield f"| {case.label}: {contender} | {shown[0]} | {shown[1]} | {digits(ratio)} |"


def _ratio(before: float, now: float) -> float:
    if before == now:  # no bytes, for example
        return 1.0
    return now / before if before else inf


def main() -> int:
    given = arguments()
    builds = (Pythons(None, None, given.python), Pythons(None, None))
    print("|  | before | now | times as good |\n| --- | --- | --- | --- |", flush=True)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="mmnpz-bench-", dir=data_folder(given.quick)) as folder,
            tempfile.TemporaryDirectory(prefix="mmnpz-bench-") as cold,
        ):
            plan = OwnFiles(Path(folder), given.quick, disk=Path(cold))
            for scenario in given.only:
                for case in importlib.import_module(scenario).cases(plan):
                    for row in rows(scenario, case, given.rounds, builds):
                        print(row, flush=True)
                plan.forget()
    except (Unusable, Failed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
