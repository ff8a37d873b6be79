"""Writing large arrays."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from data import Plan
from harness import OURS, V1, Bar, Case, Contenders, best, require, run, timed
from numpy.typing import NDArray

import mmnpz

Arrays = dict[str, NDArray[np.float32]]

COUNT = 3


def cases(plan: Plan) -> list[Case]:
    nbytes = plan.scaled(100_000_000, 4_000_000)

    def throughput(seconds: float) -> str:
        return f"{COUNT * nbytes / seconds / 1e9:.3g} GB/s"

    return [
        Case(
            f"write {COUNT} arrays of {nbytes // 10**6} MB",
            (OURS, V1, "write(2)", "safetensors", "numpy.savez"),
            {"folder": str(plan.folder), "nbytes": nbytes},
            throughput,
            (Bar("≥ 0.9 × write(2)", 0.9, "write(2)"), Bar("≥ safetensors", 1, "safetensors")),
        )
    ]


def with_mmnpz(folder: str, nbytes: int) -> float:
    def write(path: Path, arrays: Arrays) -> None:
        with mmnpz.NpzWriter(path) as writer:
            for name, array in arrays.items():
                writer.write(name, array)

    return _measure(folder, nbytes, write, mmnpz.load)


def with_numpy(folder: str, nbytes: int) -> float:
    def write(path: Path, arrays: Arrays) -> None:
        np.savez(path, **arrays)  # type: ignore[arg-type]  # no array is called allow_pickle

    return _measure(folder, nbytes, write, np.load)


def with_safetensors(folder: str, nbytes: int) -> float:
    from safetensors.numpy import load_file, save_file

    def write(path: Path, arrays: Arrays) -> None:
        save_file(arrays, path)

    return _measure(folder, nbytes, write, load_file)


def with_write(folder: str, nbytes: int) -> float:
    """The limit: the bytes of the arrays and nothing else, one system call each."""

    def write(path: Path, arrays: Arrays) -> None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        for array in arrays.values():
            require(os.write(file, array.data) == array.nbytes, "write(2) was cut short")
        os.close(file)

    def read(path: Path) -> Arrays:
        rows = np.fromfile(path, np.float32).reshape(COUNT, -1)
        return dict(zip("abc", rows, strict=True))

    return _measure(folder, nbytes, write, read)


def _measure(
    folder: str,
    nbytes: int,
    write: Callable[[Path, Arrays], None],
    read: Callable[[Path], Mapping[str, Any]],
) -> float:
    arrays = {name: np.arange(nbytes // 4, dtype=np.float32) + ord(name) for name in "abc"}
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
        path.unlink()
        return seconds

    return best(once, 3)


CONTENDERS: Contenders = {
    OURS: with_mmnpz,
    V1: with_mmnpz,
    "write(2)": with_write,
    "safetensors": with_safetensors,
    "numpy.savez": with_numpy,
}

if __name__ == "__main__":
    run(CONTENDERS)
