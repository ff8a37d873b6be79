"""The parts that all scenarios share: cases, bars, small arrays, clocks, threads, and a memory gauge.

A scenario is a file with two parts. ``cases`` tells the runner what to measure. ``CONTENDERS`` maps the name
of each contender to the function that measures it. The runner starts the file as a script, in a new process
for each contender, with the contender's name and its parameters as JSON. The script prints the figure as one
line of JSON. It may print a second figure, which the report shows beside the first and does not compare.

Every such process imports this module, also those of mmnpz 1.0.0. So this module imports only NumPy.
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
    A bound that the figure of mmnpz must reach.

    With `peer`, the ratio (how many times as good as the peer mmnpz is) must be at least `limit`. Without
    `peer`, the figure of mmnpz must not be worse than `limit`. `allowance` is first subtracted from the
    figure of mmnpz.
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
    """The name of the row in the summary and in plots. A row without a headline is in neither."""
    plot: str = ""
    """The name of the plot that shows the row; see `report.PLOTS`."""


def run(contenders: Contenders) -> None:
    """Measure the contender that the command line names, and print the figure."""
    measure = contenders[sys.argv[1]]
    parameters = json.loads(sys.argv[2])
    print(json.dumps({"figure": measure(**parameters)}))


class WrongResult(Exception):
    """A contender read another array than the one that was written."""


def require(condition: bool, what: str) -> None:
    if not condition:
        raise WrongResult(what)


# The members of the archives of small arrays.


def member_name(number: int) -> str:
    return f"item{number:07d}"


def member_names(count: int) -> list[str]:
    return [member_name(number) for number in range(count)]


def small_array(number: int, items: int = ITEMS) -> NDArray[np.float32]:
    """Return the array of a member. No two are equal, so that a check notices the view of another member."""
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
    """Check the first, the last, and about a thousand members between them."""
    for number in {*range(0, count, max(count // 1000, 1)), count - 1}:
        require_small(data[member_name(number)], number)


# Time.


def timed(work: Callable[[], Result], check: Callable[[Result], object] | None = None) -> float:
    """Return the seconds that `work` takes. Check and free its result after the clock has stopped."""
    gc.collect()
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    if check is not None:
        check(result)
    return seconds


def best(once: Callable[[], float], repeat: int) -> float:
    """Return the best of several measurements: other processes can only make a measurement slower."""
    return min(once() for _ in range(repeat))


# Threads.


@dataclass(frozen=True)
class Task:
    """The task of one thread: `work`, with the number of times, and then a `check` of what it read."""

    work: Callable[[int], object]
    check: Callable[[], object]


class Threads:
    """
    Two threads that live as long as the measurement, and their tasks.

    Each thread makes its own task. Free-threaded CPython counts references to an object faster in the thread
    that made it.
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
        """Return the seconds from the first start to the last end of the tasks of `count` threads."""
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
        """Return how many times one thread can do its task in this many seconds."""
        times = 1
        while (took := self.seconds(1, times)) < seconds / 10:
            times *= 2
        return math.ceil(times * seconds / took)

    def check(self, count: int = 2) -> None:
        for pool, task in zip(self._pools[:count], self._tasks, strict=False):
            pool.submit(task.check).result()


def two_over_one(seconds: Callable[[int], float], repeat: int) -> tuple[float, float]:
    """
    Return how many times as much two threads get done as one, and the seconds that two threads take.

    `seconds` returns the time for a number of threads that do one task each. Measurements of one and two
    threads alternate, and the best of each counts.
    """
    one, two = map(min, zip(*((seconds(1), seconds(2)) for _ in range(repeat)), strict=True))
    return 2 * one / two, two


# Memory.


def memory(process: int | str, *kinds: str) -> int:
    """Return the memory of these kinds of a process, in bytes, by /proc/PID/smaps_rollup."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {
        kind: int(amount.split()[0]) * 1024 for kind, _, amount in (line.partition(":") for line in lines)
    }
    return sum(sizes[kind] for kind in kinds)


def anonymous_memory() -> int:
    """Return the anonymous memory of this process, in bytes. Mapped files do not count."""
    gc.collect()
    return memory("self", "Anonymous")


def watch(pid: int) -> None:
    """Watch the anonymous memory of a process until standard input ends, and print the peak in bytes."""
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
    Measure by how much the anonymous memory of this process rises at most inside the block, in bytes.

    Another process watches about a thousand times a second, so that a contender that holds the interpreter
    lock cannot hide a peak.
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


# Figures as text.


def digits(number: float) -> str:
    """Format a number with three significant digits, and with all digits in front of the point."""
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
