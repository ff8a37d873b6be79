"""The compiled half of mmnpz. Programs use the names that the package `mmnpz` exports."""

from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, Self, SupportsIndex, final, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from typing_extensions import disjoint_base

__all__ = [
    "Created",
    "DirectReader",
    "Mapping",
    "Reader",
    "Replacement",
    "Stream",
    "Writer",
    "__version__",
    "_create",
    "_fetch",
    "_fetch_headers",
    "_info",
    "_is_mapped",
    "_layout",
    "_map_again",
    "_name_at",
    "_position",
    "_repair",
    "_update",
    "_verify",
    "_walk",
    "memmap",
]

__version__: Final[str]

def _repair(
    path: str | PathLike[str], keep_partial: bool, progress: Callable[[int, int], object] | None
) -> tuple[int, list[str], list[tuple[str, int, str]], bool, list[tuple[str, str, int]]]:
    """
    Repair the file at `path`, and return the parts of a `mmnpz.RepairReport`.

    Returns
    -------
    members : int
        The number of members in the archive after the repair.
    recovered : list of str
        The names of the arrays that no complete directory listed before.
    dropped : list of (str, int, str)
        The name, the offset of the local header, and the reason, for each member that was dropped.
    changed : bool
        Whether the repair changed the file.
    partial : list of (str, str, int)
        The name, the name of the stream, and the number of rows, for each array of the rows of a stream that
        was not finished.
    """

@disjoint_base
class Stream:
    """The compiled base class of `mmnpz.ArrayStream`, which has the constructor."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def _open(self, writer: Writer, name: str, dtype: np.dtype[Any], row_shape: list[int]) -> None:
        """Begin an array without rows."""

    def append(self, rows: ArrayLike) -> None:
        """
        Add rows at the end.

        All of them are added or, after an error, none. They are collected, and written some at a time.
        Threads may call this at the same time.

        Parameters
        ----------
        rows : array_like
            A row, or an array of rows, of any memory order and strides. Items are converted to the dtype of
            the array if NumPy's rule ``same_kind`` allows it.

        Raises
        ------
        ValueError
            If the shape does not fit, or the stream is closed.
        TypeError
            If the items cannot become items of the array.
        OSError
            If the operating system cannot write. Rows that were added before stay: what could not be written
            is tried again at the next call.
        RuntimeError
            In a forked child.
        """

    def flush(self, sync: bool = False) -> None:
        """
        Give the operating system all rows that were added.

        A kill of the process does not lose these rows: `repair` with ``keep_partial=True`` makes them an
        array.

        Parameters
        ----------
        sync : bool, optional
            Whether to wait until they are on the disk, too, so that a power failure does not lose them. A
            writer with ``sync=True`` always does.

        Raises
        ------
        OSError
            If the operating system cannot write.
        ValueError
            If the stream is closed.
        RuntimeError
            In a forked child.
        """

    def close(self) -> None:
        """
        Finish the array: it becomes a member of the archive.

        Does nothing if the stream is closed, and in a forked child.

        Raises
        ------
        OSError
            If the operating system cannot write. It can be called again.
        """

    def _discard(self) -> None:
        """Give the array up, so that it never exists. In a forked child, do nothing."""

    @property
    def closed(self) -> bool:
        """Whether the array is finished, or was given up."""

    @property
    def name(self) -> str:
        """The member's name without its ``.npy`` extension."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array so far."""

    def __len__(self) -> int: ...

@final
class Created:
    """An array in the file that a program fills."""

    def finish(self, progress: Callable[[int, int], object] | None) -> None:
        """Make the array a member. In a forked child, do nothing."""

    def discard(self) -> None:
        """Give the array up, so that it never exists. In a forked child, do nothing."""

def _create(
    writer: Writer, name: str, shape: list[int], dtype: np.dtype[Any], fortran_order: bool
) -> tuple[Created, NDArray[Any]]:
    """Return an array of zeros in the file, and that array for programs to fill."""

