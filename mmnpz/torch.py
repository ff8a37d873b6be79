"""Arrays of ``.npz`` files as samples for PyTorch. ``import mmnpz`` does not load this module."""

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

from mmnpz._mmnpz import _fetch, _fetch_headers, _is_mapped, _name_at, _position
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

# Read once, after the import of torch. Nothing turns the GIL off later. If something turns it on later, the
# handles for each thread are unnecessary but harmless.
_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


class _Handles(threading.local):
    """A thread-local: `reader` is another handle on the same file in each thread."""

    def __init__(self, reader: NpzReader) -> None:
        # Python calls this in each thread that uses the object. The handle is a deep copy, with views of its
        # own: threads that share views wait for each other to count references.
        self.reader = copy.deepcopy(reader)


class NpzDataset(Dataset[Any]):
    """
    The arrays of an uncompressed ``.npz`` file as a map-style dataset for PyTorch.

    A sample is a tensor, made from an array or from an excerpt of one. The dataset reads only that part of
    the file. Any number of threads may share the dataset. The workers of a `torch.utils.data.DataLoader` may
    use it with every start method.

    Parameters
    ----------
    fn : str or os.PathLike or NpzReader
        The file to open, or an open reader. The dataset uses that reader with its options: leave it open.
    names : iterable of str, optional
        The names of the arrays, in the order of the samples. A name may occur more than once. By default, all
        arrays in archive order.
    excerpt : callable, optional
        Takes a read-only view of an array, and returns the part of it that becomes the sample.
    transform : callable, optional
        Takes the tensor, and returns the sample.

    Raises
    ------
    KeyError
        If the file has no array of one of `names`.
    OSError, zipfile.BadZipFile
        As for `mmnpz.NpzReader`.

    See Also
    --------
    mmnpz.NpzReader : The mapping from names to views that samples are made from.

    Notes
    -----
    A tensor owns its memory: it is a writable, contiguous copy in native byte order. It cannot share the
    memory of the file: the file is mapped for reading only, and PyTorch has no read-only tensors.

    For a batch that is not in the page cache, the dataset first tells the operating system all parts that the
    batch needs. The disk then reads many samples at a time. To know these parts, the dataset calls `excerpt`
    for all samples of a batch before it copies the first one. With both `excerpt` and `transform`, it makes
    and reads one sample after the other, because both may draw from the same random numbers.

    If a subclass overrides `__getitem__`, its batches consist of its own samples, made one after the other.
    To read batches as a whole, the subclass also overrides `__getitems__`, and changes the list that this
    class returns.

    A worker needs next to no memory for each array. The dataset opens a path with ``cache=False``, so views
    do not pile up, and keeps `names` as numbers.

    A pickle holds the path, the options, the numbers of the names and the callables. The unpickled dataset
    opens the file when it is first used. That raises `ValueError` if the file was changed since, and
    `FileNotFoundError` if the file is gone.

    On free-threaded Python, each thread has its own handle on the file.

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
        # subok=False: plain arrays are the fastest to slice.
        reader = fn if isinstance(fn, NpzReader) else NpzReader(fn, cache=False, subok=False)
        self._excerpt = excerpt
        self._transform = transform
        # The positions of the members, not a list of names. A forked worker would copy the pages of such a
        # list, because it counts references to the items; a spawned worker would receive the list in a
        # pickle.
        self._numbers: NDArray[np.uint32] | None = None
        if names is None:
            self._length = len(reader)
        else:
            self._numbers = np.fromiter((_position(reader, name) for name in names), dtype=np.uint32)
            self._length = len(self._numbers)
        self._pickled = b""
        self._handles: SimpleNamespace | _Handles | None = _handles(reader)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: SupportsIndex) -> Any:
        return self._sample(self._reader(), index)

    def __getitems__(self, indices: Iterable[SupportsIndex]) -> list[Any]:
        """Return the samples of a batch, as a list."""
        kind = type(self)
        if kind.__getitem__ is not NpzDataset.__getitem__ and kind.__getitems__ is NpzDataset.__getitems__:
            # Only the subclass knows how to make its samples. (A subclass that overrides both methods, and
            # calls this one, gets the samples of NpzDataset.)
            return [self[index] for index in indices]
        reader = self._reader()
        if self._excerpt is not None and self._transform is not None:
            # One sample after the other: both callables may draw from the same random numbers.
            return [self._sample(reader, index) for index in indices]
        # A slice of a view reads nothing from the file. So the dataset knows all parts of the batch, and
        # tells the operating system about them, before it copies the first part.
        excerpt, indices = self._excerpt, list(indices)
        names = [_name_at(reader, self._number(index)) for index in indices]
        _fetch_headers(reader, names)
        parts = []
        for name in names:
            part = reader[name]
            if excerpt is not None:
                part = np.asarray(excerpt(part))
                if not _is_mapped(reader, part):
                    part = np.array(part)  # `excerpt` may use this buffer again for the next sample
            parts.append(part)
        _fetch(reader, parts)
        return [self._finish(reader, index, part) for index, part in zip(indices, parts, strict=True)]

    def name(self, index: SupportsIndex) -> str:
        """
        Return the name of the array from which a sample is made.

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
        return _name_at(self._reader(), self._number(index))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the handles, which belong to this process."""
        # The state holds the pickled reader: the other process opens the file when it first uses the dataset.
        pickled = self._pickled or pickle.dumps(self._reader())
        return self.__dict__ | {"_pickled": pickled, "_handles": None}

    def _reader(self) -> NpzReader:
        """Return this thread's handle on the file. Open the file if it is not open yet."""
        handles = self._handles
        if handles is None:
            # Threads that get here at the same time each open the file. The handles of the last one stay.
            handles = self._handles = _handles(pickle.loads(self._pickled))
        reader: NpzReader = handles.reader
        return reader

    def _number(self, index: SupportsIndex) -> int:
        """Return the position, in archive order, of the member from which a sample is made."""
        position = operator.index(index)
        if position < 0:
            position += self._length
        if not 0 <= position < self._length:
            raise IndexError(f"index {index} is out of range for {self._length} samples")
        return position if self._numbers is None else self._numbers.item(position)

    def _sample(self, reader: NpzReader, index: SupportsIndex) -> Any:
        view = reader[_name_at(reader, self._number(index))]
        part = view if self._excerpt is None else np.asarray(self._excerpt(view))
        return self._finish(reader, index, part)

    def _finish(self, reader: NpzReader, index: SupportsIndex, part: "NDArray[Any]") -> Any:
        """Return the sample made from `part`, which is an array or an excerpt of one."""
        # The only copy, in the layout that torch needs. torch would also accept the read-only view, with a
        # warning; a write to that tensor would end the process with SIGSEGV.
        array = np.array(part, dtype=part.dtype.newbyteorder("="), order="C")
        try:
            tensor = torch.from_numpy(array)
        except TypeError as error:
            options = dict(reader._origin[0])
            path = os.fspath(options["filename"] or options["path"])
            name = _name_at(reader, self._number(index))
            raise TypeError(f'{path}: member "{name}": PyTorch has no dtype {part.dtype}') from error
        return tensor if self._transform is None else self._transform(tensor)


def _handles(reader: NpzReader) -> SimpleNamespace | _Handles:
    return SimpleNamespace(reader=reader) if _GIL else _Handles(reader)
