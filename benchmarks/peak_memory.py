"""The anonymous memory that writing takes at most."""

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from data import Plan
from harness import OURS, V1, Bar, Case, Contenders, peak_anonymous_memory, require, run, size
from numpy.typing import NDArray

import mmnpz

Arrays = dict[str, NDArray[np.float32]]

ITEMS = 40


def cases(plan: Plan) -> list[Case]:
    nbytes = plan.scaled(4_000_000_000, 64_000_000)
    contenders = (OURS, V1, "safetensors")
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
        ),
        Case(
            f"peak memory of writing {mb:,} MB in {ITEMS} items",
            contenders,
            parameters | {"items": ITEMS},
            size,
            bars,
        ),
    ]


def with_mmnpz(folder: str, nbytes: int, items: int) -> float:
    def write(path: Path, arrays: Arrays) -> None:
        with mmnpz.NpzWriter(path) as writer:
            for name, array in arrays.items():
                writer.write(name, array)

    return _measure(folder, nbytes, items, write, mmnpz.load)


def with_safetensors(folder: str, nbytes: int, items: int) -> float:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    def write(path: Path, arrays: Arrays) -> None:
        save_file(arrays, path)

    def read(path: Path) -> dict[str, Any]:
        with safe_open(path, "numpy") as file:
            return {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, it is no mapping

    return _measure(folder, nbytes, items, write, read)


def _measure(
    folder: str,
    nbytes: int,
    items: int,
    write: Callable[[Path, Arrays], None],
    read: Callable[[Path], Mapping[str, Any]],
) -> float:
    arrays = _mapped(nbytes) if items == 1 else _items(nbytes, items)
    path = Path(folder, f"peak-{os.getpid()}.npz")
    _write_tiny(path, write)
    with peak_anonymous_memory() as peak:
        write(path, arrays)
    data = read(path)
    require(set(data) == set(arrays), "members are missing")
    for name, array in arrays.items():
        for part in (
            slice(0, 1000),
            slice(array.size // 2, array.size // 2 + 1000),
            slice(-1000 + array.size, array.size),
        ):
            require(np.array_equal(data[name][part], array[part]), f"{name} is not what was written")
    path.unlink()
    return peak.bytes


def _write_tiny(path: Path, write: Callable[[Path, Arrays], None]) -> None:
    """What a contender allocates once per process is not what is measured."""
    write(path, {"tiny": np.zeros(10, np.float32)})
    path.unlink()


def _mapped(nbytes: int) -> Arrays:
    """A sparse file, on the disk rather than in memory, with something at its start, middle and end."""
    count = nbytes // 4
    with tempfile.NamedTemporaryFile() as file:
        array = np.memmap(file.name, np.float32, "w+", shape=(count,))
        array[:9] = array[count // 2 : count // 2 + 9] = array[-9:] = np.arange(1, 10)
        array.flush()
        return {"a": np.memmap(file.name, np.float32, "r", shape=(count,))}


def _items(nbytes: int, items: int) -> Arrays:
    array = np.arange(nbytes // items // 4, dtype=np.float32)
    return {f"a{number}": array for number in range(items)}


CONTENDERS: Contenders = {OURS: with_mmnpz, V1: with_mmnpz, "safetensors": with_safetensors}

if __name__ == "__main__":
    run(CONTENDERS)
