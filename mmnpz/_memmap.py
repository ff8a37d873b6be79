"""A faster `numpy.memmap`."""

from typing import Any

import numpy as np

from mmnpz._mmnpz import Mapping, memmap

__all__ = ["mapping_of", "memmap"]

_DOC = """
An array over a memory-mapped file: a `numpy.memmap` that is made and sliced like a plain array.

`numpy.memmap` runs Python code each time an array is made or sliced. This subclass leaves both to NumPy's
own C functions. All else is as `numpy.memmap` has it: reductions give scalars, ufuncs and fancy indexing
give plain arrays, and slices are memory maps.

It is not made by calling it, but by `mmnpz.load`. Its pickle holds its own items, not the map, and loads
as a plain array. Of a view that a reader keeps, `shape`, `dtype` and `strides` cannot be set, as all who
look the array up have the same view: `reshape` and `view` make others. A view to which a program has given
attributes is no longer told from its own.

Attributes
----------
filename : str or pathlib.Path or None
    The mapped file; None for a copy in memory, and for an array in a buffer.
mode : str or None
    ``"r"`` or ``"c"``, as the file was opened; None for a copy in memory.
offset : int or None
    Where the first item is in the file, in bytes; None for a copy in memory. `numpy.memmap` finds a
    contiguous array again by `filename`, `dtype`, `offset` and `shape`.

See Also
--------
numpy.memmap : The class that this one stands in for.

Examples
--------
>>> import numpy as np
>>> import mmnpz
>>> np.savez("example.npz", a=np.arange(12).reshape(3, 4))
>>> a = mmnpz.load("example.npz")["a"]
>>> isinstance(a, np.memmap), isinstance(a[1:], np.memmap)
(True, True)
>>> int(a.sum()), type(a + 1), type(a[[0, 2]])
(66, <class 'numpy.ndarray'>, <class 'numpy.ndarray'>)
"""


def _reduce_ex(self: Any, protocol: Any) -> Any:
    return self.view(np.ndarray).__reduce_ex__(protocol)


def mapping_of(array: Any) -> Mapping | None:
    """Return the map in which the items of an array lie, or None if they are in memory."""
    base = array.base
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, Mapping) else None


def _offset(self: Any) -> int | None:
    if mapping_of(self) is None:
        return None
    whole = self
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    start: int = whole.__array_interface__["data"][0]
    first: int = self.__array_interface__["data"][0]
    return first - start


# The compiled type has NumPy's own indexing. A class statement on top of it would be shorter, and cost 3 of
# the 105 ns that a slice takes.
for _name, _value in {
    "__doc__": _DOC,
    # The method of ndarray itself: NumPy knows it, and does not call it.
    "__array_finalize__": np.ndarray.__array_finalize__,
    "__reduce__": lambda self: _reduce_ex(self, 2),
    "__reduce_ex__": _reduce_ex,
    # numpy.memmap keeps these in each instance, and it takes a Python call to put them there.
    "_mmap": property(mapping_of),
    "filename": property(lambda self: getattr(mapping_of(self), "filename", None)),
    "mode": property(lambda self: getattr(mapping_of(self), "mode", None)),
    "offset": property(_offset),
}.items():
    setattr(memmap, _name, _value)
