"""The share of arrays in a written archive that start at a multiple of 64 bytes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from data import Plan
from harness import OURS, V1, Bar, Case, Contenders, percent, require, run

import mmnpz

MEMBERS = 512


def cases(plan: Plan) -> list[Case]:
    return [
        Case(
            f"arrays aligned to 64 bytes, of {MEMBERS}",
            (OURS, V1),
            {"folder": str(plan.folder)},
            percent,
            (Bar("100 %", 100),),
            more_is_better=True,
        )
    ]


def with_mmnpz(folder: str) -> float:
    arrays = {"n" * (1 + number % 64) + str(number): np.arange(number + 1.0) for number in range(MEMBERS)}
    path = Path(folder, f"aligned-{os.getpid()}.npz")
    with mmnpz.NpzWriter(path) as writer:
        for name, array in arrays.items():
            writer.write(name, array)
    data: Any = mmnpz.load(path)
    start = data.mmap.ctypes.data
    aligned = 0
    for name, array in arrays.items():
        require(np.array_equal(data[name], array), f"{name} is not what was written")
        aligned += (data[name].ctypes.data - start) % 64 == 0
    path.unlink()
    return 100 * aligned / MEMBERS


CONTENDERS: Contenders = {OURS: with_mmnpz, V1: with_mmnpz}

if __name__ == "__main__":
    run(CONTENDERS)
