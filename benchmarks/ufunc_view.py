"""A ufunc of a view of few items, where what NumPy does around the loop counts."""

from timeit import Timer
from typing import Any

import numpy as np
from data import Plan
from harness import OURS, V1, Bar, Case, Contenders, best, duration, member_name, require, run, small_array

import mmnpz

CALLS = 20_000
ITEMS = 64

FUNCTIONS = ("np.add(x, 1)", "np.sin(x)", "x + x", "x.sum()")


def cases(plan: Plan) -> list[Case]:
    return [
        Case(
            f"{function}, {ITEMS} items",
            (OURS, V1, "ndarray", "np.memmap"),
            {
                "archive": str(plan.our_archive(plan.member_counts[0])),
                "function": function,
                "repeat": plan.scaled(40, 2),
            },
            duration,
            (Bar("≤ 1.25 × ndarray + 50 ns", 1 / 1.25, "ndarray", 50e-9),),
        )
        for function in FUNCTIONS
    ]


def with_mmnpz(archive: str, function: str, repeat: int) -> float:
    return _measure(mmnpz.load(archive)[member_name(1)], function, repeat)


def with_ndarray(archive: str, function: str, repeat: int) -> float:
    return _measure(small_array(1), function, repeat)


def with_memmap(archive: str, function: str, repeat: int) -> float:
    data: Any = mmnpz.load(archive)
    view = data[member_name(1)]
    offset = view.ctypes.data - data.mmap.ctypes.data
    return _measure(np.memmap(archive, view.dtype, "r", offset, view.shape), function, repeat)


def _measure(array: Any, function: str, repeat: int) -> float:
    view = array[:ITEMS]
    timer = Timer(function, globals={"np": np, "x": view})
    seconds = best(lambda: timer.timeit(CALLS), repeat)
    result, expected = (eval(function, {"np": np, "x": x}) for x in (view, small_array(1)[:ITEMS]))
    require(np.array_equal(result, expected), "the result is not that of a plain array")
    return seconds / CALLS


CONTENDERS: Contenders = {OURS: with_mmnpz, V1: with_mmnpz, "ndarray": with_ndarray, "np.memmap": with_memmap}

if __name__ == "__main__":
    run(CONTENDERS)
