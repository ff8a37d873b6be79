"""The time of the first access to each array of an open archive, in random order."""

from functools import partial
from typing import Any

import numpy as np
from data import OWN, Plan
from harness import (
    ITEMS,
    OURS,
    V1,
    Bar,
    Case,
    Contenders,
    duration,
    member_name,
    member_names,
    require_sample,
    require_small,
    run,
    shuffled,
    timed,
)
from peers import PEERS, NumPy, Ours, Peer

import mmnpz

READS_OURS = (OURS, V1, "numpy.load", "spdl", "ndarray")

WAYS: dict[str, Peer] = {OURS: Ours(), V1: Ours(), "numpy.load": NumPy(), **PEERS}

FEWER = ("zarr", "tensorstore", "np.memmap", "spdl")
"""The peers that get fewer arrays: they take long to write them, and spdl reads at most 65,535."""


SLOW = ("zarr", "tensorstore", "np.memmap")
"""The peers that read a tenth of their arrays only: they take up to a thousand times as long."""


def cases(plan: Plan) -> list[Case]:
    members = plan.scaled(10**5, 10**3)
    counts = dict.fromkeys((*WAYS, "ndarray"), members) | dict.fromkeys(FEWER, plan.member_counts[0])
    return [
        Case(
            f"first access to each of {members:,} arrays in random order: per array",
            (*WAYS, "ndarray"),
            {
                "archives": {
                    name: str(plan.archive(OWN if name in READS_OURS else name, "small", counts[name]))
                    for name in counts
                },
                "counts": counts,
            },
            duration,
            (Bar("≥ 45 × 1.0", 45, V1),),
            headline="look up an array for the first time, in random order",
            plot="reading",
        )
    ]


def _measure(name: str, archives: dict[str, str], counts: dict[str, int]) -> float:
    """Measure a contender. mmnpz keeps each view, as it does by default; the other stores keep nothing."""
    store = WAYS[name].open(archives[name])
    members = counts[name]
    keys = [store.key(member) for member in shuffled(member_names(members))]
    if name in SLOW:
        keys = keys[: members // 10]
    array = store.array

    def access() -> None:
        for key in keys:
            array(key)

    seconds = timed(access)
    for number in {*range(0, members, max(members // 1000, 1)), members - 1}:
        require_small(np.array(array(store.key(member_name(number)))), number)
    store.close()
    return seconds / len(keys)


def with_ndarray(archives: dict[str, str], counts: dict[str, int]) -> float:
    """The limit: slice each array, at a known offset, out of an array over the map, and keep it."""
    members = counts["ndarray"]
    data: Any = mmnpz.load(archives["ndarray"])
    begin = data.mmap.ctypes.data
    starts = {name: (data[name].ctypes.data - begin) // 4 for name in member_names(members)}
    items = np.asarray(data.mmap)[: data.mmap.size // 4 * 4].view(np.float32)
    data.close()
    views: dict[str, Any] = {}
    names = shuffled(member_names(members))

    def access() -> None:
        for name in names:
            start = starts[name]
            views[name] = items[start : start + ITEMS]

    seconds = timed(access)
    require_sample(views, members)
    return seconds / members


CONTENDERS: Contenders = {**{name: partial(_measure, name) for name in WAYS}, "ndarray": with_ndarray}

if __name__ == "__main__":
    run(CONTENDERS)
