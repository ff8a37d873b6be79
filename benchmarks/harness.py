"""What the scenarios share.

A scenario is a file of two halves. ``cases`` says to the runner what there is to measure; ``CONTENDERS`` maps
the name of each contender to the function that measures it, in a process of its own: the file as a script
with a contender's name and its parameters as JSON, prints the figure as one line of JSON. It may add a second
figure, which is shown beside the first and not compared.

This module is imported into every such process, also into those of mmnpz 1.0.0, and so imports only NumPy.
"""

import gc
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

OURS = "mmnpz"
V1 = "mmnpz 1.0.0"

ITEMS = 100
"""Items of a small array: 400 bytes of float32."""

Figure = float | tuple[float, float]

Contenders = dict[str, Callable[..., Figure]]

Result = TypeVar("Result")


@dataclass(frozen=True)
class Bar:
    """
    What the project asks of a figure.

    With `peer`, the ratio to it (how many times as good as the peer we are) must reach `limit`. Without,
    our own figure must not be worse than `limit`. Before that, `allowance` is subtracted from our figure.
    """

    text: str
    limit: float
    peer: str | None = None
    allowance: float = 0.0


@dataclass(frozen=True)
class Case:
    """One row of the table: the same work done by several contenders."""

    label: str
    contenders: tuple[str, ...]
    parameters: dict[str, Any]
    show: Callable[..., str]
    bars: tuple[Bar, ...] = ()
    more_is_better: bool = False
    free_threaded: bool = False
    headline: str = ""
    """What the row is called in the summary and in plots; without, it is in neither."""
    plot: str = ""
    """The plot it is drawn in; see `report.PLOTS`."""


def run(contenders: Contenders) -> None:
    """Measures one contender, as the command line says, and prints the figure."""
    measure = contenders[sys.argv[1]]
    parameters = json.loads(sys.argv[2])
    print(json.dumps({"figure": measure(**parameters)}))


class WrongResult(Exception):
    """What was read is not what was written."""


def require(condition: bool, what: str) -> None:
    if not condition:
        raise WrongResult(what)


# The members of the archives of small arrays.


def member_name(number: int) -> str:
    return f"item{number:07d}"


def member_names(count: int) -> list[str]:
    return [member_name(number) for number in range(count)]


def small_array(number: int, items: int = ITEMS) -> NDArray[np.float32]:
    """A member's array. No two are equal, so that a view of another member is found out."""
    array = np.arange(items, dtype=np.float32)
    array[0] = number  # exact below 2**24
    return array


def shuffled(names: list[str]) -> list[str]:
    names = names.copy()
    random.Random(1).shuffle(names)
    return names


def require_small(array: NDArray[Any], number: int) -> None:
    expected = small_array(number)
    same = array.dtype == expected.dtype and np.array_equal(array, expected)
    require(same, f"{member_name(number)} is not what was written")


