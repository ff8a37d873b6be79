"""Run the benchmarks and report their figures: ``python benchmarks/run.py``. See the README beside it."""

import argparse
import datetime
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environment
import pages
import report
from data import Plan
from harness import V1, Case

HERE = Path(__file__).resolve().parent

SCENARIOS = (
    "open_archive",
    "index_memory",
    "first_access",
    "excerpts",
    "loader",
    "preload",
    "verify",
    "compressed",
    "layout",
    "sources",
    "cached_lookup",
    "slice_view",
    "ufunc_view",
    "gather",
    "write_large",
    "grow_large",
    "write_small",
    "append_one",
    "peak_memory",
    "alignment",
    "threads_read",
    "write_threads",
    "worker_start",
    "worker_memory",
    "pickle_size",
)

ROOM = 10_000_000_000
QUICK_ROOM = 200_000_000

LONGEST = 600
"""The seconds after which the runner kills a contender."""


class Failed(Exception):
    """A contender read another array than the one that was written, or did not finish."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: does everything run?")
    parser.add_argument("--rounds", type=int, help="how often each contender runs (5, quick 1)")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--output", type=Path, help="write the table to this file too")
    parser.add_argument(
        "--report", action="store_true", help="keep the figures in docs/benchmarks.json, and render them"
    )
    parser.add_argument(
        "--render", action="store_true", help="measure nothing; make the pages and plots of the kept figures"
    )
    parser.add_argument("--dir", type=absolute, help="where the data are put (/dev/shm, if it has room)")
    parser.add_argument(
        "--disk", type=absolute, help="a folder on a disk, for what is read cold (that for temporary files)"
    )
    parser.add_argument(
        "--venv", type=absolute, default=HERE.parent / ".venv-bench", help="environment of mmnpz 1.0.0"
    )
    parser.add_argument(
        "--free-threaded",
        type=absolute,
        metavar="PYTHON",
        help="a free-threaded Python with mmnpz, to measure the scenarios of threads with, too",
    )
    given = parser.parse_args()
    if given.quick and given.report:
        parser.error("figures of a quick run are nothing to report")
    if given.rounds is None:
        given.rounds = 1 if given.quick else 5
    if given.rounds < 1:
        parser.error("there must be a round")
    return given


def absolute(path: str) -> Path:
    """Make a path absolute, because contenders run in another folder.

    Do not resolve symbolic links: the interpreter of an environment is one.
    """
    return Path(path).absolute()


def data_folder(quick: bool) -> Path:
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).free >= (QUICK_ROOM if quick else ROOM):
        return shared
    return Path(tempfile.gettempdir())


@dataclass(frozen=True)
class Pythons:
    """The interpreters of the other environments: mmnpz 1.0.0, free-threaded Python, and another build."""

    v1: Path | None
    free_threaded: Path | None
    build: Path | None = None

    def of(self, case: Case, contender: str) -> Path | None:
        if contender == V1 or self.build:
            return self.build or self.v1
        return self.free_threaded if case.free_threaded else None


def measure(
    scenario: str, case: Case, contender: str, round_number: int, pythons: Pythons
) -> tuple[float, ...]:
    """Measure a contender in a new process, and return its figures."""
    other = pythons.of(case, contender)
    python, variables = (
        (other, environment.without_python_path()) if other else (sys.executable, {**os.environ})
    )
    # The same hash seed for all contenders of a round, so that their dicts have the same collisions.
    variables["PYTHONHASHSEED"] = str(round_number)
    # One thread for NumPy's linear algebra: no scenario needs more, and idle threads spin for a while.
    variables["OPENBLAS_NUM_THREADS"] = "1"
    command = [str(python), str(HERE / f"{scenario}.py"), contender, json.dumps(case.parameters)]
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=HERE,  # a process of a fork server imports from here first, and must not find this mmnpz
            env=variables,
            stdout=subprocess.PIPE,
            text=True,
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{scenario}: {contender} did not finish: {case.label}") from None
    if done.returncode:
        raise Failed(f"{scenario}: {contender} failed: {case.label}")
    figure = json.loads(done.stdout)["figure"]
    return tuple(figure) if isinstance(figure, list) else (figure,)


def compare(scenario: str, case: Case, rounds: int, pythons: Pythons) -> report.Outcome:
    """Measure all contenders of a case. Each round starts with another contender."""
    figures: dict[str, list[tuple[float, ...]]] = {contender: [] for contender in case.contenders}
    for round_number in range(rounds):
        first = round_number % len(case.contenders)
        for contender in case.contenders[first:] + case.contenders[:first]:
            figures[contender].append(measure(scenario, case, contender, round_number, pythons))
    return report.Outcome.of(scenario, case, figures)


def outcomes(plan: Plan, scenario: str, rounds: int, pythons: Pythons) -> Iterator[report.Outcome]:
    start = time.perf_counter()
    cases = importlib.import_module(scenario).cases(plan)
    print(f"{time.perf_counter() - start:6.1f} s  {scenario}: files", file=sys.stderr)
    for case in cases:
        start = time.perf_counter()
        yield compare(scenario, case, rounds, pythons)
        print(f"{time.perf_counter() - start:6.1f} s  {case.label}", file=sys.stderr)


def _keep(scenario: str, entry: dict[str, Any]) -> None:
    """Store the figures of a scenario as soon as it ends, in the order of the scenarios."""
    stored = report.load(pages.FIGURES) | {scenario: entry}
    report.save(pages.FIGURES, {name: stored[name] for name in SCENARIOS if name in stored})


def main() -> int:
    given = arguments()
    if given.render:
        pages.render()
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # exit normally, so that the data are removed
    parent = given.dir or data_folder(given.quick)
    disk = given.disk or Path(tempfile.gettempdir())
    try:
        environment.require_peers()
        facts = environment.description()
        if given.free_threaded:
            facts["free-threaded"] = environment.free_threaded_versions(given.free_threaded)
        pythons = Pythons(environment.python_of_v1(given.venv), given.free_threaded)
        facts |= {
            "data in": f"{environment.kind_of_folder(parent)}; cold: {environment.kind_of_folder(disk)}",
            "date": datetime.date.today().isoformat(),
            "rounds": f"{given.rounds}, quick: figures of no meaning" if given.quick else str(given.rounds),
        }
        results: list[report.Outcome] = []
        with (
            tempfile.TemporaryDirectory(prefix="mmnpz-bench-", dir=parent) as folder,
            tempfile.TemporaryDirectory(prefix="mmnpz-bench-", dir=disk) as cold,
        ):
            plan = Plan(Path(folder), given.quick, given.free_threaded is not None, Path(cold))
            for scenario in given.only or SCENARIOS:
                found = list(outcomes(plan, scenario, given.rounds, pythons))
                results += found
                plan.forget()
                if given.report:
                    _keep(scenario, report.entry(facts, found))
    except (environment.Unusable, Failed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if given.report:
        pages.render()
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    text = "\n".join([*lines, "", report.table(results, judge=not given.quick), ""])
    print(text)
    if given.output:
        given.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
