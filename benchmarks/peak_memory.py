"""The peak of the anonymous memory while large arrays are written."""

import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from data import Plan
from harness import OURS, V1, Bar, Case, Contenders, member_name, peak_anonymous_memory, require, run, size
from numpy.typing import NDArray
from peers import PEERS, NumPy, Ours, Peer, Store

Arrays = dict[str, NDArray[np.float32]]

ITEMS = 40

WAYS: dict[str, Peer] = {
    OURS: Ours(),
    V1: Ours(),
    "numpy.savez": NumPy(),
    **{name: PEERS[name] for name in ("safetensors", "h5py", "LMDB", "ztensor")},
}


def cases(plan: Plan) -> list[Case]:
    nbytes = plan.scaled(4_000_000_000, 64_000_000)
    contenders = tuple(WAYS)
    bars = (Bar("≤ 16 MiB", 16 << 20),)
    parameters = {"folder": str(plan.folder), "nbytes": nbytes}
    mb = nbytes // 10**6
    return [
        Case(
            f"peak memory of writing one memory-mapped array of {mb:,} MB",
            contenders,
            parameters | {"items": 1},
            size,
            bars,
            headline=f"peak memory of writing one mapped array of {mb:,} MB",
            plot="memory",
        ),
        Case(
            f"peak memory of writing {mb:,} MB in {ITEMS} items",
            (OURS, V1, "safetensors"),
            parameters | {"items": ITEMS},
            size,
            bars,
        ),
    ]


def _measure(name: str, folder: str, nbytes: int, items: int) -> float:
    peer = WAYS[name]
    arrays = _mapped(nbytes) if items == 1 else _items(nbytes, items)
    path = Path(folder, f"peak-{os.getpid()}.npz")
    # Warm up: do not measure what a contender allocates once per process.
    peer.write(path, [(member_name(0), np.zeros(10, np.float32))])
    path.unlink()
    with peak_anonymous_memory() as peak:
        peer.write(path, arrays.items())
    store = peer.open(str(path))
    for member, array in arrays.items():
        _require_same(store, member, array)
    store.close()
    path.unlink()
    return peak.bytes


def _require_same(store: Store, name: str, array: NDArray[np.float32]) -> None:
    found = store.array(store.key(name))
    require(found.shape == array.shape, f"{name} has another shape")
    for first in (0, array.size // 2, array.size - 1000):
        part = slice(first, first + 1000)
        require(np.array_equal(found[part], array[part]), f"{name} is not what was written")


def _mapped(nbytes: int) -> Arrays:
    """Yield an array over a sparse file on a disk, with values at its start, middle and end."""
    count = nbytes // 4
    with tempfile.NamedTemporaryFile() as file:
        array = np.memmap(file.name, np.float32, "w+", shape=(count,))
        array[:9] = array[count // 2 : count // 2 + 9] = array[-9:] = np.arange(1, 10)
        array.flush()
        return {member_name(0): np.memmap(file.name, np.float32, "r", shape=(count,))}


def _items(nbytes: int, items: int) -> Arrays:
    array = np.arange(nbytes // items // 4, dtype=np.float32)
    return {member_name(number): array for number in range(items)}


CONTENDERS: Contenders = {name: partial(_measure, name) for name in WAYS}

if __name__ == "__main__":
    run(CONTENDERS)
