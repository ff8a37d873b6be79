"""Writing many small arrays."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from data import Plan, directory_start
from harness import (
    OURS,
    V1,
    Bar,
    Case,
    Contenders,
    best,
    member_name,
    member_names,
    require,
    require_small,
    run,
    small_array,
    timed,
)

import mmnpz


def cases(plan: Plan) -> list[Case]:
    members = plan.scaled(10**5, 10**3)
    nbytes = directory_start(plan.our_archive(members)) // members

    def rate(seconds: float) -> str:
        return f"{members / seconds / 1e3:.4g} k/s"

    return [
        Case(
            f"write {members:,} arrays of 400 B (open, write, close)",
            (OURS, V1, "write(2)"),
            {"folder": str(plan.folder), "members": members, "nbytes": nbytes},
            rate,
            (Bar("≥ 8 × 1.0", 8, V1), Bar("≥ 0.6 × write(2)", 0.6, "write(2)")),
        )
    ]


def with_mmnpz(folder: str, members: int, nbytes: int) -> float:
    names = member_names(members)
    array = small_array(1)

    def write(path: Path) -> None:
        with mmnpz.NpzWriter(path) as writer:
            for name in names:
                writer.write(name, array)

    def check(path: Path) -> None:
        with mmnpz.load(path) as data:
            require(len(data) == members, "members are missing")
            for number in range(0, members, members // 100):
                require_small(data[member_name(number)], 1)

    return _measure(folder, write, check)


def with_write(folder: str, members: int, nbytes: int) -> float:
    """The limit: as many bytes for each member as ours takes, in one system call, and no directory."""
    names = member_names(members)
    block = bytes(nbytes)

    def write(path: Path) -> None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        for _ in names:
            os.write(file, block)
        os.close(file)

    def check(path: Path) -> None:
        require(path.stat().st_size == members * nbytes, "write(2) was cut short")

    return _measure(folder, write, check)


def _measure(folder: str, write: Callable[[Path], None], check: Callable[[Path], None]) -> float:
    path = Path(folder, f"small-{os.getpid()}.npz")

    def once() -> float:
        seconds = timed(partial(write, path))
        check(path)
        path.unlink()
        return seconds

    return best(once, 2)


CONTENDERS: Contenders = {OURS: with_mmnpz, V1: with_mmnpz, "write(2)": with_write}

if __name__ == "__main__":
    run(CONTENDERS)
