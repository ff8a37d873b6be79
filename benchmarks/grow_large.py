"""The rate of making one large array in the file, chunk by chunk: filled in place, or grown."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from data import Plan, remove
from harness import OURS, Bar, Case, Contenders, best, peak_anonymous_memory, require, run, size, timed
from npy_append_array import NpyAppendArray
from numpy.typing import NDArray

import mmnpz

Chunk = NDArray[np.float32]

CHUNK = 1_000_000
"""Bytes of a chunk."""


def cases(plan: Plan) -> list[Case]:
    chunks, streamed = plan.scaled(1000, 40), plan.scaled(4000, 40)
    return [
        Case(
            f"create an array of {chunks} MB, and fill it in chunks of 1 MB",
            (OURS, "np.memmap", "h5py"),
            {"folder": str(plan.folder), "chunks": chunks, "grows": False},
            lambda rate: f"{rate / 1e9:.3g} GB/s",
            (Bar("≥ 0.8 × np.memmap", 0.8, "np.memmap"),),
            more_is_better=True,
            headline=f"fill an array of {chunks} MB in the file",
            plot="writing",
        ),
        Case(
            f"stream an array of {streamed} MB in chunks of 1 MB",
            (OURS, "write(2)", "npy-append-array", "h5py (resized)"),
            {"folder": str(plan.folder), "chunks": streamed, "grows": True},
            lambda rate: f"{rate / 1e9:.3g} GB/s",
            (Bar("≥ 0.85 × write(2)", 0.85, "write(2)"),),
            more_is_better=True,
            headline=f"stream an array of {streamed} MB in chunks of 1 MB",
            plot="writing",
        ),
        Case(
            f"peak memory of streaming {streamed} MB",
            (OURS, "npy-append-array", "h5py (resized)"),
            {"folder": str(plan.folder), "chunks": streamed, "grows": True, "is_memory": True},
            size,
            (Bar("≤ 64 MiB", 64 << 20),),
        ),
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


def stream(path: Path, chunk: Chunk, chunks: int) -> None:
    with mmnpz.NpzWriter(path) as writer, writer.stream("array", np.float32) as array:
        for _ in range(chunks):
            array.append(chunk)


def with_write(path: Path, chunk: Chunk, chunks: int) -> None:
    """The limit: one system call for each chunk, and nothing else."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    for _ in range(chunks):
        require(os.write(file, chunk.data) == chunk.nbytes, "write(2) was cut short")
    os.close(file)


def npy_append_array(path: Path, chunk: Chunk, chunks: int) -> None:
    with NpyAppendArray(str(path)) as array:
        for _ in range(chunks):
            array.append(chunk)


def resized(path: Path, chunk: Chunk, chunks: int) -> None:
    with h5py.File(path, "w") as file:
        array = file.create_dataset("array", (0,), np.float32, maxshape=(None,), chunks=(len(chunk),))
        for number in range(1, chunks + 1):
            array.resize(number * len(chunk), axis=0)
            array[-len(chunk) :] = chunk


def read_h5py(path: Path) -> Any:
    file: Any = h5py.File(path)
    return file["array"][...]


WAYS: dict[str, tuple[Callable[[Path, Chunk, int], None], Callable[[Path], Any]]] = {
    OURS: (ours, lambda path: mmnpz.load(path)["array"]),
    "np.memmap": (np_memmap, np.load),
    "h5py": (with_h5py, read_h5py),
    "write(2)": (with_write, lambda path: np.fromfile(path, np.float32)),
    "npy-append-array": (npy_append_array, np.load),
    "h5py (resized)": (resized, read_h5py),
}


def _measure(name: str, folder: str, chunks: int, grows: bool, is_memory: bool = False) -> float:
    make, read = WAYS[name]
    if name == OURS and grows:
        make = stream
    chunk = np.arange(CHUNK // 4, dtype=np.float32)
    path = Path(folder, f"grown-{os.getpid()}.npz")
    if is_memory:
        with peak_anonymous_memory() as peak:
            make(path, chunk, chunks)
        remove(path)
        return peak.bytes
    checked = False

    def once() -> float:
        nonlocal checked
        seconds = timed(partial(make, path, chunk, chunks))
        if not checked:
            found = np.asarray(read(path)).reshape(chunks, -1)
            require(found.shape[1] == len(chunk) and bool((found == chunk).all()), "the array is wrong")
            del found
            checked = True
        remove(path)
        return seconds

    return chunks * CHUNK / best(once, 3)


CONTENDERS: Contenders = {name: partial(_measure, name) for name in WAYS}

if __name__ == "__main__":
    run(CONTENDERS)
