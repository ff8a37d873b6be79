"""The blocks in which a program fills an array in the file."""

import operator
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from mmnpz._mmnpz import _create
from mmnpz._progress import Progress, checked, told

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from mmnpz._mmnpz import Created, Writer


def as_of_array(dtype: "DTypeLike", shape: "int | Sequence[int]") -> tuple[np.dtype[Any], list[int]]:
    """
    Return dtype and shape as an array has them that is made with these.

    The axes of a sub-array dtype are axes of the array, and strings have a character at least.
    """
    probe = np.empty(0, dtype)
    axes = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    axes = (*(operator.index(axis) for axis in axes), *probe.shape[1:])
    if any(axis < 0 for axis in axes):
        raise ValueError(f"a dimension cannot be negative, got {shape!r}")
    return probe.dtype, list(axes)


class Creation:
    """
    A block in which an array of an archive is filled; see `NpzWriter.create`.

    Parameters
    ----------
    writer : NpzWriter
        The writer of the archive.
    filename : str
        What messages call the file.
    name : str
        The member's name without its ``.npy`` extension.
    shape : int or sequence of ints
        The shape of the array.
    dtype : dtype_like
        The dtype of the array.
    fortran_order : bool
        Whether the first axis is the fastest.
    progress : callable or True or None
        As for `NpzWriter.create`.
    """

    def __init__(
        self,
        writer: "Writer",
        filename: str,
        name: str,
        shape: "int | Sequence[int]",
        dtype: "DTypeLike",
        fortran_order: bool,
        progress: "Progress | bool | None",
    ) -> None:
        self._dtype, self._shape = as_of_array(dtype, shape)
        self._writer, self._filename, self._name = writer, filename, name
        checked(progress)
        self._fortran_order, self._progress = bool(fortran_order), progress
        self._open: tuple[Created, NDArray[Any]] | None = None
        self._is_used = False

    def __enter__(self) -> "NDArray[Any]":
        if self._is_used:
            raise RuntimeError("an array is created once")
        self._is_used = True
        self._open = _create(self._writer, self._name, self._shape, self._dtype, self._fortran_order)
        return self._open[1]

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._open is None:
            return
        (created, array), self._open = self._open, None
        array.flags.writeable = False  # what is written now would be lost
        if exc_type is not None:
            created.discard()
            return
        with told(self._progress, self._filename) as tell:
            created.finish(tell)
