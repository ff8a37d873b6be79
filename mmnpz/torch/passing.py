"""
What a dataset hands to a worker that is spawned, beside its pickle.

`multiprocessing` writes the pickle of a process to a pipe, and goes on when the process has read it, which is
after it has imported PyTorch. A pipe holds 64 KiB. So workers with larger pickles start one after the other,
each in seconds. Here, what is large lies in a file in memory, whose descriptor is passed. Workers map it, and
share it: arrays in it cost them nothing.
"""

import mmap
import os
import pickle
from collections.abc import Callable
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from typing import Any

import numpy as np

_CAN_PASS = hasattr(os, "memfd_create")

# What is smaller stays in the pickle.
_LEAST = 1 << 13

_ALIGN = 64

_PLAIN = {str, bytes, int, float, bool, type(None)}


def is_spawning() -> bool:
    """Tell whether what is pickled now is for a process that is being started, which can get descriptors."""
    return _CAN_PASS and get_spawning_popen() is not None


class Parcel:
    """
    An object in a file in memory, which processes that are started can open.

    Parameters
    ----------
    content : object
        What is in it. Its arrays are read-only where the parcel is opened.
    """

    def __init__(self, content: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(content, 5, buffer_callback=buffers.append)
        parts: list[bytes | memoryview] = [head, *(buffer.raw() for buffer in buffers)]
        self._file = os.memfd_create("mmnpz-dataset", os.MFD_CLOEXEC)
        self._ranges: list[tuple[int, int]] = []
        end = 0
        with open(self._file, "wb", closefd=False) as file:
            for part in parts:
                start = end + -end % _ALIGN
                end = start + len(part)
                self._ranges.append((start, end))
                file.seek(start)
                file.write(part)
            file.truncate(max(end, 1))

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "_file"):
            close(self._file)

    def send(self) -> tuple[Any, list[tuple[int, int]]]:
        """Return what `open_parcel` takes, in the process that is being started."""
        return reduction.DupFd(self._file), self._ranges


def open_parcel(sent: tuple[Any, list[tuple[int, int]]]) -> Any:
    """Return the content of a parcel."""
    handle, ranges = sent
    # The descriptor stays open: another object of the same pickle can have the same one.
    memory = memoryview(mmap.mmap(handle.detach(), 0, access=mmap.ACCESS_READ))
    head, *buffers = (memory[start:end] for start, end in ranges)
    return pickle.loads(head, buffers=buffers)


def is_large(value: Any) -> bool:
    """Tell whether an array or a list is to be passed in a parcel."""
    if isinstance(value, np.ndarray):
        return value.nbytes >= _LEAST
    # Other objects may have a way of their own to get to another process.
    return isinstance(value, list) and 8 * len(value) >= _LEAST and set(map(type, value)) <= _PLAIN
