"""How many times as much two threads that write to one file get done as one thread."""

import os
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from data import Plan
from harness import OURS, V1, Case, Contenders, Task, Threads, best, require, run, two_over_one
from numpy.typing import NDArray

import mmnpz

Array = NDArray[np.float32]

OTHERS = 16
"""The number of different arrays that each thread writes in turn."""


class Target(Protocol):
    """A new file that is open for writing."""

    def write(self, thread: int, number: int, array: Array) -> None: ...

    def close(self) -> None: ...

    def read(self, thread: int, number: int) -> Array: ...


def cases(plan: Plan) -> list[Case]:
    return [
        row
        for free_threaded in ((False, True) if plan.free_threaded else (False,))
        for nbytes, items in ((32_000, plan.scaled(10_000, 100)), (1_000_000, plan.scaled(400, 10)))
        for row in _rows(plan, nbytes, items, free_threaded)
    ]


def _rows(plan: Plan, nbytes: int, items: int, free_threaded: bool) -> list[Case]:
    parameters = {
        "folder": str(plan.folder),
        "nbytes": nbytes,
        "items": items,
        "repeat": plan.scaled(3, 1),
    }
    text = f"{', free-threaded' * free_threaded}: arrays of {nbytes // 1000:,} kB into one file"

    def shown(ratio: float, rate: float) -> str:
        return f"{ratio:.3g} ({throughput(rate)})"

    return [
        Case(
            f"one thread writes{text}",
            (OURS, "write(2)") if free_threaded else (OURS, V1, "write(2)"),
            parameters | {"threads": 1},
            throughput,
            more_is_better=True,
            free_threaded=free_threaded,
        ),
        Case(
            f"two threads over one write{text}",
            (OURS, "write(2)"),
            parameters | {"threads": 2},
            shown,
            more_is_better=True,
            free_threaded=free_threaded,
        ),
    ]


def throughput(rate: float) -> str:
    return f"{rate / 1e9:.3g} GB/s"


class Archive:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer = mmnpz.NpzWriter(path)

    def write(self, thread: int, number: int, array: Array) -> None:
        self.writer.write(f"{thread}/{number}", array)

    def close(self) -> None:
        self.writer.close()
        self.data: Any = mmnpz.load(self.path)

    def read(self, thread: int, number: int) -> Array:
        array: Array = self.data[f"{thread}/{number}"]
        return array


class Places:
    """The limit: only the bytes of the arrays, each at an offset that its thread knows."""

    def __init__(self, nbytes: int, items: int, path: Path) -> None:
        self.path = path
        self.nbytes, self.items = nbytes, items
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def _place(self, thread: int, number: int) -> int:
        return (thread * self.items + number) * self.nbytes

    def write(self, thread: int, number: int, array: Array) -> None:
        os.pwrite(self.file, array.data, self._place(thread, number))

    def close(self) -> None:
        os.close(self.file)

    def read(self, thread: int, number: int) -> Array:
        return np.fromfile(self.path, np.float32, self.nbytes // 4, offset=self._place(thread, number))


def with_mmnpz(**parameters: Any) -> Any:
    return _measure(Archive, **parameters)


def with_write(nbytes: int, items: int, **parameters: Any) -> Any:
    return _measure(partial(Places, nbytes, items), nbytes, items, **parameters)


def _measure(
    create: Callable[[Path], Target], nbytes: int, items: int, folder: str, threads: int, repeat: int
) -> Any:
    numbers = count()
    target: Target

    def arrays(thread: int) -> list[Array]:
        base = np.arange(nbytes // 4, dtype=np.float32)
        return [base + thread * OTHERS + other for other in range(OTHERS)]

    def task(thread: int) -> Task:
        turns = (arrays(thread) * (items // OTHERS + 1))[:items]

        def work(times: int) -> None:
            write = target.write
            for number, array in enumerate(turns):
                write(thread, number, array)

        def check() -> None:
            for number, array in enumerate(turns):
                same = np.array_equal(target.read(thread, number), array)
                require(same, f"item {number} of thread {thread} is not what was written")

        return Task(work, check)

    with Threads(task) as crew:

        def seconds(workers: int) -> float:
            nonlocal target
            path = Path(folder, f"shared-{os.getpid()}-{next(numbers)}.npz")
            target = create(path)
            took = crew.seconds(workers)
            target.close()
            crew.check(workers)
            path.unlink()
            return took

        seconds(threads)
        if threads == 1:
            return items * nbytes / best(lambda: seconds(1), repeat)
        ratio, took = two_over_one(seconds, repeat)
    return ratio, 2 * items * nbytes / took


CONTENDERS: Contenders = {OURS: with_mmnpz, V1: with_mmnpz, "write(2)": with_write}

if __name__ == "__main__":
    run(CONTENDERS)
