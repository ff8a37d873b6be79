"""The time to read all arrays of a compressed archive, and the memory that `preload` takes."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from data import CONTENTS, DEFLATED, ZSTANDARD, Plan
from harness import (
    OURS,
    Bar,
    Case,
    Contenders,
    best,
    duration,
    member_names,
    peak_anonymous_memory,
    require,
    run,
    size,
    timed,
)

import mmnpz

NUMPY = "numpy.load"
ZIPFILE = "zipfile of Python 3.14"
ARRAYS = "the arrays"

Read = Callable[[str], Any]


def cases(plan: Plan) -> list[Case]:
    small = plan.scaled(10**4, 10**3)
    long = plan.scaled(300, 8)
    names = {DEFLATED: "deflated", ZSTANDARD: "Zstandard"}

    def case(content: str, members: int, method: str, threads: int, bar: float) -> Case:
        peer = {DEFLATED: NUMPY, ZSTANDARD: ZIPFILE}[method]
        parameters = {
            "archive": str(plan.archive(method, content, members)),
            "content": content,
            "members": members,
            "threads": threads,
        }
        what = {"small": "arrays of 400 bytes", "signal": "signals of 130 to 640 KB"}[content]
        how = f"{threads} threads" if threads > 1 else "one thread"
        label = f"read {members:,} {names[method]} {what}, {how}: per member"
        # A peer that holds the interpreter lock reads with one thread.
        return Case(label, (OURS, peer), parameters, duration, (Bar(f"≥ {bar} × {peer}", bar, peer),))

    def memory(members: int) -> Case:
        archive = str(plan.archive(DEFLATED, "signal", members))
        parameters = {"archive": archive, "content": "signal", "members": members, "threads": 0}
        bars = (Bar(f"≤ 1.1 × {ARRAYS}", 1 / 1.1, ARRAYS),)
        label = f"peak memory of opening {members:,} deflated signals with preload=True"
        return Case(label, (OURS, ARRAYS), parameters, size, bars)

    return [
        case("signal", long, DEFLATED, 1, 1.6),
        case("signal", long, DEFLATED, 2, 2.5),
        case("small", small, DEFLATED, 1, 1.6),
        case("signal", long, ZSTANDARD, 1, 1.5),
        case("small", small, ZSTANDARD, 1, 1.5),
        memory(long),
    ]


def require_same(arrays: Iterator[Any], content: str) -> None:
    for number, array in enumerate(arrays):
        if number % 97 == 0:
            require(
                np.array_equal(array, CONTENTS[content](number)), f"member {number} is not what was written"
            )


def per_member(open_: Callable[[], Read], content: str, members: int, threads: int) -> float:
    names = member_names(members)
    read = open_()
    require_same(map(read, names), content)
    if threads == 1:
        return best(lambda: timed(lambda: [None for name in names if read(name) is None]), 5) / members
    with ThreadPoolExecutor(threads) as pool:
        parts = [names[first::threads] for first in range(threads)]

        def read_all() -> None:
            list(pool.map(lambda part: [None for name in part if read(name) is None], parts))

        return best(lambda: timed(read_all), 5) / members


def with_mmnpz(archive: str, content: str, members: int, threads: int) -> float:
    if threads == 0:
        with peak_anonymous_memory() as peak:
            data = mmnpz.load(archive, preload=True)
        require_same((data[name] for name in member_names(members)), content)
        return peak.bytes
    return per_member(lambda: mmnpz.load(archive, cache=False).__getitem__, content, members, threads)


def with_numpy(archive: str, content: str, members: int, threads: int) -> float:
    return per_member(lambda: np.load(archive).__getitem__, content, members, 1)


def with_zipfile(archive: str, content: str, members: int, threads: int) -> float:
    from backports.zstd.zipfile import ZipFile  # the module of Python 3.14

    def open_() -> Read:
        file = ZipFile(archive)

        def read(name: str) -> Any:
            with file.open(f"{name}.npy") as member:
                return np.lib.format.read_array(member)

        return read

    return per_member(open_, content, members, 1)


def of_arrays(archive: str, content: str, members: int, threads: int) -> float:
    return sum(CONTENTS[content](number).nbytes for number in range(members))


CONTENDERS: Contenders = {
    OURS: with_mmnpz,
    NUMPY: with_numpy,
    ZIPFILE: with_zipfile,
    ARRAYS: of_arrays,
}

if __name__ == "__main__":
    run(CONTENDERS)