def _update(
    writer: Writer,
    pairs: Iterator[Any],
    progress: Callable[[int, int | None], object] | None,
    total: int | None,
) -> None:
    """Write the arrays of an iterator of pairs of names and arrays, small ones together."""

def _verify(
    reader: Reader,
    names: list[str] | None,
    threads: int | None,
    progress: Callable[[int, int], object] | None,
    is_first_enough: bool,
) -> list[tuple[str, int, str, int | None, int | None]]:
    """Return the fields of a `mmnpz.DamagedMember` for each damaged member."""

def _info(
    reader: Reader, name: str, touches_members: bool
) -> tuple[str, np.dtype[Any], tuple[int, ...], bool, int, int | None, int, int, int] | None:
    """Return the fields of a `mmnpz.MemberInfo`, or None if they are in a member that must not be touched."""

def _layout(reader: Reader) -> tuple[list[np.dtype[Any]], Any, Any, Any, Any, Any, Any, Any, Any]:
    """Return the dtypes of all arrays, and the columns of a `mmnpz.Layout` behind its names."""

def _name_at(reader: Reader, position: int) -> str:
    """Return the name of the array at a position in archive order, without making a list of all names."""

def _position(reader: Reader, name: str) -> int:
    """Return the position of an array in archive order."""

def _is_mapped(reader: Reader, array: object) -> bool:
    """Return whether all items of `array` lie in the map of the reader's file."""

def _fetch(reader: Reader, arrays: list[Any]) -> None:
    """Have the operating system read the items of those `arrays` that lie in the map of the reader's file."""

def _fetch_headers(reader: Reader, names: list[str]) -> None:
    """Have the operating system read the headers of these members, if their views need the headers."""

def _map_again(
    filename: str, identity: tuple[int, int, int], map_type: type[NDArray[Any]]
) -> NDArray[np.uint8]:
    """
    Map a file whose views come from another process, if it is as it was there.

    Returns
    -------
    memmap
        The map of the whole file, of `map_type`.
    """

@final
class Replacement:
    """
    An empty file that can take the place of the one at `path`, with its owner and permissions.

    Until `release`, no writer can open the file that is there.

    Parameters
    ----------
    path : str or os.PathLike
        The file to be replaced. There need be none.
    """

    def __new__(cls, path: str | PathLike[str]) -> Self: ...
    @property
    def temporary(self) -> Path:
        """The path of the new file, in the same folder."""

    @property
    def target(self) -> Path:
        """The path to which it is to be renamed: where symbolic links lead."""

    @property
    def excludes_others(self) -> bool:
        """Whether a writer is noticed that has the file that is there: not without locks."""

    def finish(self) -> None:
        """Prepare the rename: if a file is there, wait until all of the new one is on the disk."""

    def release(self) -> None:
        """Let writers open the file again."""

@overload
def _walk(reader: Reader, pairs: Literal[False]) -> Iterator[NDArray[Any]]: ...
@overload
def _walk(reader: Reader, pairs: Literal[True]) -> Iterator[tuple[str, NDArray[Any]]]: ...

@final
class Mapping:
    """
    The object that keeps a file mapped: the last one in the chain of bases of every view.

    It lives as long as any view into the map does. It has no methods.

    Attributes
    ----------
    filename : str or pathlib.Path or None
        The absolute path of the mapped file, if one leads to it.
    mode : str
        ``"r"``, or ``"c"`` if programs may write to the memory.
    identity : tuple of int
        What the file was when it was mapped.
    """

    @property
    def filename(self) -> str | Path | None:
        """The absolute path of the mapped file: a path object if the caller passed one, otherwise a str."""

    @property
    def mode(self) -> str:
        """``"r"``, or ``"c"`` if programs may write to the memory."""

    @property
    def identity(self) -> tuple[int, int, int]:
        """What the file was when it was mapped: its size, when it was last changed, in ns, and its inode."""

