"""The rate of `gather`, warm and cold, beside loops over views and beside the limits of the machine."""

import ctypes
import mmap
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from data import COLUMNS, Plan, recording
from harness import OURS, V1, Bar, Case, Contenders, best, digits, member_name, require, run, timed
from numpy.typing import NDArray

import mmnpz

ROW = COLUMNS * 4

NEAR = 0.9
"""The smallest ratio to a limit that counts as nearly as fast."""

MEMCPY, MEMCPY2, CALLERS = "memcpy", "memcpy, 2 threads", "2 callers"
VIEWS, FETCH = "ndarray", "WILLNEED"


@dataclass(frozen=True)
class Batches:
    """The excerpts of some batches: for each batch, the names and numbers of members, and the first rows."""

    length: int
    places: list[tuple[list[str], list[int], NDArray[np.int64]]]

    @property
    def excerpts(self) -> int:
        return sum(len(names) for names, _, _ in self.places)

    def new(self) -> NDArray[np.float32]:
        return np.zeros((len(self.places[0][0]), self.length, COLUMNS), np.float32)

    def check(self, batch: NDArray[np.float32], number: int = -1) -> None:
        _, members, starts = self.places[number]
        for excerpt, member, start in zip(batch, members, starts.tolist(), strict=True):
            expected = recording(member)[start : start + self.length]
            require(
                np.array_equal(excerpt, expected),
                f"the excerpt of {member_name(member)} is not what was written",
            )


def batches(members: int, length: int, size: int, count: int, seed: int = 1) -> Batches:
    generator = random.Random(seed)
    rows = [len(recording(number)) for number in range(members)]
    known = [member_name(number) for number in range(members)]
    places = []
    for _ in range(count):
        numbers = [generator.randrange(members) for _ in range(size)]
        starts = [generator.randint(0, rows[number] - length) for number in numbers]
        places.append(([known[number] for number in numbers], numbers, np.array(starts)))
    return Batches(length, places)


def cases(plan: Plan) -> list[Case]:
    members = plan.scaled(1000, 64)
    archive = str(plan.archive("ours", "recording", members))
    large = {"archive": archive, "members": members, "length": 100, "size": 64}
    small = {"archive": archive, "members": members, "length": 10, "size": 256}
    warm = {"count": plan.scaled(100, 4), "repeat": plan.scaled(20, 2)}
    many = plan.scaled(3000, 64)
    cold = {
        "archive": str(plan.archive("ours", "recording", many)),
        "members": many,
        "length": 100,
        "size": 64,
    }
    cases = [
        Case(
            "64 excerpts of 100 × 80 float32 in a batch, excerpts a second",
            (OURS, V1, VIEWS, MEMCPY),
            {**large, **warm},
            _rate,
            (Bar("≥ 0.9 × memcpy", NEAR, MEMCPY),),
            True,
        ),
        Case(
            "256 excerpts of 10 × 80 float32 in a batch, excerpts a second",
            (OURS, V1, VIEWS, MEMCPY),
            {**small, **warm},
            _rate,
            (Bar("≥ 5 × 1.0", 5, V1),),
            True,
        ),
        Case(
            "the first epoch, 64 excerpts of 100 × 80 float32 in a batch, excerpts a second",
            (OURS, V1, VIEWS, MEMCPY),
            {**large, "count": plan.scaled(16, 2), "first": True},
            _rate,
            (Bar("≥ 7 × 1.0", 7, V1), Bar("≥ 0.9 × memcpy", NEAR, MEMCPY)),
            True,
        ),
        Case(
            "the same, from a disk and not in the page cache, excerpts a second",
            (OURS, V1, FETCH),
            {**cold, "count": plan.scaled(20, 2), "cold": True},
            _rate,
            (Bar("≥ 0.8 × WILLNEED", 0.8, FETCH),),
            True,
        ),
    ]
    for free_threaded in (False, True) if plan.free_threaded else (False,):
        python = ", free-threaded" * free_threaded
        label = f"two threads{python}: 64 excerpts of 100 × 80 float32, excerpts a second"
        bars = (Bar("≥ 0.9 × memcpy, 2 threads", NEAR, MEMCPY2),)
        contenders = (OURS, CALLERS, MEMCPY, MEMCPY2)
        parameters = {**large, **warm, "threads": 2}
        cases.append(Case(label, contenders, parameters, _rate, bars, True, free_threaded))
    return cases


def _rate(rate: float) -> str:
    return f"{digits(rate / 1e3)} k/s"


Gather = Callable[[list[str], NDArray[np.int64], NDArray[np.float32]], object]


def with_gather(archive: str, threads: int = 1, cold: bool = False, **parameters: Any) -> float:
    with _cold(archive) if cold else nullcontext(archive) as path:
        data: Any = mmnpz.load(path)

        def gather(names: list[str], starts: NDArray[np.int64], out: NDArray[np.float32]) -> None:
            data.gather(names, starts, length=out.shape[1], out=out, threads=threads)

        return _measure(gather, first=cold or parameters.pop("first", False), **parameters)


def with_loop(archive: str, cold: bool = False, **parameters: Any) -> float:
    """A loop over the views of a reader, as programs did before `gather`."""
    with _cold(archive) if cold else nullcontext(archive) as path:
        loop = partial(_loop, mmnpz.load(path))
        return _measure(loop, first=cold or parameters.pop("first", False), **parameters)


def with_views(archive: str, first: bool = False, **parameters: Any) -> float:
    """A loop over plain arrays in a dict."""
    views = mmnpz.load(archive, preload=True, subok=False).arrays
    return _measure(partial(_loop, views), first=first, **parameters)


