"""Write arrays row by row."""

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np

from mmnpz._creating import as_of_array
from mmnpz._mmnpz import Stream

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from mmnpz._mmnpz import Writer

__all__ = ["ArrayStream"]


class ArrayStream(Stream):
    """
    An array that grows along its first axis: what `NpzWriter.stream` returns.

    ``len(stream)`` is the number of rows so far. Threads may share a stream.

    Attributes
    ----------
    name : str
        The member's name without its ``.npy`` extension.
    dtype : numpy.dtype
        The dtype of the array.
    shape : tuple of int
        The shape of the array so far.
    closed : bool
        Whether the array is finished, or was given up.

    See Also
    --------
    NpzWriter.stream : Makes one.
    repair : Brings the rows back that a killed process had added.

    Notes
    -----
    Rows are collected, and written some at a time: up to two megabytes wait in the process. Another thread
    writes them while the next ones are collected.
    """

    def __init__(
        self,
        writer: "Writer",
        name: str,
        dtype: "DTypeLike",
        row_shape: "int | Sequence[int]" = (),
        *,
        keep_partial: bool = False,
    ) -> None:
        self._keep_partial = bool(keep_partial)
        dtype, axes = as_of_array(dtype, row_shape)
        np.empty((0, *axes), dtype)  # raises if there can be no such array
        self._open(writer, name, dtype, axes)

    def extend(self, chunks: "Iterable[ArrayLike]") -> None:
        """
        Add what an iterable gives, as `append` does each.

        Parameters
        ----------
        chunks : iterable of array_like
            Rows, or arrays of rows. An array of rows is added at once.

        Raises
        ------
        ValueError, TypeError, OSError, RuntimeError
            As for `append`. What came before is added.
        """
        if isinstance(chunks, np.ndarray) and chunks.ndim == len(self.shape):
            self.append(chunks)
            return
        for chunk in chunks:
            self.append(chunk)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_value is None:
            self.close()
            return
        try:
            if self._keep_partial:
                self.close()
            else:
                self._discard()
        except Exception as error:
            # The caller must see the first error.
            exc_value.add_note(f"Ending the stream failed, too: {error}")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a stream cannot be pickled: it belongs to a writer")


def _as_rows(rows: Any, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> "NDArray[Any]":
    """Return a row, or rows, as an array of this very dtype."""
    if hasattr(rows, "__next__"):
        raise TypeError("append takes rows; extend takes an iterable of them")
    array = np.asanyarray(rows, _dtype_of_lists(rows, dtype))
    if array.shape != row_shape and (array.ndim == 0 or array.shape[1:] != row_shape):
        raise ValueError(f"a row has shape {row_shape}, and what was given has shape {array.shape}")
    if array.dtype is dtype:
        return array
    converted = np.empty(array.shape, dtype)
    np.copyto(converted, array, casting="same_kind" if array.size else "unsafe")
    return converted


def _dtype_of_lists(rows: Any, dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """Return the dtype that lists get in any case: not if they would lose what is behind the point."""
    if hasattr(rows, "dtype") or hasattr(rows, "__array__"):
        return None
    if dtype.kind in "iu" and np.asanyarray(rows).dtype.kind not in "iu":
        # Integers beyond 2**63 alone make floating point, or objects, of a list.
        items = np.asanyarray(rows, object).flat
        return dtype if all(isinstance(item, int | np.integer) for item in items) else None
    return dtype if dtype.kind not in "bfc" else None
