"""Write ``.npz`` files member by member."""

import warnings
from io import UnsupportedOperation
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from mmnpz._creating import Creation
from mmnpz._mmnpz import Writer, _update
from mmnpz._progress import told
from mmnpz._sink import Sink, sink_of
from mmnpz.streaming import ArrayStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from mmnpz._sink import Target

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
    fn : str, bytes, os.PathLike or binary file
        The file to write. A regular file that is open must be empty, and the archive is written to it in
        place; the file may be closed meanwhile, and its position is the end of the archive afterwards. Any
        other file, such as `io.BytesIO` or a pipe, and on Windows all, gets the archive from its position on
        when the writer is closed; until then, the archive is in a temporary file.
    mode : {"x", "w", "a"}, optional
        ``"x"`` creates the file and fails if it exists. ``"w"`` replaces an existing file by a new one;
        readers that have the old file mapped keep its arrays. Where the system does not let the writer
        replace the file, the writer overwrites it with zeros first. ``"a"`` appends to an archive, whichever
        program wrote it, and creates the file if it does not exist. To an open file, ``"x"`` and ``"w"`` mean
        the same; in mode ``"a"`` it need not be empty.
    align : int, optional
        The data of every array starts at a multiple of `align` bytes from the start of the archive. A power
        of two, at most 32768.
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
        If the file cannot be created or opened. `io.UnsupportedOperation` for a file that is not open for
        writing, and for mode ``"a"`` or `sync` with a file that is not regular.
    zipfile.BadZipFile
        In mode ``"a"``, if the file is not empty and not a zip archive.
    MemoryError
        In mode ``"a"``, if a copy of the archive's central directory does not fit into memory.
    ValueError
        If `mode` or `align` has another value, or an open file is not empty.
    TypeError
        If `fn` is neither a path nor a binary file.

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

    _sink: Sink | None = None

    def __init__(
        self,
        fn: "Target",
        mode: Literal["x", "w", "a"] = "x",
        *,
        align: int = 64,
        sync: bool = False,
    ) -> None:
        if mode not in ("x", "w", "a"):
            raise ValueError(f"mode must be 'x', 'w' or 'a', got {mode!r}")
        if not 1 <= align <= _LARGEST_ALIGNMENT:
            raise ValueError(f"align must be a power of two from 1 to {_LARGEST_ALIGNMENT}, got {align!r}")
        self.close()  # what was open, if this is called again
        sink = sink_of(fn, mode, bool(sync))
        try:
            excludes_others = self._open(sink.path, sink.mode, align, bool(sync), sink.name)
        except BaseException:
            sink.give_up()
            raise
        self._sink = sink
        sink.close_at_exit(self)
        if not excludes_others and not sink.is_stream:
            warn_without_lock(sink.name, stacklevel=3)

    def create(
        self,
        name: str,
        shape: "int | Sequence[int]",
        dtype: "DTypeLike",
        *,
        fortran_order: bool = False,
        progress: "Callable[[int, int], object] | bool | None" = None,
    ) -> "AbstractContextManager[NDArray[Any]]":
        """
        Create an array in the file, for the program to fill: it may be larger than memory.

        Use it in a ``with`` statement, which gives the array. The block may fill it in any order, with any
        number of threads, and with forked processes that have ended before the block does. When the block
        ends, the array becomes a member of the archive: the system has it, and a kill does not lose it. If
        the block raises an exception, or the process is killed in it, the member never exists.

        Parameters
        ----------
        name : str
            The member's name without its ``.npy`` extension.
        shape : int or sequence of ints
            The shape of the array.
        dtype : dtype_like
            The dtype of the array, as `numpy.dtype` takes it.
        fortran_order : bool, optional
            Whether the first axis is the fastest, instead of the last.
        progress : callable or True, optional
            Called at the end of the block, while the checksum of the array is taken, with two numbers: how
            many bytes are done, and how many the array has. True shows a bar, and needs tqdm.

        Returns
        -------
        context manager
            What to use in a ``with`` statement, once. It gives an array of zeros: a plain `numpy.ndarray`,
            C- or Fortran-contiguous, aligned as the writer aligns arrays. Nothing is written before the block
            begins.

        Warns
        -----
        UserWarning
            As `write`.

        Raises
        ------
        OSError
            If the disk has no space for the array, when the block begins: the system sets all of it aside, so
            that no write to the array finds the disk full. Also if the system cannot map the file.
        ValueError
            If an array of this dtype cannot be written, or the name cannot be stored, as for `write`. If a
            dimension is negative. If the writer is closed, or is closed in the block: the array is then given
            up.
        RuntimeError
            In a forked child, if the block begins there.

        Notes
        -----
        When the block ends, `out` becomes read-only. It and views of it go on showing the array as long as
        the program keeps them; what a program writes through such a view later does not reach the file. After
        an exception, they show zeros. (Windows cannot cut a map off, and no process that has a limit for its
        data, ``ulimit -d``: there, no view may be written to after the block.)

        A file system that cannot set space aside gets zeros written, which takes as long as to write the
        array.

        Examples
        --------
        >>> import mmnpz
        >>> with mmnpz.NpzWriter("example.npz") as writer:
        ...     with writer.create("table", (3, 4), "int32") as table:
        ...         for row in range(3):
        ...             table[row] = range(row, row + 4)
        >>> mmnpz.load("example.npz")["table"]
        memmap([[0, 1, 2, 3],
                [1, 2, 3, 4],
                [2, 3, 4, 5]], dtype=int32)
        """
        filename = "" if self._sink is None else self._sink.name
        return Creation(self, filename, name, shape, dtype, fortran_order, progress)

    def stream(
        self,
        name: str,
        dtype: "DTypeLike",
        row_shape: "int | Sequence[int]" = (),
        *,
        keep_partial: bool = False,
    ) -> ArrayStream:
        """
        Begin an array that grows along its first axis, whose length need not be known.

        Parameters
        ----------
        name : str
            The member's name without its ``.npy`` extension.
        dtype : dtype_like
            The dtype of the array, as `numpy.dtype` takes it.
        row_shape : int or sequence of ints, optional
            The shape of a row: that of the array without its first axis.
        keep_partial : bool, optional
            Whether the rows so far become an array if the ``with`` block of the stream raises an exception.
            By default, the array then never exists.

        Returns
        -------
        ArrayStream
            What takes the rows. Use it in a ``with`` statement, or call its `~ArrayStream.close`: then it
            becomes a member. `close` of the writer does so, too.

        Warns
        -----
        UserWarning
            As `write`.

        Raises
        ------
        ValueError
            If an array of this dtype cannot be written, or the name cannot be stored, as for `write`. If a
            dimension is negative, or the writer is closed.
        RuntimeError
            In a forked child.

        Notes
        -----
        Several streams may be open, and other arrays may be written meanwhile. Behind a stream, others then
        lie in the file: when it needs more space, it moves behind them, to twice the space, and what it had
        becomes a hole in the file. So each byte is copied at most twice on average, by the system, which
        shares instead of copying where the file system can do that (Btrfs, XFS).

        Examples
        --------
        >>> import mmnpz
        >>> with mmnpz.NpzWriter("example.npz") as writer:
        ...     with writer.stream("recording", "int16", row_shape=2) as recording:
        ...         recording.append([1, 2])
        ...         recording.append([[3, 4], [5, 6]])
        ...         recording.extend([number, -number] for number in range(7, 9))
        >>> mmnpz.load("example.npz")["recording"]
        memmap([[ 1,  2],
                [ 3,  4],
                [ 5,  6],
                [ 7, -7],
                [ 8, -8]], dtype=int16)
        """
        return ArrayStream(self, name, dtype, row_shape, keep_partial=keep_partial)

    def update(
        self,
        other: "Mapping[str, Any] | Iterable[tuple[str, Any]]" = (),
        /,
        *,
        progress: "Callable[[int, int | None], object] | bool | None" = None,
        **arrays: "ArrayLike",
    ) -> None:
        """
        Write many arrays, the small ones together.

        Each array becomes a member as `write` makes it. When this returns, the operating system has all of
        them. If the process is killed meanwhile, those are there that were written first, one after the
        other. Threads may call this at the same time.

        Parameters
        ----------
        other : mapping or iterable, optional
            The arrays by their names: a mapping, or pairs of a name and an array. An iterator is read as it
            is written, in some megabytes of memory.
        progress : callable or True, optional
            Called now and then with two numbers: how many bytes of arrays are written, and how many there
            are in all. The second one is None unless `other` is a dict of arrays. True shows a bar, and needs
            tqdm.
        **arrays : array_like
            Further arrays by their names.

        Warns
        -----
        UserWarning
            As `write`.

        Raises
        ------
        TypeError
            If an element of `other` is not a pair, or a name is no str.
        ValueError, OSError, RuntimeError
            As for `write`. The arrays in front of the one that is at fault are written.

        Notes
        -----
        Arrays of up to 64 KiB are collected, and written by one system call for each two megabytes. Where
        that cannot write, as on a full disk, they are written one by one, up to the first that cannot be.

        A writer with ``sync=True`` waits for the disk twice for all arrays of up to 512 KiB together (or 256
        MiB of them, or 131,072). Before that, none of these counts, no other thread is warned of their names,
        and `close` in another thread waits.

        Examples
        --------
        >>> import mmnpz
        >>> with mmnpz.NpzWriter("example.npz") as writer:
        ...     writer.update({"labels/0": 3, "labels/1": 5}, rate=[16000])
        ...     writer.update((f"squares/{n}", [n, n * n]) for n in range(3))
        >>> mmnpz.load("example.npz").files
        ['labels/0', 'labels/1', 'rate', 'squares/0', 'squares/1', 'squares/2']
        """
        total = None if progress is None else _size(other, arrays)
        with told(progress, "" if self._sink is None else self._sink.name) as tell:
            _update(self, _pairs(other, arrays), tell, total)

    def flush(self, sync: bool = False) -> None:  # noqa: D102  # that of Writer, see below
        if self._sink is not None and self._sink.is_stream and not self.closed:
            raise UnsupportedOperation(
                f"{self._sink.name}: a stream gets the archive when the writer is closed"
            )
        super().flush(sync)

    def close(self) -> None:  # noqa: D102  # that of Writer, see below
        super().close()
        if self._sink is not None and self._sink.is_of_this_process():  # a forked child writes nothing
            self._sink.finish()

    flush.__doc__, close.__doc__ = Writer.flush.__doc__, Writer.close.__doc__

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
        if self._sink is not None and self.closed:
            self._sink.give_up()  # what a stream did not take, it does not take now
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a writer cannot be pickled: a file has one writer")


def _pairs(other: Any, arrays: dict[str, Any]) -> "Iterator[Any]":
    """Return pairs of names and arrays, as `dict.update` finds them."""
    if not arrays:
        return _pairs_of(other)
    return (pair for pairs in (_pairs_of(other), iter(arrays.items())) for pair in pairs)


def _pairs_of(other: Any) -> "Iterator[Any]":
    if isinstance(other, dict):
        return iter(other.items())
    if hasattr(other, "keys"):
        names = other.keys()
        return ((name, other[name]) for name in names)
    return iter(other)


def _size(other: Any, arrays: dict[str, Any]) -> int | None:
    """Return how many bytes the arrays have, if that is known."""
    if type(other) is not dict and other != ():
        return None  # other mappings may give anything
    sizes = [getattr(array, "nbytes", None) for array in (*dict(other).values(), *arrays.values())]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def warn_without_lock(path: str, stacklevel: int) -> None:
    """Warn that another writer of a file would not be noticed."""
    message = "the file system has no locks: a second writer, which would spoil the file, is not noticed"
    warnings.warn(f"{path}: {message}", UserWarning, stacklevel)