class memmap(np.memmap[Any, Any]):
    """An array over a memory-mapped file. `mmnpz._memmap` adds its methods and its documentation."""

@disjoint_base
class Reader:
    """
    The compiled base class of `mmnpz.NpzReader`.

    Attributes
    ----------
    files : list of str
        The names of all arrays, in archive order, without their ``.npy`` extension.
    mmap : memmap
        The memory map of the whole file (uint8), which is the base of every view.
    arrays : dict of str to memmap
        The views that the reader has kept so far.
    cache : bool
        Whether the reader keeps its views.
    preload : bool
        Whether the reader made all views while opening.

    See Also
    --------
    mmnpz.NpzReader : Has the constructor and the methods of a mapping.
    """

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def _open(
        self,
        options: tuple[tuple[str, Any], ...],
        source: object,
        path: str | PathLike[str],
        filename: str | Path | None,
        mode: str | None,
        map_type: type[NDArray[Any]],
        view_type: type[NDArray[Any]],
        cache: bool,
        preload: bool,
        max_header_size: int,
        skip: bool,
        identity: tuple[int, int, int] | None = None,
    ) -> None:
        """
        Open an archive, in place of the one that the reader has open.

        `options` holds the arguments that follow `source`, for `_origin`. `source` is None for the file at
        `path`, the descriptor of an open file, or an object with the buffer protocol. `filename` is the
        absolute path that leads to the file. With `skip`, leave out the members that are no arrays. With
        `identity`, raise `ValueError` if the file has another size, time of modification or inode.
        """

    def _share(self, other: Reader, own_views: bool) -> None:
        """
        Become another handle on the archive that `other` has open.

        The handles share the map and the index. They also share the views, unless `own_views` is true. If
        `other` was preloaded, the handle then makes all of its own views at once.
        """

    def __getitem__(self, key: str, /) -> NDArray[Any]:
        """
        Return the view of an array.

        With ``cache=True``, the first lookup of a name makes its view, and later lookups return the same
        view. With ``cache=False``, each lookup makes a new view.

        Raises
        ------
        KeyError
            If the archive has no such array.
        ValueError, zipfile.BadZipFile
            As for `load`.
        """

    def __contains__(self, key: object, /) -> bool:
        """Return whether the archive has an array of this name."""

    def __len__(self) -> int:
        """Return the number of arrays in the archive."""

    def __iter__(self) -> Iterator[str]:
        """Return an iterator over the names of all arrays, in archive order."""

    def load(self, name: str) -> NDArray[Any]:
        """
        Return a new view of an array, even if the reader keeps one already.

        Parameters
        ----------
        name : str
            The member's name without its ``.npy`` extension.

        Returns
        -------
        memmap or ndarray
            A read-only view into the map, with the shape, dtype, byte order and memory order of the array.

        Raises
        ------
        KeyError
            If the archive has no such array.
        ValueError
            If the member is encrypted, its ``.npy`` header is bad, its shape does not fit the stored size, it
            holds Python objects, or the reader is closed.
        zipfile.BadZipFile
            If the member is not where the archive's directory says.
        """

    def gather(
        self,
        names: Iterable[str] | Iterable[SupportsIndex],
        starts: SupportsIndex | Iterable[SupportsIndex] | None = None,
        stops: SupportsIndex | Iterable[SupportsIndex] | None = None,
        *,
        length: SupportsIndex | None = None,
        out: NDArray[Any] | None = None,
        dtype: DTypeLike | None = None,
        pad: ArrayLike | None = None,
        threads: SupportsIndex | None = None,
    ) -> NDArray[Any]:
        """
        Return a batch: excerpts of many arrays, or whole arrays, stacked along a new first axis.

        The result is that of ``numpy.stack([data[name][start:stop] for ...])``, without a loop in the
        interpreter. The reader first looks up and checks all excerpts, and then copies them without the GIL.
        Of pages that are not in the page cache, it first tells the operating system all that the batch needs.
        The disk then reads only these pages, many excerpts at a time.

        Parameters
        ----------
        names : sequence of str or of int
            The names of the arrays, or their positions in archive order, as in ``data.files[position]``. A
            negative position counts from the end. A name or position may occur more than once.
        starts : int or sequence of int, optional
            The first row of each excerpt, counted from the start of its array. By default 0.
        stops : int or sequence of int, optional
            The row behind the last row of each excerpt. By default `length` rows behind the first row or,
            without `length`, the end of the array.
        length : int, optional
            How many rows each excerpt has in the batch. By default as many as the first excerpt or, with
            `pad`, as many as the longest one.
        out : ndarray, optional
            The array to copy to. It must have the shape and the dtype of the batch. A C-contiguous array is
            fastest. For a tensor of PyTorch, pass its ``numpy()``.
        dtype : data-type, optional
            The dtype to which items are converted, by the rule ``"same_kind"`` of `numpy.can_cast`. By
            default all arrays must have the same dtype, byte order included, and the batch has that dtype.
        pad : scalar or array_like, optional
            A value, or a row, for the rows that an array does not have, and for those that an excerpt lacks
            to `length`. By default such excerpts are an error.
        threads : int, optional
            How many threads copy, and decompress arrays that are not kept, the calling one included: 1 by
            default, at most 64. All callers share the helping threads, which wait for later batches. A caller
            that finds no free thread copies alone.

        Returns
        -------
        ndarray
            `out`, or a new array. Its shape is ``(len(names), length, ...)``. If none of `starts`, `stops`,
            `length` and `pad` is given, it is ``(len(names), ...)`` with the shape that all arrays have.

        Raises
        ------
        KeyError
            If the archive has no array of a name.
        IndexError
            If the archive has no array at a position. Also if an excerpt starts before its array, stops
            before it starts or, without `pad`, does not lie in its array.
        TypeError
            If the dtypes of the arrays, or that of `out`, do not fit, or an argument has a wrong type.
            `names` must not be booleans, and must not mix names with positions.
        ValueError
            If the shapes of the arrays, or that of `out`, do not fit, or an array cannot be read (see
            `load`). Also if `names` is empty and there is no `out`, or if the reader is closed.

        See Also
        --------
        prefetch : Has the operating system read what a later batch needs.

        Notes
        -----
        Errors name the file and the array. They are raised before anything is written to `out`, but for those
        of the system where the file is not mapped.

        If `cache` is true, the reader keeps the views, as for ``data[name]``, also those of positions.
        Positions do not make the list `files`. Their first use checks the central directory of the file.

        NumPy copies arrays in Fortran order, and those that are converted, one after the other.

        Examples
        --------
        >>> import numpy as np
        >>> import mmnpz
        >>> np.savez("example.npz", a=np.arange(6), b=np.arange(10, 14))
        >>> data = mmnpz.load("example.npz")
        >>> data.gather(["a", "b", "a"], starts=[0, 1, 3], length=3)
        array([[ 0,  1,  2],
               [11, 12, 13],
               [ 3,  4,  5]])
        >>> data.gather([0, -1], starts=1, length=2)
        array([[ 1,  2],
               [11, 12]])
        >>> data.gather(["a", "b"], pad=-1, dtype=np.float32)
        array([[ 0.,  1.,  2.,  3.,  4.,  5.],
               [10., 11., 12., 13., -1., -1.]], dtype=float32)
        >>> data.gather(["a", "b"], starts=[0, 2], length=3)
        Traceback (most recent call last):
          ...
        IndexError: example.npz: member "b": rows 2:5 requested, but the array has 4 rows; pass pad= to ...
        """

    def prefetch(
        self,
        names: Iterable[str] | Iterable[SupportsIndex],
        starts: SupportsIndex | Iterable[SupportsIndex] | None = None,
        stops: SupportsIndex | Iterable[SupportsIndex] | None = None,
        *,
        length: SupportsIndex | None = None,
    ) -> None:
        """
        Have the operating system read excerpts, or whole arrays, into the page cache.

        The call does not wait for the disk. Only where the file is not mapped, and the directory does not say
        what the headers of the members do, it reads these.

        Parameters
        ----------
        names : sequence of str or of int
            The names of the arrays, or their positions in archive order.
        starts, stops, length
            The rows to read, as for `gather`. By default all rows. Rows behind the end of an array are
            ignored.

        Raises
        ------
        KeyError, IndexError, TypeError, ValueError
            As for `gather`.

        Notes
        -----
        `gather` does the same for its own batch. Call `prefetch` for the next batch, and then work on the
        present one. On systems without such advice, Windows for one, the call reads nothing.

        Examples
        --------
        >>> import numpy as np
        >>> import mmnpz
        >>> np.savez("example.npz", a=np.arange(6), b=np.arange(10, 14))
        >>> data = mmnpz.load("example.npz")
        >>> data.prefetch(["a", "b"], starts=[2, 0], length=2)
        >>> data.gather(["a", "b"], starts=[2, 0], length=2)
        array([[ 2,  3],
               [10, 11]])
        """

    def advise(self, advice: Literal["normal", "random", "sequential", "willneed", "dontneed"]) -> None:
        """
        Tell the operating system how this process will use the map of the file.

        The advice holds for all readers and views of this process that share the map.

        Parameters
        ----------
        advice : {"normal", "random", "sequential", "willneed", "dontneed"}
            What to expect:

            - ``"normal"``, the initial state: the system reads some pages ahead.
            - ``"random"``: small parts of views, in random order. The system reads no page ahead.
            - ``"sequential"``: whole arrays from start to end. The system reads many pages ahead.
            - ``"willneed"``: the whole file, soon. The system reads it in the background.
            - ``"dontneed"``: nothing for now. This process gives up its pages. They stay in the page cache
              until the system needs the memory, and the next access brings them back.

        Raises
        ------
        ValueError
            If `advice` has another value, or the reader is closed.

        Notes
        -----
        Advice never changes the contents of views. A system may ignore it; Windows does. `gather` and
        `prefetch` do not need it.

        Examples
        --------
        >>> import numpy as np
        >>> import mmnpz
        >>> np.savez("example.npz", a=np.arange(6))
        >>> data = mmnpz.load("example.npz")
        >>> data.advise("random")
        >>> data["a"][4:]
        memmap([4, 5])
        """

    def close(self) -> None:
        """
        Release the reader's references to the map and to the views.

        Views, and dicts of views, that the program already has stay valid: the file stays mapped until the
        last of them is gone. A second call does nothing.
        """

    @property
    def files(self) -> list[str]:
        """
        The names of all arrays, in archive order, without their ``.npy`` extension (list of str).

        The reader makes the list at the first access, and returns the same list later.
        """

    @property
    def mmap(self) -> NDArray[np.uint8]:
        """
        The memory map of the whole file (memmap of uint8), which is the base of every view.

        A closed reader raises `AttributeError`.
        """

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """
        The views that the reader has kept so far, by name (dict).

        This is the reader's own dict, not a copy: the reader adds each further view to it. The dict stays
        valid after the reader is closed or deleted. A closed reader returns an empty dict.
        """

    @property
    def cache(self) -> bool:
        """Whether the reader keeps its views, so that a name always gives the same view (bool)."""

    @property
    def preload(self) -> bool:
        """Whether the reader made all views while opening (bool)."""

    @property
    def _origin(self) -> tuple[tuple[tuple[str, Any], ...], tuple[int, int, int]]:
        """The options of the call that opened the file; the file size, time of modification and inode."""

    @property
    def _index_memory(self) -> int:
        """How many bytes of memory the index takes."""

