"""Writing ``.npz`` files member by member."""

import os
from types import TracebackType
from typing import Literal, NoReturn, Self

from mmnpz._mmnpz import Writer

__all__ = ["NpzWriter"]

_LARGEST_ALIGNMENT = 32768


class NpzWriter(Writer):
    """
    Adds arrays to an uncompressed ``.npz`` file, one by one.

    An array is in the operating system's hands when `write` returns: nothing that this process does, or that
    is done to it, can lose it any more. The file is an ordinary zip archive after each `flush` and once the
    writer is closed: `numpy.load`, `zipfile` and every zip tool read it. Threads may share a writer.

    Parameters
    ----------
    fn : str or os.PathLike
        The file to write.
    mode : {"x", "w", "a"}, optional
        ``"x"`` creates the file and fails if there is one. ``"w"`` puts a new file in place of one that is
        there; readers that have that one mapped keep it. Where the system lets no other file take its
        place, it is written over with zeros first. ``"a"`` appends to an archive, whoever wrote it, and
        creates the file if there is none.
    align : int, optional
        The data of every array starts at a multiple of so many bytes in the file: a power of two up to 32768.
    sync : bool, optional
        Whether an array also survives a power failure once `write` has returned. Each `write` waits for the
        disk then, twice.

    Attributes
    ----------
    files : list of str
        The names of all arrays in the archive, those that were there before too, in archive order.
    closed : bool
        Whether the writer is closed.

    Raises
    ------
    FileExistsError
        In mode ``"x"``, if the file exists.
    BlockingIOError
        If another writer has the file open, in this process or another.
    OSError
        If the file cannot be created or opened.
    zipfile.BadZipFile
        In mode ``"a"``, if the file is not empty and not a zip archive.
    MemoryError
        In mode ``"a"``, if there is no memory for a copy of the archive's directory.
    ValueError
        If `mode` or `align` is another.

    See Also
    --------
    NpzReader : Reads such files.
    numpy.savez : Writes all arrays at once.

    Notes
    -----
    The same arrays, written in the same order, give the same bytes: members carry no date but the first that
    there is, 1 January 1980. With several threads, members are listed in the order in which they are
    finished.

    Examples
    --------
    >>> import mmnpz
    >>> with mmnpz.NpzWriter("example.npz", mode="w") as writer:
    ...     writer.write("a", [[1, 2], [3, 4]])
    ...     writer["b"] = [5, 6, 7, 8]
    >>> with mmnpz.NpzWriter("example.npz", mode="a") as writer:
    ...     writer.write("folder/c", [[9.5], [10.5]])
    >>> mmnpz.load("example.npz").files
    ['a', 'b', 'folder/c']
    """

    def __init__(
        self,
        fn: str | os.PathLike[str],
        mode: Literal["x", "w", "a"] = "x",
        *,
        align: int = 64,
        sync: bool = False,
    ) -> None:
        if mode not in ("x", "w", "a"):
            raise ValueError(f"mode must be 'x', 'w' or 'a', got {mode!r}")
        if not 1 <= align <= _LARGEST_ALIGNMENT:
            raise ValueError(f"align must be a power of two from 1 to {_LARGEST_ALIGNMENT}, got {align!r}")
        self._open(os.fspath(fn), mode, align, bool(sync))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except Exception as error:
            if exc_value is None:
                raise
            # What went wrong first is what the caller must see.
            exc_value.add_note(f"Closing the writer failed, too: {error}")

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a writer cannot be pickled: a file has one writer")
