"""Arrays of ``.npz`` files as samples for PyTorch; needs PyTorch, and is not imported by ``mmnpz`` itself."""

import copy
import operator
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from mmnpz.reading import NpzReader

try:
    import torch
    from torch.utils.data import Dataset
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError(
        "mmnpz.torch needs PyTorch, which `pip install torch` installs", name="torch"
    ) from error

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["NpzDataset"]

# Asked once, after torch was imported: nothing turns it off later, and if something turns it on, a handle for
# each thread is of no use, and does no harm.
_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


class _Handles(threading.local):
    """In each thread, `reader` is a handle of its own."""

    def __init__(self, reader: NpzReader) -> None:
        # Called in each thread that looks. Threads that share views would wait for each other to count their
        # references; a deep copy has views of its own.
        self.reader = copy.deepcopy(reader)


class NpzDataset(Dataset[Any]):
    """
    The arrays of an uncompressed ``.npz`` file as a map-style dataset for PyTorch.

    A sample is a tensor made from an array, or from an excerpt of it; only that part is read from the file.
    May be used by any number of threads, and by the workers of a `torch.utils.data.DataLoader`, however they
    are started.

    Parameters
    ----------
    fn : str or os.PathLike or NpzReader
        The file to open, or an open reader. The reader is used with its own options, and must stay open.
    names : iterable of str, optional
        The names of the arrays, in the order of the samples; a name may occur more than once. By default, all
        arrays in archive order.
    excerpt : callable, optional
        Takes a read-only view of an array, and returns the part of it that makes the sample.
    transform : callable, optional
        Takes the tensor, and returns the sample.

    Raises
    ------
    KeyError
        If one of `names` is not in the file.
    OSError, zipfile.BadZipFile
        As for `mmnpz.NpzReader`.

    See Also
    --------
    mmnpz.NpzReader : The mapping from names to views that samples are made from.

    Notes
    -----
    A tensor owns its memory: a writable, contiguous copy in native byte order. It cannot share the memory of
    the file, because that is mapped for reading only, and PyTorch has no tensors that cannot be written to.

    A batch that is not in memory is asked for as a whole, so that the disk reads many samples at a time. For
    that `excerpt` is called for all samples of a batch before the first is copied. With both `excerpt` and
    `transform`, which may draw from the same random numbers, samples are made, and read, one after the other.

    If a subclass overrides `__getitem__`, its batches are made of its own samples, one after the other. To
    read batches as a whole, it overrides `__getitems__` too, and adds to the list that this class returns.

    A worker costs next to no memory for each array. A file that is given by its path is opened with
    ``cache=False``, so that views do not pile up, and `names` are kept as numbers.

    A pickle holds the path, the options, the numbers of the names and the callables. The file is opened when
    the unpickled dataset is first used. If it was changed meanwhile, that is a `ValueError`; if it is gone, a
    `FileNotFoundError`.

    On free-threaded Python each thread gets a handle of its own on the file.

    Examples
    --------
    >>> import numpy as np
    >>> import mmnpz
    >>> from mmnpz.torch import NpzDataset
    >>> np.savez("example.npz", a=np.arange(6.0), b=np.arange(10.0, 30.0))
    >>> dataset = NpzDataset("example.npz", excerpt=lambda view: view[:3])
    >>> len(dataset), dataset.name(1)
    (2, 'b')
    >>> dataset[1]
    tensor([10., 11., 12.], dtype=torch.float64)
    """

    def __init__(
        self,
        fn: str | os.PathLike[str] | NpzReader,
        names: Iterable[str] | None = None,
        *,
        excerpt: "Callable[[NDArray[Any]], ArrayLike] | None" = None,
        transform: Callable[[torch.Tensor], Any] | None = None,
    ) -> None:
        if isinstance(names, str):
            raise TypeError(f"names must be an iterable of names, got the string {names!r}")
        # Plain arrays are sliced fastest.
        reader = fn if isinstance(fn, NpzReader) else NpzReader(fn, cache=False, subok=False)
        self._excerpt = excerpt
        self._transform = transform
        # The numbers of the members, not a list of names. A forked process would copy such a list, page by
        # page, by counting the references to its items; a spawned one would be sent it.
        self._numbers: NDArray[np.uint32] | None = None
        if names is None:
            self._length = len(reader)
        else:
            self._numbers = np.fromiter((reader._number(name) for name in names), dtype=np.uint32)
            self._length = len(self._numbers)
        self._pickled = b""
        self._handles: SimpleNamespace | _Handles | None = _handles(reader)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: SupportsIndex) -> Any:
        return self._sample(self._reader(), index)

    def __getitems__(self, indices: Iterable[SupportsIndex]) -> list[Any]:
        """Return the samples of a batch."""
        kind = type(self)
        if kind.__getitem__ is not NpzDataset.__getitem__ and kind.__getitems__ is NpzDataset.__getitems__:
            # Only the subclass knows what its samples are. A subclass that overrides both and calls this
            # method asks for the samples of this class.
            return [self[index] for index in indices]
        reader = self._reader()
        if self._excerpt is not None and self._transform is not None:
            # One after the other, as both may draw from the same random numbers.
            return [self._sample(reader, index) for index in indices]
        # A slice of a view reads nothing. So the system can be told of all parts before the first is copied.
        excerpt, holds, indices = self._excerpt, reader._holds, list(indices)
        names = [reader._name(self._number(index)) for index in indices]
        reader._fetch_headers(names)
        parts = []
        for name in names:
            part = reader[name]
            if excerpt is not None:
                part = np.asarray(excerpt(part))
                if not holds(part):
                    part = np.array(part)  # it may be a buffer that is used again
            parts.append(part)
        reader._fetch(parts)
        return [self._finish(reader, index, part) for index, part in zip(indices, parts, strict=True)]

    def name(self, index: SupportsIndex) -> str:
        """
        Return the name of the array that a sample is made from.

        Parameters
        ----------
        index : int
            The index of the sample.

        Returns
        -------
        str
            The array's name.

        Raises
        ------
        IndexError
            If there is no such sample.
        """
        return self._reader()._name(self._number(index))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process."""
        # The reader goes as a pickle in the pickle: it is opened where and when it is needed.
        pickled = self._pickled or pickle.dumps(self._reader())
        return self.__dict__ | {"_pickled": pickled, "_handles": None}

    def _reader(self) -> NpzReader:
        """Return this thread's handle on the file, opened if it is not yet."""
        handles = self._handles
        if handles is None:
            # Of threads that come here at once, each opens the file. The last one's handles stay.
            handles = self._handles = _handles(pickle.loads(self._pickled))
        reader: NpzReader = handles.reader
        return reader

    def _number(self, index: SupportsIndex) -> int:
        """Return the number of the member that a sample is made from."""
        position = operator.index(index)
        if position < 0:
            position += self._length
        if not 0 <= position < self._length:
            raise IndexError(f"index {index} is out of range for {self._length} samples")
        return position if self._numbers is None else self._numbers.item(position)

    def _sample(self, reader: NpzReader, index: SupportsIndex) -> Any:
        view = reader[reader._name(self._number(index))]
        part = view if self._excerpt is None else np.asarray(self._excerpt(view))
        return self._finish(reader, index, part)

    def _finish(self, reader: NpzReader, index: SupportsIndex, part: "NDArray[Any]") -> Any:
        """Return the sample that is made from a part of an array."""
        # The one copy, laid out as torch wants it. Of the view itself torch would make a tensor too, with a
        # warning, and writing to that one would end the process with SIGSEGV.
        array = np.array(part, dtype=part.dtype.newbyteorder("="), order="C")
        try:
            tensor = torch.from_numpy(array)
        except TypeError as error:
            path, name = os.fspath(dict(reader._origin[0])["filename"]), reader._name(self._number(index))
            raise TypeError(f'{path}: member "{name}": PyTorch has no dtype {part.dtype}') from error
        return tensor if self._transform is None else self._transform(tensor)


def _handles(reader: NpzReader) -> SimpleNamespace | _Handles:
    return SimpleNamespace(reader=reader) if _GIL else _Handles(reader)
