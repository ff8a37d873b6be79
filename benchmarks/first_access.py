"""The first access to each array of an open archive, in random order."""

from typing import Any

import numpy as np
from data import Plan
from harness import (
    ITEMS,
    OURS,
    V1,
    Bar,
    Case,
    Contenders,
    duration,
    member_names,
    require_sample,
    run,
    shuffled,
    timed,
)

import mmnpz


def cases(plan: Plan) -> list[Case]:
    members = plan.scaled(10**5, 10**3)
    return [
        Case(
            f"first access to each of {members:,} arrays in random order: per array",
            (OURS, V1, "numpy.load", "ndarray"),
            {"archive": str(plan.our_archive(members)), "members": members},
            duration,
            (Bar("≥ 45 × 1.0", 45, V1),),
        )
    ]


def with_mmnpz(archive: str, members: int) -> float:
    with mmnpz.load(archive) as data:
        return _measure(data, members)


def with_numpy(archive: str, members: int) -> float:
    with np.load(archive) as data:
        return _measure(data, members)


def _measure(data: Any, members: int) -> float:
    names = shuffled(member_names(members))

    def access() -> None:
        for name in names:
            data[name]

    seconds = timed(access)
    require_sample(data, members)
    return seconds / members


def with_ndarray(archive: str, members: int) -> float:
    """The limit: the place of each array is known; what is left is to slice it out of the map and keep it."""
    data: Any = mmnpz.load(archive)
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


CONTENDERS: Contenders = {OURS: with_mmnpz, V1: with_mmnpz, "numpy.load": with_numpy, "ndarray": with_ndarray}

if __name__ == "__main__":
    run(CONTENDERS)
