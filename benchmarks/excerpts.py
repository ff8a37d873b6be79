"""The rate of short excerpts of long arrays, taken at random and copied into a batch."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from cold import drop
from data import COLUMNS, OWN, SAVEZ, Plan, files_of, rows_of, rows_of_recording
from harness import OURS, V1, Bar, Case, Contenders, digits, member_name, require, run, timed
from peers import LMDB, PEERS, Gather, NumPy, Ours, Peer, Store, Views

import mmnpz

GATHER = f"{OURS}, gather"
VIEWS = "dict of views"

HAS_GATHER = hasattr(mmnpz.NpzReader, "gather")

WAYS: dict[str, Peer] = {
    OURS: Ours(),
    **({GATHER: Gather()} if HAS_GATHER else {}),
    V1: Ours(),
    VIEWS: Views(),
    "numpy.load": NumPy(),
    **PEERS,
    "LMDB (no read-ahead)": LMDB(readahead=False),
}

ONLY_COLD = ("LMDB (no read-ahead)",)

READS_OURS = {OURS, GATHER, V1, VIEWS, "numpy.load", "spdl"}

READS_SAVEZ = (OURS, GATHER, V1, "numpy.load")

BATCHES_COLD = 8


@dataclass(frozen=True)
class Size:
    length: int
    batch: int

    @property
    def text(self) -> str:
        return f"excerpts of {self.length} × {COLUMNS} float32, {self.batch} stacked"


LONG, SHORT = Size(100, 64), Size(10, 256)


def cases(plan: Plan) -> list[Case]:
    return [
        _case(plan, LONG, "steady", (Bar("≥ 1.4 × 1.0", 1.4, V1),)),
        _case(plan, LONG, "first"),
        _case(plan, SHORT, "steady"),
        _case(plan, LONG, "cold"),
        _case(plan, SHORT, "cold"),
        _case(plan, LONG, "cold, first"),
    ]


STATES = {
    "steady": "warm",
    "first": "warm, first epoch after opening",
    "cold": "page cache cold",
    "cold, first": "page cache cold, first epoch of a file of numpy.savez",
}


def _case(plan: Plan, size: Size, state: str, bars: tuple[Bar, ...] = ()) -> Case:
    cold = state.startswith("cold")
    members = plan.scaled(4096 if cold else 2048, 256)
    ways = [name for name in WAYS if cold or name not in ONLY_COLD]
    if state == "cold, first":
        # A file of numpy.savez: its directory has no header fields.
        ways = [name for name in ways if name in READS_SAVEZ]
    writer = {name: SAVEZ if state == "cold, first" else _writer(name) for name in ways}
    archives = {name: str(plan.archive(writer[name], "recording", members, on_disk=cold)) for name in ways}
    label = f"{size.text}, {STATES[state]}"
    return Case(
        label,
        tuple(ways),
        {
            "archives": archives,
            "members": members,
            "length": size.length,
            "batch": size.batch,
            "state": state,
            "repeat": plan.scaled(3, 1),
            # If the folder for temporary files is in memory, its files cannot leave the page cache.
            "strict": not plan.quick,
        },
        lambda rate: f"{digits(rate / 1e3)} k/s",
        bars,
        more_is_better=True,
        headline=label,
        plot="cold" if cold else "excerpts",
    )


def _writer(name: str) -> str:
    """Return the writer of the archive that a contender reads."""
    return OWN if name in READS_OURS else name.partition(" (")[0]


class Epoch:
    """One excerpt of each member, from a random row on, in batches and in random order."""

    def __init__(self, store: Store, numbers: list[int], length: int, batch: int, seed: int) -> None:
        generator = random.Random(seed)
        self.length, self.batch = length, batch
        self.numbers = generator.sample(numbers, len(numbers))
        self.starts = [generator.randint(0, rows_of(number) - length) for number in self.numbers]
        self.keys = [store.key(member_name(number)) for number in self.numbers]
        self.out = np.zeros((batch, length, COLUMNS), np.float32)

    def read(self, store: Store) -> None:
        for _ in self._batches(store):
            pass

    def check(self, store: Store) -> None:
        for batch in self._batches(store):
            for number, start, got in zip(self.numbers[batch], self.starts[batch], self.out, strict=True):
                expected = rows_of_recording(number, start, start + self.length)
                require(np.array_equal(got, expected), f"the excerpt of {member_name(number)} is wrong")
            self.out[:] = 0

    def _batches(self, store: Store) -> Iterator[slice]:
        for first in range(0, len(self.keys), self.batch):
            batch = slice(first, first + self.batch)
            store.fill(self.keys[batch], self.starts[batch], self.out)
            yield batch


def _measure(
    name: str,
    archives: dict[str, str],
    members: int,
    length: int,
    batch: int,
    state: str,
    repeat: int,
    strict: bool,
) -> float:
    path = archives[name]
    open_store = partial(WAYS[name].open, path, (COLUMNS,))
    _check_arrays(open_store(), members)
    if state.startswith("cold"):
        return _cold(open_store, members, length, batch, Path(path), strict, again=state == "cold")
    measure = _steady if state == "steady" else _first
    return measure(open_store, members, length, batch, repeat)


def _check_arrays(store: Store, members: int) -> None:
    for number in range(0, members, members // 32):
        array = store.array(store.key(member_name(number)))
        expected = rows_of_recording(number, 0, rows_of(number))
        require(np.array_equal(array, expected), f"{member_name(number)} is not what was written")
    store.close()


def _steady(open_store: Callable[[], Store], members: int, length: int, batch: int, repeat: int) -> float:
    """
    Return the rate of an epoch on warm files.

    Each epoch takes other rows, because a peer may remember the rows of an array that it read last.

    Each array is read as a whole first, as many epochs would do in the end. Otherwise, for contenders that
    map their files, the time would mostly be that of the first access to each page: one epoch of short
    excerpts touches a tenth of the pages.
    """
    store = open_store()
    numbers = list(range(members))
    for number in numbers:
        store.array(store.key(member_name(number))).sum()
    epochs = [Epoch(store, numbers, length, batch, seed) for seed in range(repeat + 1)]
    epochs[0].read(store)
    seconds = min(timed(partial(epoch.read, store)) for epoch in epochs[1:])
    epochs[-1].check(store)
    return members / seconds


def _first(open_store: Callable[[], Store], members: int, length: int, batch: int, repeat: int) -> float:
    numbers = list(range(members))
    best = float("inf")
    for seed in range(repeat):
        store = open_store()
        epoch = Epoch(store, numbers, length, batch, seed)
        best = min(best, timed(partial(epoch.read, store)))
        epoch.check(store)
        store.close()
    return members / best


def _cold(
    open_store: Callable[[], Store],
    members: int,
    length: int,
    batch: int,
    path: Path,
    strict: bool,
    *,
    again: bool,
) -> float:
    """
    Return the rate of batches on cold files, as for a data set that is larger than memory.

    With `again`, the store has read each member before. Before each batch, the files leave the page cache, so
    that pages which one batch read in excess do not help the next one.
    """
    store = open_store()
    files = files_of(path)
    batches = min(BATCHES_COLD, members // batch)
    numbers = random.Random(1).sample(range(members), batches * batch)
    parts = [numbers[first : first + batch] for first in range(0, len(numbers), batch)]
    for part in parts if again else []:
        Epoch(store, part, length, batch, 0).read(store)
    seconds = 0.0
    for part in parts:
        epoch = Epoch(store, part, length, batch, 1)
        left = drop(files)
        require(left < 0.01 or not strict, f"{left:.0%} of {path} stayed in the page cache")
        start = time.perf_counter()
        epoch.read(store)
        seconds += time.perf_counter() - start
        epoch.check(store)
    store.close()
    return len(numbers) / seconds


CONTENDERS: Contenders = {name: partial(_measure, name) for name in WAYS}

if __name__ == "__main__":
    run(CONTENDERS)