def _loop(data: Any, names: list[str], starts: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    length = out.shape[1]
    for number, (name, start) in enumerate(zip(names, starts.tolist(), strict=True)):
        out[number] = data[name][start : start + length]


def _measure(
    gather: Gather, members: int, length: int, size: int, count: int, repeat: int = 1, first: bool = False
) -> float:
    """Return excerpts a second: in the best of `repeat` epochs, or in the first epoch."""
    planned = batches(members, length, size, count)
    out = planned.new()

    def epoch() -> None:
        for names, _, starts in planned.places:
            gather(names, starts, out)

    if not first:
        epoch()
    seconds = best(lambda: timed(epoch), 1 if first else repeat)
    planned.check(out)
    return planned.excerpts / seconds


def with_callers(archive: str, threads: int, **parameters: Any) -> float:
    """Two threads that share a reader. Each makes every other batch."""
    data: Any = mmnpz.load(archive)

    def work(planned: Batches, number: int, out: NDArray[np.float32]) -> None:
        for names, _, starts in planned.places[number::2]:
            data.gather(names, starts, length=planned.length, out=out)

    return _measure_threads(work, **parameters)


def _measure_threads(
    work: Callable[[Batches, int, NDArray[np.float32]], None],
    members: int,
    length: int,
    size: int,
    count: int,
    repeat: int,
) -> float:
    planned = batches(members, length, size, count)
    with ThreadPoolExecutor(2) as pool:
        outs = [planned.new(), planned.new()]

        def epoch() -> None:
            for future in [pool.submit(work, planned, number, out) for number, out in enumerate(outs)]:
                future.result()

        epoch()
        seconds = best(lambda: timed(epoch), repeat)
        for number, out in enumerate(outs):
            planned.check(out, count - 2 + (count + number) % 2)
    return planned.excerpts / seconds


# The limits: the same copies, from known addresses.

SOURCE = """
#include <string.h>
void copies(char *to, char **from, long bytes, long count) {
    for (long i = 0; i < count; i++) memcpy(to + i * bytes, from[i], bytes);
}
"""


@cache
def _copies() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "copies.c"), Path(folder, "copies.so")
        source.write_text(SOURCE)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        copies = ctypes.CDLL(str(library)).copies
    copies.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_long]
    return copies


def _addresses(archive: str, planned: Batches) -> tuple[Any, list[NDArray[np.uintp]]]:
    data: Any = mmnpz.load(archive)
    starts = {name: data[name].ctypes.data for names, _, _ in planned.places for name in names}
    addresses = [
        np.array(
            [starts[name] + start * ROW for name, start in zip(names, rows.tolist(), strict=True)], np.uintp
        )
        for names, _, rows in planned.places
    ]
    return data, addresses


def with_memcpy(
    archive: str,
    members: int,
    length: int,
    size: int,
    count: int,
    repeat: int = 1,
    first: bool = False,
    threads: int = 1,
) -> float:
    planned = batches(members, length, size, count)
    _data, addresses = _addresses(archive, planned)
    out, copies = planned.new(), _copies()
    calls = [(out.ctypes.data, batch.ctypes.data, length * ROW, size) for batch in addresses]

    def epoch() -> None:
        for call in calls:
            copies(*call)

    if not first:
        epoch()
    seconds = best(lambda: timed(epoch), repeat)
    planned.check(out)
    return planned.excerpts / seconds


def with_memcpy_by_two(archive: str, threads: int, **parameters: Any) -> float:
    """Two threads that copy with memcpy. Each makes every other batch."""
    planned = batches(*(parameters[name] for name in ("members", "length", "size", "count")))
    _data, addresses = _addresses(archive, planned)
    copies = _copies()

    def work(planned: Batches, number: int, out: NDArray[np.float32]) -> None:
        to, size = out.ctypes.data, len(out)
        for batch in addresses[number::2]:
            copies(to, batch.ctypes.data, planned.length * ROW, size)

    return _measure_threads(work, **parameters)


# Cold: from a disk, with no page of the file in the page cache.


@contextmanager
def _cold(archive: str) -> Iterator[str]:
    """Copy an archive beside this file, because files in /dev/shm are always in memory."""
    with tempfile.TemporaryDirectory(prefix=".cold-", dir=Path(__file__).parent) as folder:
        path = shutil.copy(archive, folder)
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
        yield path


def with_fetching(archive: str, members: int, length: int, size: int, count: int, cold: bool) -> float:
    """The limit: tell the system all pages of a batch (madvise), and then copy it with memcpy."""
    planned = batches(members, length, size, count)
    out, copies = planned.new(), _copies()
    will_need = ctypes.CDLL(None).madvise
    will_need.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    bytes_ = length * ROW
    with _cold(archive) as path:
        # The directory of an mmnpz file has the header fields, so this reads no page of a member.
        _data, addresses = _addresses(path, planned)

        def epoch() -> None:
            for batch in addresses:
                for address in batch.tolist():
                    start = address // mmap.PAGESIZE * mmap.PAGESIZE
                    will_need(start, address + bytes_ - start, mmap.MADV_WILLNEED)
                copies(out.ctypes.data, batch.ctypes.data, bytes_, size)

        seconds = timed(epoch)
    planned.check(out)
    return planned.excerpts / seconds


CONTENDERS: Contenders = {
    OURS: with_gather,
    V1: with_loop,
    VIEWS: with_views,
    MEMCPY: with_memcpy,
    MEMCPY2: with_memcpy_by_two,
    CALLERS: with_callers,
    FETCH: with_fetching,
}

if __name__ == "__main__":
    run(CONTENDERS)
