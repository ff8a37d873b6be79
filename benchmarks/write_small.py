"""The rate of writing many small arrays."""

import os
from collections.abc import Callable
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
from data import Plan, directory_start, remove
from harness import (
    OURS,
    V1,
    Bar,
    Case,
    Contenders,
    best,
    digits,
    member_name,
    member_names,
    require,
    require_small,
    run,
    small_array,
    timed,
)
from peers import PEERS, Arrays, NumPy, Ours, Peer

WRITE = f"{OURS}, write"

WAYS: dict[str, Peer] = {
    OURS: Ours(),
    WRITE: Ours(),
    V1: Ours(),
    "numpy.savez": NumPy(),
    **{name: peer for name, peer in PEERS.items() if name != "spdl"},
}


TOGETHER = ("tensorstore", "LMDB", "safetensors", "mmap_ninja")

SLOW = {"zarr": 100, "np.memmap": 10}
"""The peers that write fewer arrays: they make a file or folder for each, and take up to a thousand times as
long."""


def cases(plan: Plan) -> list[Case]:
    members = plan.scaled(10**5, 10**3)
    nbytes = directory_start(plan.our_archive(members)) // members
    parameters = {"folder": str(plan.folder), "members": members, "nbytes": nbytes}

    return [
        Case(
            f"write {members:,} arrays of 400 B (open, write, close)",
            (OURS, V1, "write(2)", *(name for name in WAYS if name not in (OURS, WRITE, V1))),
            parameters,
            lambda rate: f"{digits(rate / 1e3)} k/s",
            (Bar("≥ 8 × 1.0", 8, V1), Bar("≥ 0.6 × write(2)", 0.6, "write(2)")),
            more_is_better=True,
            headline="write arrays of 400 bytes",
            plot="writing",
        ),
        Case(
            f"write {members:,} arrays of 400 B in one call (open, update, close)",
            (OURS, WRITE, "write(2)", *TOGETHER),
            {**parameters, "together": True},
            lambda rate: f"{digits(rate / 1e3)} k/s",
            (
                Bar("≥ 1 × tensorstore", 1, "tensorstore"),
                Bar("≥ 1.5 × LMDB", 1.5, "LMDB"),
                Bar("≥ 2.5 × write", 2.5, WRITE),
            ),
            more_is_better=True,
            headline="write arrays of 400 bytes in one call",
        ),
    ]


def _update(path: Path, arrays: Arrays) -> None:
    import mmnpz

    with mmnpz.NpzWriter(path) as writer:
        writer.update(arrays)


def with_peer(name: str, folder: str, members: int, nbytes: int, together: bool = False) -> float:
    peer = WAYS[name]
    count = members // SLOW.get(name, 1)
    names = member_names(count)
    array = small_array(1)

    def write(path: Path) -> None:
        put = _update if together and name == OURS else peer.write
        put(path, zip(names, repeat(array), strict=False))

    def check(path: Path) -> None:
        store = peer.open(str(path))
        for number in {*range(0, count, -(-count // 100)), count - 1}:
            require_small(np.array(store.array(store.key(member_name(number)))), 1)
        store.close()

    return count / _measure(folder, write, check)


def with_write(folder: str, members: int, nbytes: int, together: bool = False) -> float:
    """The limit: one system call for each member, or each MiB, with as many bytes as mmnpz writes."""
    each = 2**20 // nbytes if together else 1
    names = member_names(members)[::each]
    block = bytes(each * nbytes)

    def write(path: Path) -> None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        for _ in names:
            os.write(file, block)
        os.close(file)

    def check(path: Path) -> None:
        require(path.stat().st_size >= members * nbytes, "write(2) was cut short")

    return members / _measure(folder, write, check)


def _measure(folder: str, write: Callable[[Path], None], check: Callable[[Path], None]) -> float:
    path = Path(folder, f"small-{os.getpid()}.npz")

    def once() -> float:
        seconds = timed(partial(write, path))
        check(path)
        remove(path)
        return seconds

    return best(once, 2)


CONTENDERS: Contenders = {**{name: partial(with_peer, name) for name in WAYS}, "write(2)": with_write}

if __name__ == "__main__":
    run(CONTENDERS)
