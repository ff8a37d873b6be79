"""The time to slice a view."""

import time
from itertools import repeat as times
from typing import Any

import numpy as np
from data import Plan
from harness import OURS, V1, Bar, Case, Contenders, best, duration, member_name, require, run, small_array

import mmnpz

SLICES = 50_000


def cases(plan: Plan) -> list[Case]:
    return [
        Case(
            "slice of a view, x[5:10]",
            (OURS, V1, "ndarray", "np.memmap"),
            {
                "archive": str(plan.our_archive(plan.member_counts[0])),
                "repeat": plan.scaled(20, 2),
            },
            duration,
            (Bar("≤ 1.6 × ndarray", 1 / 1.6, "ndarray"),),
        )
    ]


def with_mmnpz(archive: str, repeat: int) -> float:
    return _measure(mmnpz.load(archive)[member_name(1)], repeat)


def with_ndarray(archive: str, repeat: int) -> float:
    return _measure(small_array(1), repeat)


def with_memmap(archive: str, repeat: int) -> float:
    data: Any = mmnpz.load(archive)
    view = data[member_name(1)]
    offset = view.ctypes.data - data.mmap.ctypes.data
    return _measure(np.memmap(archive, view.dtype, "r", offset, view.shape), repeat)


def _measure(array: Any, repeat: int) -> float:
    def slice_it() -> float:
        start = time.perf_counter()
        for _ in times(None, SLICES):
            array[5:10]
        return time.perf_counter() - start

    seconds = best(slice_it, repeat)
    require(np.array_equal(array[5:10], small_array(1)[5:10]), "the slice is not what was written")
    return seconds / SLICES


CONTENDERS: Contenders = {OURS: with_mmnpz, V1: with_mmnpz, "ndarray": with_ndarray, "np.memmap": with_memmap}

if __name__ == "__main__":
    run(CONTENDERS)
