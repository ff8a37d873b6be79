"""Read and write NumPy ``.npz`` files that are larger than main memory.

>>> import numpy as np
>>> import mmnpz
>>> with mmnpz.NpzWriter("dataset.npz") as writer:
...     writer.write("first", np.arange(10))
>>> data = mmnpz.load("dataset.npz")
>>> data["first"][2:5]
memmap([2, 3, 4])
"""

from mmnpz._memmap import memmap
from mmnpz._mmnpz import __version__
from mmnpz.layout import Layout, MemberInfo
from mmnpz.reading import DamagedMember, NpzReader, load
from mmnpz.repairing import DroppedMember, PartialArray, RepairReport, repair
from mmnpz.saving import savez, savez_compressed
from mmnpz.streaming import ArrayStream
from mmnpz.writing import NpzWriter

__all__ = [
    "ArrayStream",
    "DamagedMember",
    "DroppedMember",
    "Layout",
    "MemberInfo",
    "NpzReader",
    "NpzWriter",
    "PartialArray",
    "RepairReport",
    "__version__",
    "load",
    "memmap",
    "repair",
    "savez",
    "savez_compressed",
]
