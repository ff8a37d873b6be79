"""A data set of the arrays of an archive, of excerpts of them, and of what belongs to them."""

import copy
import math
import operator
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, SupportsIndex

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from mmnpz._mmnpz import _fetch, _fetch_headers, _is_mapped, _name_at, _position
from mmnpz.reading import NpzReader
from mmnpz.torch.cutting import Cut, Fields
from mmnpz.torch.memory import Memory, Pool
from mmnpz.torch.passing import Parcel, is_large, is_spawning, open_parcel

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    # A callable takes the indices of a batch and the lengths of their arrays.
    Start = Literal["random", "center"] | int | Callable[[NDArray[np.int64], NDArray[np.int64]], ArrayLike]

# Read once, after the import of torch. Nothing turns the GIL off later. If something turns it on later, the
# handles for each thread are unnecessary but harmless.
_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


# The attributes with an entry for each array.
_PASSED = ("_numbers", "_labels", "_lengths", "_firsts")


class _Handles(threading.local):
    """A thread-local: `reader` is another handle on the same file in each thread."""

    def __init__(self, reader: NpzReader) -> None:
        # Python calls this in each thread that uses the object. The handle is a deep copy, with views of its
        # own: threads that share views wait for each other to count references.
        self.reader = copy.deepcopy(reader)


class _Rows(NamedTuple):
    """What the rows of arrays are like."""

    # In the file. The batch has it in native byte order.
    dtype: np.dtype[Any]
    row: tuple[int, ...]


class _Samples(list[Any]):
    """The samples of a batch that was made as one."""

    def __init__(self, samples: Iterable[Any], batch: Any) -> None:
        super().__init__(samples)
        self._made = tuple(self)
        self._batch = batch

    def batch(self) -> Any:
        """Return the batch, if the list has still just its samples."""
        is_same = len(self) == len(self._made) and all(map(operator.is_, self, self._made))
        return self._batch if is_same else None


def collate(samples: list[Any]) -> Any:
    """
    Return a batch, for the ``collate_fn`` of a `torch.utils.data.DataLoader`.

    Of the samples of an `NpzDataset` that makes batches as one, this is that batch, and nothing is copied.
    All others go to `torch.utils.data.default_collate`.

    Parameters
    ----------
    samples : list
        The samples of the batch.

    Returns
    -------
    tensor, tuple or dict
        The batch.

    Examples
    --------
    >>> import numpy as np
    >>> from torch.utils.data import DataLoader
    >>> from mmnpz.torch import NpzDataset, collate
    >>> np.savez("example.npz", a=np.arange(6.0), b=np.arange(10.0, 30.0))
    >>> dataset = NpzDataset("example.npz", length=3, start=1)
    >>> next(iter(DataLoader(dataset, batch_size=2, collate_fn=collate)))
    tensor([[ 1.,  2.,  3.],
            [11., 12., 13.]], dtype=torch.float64)
    """
    batch = samples.batch() if isinstance(samples, _Samples) else None
    return default_collate(samples) if batch is None else batch