def require_sample(data: Any, count: int) -> None:
    """Checks the first, the last, and a thousand members between."""
    for number in {*range(0, count, max(count // 1000, 1)), count - 1}:
        require_small(data[member_name(number)], number)


# Time.


def timed(work: Callable[[], Result], check: Callable[[Result], object] | None = None) -> float:
    """Times `work` in seconds. What it returns is checked and dropped after the clock has stopped."""
    gc.collect()
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    if check is not None:
        check(result)
    return seconds


def best(once: Callable[[], float], repeat: int) -> float:
    """The best of several measurements: what others on the machine do can only make it slower."""
    return min(once() for _ in range(repeat))


# Threads.


@dataclass(frozen=True)
class Task:
    """What one thread does: `work` as many times as it is told, and afterwards a `check` of what it read."""

    work: Callable[[int], object]
    check: Callable[[], object]


class Threads:
    """
    Two threads that live as long as the measurement, and the task of each.

    Each task is made in the thread that does it: free-threaded CPython counts references to what a thread has
    made itself without telling the others.
    """

    def __init__(self, make_task: Callable[[int], Task]) -> None:
        self._exits = ExitStack()
        self._pools = [self._exits.enter_context(ThreadPoolExecutor(1)) for _ in range(2)]
        self._tasks = [pool.submit(make_task, number).result() for number, pool in enumerate(self._pools)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exits.close()

    def seconds(self, count: int, times: int = 1) -> float:
        """From when the first thread starts to when the last ends, if `count` threads do their tasks."""
        barrier = Barrier(count)

        def clocked(work: Callable[[int], object]) -> tuple[float, float]:
            barrier.wait()
            start = time.perf_counter()
            work(times)
            return start, time.perf_counter()

        gc.collect()
        futures = [
            pool.submit(clocked, task.work)
            for pool, task in zip(self._pools[:count], self._tasks, strict=False)
        ]
        starts, ends = zip(*(future.result() for future in futures), strict=True)
        return float(max(ends) - min(starts))

    def times(self, seconds: float) -> int:
        """How many times one thread does its task in as many seconds."""
        times = 1
        while (took := self.seconds(1, times)) < seconds / 10:
            times *= 2
        return math.ceil(times * seconds / took)

    def check(self, count: int = 2) -> None:
        for pool, task in zip(self._pools[:count], self._tasks, strict=False):
            pool.submit(task.check).result()


def two_over_one(seconds: Callable[[int], float], repeat: int) -> tuple[float, float]:
    """
    How many times as much two threads get done as one, and the seconds that two take for a task each.

    `seconds` says how long a number of threads takes. One and two take turns, and the best of each counts.
    """
    one, two = map(min, zip(*((seconds(1), seconds(2)) for _ in range(repeat)), strict=True))
    return 2 * one / two, two


# Memory.


def memory(process: int | str, *kinds: str) -> int:
    """The memory of these kinds that a process has, in bytes, as the system accounts for it."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {
        kind: int(amount.split()[0]) * 1024 for kind, _, amount in (line.partition(":") for line in lines)
    }
    return sum(sizes[kind] for kind in kinds)


def anonymous_memory() -> int:
    """The anonymous memory of this process, in bytes: mapped files do not count."""
    gc.collect()
    return memory("self", "Anonymous")


def watch(pid: int) -> None:
    """Watches a process's anonymous memory until standard input is closed; prints the peak in bytes."""
    status = os.open(f"/proc/{pid}/status", os.O_RDONLY)
    os.set_blocking(0, False)
    print("ready", flush=True)
    peak = 0
    while True:
        text = os.pread(status, 8192, 0)
        peak = max(peak, int(text.partition(b"RssAnon:")[2].split()[0]) * 1024)
        try:
            if not os.read(0, 1):
                break
        except BlockingIOError:
            time.sleep(0.001)
    print(peak)


class Peak:
    bytes: int = 0


@contextmanager
def peak_anonymous_memory() -> Iterator[Peak]:
    """
    By how much the anonymous memory of this process rises inside the block at most, in bytes.

    Another process watches, about a thousand times a second: no contender's hold on the interpreter lock can
    hide a peak.
    """
    gc.collect()
    peak = Peak()
    command = [sys.executable, __file__, str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        watcher.stdout.readline()
        status = Path("/proc/self/status")
        before = int(status.read_text().partition("RssAnon:")[2].split()[0]) * 1024
        yield peak
        output, _ = watcher.communicate()
    peak.bytes = int(output) - before


# How figures are shown.


def digits(number: float) -> str:
    """Three of them, and all in front of the point."""
    return f"{number:.0f}" if abs(number) >= 999.5 else f"{number:.3g}"


def duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{digits(seconds / size)} {unit}"
    return f"{digits(seconds / 1e-9)} ns"


def size(count: float) -> str:
    if count >= 1 << 20:
        return f"{digits(count / (1 << 20))} MiB"
    if count >= 1 << 10:
        return f"{digits(count / (1 << 10))} KiB"
    return f"{digits(count)} B"


def percent(share: float) -> str:
    return f"{share:.3g} %"


if __name__ == "__main__":
    watch(int(sys.argv[1]))
