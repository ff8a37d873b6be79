"""What an archive tells of its arrays, without a view of each."""

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmnpz._mmnpz import Reader

__all__ = ["Layout", "MemberInfo"]


class MemberInfo(NamedTuple):
    """
    What `NpzReader.info` tells of an array.

    Attributes
    ----------
    name : str
        The name of the array.
    dtype : numpy.dtype
        Its dtype.
    shape : tuple of int
        Its shape.
    fortran_order : bool
        Whether its first axis is the fastest (Fortran order), as the ``.npy`` header has it.
    nbytes : int
        How many bytes its items take.
    offset : int or None
        Where its first item is in the file, in bytes. None if the member is compressed.
    compress_type : int
        The compression method: 0 for stored, 8 for deflate, 93 for Zstandard (APPNOTE 6.3.10, 4.4.5).
    compress_size : int
        How many bytes the member has in the file, the ``.npy`` header included.
    crc : int
        The CRC-32 that the archive has of the member.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    nbytes: int
    offset: int | None
    compress_type: int
    compress_size: int
    crc: int


class Layout:
    """
    What `NpzReader.layout` tells of all arrays, as columns in archive order.

    It is not made by calling it. Of a member whose headers tell of no array that fits into it, `dtype`,
    `ndim`, `length`, `nbytes` and `offset` are -1.

    Attributes
    ----------
    dtypes : list of numpy.dtype
        The dtypes that arrays have.
    dtype : (n,) ndarray of int32
        The dtype of each array: its position in `dtypes`.
    ndim : (n,) ndarray of int32
        How many axes it has.
    length : (n,) ndarray of int64
        The length of its first axis. -1 if it has none.
    nbytes : (n,) ndarray of int64
        How many bytes its items take.
    offset : (n,) ndarray of int64
        Where its first item is in the file, in bytes. -1 if the member is compressed.
    compress_type : (n,) ndarray of uint16
        The compression method: 0 for stored, 8 for deflate, 93 for Zstandard (APPNOTE 6.3.10, 4.4.5).
    compress_size : (n,) ndarray of int64
        How many bytes the member has in the file, the ``.npy`` header included.
    crc : (n,) ndarray of uint32
        The CRC-32 that the archive has of the member. 0 if its headers do not fit the directory.
    """

    def __init__(
        self,
        reader: "Reader",
        dtypes: list[np.dtype[Any]],
        dtype: "NDArray[np.int32]",
        ndim: "NDArray[np.int32]",
        length: "NDArray[np.int64]",
        nbytes: "NDArray[np.int64]",
        offset: "NDArray[np.int64]",
        compress_type: "NDArray[np.uint16]",
        compress_size: "NDArray[np.int64]",
        crc: "NDArray[np.uint32]",
    ) -> None:
        self._reader = reader
        self.dtypes = dtypes
        self.dtype = dtype
        self.ndim = ndim
        self.length = length
        self.nbytes = nbytes
        self.offset = offset
        self.compress_type = compress_type
        self.compress_size = compress_size
        self.crc = crc

    @cached_property
    def names(self) -> "NDArray[np.object_]":
        """The names, as an array of `str` objects, which can be indexed as the columns are."""
        files = self._reader.files
        names = np.empty(len(files), object)
        names[:] = files
        return names

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self.crc)

    def __repr__(self) -> str:
        """Name the numbers of members and of dtypes."""
        return f"<Layout of {len(self):,} members, {len(self.dtypes)} dtypes>"