class NpzDataset(Dataset[Any]):
    """
    The arrays of an ``.npz`` file as a map-style dataset for PyTorch.

    A sample is a tensor, made from an array or from an excerpt of one, alone or with what belongs to it: a
    label, other arrays, its length. The dataset reads only that part of the file. With `length` or `pad`, it
    makes whole batches with one call of `mmnpz.NpzReader.gather`. Any number of threads may share the
    dataset. The workers of a `torch.utils.data.DataLoader` may use it with every start method.

    Parameters
    ----------
    fn : str or os.PathLike or NpzReader
        The file to open, or an open reader. The dataset uses that reader with its options: leave it open.
    names : iterable of str, optional
        The names of the arrays, or with `fields` the ids, in the order of the samples. One may occur more
        than once. By default, all in archive order.
    excerpt : callable, optional
        Takes a read-only view of an array, and returns the part of it that becomes the sample. For excerpts
        that numbers describe, `length` is faster.
    transform : callable, optional
        Takes the tensor, and returns what takes its place in the sample.
    length : int, optional
        How many rows in succession an excerpt has.
    start : {"random", "center"} or int or callable, optional
        Where excerpts of `length` rows start: at random (the default), so that as many rows are before as are
        behind, or at that row. A callable takes the indices of a batch and the lengths of their arrays, two
        arrays of integers, and returns the first row of each excerpt.
    stride : int, optional
        Makes a sample of each excerpt that starts at a multiple of `stride`, in place of one for each array.
        Arrays that are shorter than `length` have none, unless `pad` is given: then the last excerpt of each
        array reaches to its end, or past it.
    pad : scalar or array_like, optional
        A value, or a row, for the rows that an array lacks. Without `length`, samples are whole arrays, and
        those of a batch become as long as the longest. A sample then has its true length with it.
    dtype : data-type, optional
        The dtype to which excerpts are converted, by the rule ``"same_kind"`` of `numpy.can_cast`. Needs
        `length` or `pad`.
    fields : str or sequence of str or mapping of str, optional
        Patterns of the names of arrays that belong together, as ``("{id}/mel", "{id}/label")``. A sample is
        then a tuple with a tensor for each pattern, or a dict with the keys of the mapping. `excerpt`,
        `transform` and all that tells of excerpts concern the first one.
    along : iterable, optional
        Those of `fields`, by position or key, that have a row for each row of the first one: they are cut and
        padded with it.
    labels : mapping or sequence, optional
        A label for each array: by its name (or id), or in the order of `names`. Numbers become tensors.
    index : bool, optional
        Whether a sample has its index with it, for which `name` tells the name.
    threads : int, optional
        How many threads copy a batch, see `mmnpz.NpzReader.gather`.

    Raises
    ------
    KeyError
        If the file has no array of one of `names`, or `labels` no label for one.
    OSError, zipfile.BadZipFile
        As for `mmnpz.NpzReader`.
    TypeError, ValueError
        If arguments do not go together.

    See Also
    --------
    mmnpz.NpzReader : The mapping from names to views that samples are made from.
    collate : Passes on the batches that the dataset makes as one.
    Batches, BucketBatches : Samplers of batches that can be resumed.

    Notes
    -----
    A sample that is more than one tensor is a tuple: the arrays of `fields`, the length (with `pad`), the
    label, and the index. It is a dict with the keys ``"length"``, ``"label"`` and ``"index"`` beside those of
    `fields` if that is a mapping.

    With `length` or `pad`, ``dataset[indices]`` with a sequence of indices is a batch, as a `DataLoader` asks
    for with ``batch_size=None`` and a sampler of batches. With a ``batch_size``, pass `collate` as
    ``collate_fn``: other functions get the samples, which are parts of the same batch. The memory of a batch
    is used for a later one as soon as no tensor has it. Worker processes share it with the process to which
    they send their batches, where the system is Linux.

    Random starts are drawn from PyTorch's generator, which is seeded in each worker, or from the seed that
    `Batches` and `BucketBatches` give each batch.

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

    A pickle holds the path, the options, the numbers of the names, lengths and labels, and the callables. The
    unpickled dataset opens the file when it is first used. That raises `ValueError` if the file was changed
    since, and `FileNotFoundError` if the file is gone.

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
    >>> dataset = NpzDataset("example.npz", length=8, start=0, pad=-1, labels={"a": 3, "b": 4})
    >>> dataset[[0, 1]]
    (tensor([[ 0.,  1.,  2.,  3.,  4.,  5., -1., -1.],
            [10., 11., 12., 13., 14., 15., 16., 17.]], dtype=torch.float64), tensor([6, 8]), tensor([3, 4]))
    """

    def __init__(
        self,
        fn: str | os.PathLike[str] | NpzReader,
        names: Iterable[str] | None = None,
        *,
        excerpt: "Callable[[NDArray[Any]], ArrayLike] | None" = None,
        transform: Callable[[torch.Tensor], Any] | None = None,
        length: int | None = None,
        start: "Start | None" = None,
        stride: int | None = None,
        pad: "ArrayLike | None" = None,
        dtype: "DTypeLike | None" = None,
        fields: str | Sequence[str] | Mapping[str, str] | None = None,
        along: Iterable[Any] = (),
        labels: "Mapping[str, Any] | Sequence[Any] | NDArray[Any] | torch.Tensor | None" = None,
        index: bool = False,
        threads: int = 1,
    ) -> None:
        if isinstance(names, str):
            raise TypeError(f"names must be an iterable of names, got the string {names!r}")
        self._excerpt = excerpt
        self._transform = transform
        self._cut = Cut(length, start, stride, pad)
        self._dtype = None if dtype is None else np.dtype(dtype)
        self._threads = threads
        if excerpt is not None and self._cut.is_given:
            raise TypeError("excerpt excludes length and pad")
        if dtype is not None and not self._cut.is_given:
            raise TypeError("dtype needs length or pad")
        self._fields = Fields(fields, along)
        # subok=False: plain arrays are the fastest to slice.
        reader = fn if isinstance(fn, NpzReader) else NpzReader(fn, cache=False, subok=False)
        # The positions of the members, not lists of names. A forked worker would copy the pages of such a
        # list, because it counts references to the items; a spawned worker would receive the list in a
        # pickle.
        self._numbers: NDArray[np.uint32] | None = None
        ids = None if names is None else list(names)
        if ids is None and fields is not None:
            ids = self._fields.ids(reader)
        if ids is not None:
            found = (_position(reader, name) for id_ in ids for name in self._fields.names(id_))
            self._numbers = np.fromiter(found, np.uint32).reshape(-1, self._fields.count).T.copy()
        count = len(reader) if self._numbers is None else self._numbers.shape[1]
        self._labels = None
        if labels is not None:
            self._labels = _labels(labels, reader if ids is None else ids, count)
        self._index = bool(index)
        self._lengths: NDArray[Any] | None = None
        self._firsts: NDArray[np.int64] | None = None
        self._length = count
        if self._cut.is_given:
            self._lengths = self._lengths_of_arrays(reader)
            self._check_along(reader)
        if stride is not None and self._lengths is not None:
            self._firsts = np.concatenate(([0], np.cumsum(self._cut.counts(self._lengths))))
            self._length = int(self._firsts[-1])
        self._pickled = b""
        self._handles: SimpleNamespace | _Handles | None = _handles(reader)
        self._pool: Pool | None = None
        self._parcel: Parcel | None = None
        # What the rows of each field were like in the last batch.
        self._known: dict[int, _Rows] = {}

    def __len__(self) -> int:
        return self._length

    def __getitem__(
        self, index: "SupportsIndex | Sequence[SupportsIndex] | NDArray[Any] | torch.Tensor"
    ) -> Any:
        given: Any = index
        if isinstance(given, (list, tuple, range)) or getattr(given, "ndim", 0) == 1:
            if self._cut.is_given and self._transform is None:
                return self._packed(self._columns(given, self._own_pool()))
            # Of the samples of this class: a subclass that overrides this method changes the whole batch.
            return collate(self._samples(given))
        if self._cut.is_given:
            return self._rows(self._columns([given], None))[0]
        return self._sample(self._reader(), self._checked(given))

    def __getitems__(self, indices: Iterable[SupportsIndex]) -> list[Any]:
        """Return the samples of a batch, as a list."""
        kind = type(self)
        if kind.__getitem__ is not NpzDataset.__getitem__ and kind.__getitems__ is NpzDataset.__getitems__:
            # Only the subclass knows how to make its samples. (A subclass that overrides both methods, and
            # calls this one, gets the samples of NpzDataset.)
            return [self[index] for index in indices]
        return self._samples(indices)

    def _samples(self, indices: Iterable[SupportsIndex]) -> list[Any]:
        if self._cut.is_given:
            # As they are, if they can be: those of `Batches` have a seed.
            given: Any = indices if hasattr(indices, "__len__") else list(indices)
            if not len(given):
                return []
            columns = self._columns(given, self._own_pool())
            samples = self._rows(columns)
            return samples if self._transform is not None else _Samples(samples, self._packed(columns))
        reader = self._reader()
        places = [self._checked(index) for index in indices]
        if self._excerpt is not None and self._transform is not None:
            # One sample after the other: both callables may draw from the same random numbers.
            return [self._sample(reader, place) for place in places]
        # A slice of a view reads nothing from the file. So the dataset knows all parts of the batch, and
        # tells the operating system about them, before it copies the first part.
        excerpt = self._excerpt
        names = [_name_at(reader, self._number(place)) for place in places]
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
        return [self._finish(reader, place, part) for place, part in zip(places, parts, strict=True)]

    @property
    def lengths(self) -> "NDArray[np.int64]":
        """
        How long the array of each sample is: the length of its first axis, as an array of int64.

        It is read from the directory of a file that mmnpz wrote. Elsewhere, the headers of the members are
        read.
        """
        if self._lengths is None:
            self._lengths = self._lengths_of_arrays(self._reader())
        lengths = self._lengths.astype(np.int64)
        return lengths if self._firsts is None else np.repeat(lengths, np.diff(self._firsts))

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
            The array's name. With `fields`, that of the first one.

        Raises
        ------
        IndexError
            If there is no such sample.
        """
        return _name_at(self._reader(), self._number(self._checked(index)))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what belongs to this process."""
        # The state holds the pickled reader: the other process opens the file when it first uses the dataset.
        pickled = self._pickled or pickle.dumps(self._reader())
        own = dict.fromkeys(("_handles", "_pool", "_parcel"))
        state: dict[str, Any] = self.__dict__ | own | {"_pickled": pickled, "_known": {}}
        large = {key: state[key] for key in _PASSED if is_spawning() and is_large(state[key])}
        if large and self._parcel is None:
            try:
                self._parcel = Parcel(large)
            except OSError:  # no descriptors or memory are left for it: the pickle holds all
                large = {}
        if large and self._parcel is not None:
            state |= {**dict.fromkeys(large), "_sent": self._parcel.send()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        sent = state.pop("_sent", None)
        for name, value in (state if sent is None else state | open_parcel(sent)).items():
            setattr(self, name, value)

    def _reader(self) -> NpzReader:
        """Return this thread's handle on the file. Open the file if it is not open yet."""
        handles = self._handles
        if handles is None:
            # Threads that get here at the same time each open the file. The handles of the last one stay.
            handles = self._handles = _handles(pickle.loads(self._pickled))
        reader: NpzReader = handles.reader
        return reader

    def _own_pool(self) -> Pool:
        """Return the memory for batches of this process."""
        pool = self._pool
        if pool is None or not pool.is_of_this_process():
            pool = self._pool = Pool()
        return pool

    def _checked(self, index: SupportsIndex) -> int:
        """Return an index, counted from the start."""
        place = operator.index(index)
        if place < 0:
            place += self._length
        if not 0 <= place < self._length:
            raise IndexError(f"index {index} is out of range for {self._length} samples")
        return place

    def _all_checked(self, indices: Any) -> "NDArray[np.int64]":
        """Return the indices of a batch, counted from the start."""
        given = np.asarray(indices)
        if given.dtype.kind == "b" and given.size:
            raise TypeError("indices must be integers, got booleans; numpy.flatnonzero gives those of a mask")
        if given.dtype.kind in "iu" and given.size and given.min() >= 0 and given.max() < self._length:
            return given.astype(np.int64, copy=False)
        return np.array([self._checked(index) for index in indices], np.int64)

    def _array_of(self, place: Any) -> Any:
        """Return which arrays samples are made from."""
        return place if self._firsts is None else np.searchsorted(self._firsts, place, "right") - 1

    def _number(self, place: int, field: int = 0) -> int:
        """Return the position, in archive order, of the member from which a sample is made."""
        array = int(self._array_of(place))
        return array if self._numbers is None else self._numbers.item(field, array)

    def _check_along(self, reader: NpzReader) -> None:
        """Make sure that the fields that are cut together are as long as each other."""
        for field in range(1, self._fields.count):
            if not self._fields.is_cut(field):
                continue
            assert self._numbers is not None
            lengths = self._lengths_of_arrays(reader, field)
            differs = lengths != self._lengths
            if differs.any():
                array = int(np.argmax(differs))
                first, other = (_name_at(reader, int(self._numbers[number][array])) for number in (0, field))
                raise ValueError(f'members "{first}" and "{other}" must have as many rows as each other')

    def _lengths_of_arrays(self, reader: NpzReader, field: int = 0) -> "NDArray[Any]":
        lengths = reader.layout().length
        if self._numbers is not None:
            lengths = lengths[self._numbers[field]]
        is_short = not len(lengths) or lengths.max() < 1 << 31
        return lengths.astype(np.int32) if is_short else lengths

    # Batches that are made as one

    def _columns(self, indices: Any, pool: Pool | None) -> list[Any]:
        """Return what the samples of a batch are made of: each column a tensor, or a list."""
        reader, cut = self._reader(), self._cut
        places = self._all_checked(indices)
        arrays = self._array_of(places)
        assert self._lengths is not None
        lengths = self._lengths[arrays].astype(np.int64)
        windows = None if self._firsts is None else places - self._firsts[arrays]
        starts, length = cut.places(places, lengths, windows, getattr(indices, "seed", None))
        with Memory(None) if pool is None else pool.begin(self._size(len(places), length)) as memory:
            return self._columns_in(memory, reader, arrays, lengths, (starts, length), places)

    def _columns_in(
        self,
        memory: Memory,
        reader: NpzReader,
        arrays: "NDArray[np.int64]",
        lengths: "NDArray[np.int64]",
        cut_places: "tuple[NDArray[np.int64] | None, int]",
        places: "NDArray[np.int64]",
    ) -> list[Any]:
        cut, (starts, length) = self._cut, cut_places
        columns: list[Any] = []
        for field in range(self._fields.count):
            positions = arrays if self._numbers is None else self._numbers[field][arrays]
            options: dict[str, Any] = {"threads": self._threads}
            if self._fields.is_cut(field):
                options |= {"starts": starts, "length": length, "pad": cut.pad}
            if field == 0:
                options["dtype"] = self._dtype
            columns.append(self._gathered(reader, memory, field, positions, options))
        if cut.pad is not None:
            columns.append(_put(memory, np.clip(lengths - (0 if starts is None else starts), 0, length)))
        if isinstance(self._labels, np.ndarray):
            labels = self._labels[arrays]
            columns.append(labels.tolist() if labels.dtype.kind == "U" else _put(memory, labels))
        elif self._labels is not None:
            columns.append([self._labels[array] for array in arrays])
        if self._index:
            columns.append(_put(memory, places))
        return columns

    def _size(self, count: int, length: int) -> int:
        """Return how many bytes a batch takes, as far as it is known."""
        size = 64 * (self._fields.count + 3) + 16 * count
        if isinstance(self._labels, np.ndarray):
            size += count * self._labels[:1].nbytes
        for field, known in self._known.items():
            rows = length if self._fields.is_cut(field) else 1
            size += count * rows * known.dtype.itemsize * math.prod(known.row)
        return size

    def _gathered(
        self,
        reader: NpzReader,
        memory: Memory,
        field: int,
        positions: "NDArray[Any]",
        options: dict[str, Any],
    ) -> Any:
        is_cut = self._fields.is_cut(field)
        known = self._known.get(field)
        if known is not None:
            # Rows are nearly always as those before were. If not, `gather` says what they are, or what is
            # wrong with them.
            shape = (len(positions), *((options["length"],) if is_cut else ()), *known.row)
            native = memory.array(shape, known.dtype.newbyteorder("="))
            out = native.view(known.dtype)
            try:
                reader.gather(positions, **options, out=out)
            except (TypeError, ValueError):
                pass
            else:
                if not known.dtype.isnative:
                    out.byteswap(inplace=True)
                return memory.tensor(native)
        array = reader.gather(positions, **options)
        rows = _Rows(array.dtype, array.shape[2 if is_cut else 1 :])
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if array.dtype.kind in "US":
            return array.tolist()
        try:
            torch.from_numpy(array[:0])
        except TypeError as error:
            raise _no_dtype(reader, int(positions[0]), array.dtype) from error
        self._known[field] = rows
        return _put(memory, array)

    def _packed(self, columns: Sequence[Any]) -> Any:
        """Return a batch, or a sample, of its columns."""
        if self._fields.keys is None:
            return columns[0] if len(columns) == 1 else tuple(columns)
        further = ("length", "label", "index")
        is_there = (self._cut.pad is not None, self._labels is not None, self._index)
        keys = [*self._fields.keys, *(key for key, there in zip(further, is_there, strict=True) if there)]
        return dict(zip(keys, columns, strict=True))

    def _rows(self, columns: Sequence[Any]) -> list[Any]:
        """Return the samples of a batch."""
        columns = [column.unbind() if isinstance(column, torch.Tensor) else column for column in columns]
        transform = self._transform
        if transform is not None:
            columns[0] = [transform(tensor) for tensor in columns[0]]
        if len(columns) == 1 and self._fields.keys is None:
            return list(columns[0])
        return [self._packed(row) for row in zip(*columns, strict=True)]

    # Samples that are made one by one

    def _sample(self, reader: NpzReader, place: int) -> Any:
        view = reader[_name_at(reader, self._number(place))]
        part = view if self._excerpt is None else np.asarray(self._excerpt(view))
        return self._finish(reader, place, part)

    def _finish(self, reader: NpzReader, place: int, part: "NDArray[Any]") -> Any:
        """Return the sample made from `part`, which is an array or an excerpt of one."""
        tensor = self._tensor(reader, self._number(place), part)
        columns = [tensor if self._transform is None else self._transform(tensor)]
        if self._fields.count == 1 and self._labels is None and not self._index:
            return self._packed(columns)
        for field in range(1, self._fields.count):
            number = self._number(place, field)
            array = reader[_name_at(reader, number)]
            is_text = array.dtype.kind in "US"
            columns.append(array.tolist() if is_text else self._tensor(reader, number, array))
        if isinstance(self._labels, np.ndarray) and self._labels.dtype.kind != "U":
            columns.append(torch.from_numpy(self._labels[place : place + 1].copy())[0])
        elif self._labels is not None:
            label = self._labels[place]
            columns.append(str(label) if isinstance(label, np.str_) else label)
        if self._index:
            columns.append(torch.from_numpy(np.array(place)))  # torch.tensor takes thrice as long
        return self._packed(columns)

    def _tensor(self, reader: NpzReader, number: int, part: "NDArray[Any]") -> torch.Tensor:
        # The only copy, in the layout that torch needs. torch would also accept the read-only view, with a
        # warning; a write to that tensor would end the process with SIGSEGV.
        dtype = part.dtype if part.dtype.isnative else part.dtype.newbyteorder("=")
        array = np.array(part, dtype=dtype, order="C")
        try:
            return torch.from_numpy(array)
        except TypeError as error:
            raise _no_dtype(reader, number, part.dtype) from error


def _no_dtype(reader: NpzReader, number: int, dtype: np.dtype[Any]) -> TypeError:
    options = dict(reader._origin[0])
    path = os.fspath(options["filename"] or options["path"])
    return TypeError(f'{path}: member "{_name_at(reader, number)}": PyTorch has no dtype {dtype}')


def _put(memory: Memory, array: "NDArray[Any]") -> torch.Tensor:
    """Return a tensor of the items of an array, in the memory of a batch."""
    place = memory.array(array.shape, array.dtype)
    place[...] = array
    return memory.tensor(place)


def _labels(
    labels: "Mapping[str, Any] | Sequence[Any] | NDArray[Any] | torch.Tensor",
    names: Iterable[str],
    count: int,
) -> "NDArray[Any] | list[Any]":
    """Return a label for each array: in an array if they are numbers or texts."""
    if isinstance(labels, Mapping):
        try:
            labels = [labels[name] for name in names]
        except KeyError as error:
            raise KeyError(f"labels has no label for {error.args[0]!r}") from None
    if isinstance(labels, (str, bytes)) or not hasattr(labels, "__getitem__"):
        raise TypeError(f"labels must be a mapping or a sequence, got {type(labels).__name__}")
    if len(labels) != count:
        raise ValueError(f"labels has {len(labels)} labels for {count} arrays")
    kinds = set() if isinstance(labels, (np.ndarray, torch.Tensor)) else {type(label) for label in labels}
    if isinstance(labels, np.ndarray):
        array = labels
    elif isinstance(labels, torch.Tensor):
        array = labels.detach().cpu().numpy()
    elif kinds == {str}:
        # All texts of an array take as much room as the longest, and lose NUL characters at their ends.
        room, longest = sum(map(len, labels)), max(map(len, labels))
        if longest * count > 4 * room + 1000 or any(label.endswith("\0") for label in labels):
            return list(labels)
        array = np.array(labels)
    elif kinds <= {int, float}:
        array = np.array(labels)
        if kinds == {int} and array.dtype.kind == "f":  # some are too large
            return list(labels)
    else:
        try:
            found = [np.asarray(label) for label in labels]
            array = np.stack(found)
        except (TypeError, ValueError):  # of different shapes, or no arrays
            return list(labels)
        # Labels that would become others, such as a bool that becomes an integer, stay what they are.
        if len({each.dtype.kind for each in found}) > 1 or array.dtype.kind == "U":
            return list(labels)
    if array.dtype.kind in "biufc" or (array.dtype.kind == "U" and array.ndim == 1):
        return np.array(array, array.dtype.newbyteorder("="), order="C")
    return list(labels)


def _handles(reader: NpzReader) -> SimpleNamespace | _Handles:
    return SimpleNamespace(reader=reader) if _GIL else _Handles(reader)
