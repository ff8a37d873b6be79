"""The rate of making one large array in the file, chunk by chunk: filled in place."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from data import Plan, remove
from harness import OURS, Bar, Case, Contenders, best, require, run, timed
from numpy.typing import NDArray

import mmnpz

Chunk = NDArray[np.float32]

CHUNK = 1_000_000
"""Bytes of a chunk."""


def cases(plan: Plan) -> list[Case]:
    chunks = plan.scaled(1000, 40)
    return [
        Case(
            f"create an array of {chunks} MB, and fill it in chunks of 1 MB",
            (OURS, "np.memmap", "h5py"),
            {"folder": str(plan.folder), "chunks": chunks},
            lambda rate: f"{rate / 1e9:.3g} GB/s",
            (Bar("≥ 0.8 × np.memmap", 0.8, "np.memmap"),),
            more_is_better=True,
            headline=f"fill an array of {chunks} MB in the file",
        )
    ]


def fill(array: Any, chunk: Chunk) -> None:
    """Fill an array with copies of a chunk."""
    for start in range(0, len(array), len(chunk)):
        array[start : start + len(chunk)] = chunk


def ours(path: Path, chunk: Chunk, chunks: int) -> None:
    with mmnpz.NpzWriter(path) as writer, writer.create("array", len(chunk) * chunks, np.float32) as array:
        fill(array, chunk)


def np_memmap(path: Path, chunk: Chunk, chunks: int) -> None:
    array = np.lib.format.open_memmap(path, "w+", np.dtype(np.float32), (len(chunk) * chunks,))
    fill(array, chunk)


def with_h5py(path: Path, chunk: Chunk, chunks: int) -> None:
    with h5py.File(path, "w") as file:
        fill(file.create_dataset("array", len(chunk) * chunks, np.float32), chunk)


def read_h5py(path: Path) -> Any:
    file: Any = h5py.File(path)
    return file["array"][...]


READ: dict[str, Callable[[Path], Any]] = {
    OURS: lambda path: mmnpz.load(path)["array"],
    "np.memmap": np.load,
    "h5py": read_h5py,
}


def _measure(name: str, make: Callable[[Path, Chunk, int], None], folder: str, chunks: int) -> float:
    chunk = np.arange(CHUNK // 4, dtype=np.float32)
    path = Path(folder, f"grown-{os.getpid()}.npz")
    checked = False

    def once() -> float:
        nonlocal checked
        seconds = timed(partial(make, path, chunk, chunks))
        if not checked:
            found = np.asarray(READ[name](path)).reshape(chunks, -1)
            require(found.shape[1] == len(chunk) and bool((found == chunk).all()), "the array is wrong")
            del found
            checked = True
        remove(path)
        return seconds

    return chunks * CHUNK / best(once, 3)


CONTENDERS: Contenders = {
    OURS: partial(_measure, OURS, ours),
    "np.memmap": partial(_measure, "np.memmap", np_memmap),
    "h5py": partial(_measure, "h5py", with_h5py),
}

if __name__ == "__main__":
    run(CONTENDERS)
