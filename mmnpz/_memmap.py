"""A faster `numpy.memmap`."""

from typing import Any

import numpy as np

from mmnpz._mmnpz import MappedArray, Mapping

__all__ = ["memmap"]

# NumPy 2 says with an argument whether a scalar is wanted; before, any result of no dimensions was made one.
_NUMPY_1 = np.lib.NumpyVersion(np.__version__) < "2.0.0"


def _mapping(array: np.ndarray[Any, Any]) -> Mapping | None:
    """The map that an array is part of."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, Mapping) else None


class memmap(MappedArray):
    """
    An array over a memory-mapped file: a `numpy.memmap` that is made and sliced like a plain array.

    `numpy.memmap` runs Python code each time an array is made or sliced. This subclass leaves both to NumPy's
    own C functions. All else is as `numpy.memmap` has it: reductions give scalars, ufuncs and fancy indexing
    give plain arrays, and slices are memory maps.

    It is not made by calling it, but by `mmnpz.load`. Its pickle holds its own items, not the map, and loads
    as a plain array.

    Attributes
    ----------
    filename : str or pathlib.Path or None
        The mapped file; None for a copy in memory.
    mode : str or None
        ``"r"``; None for a copy in memory.
    offset : int or None
        Where the map starts in the file: 0; None for a copy in memory.

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

    # The method of ndarray itself: NumPy knows it, and does not call it.
    __array_finalize__: Any = np.ndarray.__array_finalize__

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        if array is self:  # the result of a ufunc with out=self
            return array
        if return_scalar or (_NUMPY_1 and array.shape == ()):
            return array[()]
        return array.view(np.ndarray)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.view(np.ndarray).__reduce_ex__(protocol)

    def __reduce__(self) -> Any:
        return self.view(np.ndarray).__reduce__()

    # numpy.memmap keeps these in each instance, and it takes a Python call to put them there.
    _mmap: Any = property(_mapping)
    filename: Any = property(lambda self: getattr(_mapping(self), "filename", None))
    mode: Any = property(lambda self: "r" if _mapping(self) else None)
    offset: Any = property(lambda self: 0 if _mapping(self) else None)


memmap.__module__ = "mmnpz"
