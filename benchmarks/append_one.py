"""Adding one small array to an archive that has many."""

import os
from collections.abc import Callable
from pathlib import Path

from data import Plan, copy_of, directory_start
from harness import (
    OURS,
    V1,
    Bar,
    Case,
    Contenders,
    best,
    duration,
    member_name,
    require,
    require_small,
    run,
    small_array,
    timed,
)

import mmnpz


def cases(plan: Plan) -> list[Case]:
    rows = []
    for members in (plan.member_counts[0], plan.most_members):
        parameters = {
            "archive": str(plan.our_archive(members)),
            "members": members,
            "repeat": max(1, min(5, 300_000 // members)),
        }
        bars = (Bar("≥ 50 × 1.0", 50, V1),) if members == 10**6 else ()
        label = f"append one array to {members:,} members (open, write, close)"
        rows.append(Case(label, (OURS, V1, "directory rewritten"), parameters, duration, bars))
    return rows


def with_mmnpz(archive: str, members: int, repeat: int) -> float:
    def append(path: Path, name: str) -> None:
        with mmnpz.NpzWriter(path, "a") as writer:
            writer.write(name, small_array(1))

    def check(path: Path) -> None:
        with mmnpz.load(path) as data:
            require(len(data) == members + repeat, "members are missing")
            require_small(data["new0"], 1)
            require_small(data[member_name(members - 1)], members - 1)

    return _measure(archive, repeat, append, check)


def with_rewriting(archive: str, members: int, repeat: int) -> float:
    """The limit: the directory is read, and written again behind a block of the size of a member."""
    block = bytes(directory_start(Path(archive)) // members)

    def append(path: Path, name: str) -> None:
        start = directory_start(path)
        file = os.open(path, os.O_RDWR)
        directory = os.pread(file, os.fstat(file).st_size - start, start)
        os.pwrite(file, block, start)
        os.pwrite(file, directory, start + len(block))
        os.close(file)

    def check(path: Path) -> None:
        grown = path.stat().st_size - Path(archive).stat().st_size
        require(grown % len(block) == 0 and grown > 0, "the file has not grown")

    return _measure(archive, repeat, append, check)


def _measure(
    archive: str, repeat: int, append: Callable[[Path, str], None], check: Callable[[Path], None]
) -> float:
    path = copy_of(archive)
    names = iter(range(repeat))
    seconds = best(lambda: timed(lambda: append(path, f"new{next(names)}")), repeat)
    check(path)
    path.unlink()
    return seconds


CONTENDERS: Contenders = {OURS: with_mmnpz, V1: with_mmnpz, "directory rewritten": with_rewriting}

if __name__ == "__main__":
    run(CONTENDERS)
