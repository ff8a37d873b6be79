"""How many times as much two threads that read one file get done as one thread."""

import copy
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from data import (
    COLUMNS,
    Excerpt,
    Plan,
    excerpts_of,
    h5py_excerpts,
    lmdb_excerpts,
    lmdb_store,
    recording,
    rows_of,
    safetensors_excerpts,
)
from harness import (
    OURS,
    V1,
    Bar,
    Case,
    Contenders,
    Task,
    Threads,
    digits,
    member_name,
    require,
    run,
    two_over_one,
)

import mmnpz

LENGTH = 100
BATCH = 64

LEVEL = 0.95
"""The smallest ratio that counts as level: two measurements of the same thing may differ by as much."""

SHARING = {
    "one": "one reader",
    "handles": "a handle each",
    "views": "a reader with its own views each",
}


@dataclass(frozen=True)
class Part:
    """The members that a thread reads, and the first row of each, in strings and numbers of its own."""

    numbers: list[int]
    names: list[str]
    starts: list[int]


def part_of(thread: int, members: int, distinct: bool) -> Part:
    """Return the part of a thread: one half of the members, in an order of its own.

    With `distinct`, the other thread has the other half.
    """
    numbers = list(range(thread * distinct, members, 2))
    generator = random.Random(thread)
    generator.shuffle(numbers)
    starts = [generator.randint(0, rows_of(number) - LENGTH) for number in numbers]
    return Part(numbers, [member_name(number) for number in numbers], starts)


def cases(plan: Plan) -> list[Case]:
    return [
        _case(plan, work, distinct, sharing, free_threaded)
        for free_threaded in ((False, True) if plan.free_threaded else (False,))
        for work in WORKS
        for distinct in (True, False)
        # Under the interpreter lock, it makes no difference which objects the threads share.
        for sharing in (SHARING if free_threaded else ("one",))
    ]


def _case(plan: Plan, work: str, distinct: bool, sharing: str, free_threaded: bool) -> Case:
    members = plan.scaled(1000, 64)
    contenders: tuple[str, ...] = (OURS, "dict")
    archives = {"archive": str(plan.archive("ours", "recording", members))}
    bars: tuple[Bar, ...] = ()
    if work == "excerpts":
        bars = (Bar("≥ dict, to 5 %", LEVEL, "dict"),)
        if not free_threaded:
            bars = (Bar("≥ 1, to 5 %", LEVEL), *bars)
            if distinct and sharing == "one":
                contenders = (OURS, V1, "dict", *PEERS)
                archives |= {peer: str(plan.archive(peer, "recording", members)) for peer in PEERS}
    elif (work, distinct, sharing) == ("lookups", True, "handles"):
        contenders = (*contenders, "a dict each")
        if free_threaded:
            bars = (Bar("≥ 1.8", 1.8),)
    label = (
        f"two threads over one{', free-threaded' * free_threaded}: {WORKS[work][0]}, "
        f"{'distinct' if distinct else 'the same'} names, {SHARING[sharing]}"
    )
    parameters = {
        "archives": archives,
        "members": members,
        "work": work,
        "distinct": distinct,
        "sharing": sharing,
        # Long enough for twenty turns at the interpreter lock. Two threads that share it take twice as long,
        # and all is repeated. So a contender spends its time on this, not on its start.
        "seconds": plan.scaled(100, 5) / 1000,
        "repeat": plan.scaled(4, 1),
    }
    return Case(label, contenders, parameters, _shown, bars, True, free_threaded)


def _shown(ratio: float, rate: float) -> str:
    return f"{digits(ratio)} ({digits(rate / 1e3)} k/s)"


# The work on each member. Loops use no globals: threads would wait for each other to count references to
# them.


def lookups(data: Mapping[str, Any], part: Part) -> Task:
    def work(times: int) -> None:
        names = part.names
        for _ in range(times):
            for name in names:
                data[name]

    def check() -> None:
        for number, name in zip(part.numbers, part.names, strict=True):
            require(np.array_equal(data[name], recording(number)), f"{name} is not what was written")
            require(data[name] is data[name], "views are not cached")

    return Task(work, check)


def slices(data: Mapping[str, Any], part: Part) -> Task:
    places = [(name, start, start + LENGTH) for name, start in zip(part.names, part.starts, strict=True)]

    def work(times: int) -> None:
        for _ in range(times):
            for name, start, stop in places:
                data[name][start:stop]

    def check() -> None:
        for number, (name, start, stop) in zip(part.numbers, places, strict=True):
            same = np.array_equal(data[name][start:stop], recording(number)[start:stop])
            require(same, f"the slice of {name} is not what was written")

    return Task(work, check)


