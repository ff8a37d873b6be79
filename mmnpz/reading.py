"""Read ``.npz`` files through a memory map."""

import os
import sys
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, Self

import numpy as np

from mmnpz import _neighbours
from mmnpz._memmap import memmap
from mmnpz._mmnpz import DirectReader, _info, _layout, _name_at, _verify, _walk
from mmnpz._progress import told
from mmnpz._source import source_of
from mmnpz.layout import Layout, MemberInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmnpz._source import Openable

__all__ = ["DamagedMember", "NpzReader", "load"]


class DamagedMember(NamedTuple):
    """
    A member that `NpzReader.verify` found damaged.

    Attributes
    ----------
    name : str
        The name of the array.
    offset : int
        The offset of the member's local header in the file, in bytes.
    reason : str
        What is wrong: its bytes have another checksum, its headers do not fit the directory, it cannot be
        decompressed, or the system cannot read it. A member that is encrypted, or compressed by another
        method than deflate or Zstandard, cannot be checked, and is among them for that.
    expected : int or None
        The CRC-32 that the archive has of the member, if its bytes have another one.
    found : int or None
        The CRC-32 of its bytes, if that is what is wrong.
    """

    name: str
    offset: int
    reason: str
    expected: int | None
    found: int | None


_SHOWN = 5
"""The number of names that a reader's repr shows, as for an NpzFile of NumPy."""

_LONGEST = 60
"""The number of characters that a reader's repr shows of a name."""


_WHY_NOT = {
    "r+": ": mmnpz.NpzWriter adds to files",
    "w+": ": mmnpz.NpzWriter writes files",
}
"""Why a mode of `numpy.load` is none of a reader."""

_ROWS = 10
"""The number of arrays that a reader's HTML table shows."""


def _shown(name: str) -> str:
    """Return a name for a line of text: without line breaks and control characters, and not too long."""
    text = name if name.isprintable() else repr(name)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _cells(reader: "NpzReader", name: str) -> tuple[str, str, str]:
    """Return shape, dtype and size of an array as text, as far as the directory tells."""
    try:
        fields = _info(reader, name, False)
    except Exception:  # a damaged member
        fields = None
    if fields is None:
        return "?", "?", "?"
    info = MemberInfo(*fields)
    return str(info.shape), str(info.dtype), f"{info.nbytes:,}"


