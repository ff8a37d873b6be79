"""The time to append one small array to an archive that has many."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from data import OWN, Plan, copy_of, directory_start, remove
from harness import (
    OURS,
    V1,
    Bar,
    Case,
    Contenders,
    best,
    duration,
    member_name,
    require,
    require_small,
    run,
    small_array,
    timed,
)
from peers import PEERS, Ours, Peer

WAYS: dict[str, Peer] = {
    OURS: Ours(),
    V1: Ours(),
    **{name: peer for name, peer in PEERS.items() if peer.can_append},
}

ONLY_FEW = ("zarr", "np.memmap", "ztensor")
"""The peers that are measured at 10,000 members only: with a million members they would need a million files,
folders, or blocks of 4 KiB, which nobody would use."""


def cases(plan: Plan) -> list[Case]:
    rows = []
    for members in (plan.member_counts[0], plan.most_members):
        without = ONLY_FEW if members == plan.most_members else ()
        names = [name for name in WAYS if name not in without]
        parameters = {
            "archives": {
                name: str(plan.archive(OWN if name in (OURS, V1) else name, "small", members))
                for name in names
            },
            "members": members,
            "repeat": max(1, min(5, 300_000 // members)),
        }
        bars = (Bar("≥ 100 × 1.0", 100, V1),)
        label = f"append one array to {members:,} members (open, write, close)"
        rows.append(
            Case(
                label,
                (OURS, V1, "directory rewritten", *names[2:]),
                parameters,
                duration,
                bars,
                headline=f"append one array to {members:,}",
                plot="writing",
            )
        )
    return rows


def with_peer(contender: str, archives: dict[str, str], members: int, repeat: int) -> float:
    peer = WAYS[contender]
    array = small_array(1)

    def append(path: Path, name: str) -> None:
        peer.append(path, name, array)

    def check(path: Path) -> None:
        store = peer.open(str(path))
        for number in (members, members + repeat - 1):
            require_small(np.array(store.array(store.key(member_name(number)))), 1)
        require_small(np.array(store.array(store.key(member_name(members - 1)))), members - 1)
        store.close()

    # Warm up on a tiny archive: do not measure what a contender imports and allocates once per process.
    tiny = Path(archives[contender]).parent / f"tiny-{os.getpid()}"
    peer.write(tiny, [(member_name(0), array)])
    append(tiny, member_name(1))
    remove(tiny)
    return _measure(archives[contender], members, repeat, append, check)


def with_rewriting(archives: dict[str, str], members: int, repeat: int) -> float:
    """The limit: read the directory, and write it again behind a block of the size of a member."""
    archive = archives[OURS]
    block = bytes(directory_start(Path(archive)) // members)

    def append(path: Path, name: str) -> None:
        start = directory_start(path)
        file = os.open(path, os.O_RDWR)
        directory = os.pread(file, os.fstat(file).st_size - start, start)
        os.pwrite(file, block, start)
        os.pwrite(file, directory, start + len(block))
        os.close(file)

    def check(path: Path) -> None:
        grown = path.stat().st_size - Path(archive).stat().st_size
        require(grown % len(block) == 0 and grown > 0, "the file has not grown")

    return _measure(archive, members, repeat, append, check)


def _measure(
    archive: str,
    members: int,
    repeat: int,
    append: Callable[[Path, str], None],
    check: Callable[[Path], None],
) -> float:
    path = copy_of(archive)
    numbers = iter(range(members, members + repeat))
    seconds = best(lambda: timed(lambda: append(path, member_name(next(numbers)))), repeat)
    check(path)
    remove(path)
    return seconds


CONTENDERS: Contenders = {
    **{name: partial(with_peer, name) for name in WAYS},
    "directory rewritten": with_rewriting,
}

if __name__ == "__main__":
    run(CONTENDERS)
