"""The time to open an archive and look one array up."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from data import MAX16, OWN, Plan, remove
from harness import (
    OURS,
    V1,
    Bar,
    Case,
    Contenders,
    best,
    duration,
    member_name,
    require_small,
    run,
    small_array,
    timed,
)
from peers import PEERS, NumPy, Ours, Peer, Store

FEW = ("zarr", "np.memmap", "spdl")
"""The peers with 10,000 arrays only: nobody would make a million files or folders, and spdl reads at most
65,535 members."""

LARGE = ("ztensor",)
"""The peer with at most 100,000 arrays: with its smallest alignment, 4 KiB, a million would take 4 GB."""

READS_OURS = (OURS, V1, "numpy.load", "spdl")

WAYS: dict[str, Peer] = {OURS: Ours(), V1: Ours(), "numpy.load": NumPy(), **PEERS}


def cases(plan: Plan) -> list[Case]:
    rows = []
    for members in plan.member_counts:
        most = members == plan.most_members
        without = (() if members == plan.member_counts[0] else FEW) + (LARGE if most else ())
        names = [name for name in WAYS if name not in without]
        archives = {
            name: str(plan.archive(OWN if name in READS_OURS else name, "small", members)) for name in names
        }
        rows.append(
            Case(
                f"open a file of {members:,} members, one lookup",
                tuple(names),
                {"archives": archives, "members": members, "repeat": _repeat(members)},
                duration,
                (Bar("≤ 1 ms", 1e-3),) if members == 10**6 else (),
                headline=f"open a file of {members:,} arrays, look one up",
                plot="opening",
            )
        )
    for members in plan.member_counts:
        rows.append(
            Case(
                f"open a file of numpy.savez of {members:,} members, one lookup: per member",
                (OURS, V1, "numpy.load", *(["spdl"] if members <= MAX16 else [])),
                {"archive": str(plan.savez_archive(members)), "members": members, "repeat": _repeat(members)},
                duration,
                (Bar("≥ 60 × 1.0", 60, V1),) if members == 10**6 else (),
                headline=f"open a file of numpy.savez, for each of {members:,} arrays"
                if members == plan.most_members
                else "",
            )
        )
    return rows


def _repeat(members: int) -> int:
    return max(1, min(5, 300_000 // members))


def _measure(
    name: str, members: int, repeat: int, archive: str | None = None, archives: dict[str, str] | None = None
) -> float:
    """Measure a contender. All contenders read one archive, or each reads its own."""
    number = members // 3
    path = archives[name] if archives else archive
    assert path is not None
    _import(name, Path(path).parent)

    def open_and_look_up() -> tuple[Store, Any]:
        store = WAYS[name].open(path)
        return store, store.array(store.key(member_name(number)))

    def check(found: tuple[Store, Any]) -> None:
        store, array = found
        require_small(np.array(array), number)
        last = np.array(store.array(store.key(member_name(members - 1))))
        require_small(last, members - 1)
        store.close()

    seconds = best(lambda: timed(open_and_look_up, check), repeat)
    return seconds if archives else seconds / members


def _import(name: str, folder: Path) -> None:
    """Warm up on a tiny archive: do not measure what a contender imports and allocates once per process."""
    path = folder / f"tiny-{os.getpid()}"
    WAYS[name].write(path, [(member_name(number), small_array(number)) for number in range(3)])
    store = WAYS[name].open(str(path))
    require_small(np.array(store.array(store.key(member_name(1)))), 1)
    store.close()
    remove(path)


CONTENDERS: Contenders = {name: partial(_measure, name) for name in WAYS}

if __name__ == "__main__":
    run(CONTENDERS)
