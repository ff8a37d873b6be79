"""Reading memory-mapped ``.npz`` files."""

import os
import sys
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from mmnpz._memmap import memmap
from mmnpz._mmnpz import DirectReader, _walk

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["NpzReader", "load"]


class NpzReader(DirectReader, Mapping[str, "NDArray[Any]"]):
    """
    The arrays of an uncompressed ``.npz`` file as views into a memory map of it.

    Opening maps the file and reads its directory, and nothing else. An array is a read-only view that is made
    when it is first asked for; its bytes are read by the operating system when they are first used. Stands in
    for `numpy.load`, and may be shared by any number of threads.

    Parameters
    ----------
    fn : str or os.PathLike
        The file to open.
    mmap_mode : {"r"}, optional
        For compatibility with `numpy.load`: the file is mapped for reading.
    cache : bool, optional
        Whether a name always gives the same view, in all threads and for ever. Otherwise each access makes a
        new one.
    preload : bool, optional
        Whether to make all views at once, while opening. They are kept then, whatever `cache` says.
    subok : bool, optional
        Whether views are instances of `mmnpz.memmap`, a subclass of `numpy.memmap`; otherwise they are plain
        instances of `numpy.ndarray`.
    max_header_size : int, optional
        The most characters of an ``.npy`` header that are trusted, as for `numpy.load`.

    Attributes
    ----------
    files : list of str
        The names of all arrays, in archive order, without their ``.npy`` extension.
    mmap : memmap
        The memory map of the whole file (uint8), base of every view. Gone once the reader is closed.
    arrays : dict of str to memmap
        The views that were preloaded or cached so far: one dict, to which further views are added. It stays
        valid when the reader is closed or gone.
    cache : bool
        Whether views are kept: as given, or because of `preload`.
    preload : bool
        As given.

    Raises
    ------
    OSError
        If the file cannot be opened (`FileNotFoundError`, `PermissionError`, `IsADirectoryError`, …).
    zipfile.BadZipFile
        If it is not a zip archive that can be read.
    ValueError
        If `mmap_mode` is another. With `preload`, also as for access to a bad member, see `load`.

    See Also
    --------
    NpzWriter : Writes such files.
    numpy.load : Reads whole arrays, compressed ones too.

    Notes
    -----
    Listed are the stored members whose names end in ``.npy``. Of several members with one name the last
    counts; if that one is compressed, the name is not listed. Names are decoded as by `zipfile`: UTF-8 where
    the member is flagged so, code page 437 elsewhere (APPNOTE 6.3.10, appendix D).

    A memory map is only as good as its file: a program that cuts the file short while it is mapped ends this
    process with SIGBUS at the next access to the missing part. `NpzWriter` never does that.

    ``copy.copy`` gives another handle on the same map, index and views, at once; ``copy.deepcopy`` one on the
    same map and index with views of its own. On free-threaded Python, let each thread make its own: threads
    that share a reader wait for each other to count its references, those of its views, and those of `mmap`,
    to which every slice of a view refers. A pickle holds the path and the options, and unpickling opens the
    file again; if it was changed meanwhile, that is a `ValueError`.

    Examples
    --------
    >>> import numpy as np
    >>> import mmnpz
    >>> np.savez("example.npz", a=np.array([[1, 2], [3, 4]]), b=np.arange(5))
    >>> data = mmnpz.load("example.npz")
    >>> data["a"]
    memmap([[1, 2],
            [3, 4]])
    >>> data["b"][1:3]
    memmap([1, 2])
    >>> data.files
    ['a', 'b']
    """

    def __init__(
        self,
        fn: str | os.PathLike[str],
        mmap_mode: Literal["r"] = "r",
        *,
        cache: bool = True,
        preload: bool = False,
        subok: bool = True,
        max_header_size: int = 10000,
    ) -> None:
        if mmap_mode != "r":
            raise ValueError(f"mmap_mode must be 'r', got {mmap_mode!r}")
        # As numpy.memmap has it: absolute, and a path object stays one.
        filename = _resolved(fn) if isinstance(fn, os.PathLike) else os.path.abspath(fn)
        options: dict[str, Any] = {
            "path": os.fspath(fn),
            "filename": filename,
            "map_type": memmap,
            "view_type": memmap if subok else np.ndarray,
            "cache": bool(cache or preload),
            "preload": bool(preload),
            "max_header_size": min(max(0, max_header_size), sys.maxsize),
        }
        self._open(tuple(options.items()), **options)

    def values(self) -> ValuesView["NDArray[Any]"]:
        """
        Return all views, in archive order: those of `items`, without their names.

        Returns
        -------
        collections.abc.ValuesView of memmap
            A view of the reader, as `dict.values` gives one.

        Raises
        ------
        ValueError, zipfile.BadZipFile
            As for `items`.

        Examples
        --------
        >>> import numpy as np
        >>> import mmnpz
        >>> np.savez("example.npz", a=np.zeros(2), b=np.ones((3, 2)))
        >>> sum(view.size for view in mmnpz.load("example.npz").values())
        8
        """
        return _Values(self)

    def items(self) -> ItemsView[str, "NDArray[Any]"]:
        """
        Return all names with their views, in archive order.

        A view is made when it is its turn, and kept as that of ``data[name]`` is. No name is looked up: the
        directory is read in its order. Of a file that another program wrote, the headers of many members are
        read at a time.

        Returns
        -------
        collections.abc.ItemsView of (str, memmap)
            A view of the reader, as `dict.items` gives one.

        Raises
        ------
        ValueError, zipfile.BadZipFile
            While it is gone through: if the reader is closed, or as for access to a bad member, see `load`.
            The member behind that one comes next.

        Examples
        --------
        >>> import numpy as np
        >>> import mmnpz
        >>> np.savez("example.npz", a=np.zeros(2), b=np.ones((3, 2)))
        >>> [(name, view.shape) for name, view in mmnpz.load("example.npz").items()]
        [('a', (2,)), ('b', (3, 2))]
        """
        return _Items(self)

    def __copy__(self) -> Self:
        """Return another handle on the same archive, with the same views."""
        other = type(self).__new__(type(self))
        if self.__dict__:  # an empty one need not be locked, see rust/python/src/fork.rs
            other.__dict__.update(self.__dict__)
        other._share(self, own_views=False)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return another handle on the same map, with views of its own."""
        import copy  # loaded by whoever called this

        other = type(self).__new__(type(self))
        memo[id(self)] = other
        if self.__dict__:
            other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        other._share(self, own_views=True)
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path and the options: unpickling opens the file again, if it is still the same."""
        # The path that was given may be relative to a folder that another process is not in.
        origin, identity = self._origin
        options = dict(origin)
        options["path"] = os.fspath(options["filename"])
        return _reopen, (type(self), options, identity), self.__dict__.copy() if self.__dict__ else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Values(ValuesView["NDArray[Any]"]):
    _mapping: NpzReader

    def __iter__(self) -> Iterator["NDArray[Any]"]:
        return _walk(self._mapping, pairs=False) if _gives_views(self._mapping) else super().__iter__()


class _Items(ItemsView[str, "NDArray[Any]"]):
    _mapping: NpzReader

    def __iter__(self) -> Iterator[tuple[str, "NDArray[Any]"]]:
        return _walk(self._mapping, pairs=True) if _gives_views(self._mapping) else super().__iter__()


def _gives_views(reader: NpzReader) -> bool:
    """Whether iteration gives what the compiled half would give: no subclass has another way."""
    own = type(reader)
    return own.__getitem__ is NpzReader.__getitem__ and own.__iter__ is NpzReader.__iter__


def _reopen(
    reader_type: type[NpzReader], options: dict[str, Any], identity: tuple[int, int, int]
) -> NpzReader:
    """Open the file of a pickled reader again."""
    reader = reader_type.__new__(reader_type)
    reader._open(tuple(options.items()), **options, identity=identity)
    return reader


def _resolved(path: os.PathLike[str]) -> "Path":
    from pathlib import Path  # not loaded by NumPy, nor by us until there is a path object

    try:
        return Path(path).resolve()
    except (OSError, RuntimeError):  # a loop of links: opening it says so
        return Path(os.path.abspath(path))


load = NpzReader