def excerpts(excerpt: Excerpt, part: Part) -> Task:
    batch = np.zeros((BATCH, LENGTH, COLUMNS), np.float32)
    places = [
        (name, start, start + LENGTH, count % BATCH)
        for count, (name, start) in enumerate(zip(part.names, part.starts, strict=True))
    ]

    def work(times: int) -> None:
        for _ in range(times):
            for name, start, stop, row in places:
                batch[row] = excerpt(name, start, stop)

    def check() -> None:
        for number, (name, start, stop, row) in list(zip(part.numbers, places, strict=True))[-BATCH:]:
            same = np.array_equal(batch[row], recording(number)[start:stop])
            require(same, f"the excerpt of {name} is not what was written")

    return Task(work, check)


def sums(data: Mapping[str, Any], part: Part) -> Task:
    def work(times: int) -> None:
        names = part.names
        for _ in range(times):
            for name in names:
                data[name][:64].sum()

    def check() -> None:
        for number, name in zip(part.numbers, part.names, strict=True):
            same = np.isclose(data[name][:64].sum(), recording(number)[:64].sum())
            require(bool(same), f"the sum of {name} is wrong")

    return Task(work, check)


WORKS: dict[str, tuple[str, Callable[[Mapping[str, Any], Part], Task]]] = {
    "lookups": ("cached data[name]", lookups),
    "slices": ("data[name][a:b]", slices),
    "excerpts": (
        f"excerpts of {LENGTH} × {COLUMNS} copied",
        lambda data, part: excerpts(excerpts_of(data), part),
    ),
    "sums": ("data[name][:64].sum()", sums),
}


# The objects that the threads share.


def with_mmnpz(archives: dict[str, str], members: int, work: str, sharing: str, **options: Any) -> Any:
    shared: Any = mmnpz.load(archives["archive"])
    for number in range(members):
        shared[member_name(number)]

    def task(part: Part) -> Task:
        own = {"one": lambda reader: reader, "handles": copy.copy, "views": copy.deepcopy}[sharing](shared)
        return WORKS[work][1](own, part)

    return _measure(task, members, **options)


def with_dict(archives: dict[str, str], members: int, work: str, sharing: str, **options: Any) -> Any:
    """A dict of plain views for both threads or, beside readers with their own views, a dict for each."""

    def views() -> dict[str, Any]:
        return mmnpz.load(archives["archive"], preload=True, subok=False).arrays

    shared = views()

    def task(part: Part) -> Task:
        return WORKS[work][1](views() if sharing == "views" else shared, part)

    return _measure(task, members, **options)


def with_own_dict(sharing: str, **parameters: Any) -> Any:
    """The limit: threads that share no objects, so that only the machine can make them wait."""
    return with_dict(sharing="views", **parameters)


def with_safetensors(archives: dict[str, str], work: str, sharing: str, **options: Any) -> Any:
    return _measure(partial(excerpts, safetensors_excerpts(archives["safetensors"], keep=True)), **options)


def with_h5py(archives: dict[str, str], work: str, sharing: str, **options: Any) -> Any:
    return _measure(partial(excerpts, h5py_excerpts(archives["h5py"], keep=True)), **options)


def with_lmdb(archives: dict[str, str], work: str, sharing: str, **options: Any) -> Any:
    store = lmdb_store(archives["LMDB"])
    return _measure(lambda part: excerpts(lmdb_excerpts(store, (COLUMNS,)), part), **options)


def _measure(
    task: Callable[[Part], Task], members: int, distinct: bool, seconds: float, repeat: int
) -> tuple[float, float]:
    with Threads(lambda thread: task(part_of(thread, members, distinct))) as threads:
        threads.seconds(2)
        times = threads.times(seconds)
        ratio, took = two_over_one(lambda count: threads.seconds(count, times), repeat)
        threads.check()
    return ratio, times * members / took


PEERS = {"safetensors": with_safetensors, "h5py": with_h5py, "LMDB": with_lmdb}

CONTENDERS: Contenders = {
    OURS: with_mmnpz,
    V1: with_mmnpz,
    "dict": with_dict,
    "a dict each": with_own_dict,
    **PEERS,
}

if __name__ == "__main__":
    run(CONTENDERS)
