"""The time until two new workers, spawned or forked from a server, have each read an array."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from data import BLOCK_ITEMS, Plan
from harness import OURS, V1, Bar, Case, Contenders, best, duration, member_name, require, run, small_array

import mmnpz

BY_PATH = "path"

METHODS = ("spawn", "forkserver")


def cases(plan: Plan) -> list[Case]:
    members = plan.scaled(10**5, 10**3)
    archive = plan.archive("ours", "block", members)
    return [
        Case(
            f"two workers ({method}) are handed a reader and read an array, "
            f"{members:,} members, {archive.stat().st_size // 10**6:,} MB",
            (OURS, V1, BY_PATH, "numpy.load", "bare workers"),
            {"archive": str(archive), "members": members, "method": method, "repeat": plan.scaled(10, 1)},
            duration,
            (Bar("≤ 1.1 × path", 1 / 1.1, BY_PATH),),
        )
        for method in METHODS
    ]


# Functions that a worker calls with the object that it receives.


def itself(data: Any) -> Any:
    return data


def nothing(given: Any) -> None:
    return None


def work(connection: Connection, load: Callable[[Any], Any], given: Any, name: str) -> None:
    data = load(given)
    connection.send(None if data is None else np.array(data[name]))


def _measure(load: Callable[[Any], Any], given: Any, members: int, method: str, repeat: int) -> float:
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        # The server imports what all contenders import, so that its children have it already.
        context.set_forkserver_preload(["mmnpz"])
    numbers = (members // 3, members - 1)

    def start(load: Callable[[Any], Any], given: Any) -> tuple[float, list[Any]]:
        begin = time.perf_counter()
        workers = []
        for number in numbers:
            ours, theirs = context.Pipe(duplex=False)
            worker = context.Process(
                target=work, args=(theirs, load, given, member_name(number)), daemon=True
            )
            worker.start()
            theirs.close()
            workers.append((worker, ours))
        arrays = [ours.recv() for _, ours in workers]
        seconds = time.perf_counter() - begin
        for worker, ours in workers:
            worker.join()
            ours.close()
        return seconds, arrays

    def once() -> float:
        seconds, arrays = start(load, given)
        for number, array in zip(numbers, arrays, strict=True):
            expected = small_array(number, BLOCK_ITEMS)
            same = load is nothing or np.array_equal(array, expected)
            require(same, f"a worker read something else than {member_name(number)}")
        return seconds

    start(nothing, None)  # start the fork server before the measurement
    return best(once, repeat)


def with_reader(archive: str, **options: Any) -> float:
    return _measure(itself, mmnpz.load(archive), **options)


def with_path(archive: str, **options: Any) -> float:
    return _measure(mmnpz.load, archive, **options)


def with_numpy(archive: str, **options: Any) -> float:
    return _measure(np.load, archive, **options)


def with_nothing(archive: str, **options: Any) -> float:
    """The limit: workers that read nothing."""
    return _measure(nothing, archive, **options)


CONTENDERS: Contenders = {
    OURS: with_reader,
    V1: with_reader,
    BY_PATH: with_path,
    "numpy.load": with_numpy,
    "bare workers": with_nothing,
}

if __name__ == "__main__":
    run(CONTENDERS)