class DirectReader(Reader):
    """A `Reader` that finds kept views without a call into the binding."""

    def __getitem__(self, key: str, /) -> NDArray[Any]: ...

@disjoint_base
class Writer:
    """
    The compiled base class of `mmnpz.NpzWriter`.

    Attributes
    ----------
    files : list of str
        The names of all arrays in the archive, in archive order.
    closed : bool
        Whether the writer is closed.

    See Also
    --------
    mmnpz.NpzWriter : Has the constructor.
    """

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def _open(self, path: str | PathLike[str], mode: str, align: int, sync: bool, shown: str) -> bool:
        """
        Open an archive, which messages call `shown`. If the writer has one open, close that one first.

        Returns whether another writer of the file is noticed: not if the file system has no locks.
        """

    def write(
        self,
        name: str,
        array: ArrayLike,
        *,
        progress: Callable[[int, int], object] | bool | None = None,
    ) -> None:
        """
        Write an array as a member of the archive.

        When this returns, the operating system has the member: a kill of the process does not lose it.
        Threads may call this at the same time.

        Parameters
        ----------
        name : str
            The member's name without its ``.npy`` extension. Slashes make folders for zip tools. Of two
            members with one name, readers return the last.
        array : array_like
            Anything that `numpy.asanyarray` takes, of any size, memory order and strides. The member has the
            bytes that `numpy.save` would write. The writer streams arrays that are not in memory, such as
            memory maps.
        progress : callable or True, optional
            Called now and then while a large array is written, and at the end, with two numbers: how many
            bytes of the array are written, and how many it has. True shows a bar, and needs tqdm.

        Warns
        -----
        UserWarning
            If the archive already has a member of this name. If a dtype of another package, such as bfloat16
            of ml_dtypes, is stored as raw bytes, as `numpy.save` stores it. If an array is masked: its mask
            is not stored.

        Raises
        ------
        ValueError
            If the array holds Python objects, or has a dtype that NumPy cannot read from a file. If the name
            cannot be stored: it contains a NUL, or has more than 65531 bytes of UTF-8. If the writer is
            closed. Nothing is then written.
        OSError
            If the operating system cannot write. Earlier members stay, and the writer can go on.
        RuntimeError
            In a forked child: a writer belongs to the process that opened it.
        """

    def __setitem__(self, key: str, value: ArrayLike, /) -> None:
        """Write an array as a member of the archive, as `write` does."""

    def __contains__(self, key: object, /) -> bool:
        """Return whether the archive has an array of this name."""

    def __len__(self) -> int:
        """Return the number of names in `files`."""

    def flush(self, sync: bool = False) -> None:
        """
        Write a central directory, so that every zip reader finds all members written so far.

        From then on the file is a valid archive, whatever happens to the writer. This directory has room in
        front of it, into which the writer puts later members. The next `flush`, or `close`, lists those.

        Parameters
        ----------
        sync : bool, optional
            Whether to wait until the disk has all members, so that they survive a power failure.

        Raises
        ------
        ValueError
            If the writer is closed.
        OSError
            If the operating system cannot write. `io.UnsupportedOperation` if the writer writes to a stream,
            which gets the archive when the writer is closed.
        RuntimeError
            In a forked child: a writer belongs to the process that opened it.
        """

    def close(self) -> None:
        """
        Write the central directory, and close the file.

        The call waits for members that other threads are writing. A second call does nothing. In a forked
        child, the call does not touch the file.

        Raises
        ------
        OSError
            If the operating system cannot write the directory. The writer then stays open: call `close` again
            once the disk has space.
        """

    @property
    def files(self) -> list[str]:
        """
        The names of all arrays in the archive, in archive order (list of str).

        Arrays of earlier writers are included. Each name occurs once.
        """

    @property
    def closed(self) -> bool:
        """Whether the writer is closed (bool)."""
