"""Write ``.npz`` files member by member."""

import os
import warnings
from types import TracebackType
from typing import Literal, NoReturn, Self

from mmnpz._mmnpz import Writer

__all__ = ["NpzWriter"]

_LARGEST_ALIGNMENT = 32768


class NpzWriter(Writer):
    """
    A writer that adds arrays to an uncompressed ``.npz`` file, one by one.

    When `write` returns, the operating system has the array: neither a crash nor a kill of this process loses
    it. After each `flush`, and once the writer is closed, the file is an ordinary zip archive: `numpy.load`,
    `zipfile` and every zip tool read it. Threads may share a writer.

    Parameters
    ----------
    fn : str, bytes or os.PathLike
        The file to write.
    mode : {"x", "w", "a"}, optional
        ``"x"`` creates the file and fails if it exists. ``"w"`` replaces an existing file by a new one;
        readers that have the old file mapped keep its arrays. Where the system does not let the writer
        replace the file, the writer overwrites it with zeros first. ``"a"`` appends to an archive, whichever
        program wrote it, and creates the file if it does not exist.
    align : int, optional
        The data of every array starts at a multiple of `align` bytes in the file. A power of two, at most
        32768.
    sync : bool, optional
        Whether an array also survives a power failure once `write` has returned. Each `write` then waits for
        the disk twice.

    Attributes
    ----------
    files : list of str
        The names of all arrays in the archive, in archive order. Arrays of earlier writers are included.
    closed : bool
        Whether the writer is closed.

    Raises
    ------
    FileExistsError
        In mode ``"x"``, if the file exists.
    BlockingIOError
        If another writer has the file open, in this process or in another process.
    OSError
        If the file cannot be created or opened.
    zipfile.BadZipFile
        In mode ``"a"``, if the file is not empty and not a zip archive.
    MemoryError
        In mode ``"a"``, if a copy of the archive's central directory does not fit into memory.
    ValueError
        If `mode` or `align` has another value.

    See Also
    --------
    NpzReader : Reads such files.
    numpy.savez : Writes all arrays at once.

    Notes
    -----
    The same arrays, written in the same order, give the same bytes. For that, the writer gives all members
    the same date: 1 January 1980, the earliest one that the format has. When several threads write, `flush`
    lists members in the order in which they were finished. `close` lists them in the order in which they lie
    in the file.

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
        fn: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        mode: Literal["x", "w", "a"] = "x",
        *,
        align: int = 64,
        sync: bool = False,
    ) -> None:
        if mode not in ("x", "w", "a"):
            raise ValueError(f"mode must be 'x', 'w' or 'a', got {mode!r}")
        if not 1 <= align <= _LARGEST_ALIGNMENT:
            raise ValueError(f"align must be a power of two from 1 to {_LARGEST_ALIGNMENT}, got {align!r}")
        if not self._open(os.fsdecode(fn), mode, align, bool(sync)):
            warn_without_lock(os.fsdecode(fn), stacklevel=3)

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
            # The caller must see the first error: the error of closing becomes a note to it.
            exc_value.add_note(f"Closing the writer failed, too: {error}")

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a writer cannot be pickled: a file has one writer")


def warn_without_lock(path: str, stacklevel: int) -> None:
    """Warn that another writer of a file would not be noticed."""
    message = "the file system has no locks: a second writer, which would spoil the file, is not noticed"
    warnings.warn(f"{path}: {message}", UserWarning, stacklevel)