class _Absent:
    """An attribute of NumPy's NpzFile that a reader does not have, and why."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(f"{owner.__name__!r} object has no attribute {self._name!r}: {self._reason}")


class _Attributes:
    """The arrays of a reader as attributes."""

    def __init__(self, reader: "NpzReader") -> None:
        object.__setattr__(self, "_reader", reader)

    def __getattribute__(self, name: str) -> Any:
        reader = object.__getattribute__(self, "_reader")
        try:
            return reader[name]
        except KeyError:
            return object.__getattribute__(self, name)

    def __dir__(self) -> list[str]:
        return list(object.__getattribute__(self, "_reader").files)


class NpzReader(DirectReader, Mapping[str, "NDArray[Any]"]):
    """
    The arrays of an ``.npz`` file, as views into a memory map of the file.

    Opening maps the file and reads at most its central directory. The reader makes a view when a program
    first looks up its name: a read-only one, by default. The operating system reads the bytes of an array
    when a program first uses them. Of a compressed member, and of all where the file is not mapped
    (`mmap_mode`), the reader makes an array in memory of its own. A reader stands in for the result of
    `numpy.load`, and any number of threads may share it.

    Parameters
    ----------
    fn : str, bytes, os.PathLike, binary file, or object with the buffer protocol
        The file to open, or the bytes of an archive. A regular file that is open is mapped, wherever its
        position is, which stays; the file may be closed then. Of a buffer, the views share the memory.
        Any other file, such as `io.BytesIO`, and on Windows all, is read into memory as a whole. `bytes` are
        a path if there is no zero in them, and they are at most 4096.
    mmap_mode : {"r", "c"} or None, optional
        As for `numpy.memmap`: ``"r"`` maps the file for reading. With ``"c"``, a program may write to the
        arrays, and the file does not change. An archive in a buffer is copied for that. With None, the file
        is not mapped, but stays open: each lookup reads the array into memory of its own, to which a program
        may write. `subok` has no effect then.
    allow_pickle, fix_imports, encoding : optional
        For compatibility with `numpy.load`: arrays without Python objects need none of these, and mmnpz
        unpickles nothing, whatever they say.
    cache : bool, optional
        Whether the reader keeps its views, so that a name gives the same view in all threads, as long as the
        reader lives. If false, each lookup makes a new view. Where `mmap_mode` is None, each one makes a new
        array, except with `preload`.
    preload : bool, optional
        Whether to make all views while opening. The reader then keeps them, even with ``cache=False``. All
        processors decompress compressed members.
    subok : bool, optional
        Whether views are instances of `mmnpz.memmap`, a subclass of `numpy.memmap`. If false, they are plain
        instances of `numpy.ndarray`.
    max_header_size : int, optional
        The longest ``.npy`` header that the reader accepts, in characters, as for `numpy.load`.
    on_error : {"raise", "skip"}, optional
        What becomes of a member that cannot be read as an array, such as an array of Python objects, or
        ``__MACOSX/._a.npy``. By default, the access to it raises an error. With ``"skip"``, opening reads
        the headers of all members, and decompresses those that are compressed, leaves such members out as if
        they were not there, and warns.

    Attributes
    ----------
    files : list of str
        The names of all arrays, in archive order, without their ``.npy`` extension.
    mmap : memmap
        The memory map of the whole file (uint8), which is the base of every view. A closed reader, and one
        whose file is not mapped, raises `AttributeError`.
    arrays : dict of str to memmap
        The views that the reader has kept so far. This is the reader's own dict, not a copy: the reader adds
        each further view to it. The dict stays valid after the reader is closed or deleted.
    cache : bool
        Whether the reader keeps its views: true if `cache` or `preload` was given as true. Where `mmap_mode`
        is None, only `preload` counts.
    preload : bool
        Whether the reader made all views while opening.
    f : object
        The arrays as attributes: ``data.f.name`` is ``data["name"]``, as in `numpy.lib.npyio.NpzFile`.

    Raises
    ------
    OSError
        If the file cannot be opened or read (`FileNotFoundError`, `PermissionError`, `IsADirectoryError`, …).
    zipfile.BadZipFile
        If the file is not a readable zip archive.
    TypeError
        If `fn` is something else, or a file that was opened in text mode.
    ValueError
        If `mmap_mode` is another one, a file is closed, or `encoding` is not one of those of `numpy.load`.
        With `preload`, also if a member is bad: see `load`.
    NotImplementedError
        With `preload`, if a member is compressed by another method than deflate or Zstandard.

    Warns
    -----
    UserWarning
        If the file system lets no process share the pages of the file: what others write to it may then not
        be seen. If a writer was not closed, and members were found that no directory lists. If the archive
        has members, and none of them is listed as an array. With ``on_error="skip"``, also if members are
        left out: it names the first of them.

    See Also
    --------
    NpzWriter : Writes such files.
    numpy.load : Reads whole arrays.

    Notes
    -----
    A reader lists the members whose names end in ``.npy``. Of several members with one name, the last
    counts. It decompresses deflated members and those of Zstandard. A reader decodes names as
    `zipfile` does: as UTF-8 if the member has the UTF-8 flag, otherwise as code page 437 (APPNOTE 6.3.10,
    appendix D).

    Other members are found by their names, as in `numpy.load`: ``data["readme.txt"]`` is an array if the
    member has one, and `bytes` if not. A member of just this name counts more than an array that is listed by
    it. ``data["a.npy"]`` is ``data["a"]``, unless another array is listed by this name.

    If another program cuts the file short while it is mapped, the next access to the missing part ends this
    process with SIGBUS. `NpzWriter` never cuts a mapped file short. Where the file is not mapped, the lookup
    raises `OSError`.

    ``copy.copy`` gives another handle on the same map, index and views, in constant time. ``copy.deepcopy``
    gives a handle on the same map and index, with views of its own. On free-threaded Python, make one such
    handle for each thread. Threads that share a reader wait for each other to count the references to it, to
    its views, and to `mmap`, to which every slice of a view refers.

    A pickle holds the path and the options. Unpickling opens the file again, and raises `ValueError` if the
    file was changed since. The pickle for a buffer or a stream holds the archive. A reader of a file
    to which no path leads cannot be pickled.

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
    >>> data
    <NpzReader 'example.npz' with 2 arrays: a, b>
    """

    zip = _Absent("mmnpz reads the archive without zipfile: zipfile.ZipFile(path) opens it, too")
    fid = _Absent("the reader has no file object")

    def __init__(
        self,
        fn: "Openable",
        mmap_mode: Literal["r", "c"] | None = "r",
        # Those of numpy.load, which have no effect here.
        allow_pickle: bool = False,  # noqa: ARG002
        fix_imports: bool = True,  # noqa: ARG002
        encoding: Literal["ASCII", "latin1", "bytes"] = "ASCII",
        *,
        cache: bool = True,
        preload: bool = False,
        subok: bool = True,
        max_header_size: int = 10000,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        if mmap_mode not in ("r", "c", None):
            reason = _WHY_NOT.get(str(mmap_mode), "")
            raise ValueError(f"mmap_mode must be 'r', 'c' or None, got {mmap_mode!r}{reason}")
        if encoding not in ("ASCII", "latin1", "bytes"):
            raise ValueError(f"encoding must be 'ASCII', 'latin1' or 'bytes', got {encoding!r}")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
        source, path, filename = source_of(fn)
        options: dict[str, Any] = {
            "path": path,
            "filename": filename,
            "mode": mmap_mode,
            "map_type": memmap,
            "view_type": memmap if subok else np.ndarray,
            "cache": bool((cache and mmap_mode is not None) or preload),
            "preload": bool(preload),
            "max_header_size": min(max(0, max_header_size), sys.maxsize),
            "skip": on_error == "skip",
        }
        self._open(tuple(options.items()), source, **options)
        _neighbours.register()

    @property
    def f(self) -> "_Attributes":
        """The arrays as attributes."""
        return _Attributes(self)

    def __repr__(self) -> str:
        """Name the file, the number of arrays, and the first of them. No member is read."""
        kind = type(self).__name__
        try:
            path, count = dict(self._origin[0])["path"], len(self)
            first = [_shown(_name_at(self, position)) for position in range(min(count, _SHOWN))]
        except Exception as error:  # a closed reader, or a damaged directory
            return f"<{kind}: {error}>"
        names = ", ".join([*first, "…"] if count > len(first) else first)
        return f"<{kind} {path!r} with {count:,} array{'' if count == 1 else 's'}{names and f': {names}'}>"

    def _repr_html_(self) -> str:
        """Show the first arrays as a table. No member is read: what only its headers tell is "?"."""
        from html import escape

        try:
            names = [_name_at(self, position) for position in range(min(len(self), _ROWS))]
            rows = [(name, *_cells(self, name)) for name in names]
            more = len(self) - len(rows)
        except Exception:  # repr says what is wrong
            rows, more = [], 0
        lines = [
            "".join(f"<td>{escape(cell)}</td>" for cell in (_shown(name), *cells)) for name, *cells in rows
        ]
        if more:
            lines.append(f'<td colspan="4">… and {more:,} more</td>')
        head = "".join(f"<th>{title}</th>" for title in ("name", "shape", "dtype", "bytes"))
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if lines else ""
        return f"<div><code>{escape(repr(self))}</code>{table}</div>"

    def _ipython_key_completions_(self) -> list[str]:
        """Return what IPython completes ``data["`` with."""
        return self.files

    def values(self) -> ValuesView["NDArray[Any]"]:
        """
        Return all views in archive order: those of `items`, without the names.

        Returns
        -------
        collections.abc.ValuesView of memmap
            A live view of the reader, like the result of `dict.values`.

        Raises
        ------
        ValueError, zipfile.BadZipFile, NotImplementedError
            During iteration, as for `items`.

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

        The iterator makes each view when it comes to it. The reader keeps that view as it keeps the view of
        ``data[name]``. The iterator reads the central directory from start to end, without a lookup of each
        name. In a file that another program wrote, it has the operating system read the headers of many
        members at a time.

        Returns
        -------
        collections.abc.ItemsView of (str, memmap)
            A live view of the reader, like the result of `dict.items`.

        Raises
        ------
        ValueError, zipfile.BadZipFile, NotImplementedError
            During iteration: if the reader is closed, or if a member is bad, see `load`. After the error of a
            bad member, the iterator goes on with the next member.

        Examples
        --------
        >>> import numpy as np
        >>> import mmnpz
        >>> np.savez("example.npz", a=np.zeros(2), b=np.ones((3, 2)))
        >>> [(name, view.shape) for name, view in mmnpz.load("example.npz").items()]
        [('a', (2,)), ('b', (3, 2))]
        """
        return _Items(self)

    def info(self, name: str) -> MemberInfo:
        """
        Tell what is known of an array, without a view of it.

        In a file that mmnpz wrote, nothing but the directory is read. Elsewhere, the headers of the member.

        Parameters
        ----------
        name : str
            The name of an array.

        Returns
        -------
        MemberInfo
            The dtype, the shape, and where the array is in the file.

        Raises
        ------
        KeyError
            If there is no such array.
        ValueError, zipfile.BadZipFile, NotImplementedError
            If the array cannot be read, see `load`, or the reader is closed.

        See Also
        --------
        layout : The same of all arrays.

        Examples
        --------
        >>> import numpy as np
        >>> import mmnpz
        >>> np.savez("example.npz", a=np.zeros((3, 4), "<f4"))
        >>> info = mmnpz.load("example.npz").info("a")
        >>> info.shape, info.dtype, info.nbytes
        ((3, 4), dtype('float32'), 48)
        >>> np.memmap("example.npz", info.dtype, "r", info.offset, info.shape)[0]
        memmap([0., 0., 0., 0.], dtype=float32)
        """
        fields = _info(self, name, True)
        assert fields is not None
        return MemberInfo(*fields)

    def layout(self) -> Layout:
        """
        Tell what is known of all arrays, as columns of numbers.

        One pass over the directory, without a Python object for each array: for sorting and bucketing by
        length, and for programs that read the file themselves. In a file that another program wrote, the
        headers of the members are read, too.

        Returns
        -------
        Layout
            A column for each fact, in archive order.

        Raises
        ------
        ValueError, zipfile.BadZipFile
            If the reader is closed, or the directory cannot be read.

        See Also
        --------
        info : The facts of one array.

        Examples
        --------
        >>> import numpy as np
        >>> import mmnpz
        >>> np.savez("example.npz", a=np.zeros((30, 4)), b=np.zeros((5, 4)), c=np.zeros((20, 4)))
        >>> layout = mmnpz.load("example.npz").layout()
        >>> layout.length.tolist()
        [30, 5, 20]
        >>> layout.names[np.argsort(layout.length)].tolist()
        ['b', 'c', 'a']
        """
        # A handle of its own: the names are made when they are asked for, and this reader may be closed then.
        handle = self.__copy__()
        return Layout(handle, *_layout(handle))

    def verify(
        self,
        names: Iterable[str] | None = None,
        *,
        threads: int | None = None,
        progress: Callable[[int, int], object] | bool | None = None,
        strict: bool = False,
    ) -> list[DamagedMember]:
        """
        Compare the bytes of arrays with their checksums, and return those that are damaged.

        Nothing else does that for stored arrays: `data[name]` maps their bytes as they are, and `repair`
        looks for members that no directory lists. Threads read the file, not the map, so that a disk that
        cannot read a member is reported, and does not end the process. They run without the interpreter. Only
        if the file was removed or replaced since do they look at the map, which still has the old file.

        Parameters
        ----------
        names : iterable of str, optional
            The arrays to check. All, by default.
        threads : int, optional
            How many threads check members at a time. As many as there are processors, by default.
        progress : callable or True, optional
            Called with two numbers now and then: how many bytes were checked, and how many are to be checked.
            True shows a bar, and needs tqdm.
        strict : bool, optional
            Whether the first damaged member that is found is an error.

        Returns
        -------
        list of DamagedMember
            The damaged members, in archive order or in that of `names`. An empty list if all is well.

        Raises
        ------
        KeyError
            If a name is not in the archive.
        OSError
            If the file cannot be opened again, or has become shorter.
        zipfile.BadZipFile
            With `strict`, if a member is damaged. Also if the directory cannot be read.
        ValueError
            If `threads` is less than 1, or the reader is closed.

        See Also
        --------
        repair : Writes the directory of an archive whose writer was killed.
        zipfile.ZipFile.testzip : Finds the first damaged member of any zip archive.

        Notes
        -----
        The checksum is the CRC-32 of the whole member, the ``.npy`` header included (APPNOTE 6.3.10, 4.4.7).
        Members that the reader does not list are checked only if they are named; `zipfile.ZipFile.testzip`
        checks them, too.

        Examples
        --------
        >>> import mmnpz
        >>> with mmnpz.NpzWriter("example.npz", mode="w") as writer:
        ...     writer.write("a", [1, 2, 3])
        ...     writer.write("b", [4, 5, 6])
        >>> data = mmnpz.load("example.npz")
        >>> data.verify()
        []
        >>> with open("example.npz", "r+b") as file:
        ...     _ = file.seek(data["b"].offset)
        ...     _ = file.write(b"?")
        >>> [(member.name, member.reason) for member in data.verify()]
        [('b', 'its bytes have the CRC-32 0xd8c18804, and the archive says 0xd36f9cd5')]
        """
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads!r}")
        if isinstance(names, (str, bytes)):
            raise TypeError(f"names must be an iterable of names, got {names!r}")
        chosen = None if names is None else list(names)
        most = threads and min(threads, 1 << 16)
        with told(progress, f"{self._origin[0][0][1]}") as tell:
            fields = _verify(self, chosen, most, tell, bool(strict))
        damaged = [DamagedMember(*each) for each in fields]
        if strict and damaged:
            from zipfile import BadZipFile  # imported here: `import mmnpz` should not load zipfile

            raise BadZipFile(f'{self._origin[0][0][1]}: member "{damaged[0].name}": {damaged[0].reason}')
        return damaged

    def __copy__(self) -> Self:
        """Return another handle on the same map, index and views."""
        other = type(self).__new__(type(self))
        if self.__dict__:  # leave an empty dict unlocked: a forked child inherits locks, see fork.rs
            other.__dict__.update(self.__dict__)
        other._share(self, own_views=False)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return another handle on the same map and index, with views of its own."""
        import copy  # already loaded: copy.deepcopy calls this method

        other = type(self).__new__(type(self))
        memo[id(self)] = other
        if self.__dict__:
            other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        other._share(self, own_views=True)
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path and the options. Unpickling opens the file again, if it was not changed since."""
        # The absolute path: `path` may be relative, and the other process may be in another folder.
        origin, identity = self._origin
        options = dict(origin)
        state = self.__dict__.copy() if self.__dict__ else None
        if options["filename"] is None:
            if identity[2]:  # it has an inode
                raise TypeError(
                    f"{options['path']}: no path leads to the file: a reader of it cannot be pickled"
                )
            # Pickled as an array, whose protocol 5 can leave the bytes out of the pickle.
            content = self.mmap.view(np.ndarray)
            return _reopen, (type(self), options, (content.size, 0, 0), content), state
        options["path"] = os.fspath(options["filename"])
        return _reopen, (type(self), options, identity), state

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

    def __repr__(self) -> str:
        return f"ValuesView({self._mapping!r})"

    def __iter__(self) -> Iterator["NDArray[Any]"]:
        return _walk(self._mapping, pairs=False) if _gives_views(self._mapping) else super().__iter__()


class _Items(ItemsView[str, "NDArray[Any]"]):
    _mapping: NpzReader

    def __repr__(self) -> str:
        return f"ItemsView({self._mapping!r})"

    def __iter__(self) -> Iterator[tuple[str, "NDArray[Any]"]]:
        return _walk(self._mapping, pairs=True) if _gives_views(self._mapping) else super().__iter__()


def _gives_views(reader: NpzReader) -> bool:
    """Return true unless a subclass overrides `__getitem__` or `__iter__`, which iteration must then call."""
    own = type(reader)
    return own.__getitem__ is NpzReader.__getitem__ and own.__iter__ is NpzReader.__iter__


def _reopen(
    reader_type: type[NpzReader],
    options: dict[str, Any],
    identity: tuple[int, int, int],
    source: object = None,
) -> NpzReader:
    """Open the file of a pickled reader again, if it still has the identity it had then."""
    reader = reader_type.__new__(reader_type)
    reader._open(tuple(options.items()), source, **options, identity=identity)
    _neighbours.register()
    return reader


load = NpzReader
