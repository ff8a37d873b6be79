"""The rate of writing large arrays."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from data import Plan, remove
from harness import OURS, V1, Bar, Case, Contenders, best, member_name, require, run, timed
from numpy.typing import NDArray
from peers import PEERS, NumPy, Ours, Peer

Arrays = dict[str, NDArray[np.float32]]

COUNT = 3

NAMES = [member_name(number) for number in range(COUNT)]

WAYS: dict[str, Peer] = {
    OURS: Ours(),
    V1: Ours(),
    "numpy.savez": NumPy(),
    **{name: peer for name, peer in PEERS.items() if name != "spdl"},
}


def cases(plan: Plan) -> list[Case]:
    nbytes = plan.scaled(100_000_000, 4_000_000)

    return [
        Case(
            f"write {COUNT} arrays of {nbytes // 10**6} MB",
            (OURS, V1, "write(2)", *(name for name in WAYS if name not in (OURS, V1))),
            {"folder": str(plan.folder), "nbytes": nbytes},
            lambda rate: f"{rate / 1e9:.3g} GB/s",
            (Bar("≥ 0.9 × write(2)", 0.9, "write(2)"), Bar("≥ safetensors", 1, "safetensors")),
            more_is_better=True,
            headline=f"write {COUNT} arrays of {nbytes // 10**6} MB",
            plot="writing",
        )
    ]


def with_peer(name: str, folder: str, nbytes: int) -> float:
    peer = WAYS[name]

    def write(path: Path, arrays: Arrays) -> None:
        peer.write(path, arrays.items())

    def read(path: Path) -> Arrays:
        store = peer.open(str(path))
        arrays = {name: np.array(store.array(store.key(name))) for name in NAMES}
        store.close()
        return arrays

    return _measure(folder, nbytes, write, read)


def with_write(folder: str, nbytes: int) -> float:
    """The limit: one system call for the bytes of each array, and nothing else."""

    def write(path: Path, arrays: Arrays) -> None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        for array in arrays.values():
            require(os.write(file, array.data) == array.nbytes, "write(2) was cut short")
        os.close(file)

    def read(path: Path) -> Arrays:
        rows = np.fromfile(path, np.float32).reshape(COUNT, -1)
        return dict(zip(NAMES, rows, strict=True))

    return _measure(folder, nbytes, write, read)


def _measure(
    folder: str,
    nbytes: int,
    write: Callable[[Path, Arrays], None],
    read: Callable[[Path], Mapping[str, Any]],
) -> float:
    arrays = {name: np.arange(nbytes // 4, dtype=np.float32) + number for number, name in enumerate(NAMES)}
    path = Path(folder, f"large-{os.getpid()}.npz")
    checked = False

    def once() -> float:
        nonlocal checked
        seconds = timed(partial(write, path, arrays))
        if not checked:
            data = read(path)
            same = all(np.array_equal(data[name], array) for name, array in arrays.items())
            require(same, "the file does not hold what was written")
            checked = True
        remove(path)
        return seconds

    return COUNT * nbytes / best(once, 3)


CONTENDERS: Contenders = {**{name: partial(with_peer, name) for name in WAYS}, "write(2)": with_write}

if __name__ == "__main__":
    run(CONTENDERS)
