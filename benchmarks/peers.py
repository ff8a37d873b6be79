"""
The peers: how each writes a data set, and how it reads one.

Each peer is set up as its documentation advises for speed, and as measurements confirmed. The docstrings say
which other ways were measured and are slower. All peers store the bytes of the arrays, without compression or
conversion.

Every process that measures imports this module, also those of mmnpz 1.0.0. So this module imports a peer only
where it uses it.
"""

import asyncio
import mmap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

Arrays = Iterable[tuple[str, Array]]


class Store(ABC):
    """
    A data set of float32 arrays that is open for reading.

    A key is the object by which the store looks an array up: bytes or a number for some peers. Scenarios make
    the keys once, from the names.
    """

    def __init__(self, row: tuple[int, ...]) -> None:
        self.row = row
        self.items = int(np.prod(row, dtype=int))

    def key(self, name: str) -> Any:
        return name

    @abstractmethod
    def array(self, key: Any) -> Array:
        """Return a whole array, looked up as if for the first time."""

    @abstractmethod
    def fill(self, keys: Sequence[Any], starts: Sequence[int], out: Array) -> None:
        """Fill each item of `out` with rows of an array: as many as the item has, from a start on."""

    def close(self) -> None:
        return None


class Peer(ABC):
    """A library that writes and reads arrays of float32 whose rows have the same shape."""

    can_append: ClassVar[bool] = True

    @abstractmethod
    def write(self, path: Path, arrays: Arrays) -> None: ...

    @abstractmethod
    def open(self, path: str, row: tuple[int, ...] = ()) -> Store: ...

    def append(self, path: Path, name: str, array: Array) -> None:
        """Add an array to a data set: open it, write, and close it."""
        raise NotImplementedError


def fill_with(
    find: Callable[[Any], Any], keys: Sequence[Any], starts: Sequence[int], out: NDArray[Any]
) -> None:
    """Fill a batch with slices of arrays, for peers that have a sliceable object for each array."""
    length = out.shape[1]
    for number, (key, start) in enumerate(zip(keys, starts, strict=True)):
        out[number] = find(key)[start : start + length]


class OursStore(Store):
    """mmnpz 2 or 1.0.0: the reader keeps its views."""

    def __init__(self, path: str, row: tuple[int, ...]) -> None:
        super().__init__(row)
        import mmnpz

        self.reader: Any = mmnpz.load(path)

    def array(self, key: str) -> Array:
        array: Array = self.reader[key]
        return array

    def fill(self, keys: Sequence[str], starts: Sequence[int], out: Array) -> None:
        reader, length = self.reader, out.shape[1]
        for number, (key, start) in enumerate(zip(keys, starts, strict=True)):
            out[number] = reader[key][start : start + length]

    def close(self) -> None:
        self.reader.close()


class GatherStore(OursStore):
    """mmnpz 2: `gather` makes a batch in one call."""

    def fill(self, keys: Sequence[str], starts: Sequence[int], out: Array) -> None:
        self.reader.gather(keys, starts, length=out.shape[1], out=out)


class Ours(Peer):
    def write(self, path: Path, arrays: Arrays) -> None:
        import mmnpz

        with mmnpz.NpzWriter(path) as writer:
            for name, array in arrays:
                writer.write(name, array)

    def append(self, path: Path, name: str, array: Array) -> None:
        import mmnpz

        with mmnpz.NpzWriter(path, "a") as writer:
            writer.write(name, array)

    def open(self, path: str, row: tuple[int, ...] = ()) -> Store:
        return OursStore(path, row)


class Gather(Ours):
    def open(self, path: str, row: tuple[int, ...] = ()) -> Store:
        return GatherStore(path, row)


class ViewsStore(Store):
    """The limit of contenders that map a file: a dict of plain views, made before the measurement."""

    def __init__(self, path: str, row: tuple[int, ...]) -> None:
        super().__init__(row)
        import mmnpz

        self.views = mmnpz.load(path, preload=True, subok=False).arrays

    def array(self, key: str) -> Array:
        array: Array = self.views[key]
        return array

    def fill(self, keys: Sequence[str], starts: Sequence[int], out: Array) -> None:
        fill_with(self.views.__getitem__, keys, starts, out)


class Views(Ours):
    def open(self, path: str, row: tuple[int, ...] = ()) -> Store:
        return ViewsStore(path, row)


class NumPyStore(Store):
    def __init__(self, path: str, row: tuple[int, ...]) -> None:
        super().__init__(row)
        self.file = np.load(path)

    def array(self, key: str) -> Array:
        array: Array = self.file[key]
        return array

    def fill(self, keys: Sequence[str], starts: Sequence[int], out: Array) -> None:
        fill_with(self.file.__getitem__, keys, starts, out)

    def close(self) -> None:
        self.file.close()


class NumPy(Peer):
    """`numpy.savez` and `numpy.load`, which reads a whole array each time. It cannot append."""

    can_append = False

    def write(self, path: Path, arrays: Arrays) -> None:
        with path.open("xb") as file:  # savez would add .npz to a path
            np.savez(file, **dict(arrays))  # type: ignore[arg-type]  # no array has the name allow_pickle

    def open(self, path: str, row: tuple[int, ...] = ()) -> Store:
        return NumPyStore(path, row)


class SafetensorsStore(Store):
    """The store keeps the slice object of each array. Slicing it copies."""

    def __init__(self, path: str, row: tuple[int, ...]) -> None:
        super().__init__(row)
        from safetensors import safe_open

        self.file: Any = safe_open(path, "numpy")
        self.find = cache(self.file.get_slice)

    def array(self, key: str) -> Array:
        array: Array = self.file.get_tensor(key)
        return array

    def fill(self, keys: Sequence[str], starts: Sequence[int], out: Array) -> None:
        fill_with(self.find, keys, starts, out)


class Safetensors(Peer):
    """One call writes a dict of arrays that are all in memory. It cannot append."""

    can_append = False

    def write(self, path: Path, arrays: Arrays) -> None:
        from safetensors.numpy import save_file

        save_file(dict(arrays), path)

    def open(self, path: str, row: tuple[int, ...] = ()) -> Store:
        return SafetensorsStore(path, row)


class LMDBStore(Store):
    """
    Views into the map, in one transaction that stays open. Views save a copy.

    The documentation of LMDB advises ``readahead=False`` for random reads of data larger than memory. Without
    read-ahead, the first epoch over files in memory is slower.
    """

    def __init__(self, path: str, row: tuple[int, ...], *, readahead: bool) -> None:
        super().__init__(row)
        import lmdb

        self.store = lmdb.open(path, subdir=False, readonly=True, lock=False, readahead=readahead)
        self.transaction: Any = self.store.begin(buffers=True)

    def key(self, name: str) -> bytes:
        return name.encode()

    def array(self, key: bytes) -> Array:
        return np.frombuffer(self.transaction.get(key), np.float32).reshape(-1, *self.row)

    def fill(self, keys: Sequence[bytes], starts: Sequence[int], out: Array) -> None:
        get, frombuffer, float32 = self.transaction.get, np.frombuffer, np.float32
        count, row, shape = out[0].size, self.items * 4, out.shape[1:]
        for number, (key, start) in enumerate(zip(keys, starts, strict=True)):
            out[number] = frombuffer(get(key), float32, count, start * row).reshape(shape)

    def close(self) -> None:
        self.transaction.abort()
        self.store.close()


class LMDB(Peer):
    """
    One file, in which a value is the bytes of an array. The user has to know the shapes.

    One transaction writes all arrays of a run, in the order of their keys, without locks and without waiting
    for the disk. So LMDB promises only at the end of the run what mmnpz promises after each `write`: that a
    kill of the process loses nothing.
    """

    SIZE = 1 << 36

    def __init__(self, *, readahead: bool = True) -> None:
        self.readahead = readahead

    def write(self, path: Path, arrays: Arrays) -> None:
        with self._open(path) as store, store.begin(write=True) as transaction:
            for name, array in arrays:
                transaction.put(name.encode(), array.data.cast("B"), append=True)

    def append(self, path: Path, name: str, array: Array) -> None:
        with self._open(path) as store, store.begin(write=True) as transaction:
            transaction.put(name.encode(), array.data.cast("B"))

    def open(self, path: str, row: tuple[int, ...] = ()) -> Store:
        return LMDBStore(path, row, readahead=self.readahead)

    def _open(self, path: Path) -> Any:
        import lmdb

        return lmdb.open(str(path), subdir=False, map_size=self.SIZE, lock=False, sync=False)


class HDF5Store(Store):
    """
    Datasets that are opened with the low-level interface, in a quarter of the time of `file[name]`.

    The store keeps them, and excerpts are slices of them. `read_direct`, and reads with the low-level
    interface, save a copy, but take longer.
    """

    def __init__(self, path: str, row: tuple[int, ...]) -> None:
        super().__init__(row)
        import h5py

        self.file = h5py.File(path, "r", libver="latest", locking=False)
        self.group = self.file.id
        self.look_up, self.dataset, self.all = h5py.h5d.open, h5py.Dataset, h5py.h5s.ALL
        self.find = cache(self._find)

    def key(self, name: str) -> bytes:
        return name.encode()

    def _find(self, key: bytes) -> Any:
        return self.dataset(self.look_up(self.group, key))

    def array(self, key: bytes) -> Array:
        found = self.look_up(self.group, key)
        array = np.empty(found.shape, np.float32)
        found.read(self.all, self.all, array)
        return array

    def fill(self, keys: Sequence[bytes], starts: Sequence[int], out: Array) -> None:
        fill_with(self.find, keys, starts, out)

    def close(self) -> None:
        self.find.cache_clear()
        self.file.close()


class HDF5(Peer):
    """
    One contiguous dataset for each array, in the newest format, whose groups have an index.

    The low-level interface makes them in a third of the time of `create_dataset`.
    """

    def write(self, path: Path, arrays: Arrays) -> None:
        self._write(path, "x", arrays)

    def append(self, path: Path, name: str, array: Array) -> None:
        self._write(path, "r+", [(name, array)])

    def _write(self, path: Path, mode: str, arrays: Arrays) -> None:
        import h5py

        create, every = h5py.h5d.create, h5py.h5s.ALL
        space_of = cache(h5py.h5s.create_simple)
        dtype = h5py.h5t.py_create(np.dtype(np.float32))
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_obj_track_times(False)
        with h5py.File(path, mode, libver="latest", locking=False) as file:
            group = file.id
            for name, array in arrays:
                create(group, name.encode(), dtype, space_of(array.shape), properties).write(
                    every, every, array
                )

    def open(self, path: str, row: tuple[int, ...] = ()) -> Store:
        return HDF5Store(path, row)


class ZTensorStore(Store):
    def __init__(self, path: str, row: tuple[int, ...]) -> None:
        super().__init__(row)
        import ztensor

        self.file: Any = ztensor.open(path)

    def array(self, key: str) -> Array:
        array: Any = np.from_dlpack(self.file[key])
        return cast("Array", array)

    def fill(self, keys: Sequence[str], starts: Sequence[int], out: Array) -> None:
        look_up, from_dlpack, length = self.file.__getitem__, np.from_dlpack, out.shape[1]
        for number, (key, start) in enumerate(zip(keys, starts, strict=True)):
            out[number] = from_dlpack(look_up(key))[start : start + length]

    def close(self) -> None:
        self.file.close()


class ZTensor(Peer):
    """The format of ztensor, with its smallest alignment. In the canonical form, each array takes 64 KiB."""

    ALIGN = 4096

    def write(self, path: Path, arrays: Arrays) -> None:
        self._write(path, arrays, append=False)

    def append(self, path: Path, name: str, array: Array) -> None:
        self._write(path, [(name, array)], append=True)

    def _write(self, path: Path, arrays: Arrays, *, append: bool) -> None:
        import ztensor

        with ztensor.Writer(str(path), canonical=False, align=self.ALIGN, append=append) as writer:
            for name, array in arrays:
                writer.add(name, array.reshape(-1).view(np.uint8), array.shape, "f32")

    def open(self, path: str, row: tuple[int, ...] = ()) -> Store:
        return ZTensorStore(path, row)


class ZarrStore(Store):
    """A batch starts all reads and awaits them together, as the documentation advises for many reads."""

    def __init__(self, path: str, row: tuple[int, ...]) -> None:
        super().__init__(row)
        import zarr

        self.group = zarr.open_group(path, mode="r")
        self.find = cache(self._find)
        self.runner = asyncio.Runner()

    def _find(self, key: str) -> Any:
        array: Any = self.group[key]
        return array.async_array

    def array(self, key: str) -> Array:
        array: Any = self.group[key]
        return np.asarray(array[...])

    def fill(self, keys: Sequence[str], starts: Sequence[int], out: Array) -> None:
        length = out.shape[1]
        # A lookup reads and waits by itself, which is not allowed in a coroutine.
        found = [
            (self.find(key), slice(start, start + length)) for key, start in zip(keys, starts, strict=True)
        ]

        async def read() -> list[Any]:
            return await asyncio.gather(*(array.getitem(rows) for array, rows in found))

        for number, rows in enumerate(self.runner.run(read())):
            out[number] = rows

    def close(self) -> None:
        self.runner.close()


class Zarr(Peer):
    """
    A group with one zarr array, of one uncompressed chunk, for each array.

    One zarr array for all rows, with chunks of 64 to 128 rows, sharded or not, reads at 0.5 to 0.9 times the
    rate. It reads fewer bytes, but the work for each chunk costs more.
    """

    def write(self, path: Path, arrays: Arrays) -> None:
        import zarr

        group = zarr.open_group(path, mode="w-")
        for name, array in arrays:
            self._add(group, name, array)

    def append(self, path: Path, name: str, array: Array) -> None:
        import zarr

        self._add(zarr.open_group(path, mode="r+"), name, array)

    def _add(self, group: Any, name: str, array: Array) -> None:
        group.create_array(name, data=array, chunks=array.shape, compressors=None, filters=None)

    def open(self, path: str, row: tuple[int, ...] = ()) -> Store:
        return ZarrStore(path, row)


class TensorStoreStore(Store):
    """A batch starts all reads, and then waits for them."""

    def __init__(self, path: str, row: tuple[int, ...]) -> None:
        super().__init__(row)
        import tensorstore

        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/rows"}}
        self.rows = tensorstore.open(spec, read=True, recheck_cached=False).result()
        self.firsts = np.load(f"{path}/firsts.npy", mmap_mode="r")
        self.new_batch = tensorstore.Batch

    def key(self, name: str) -> int:
        return number_of(name)

    def array(self, key: int) -> Array:
        array: Array = self.rows[int(self.firsts[key]) : int(self.firsts[key + 1])].read().result()
        return array

    def fill(self, keys: Sequence[int], starts: Sequence[int], out: Array) -> None:
        rows, length = self.rows, out.shape[1]
        firsts = (self.firsts[keys] + starts).tolist()
        with self.new_batch() as batch:
            read = [rows[first : first + length].read(batch=batch) for first in firsts]
        for number, future in enumerate(read):
            out[number] = future.result()


class TensorStore(Peer):
    """
    The rows of all arrays in one uncompressed, sharded zarr3 array, and a table of first rows. It knows no
    names.

    zarr3 is the driver with the least work for each read. It has no cache: with one that holds all data,
    excerpts are twice as fast, but the scenario stands for data sets that are larger than memory. Mapping the
    files (`file_io_mode`) makes no difference. One zarr3 array for each array reads at 0.5 times the rate.
    """

    SHARD = 512
    """The number of chunks in a shard."""

    def write(self, path: Path, arrays: Arrays) -> None:
        firsts, pending, waiting = [0], [], 0
        rows: Any = None
        shard = written = 0
        for _, array in arrays:
            if rows is None:
                rows, shard = self._create(path, array.shape[1:])
            firsts.append(firsts[-1] + len(array))
            pending.append(array)
            waiting += len(array)
            if waiting >= 4 * shard:
                block = np.concatenate(pending)
                whole = len(block) // shard * shard
                rows = self._extend(rows, written, block[:whole])
                written += whole
                pending, waiting = [block[whole:]], len(block) - whole
        self._extend(rows, written, np.concatenate(pending))
        np.save(path / "firsts.npy", np.array(firsts, np.int64))

    def append(self, path: Path, name: str, array: Array) -> None:
        import tensorstore

        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/rows"}}
        firsts = np.load(path / "firsts.npy")
        self._extend(tensorstore.open(spec).result(), int(firsts[-1]), array)
        np.save(path / "firsts.npy", np.append(firsts, firsts[-1] + len(array)))

    def _create(self, path: Path, row: tuple[int, ...]) -> tuple[Any, int]:
        import tensorstore

        path.mkdir()
        chunk = 128 if row else 1024
        shard = chunk * self.SHARD
        sharding = {"chunk_shape": [chunk, *row], "codecs": [{"name": "bytes"}]}
        metadata = {
            "shape": [0, *row],
            "data_type": "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard, *row]}},
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        }
        kvstore = {"driver": "file", "path": f"{path}/rows"}
        spec = {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata}
        return tensorstore.open(spec, create=True).result(), shard

    def _extend(self, rows: Any, written: int, block: Array) -> Any:
        rows = rows.resize(exclusive_max=[written + len(block), *block.shape[1:]]).result()
        rows[written:].write(block).result()
        return rows

    def open(self, path: str, row: tuple[int, ...] = ()) -> Store:
        return TensorStoreStore(path, row)


class SPDLStore(Store):
    """
    `load_npz` of a memory map of an mmnpz file: it takes the bytes of an archive, and returns views into
    them.

    Each lookup computes the checksum of the whole array. So the store keeps the arrays.
    """

    def __init__(self, path: str, row: tuple[int, ...]) -> None:
        super().__init__(row)
        import spdl.io

        with open(path, "rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.file = spdl.io.load_npz(memoryview(self.map))
        self.find = cache(self.file.__getitem__)

    def key(self, name: str) -> str:
        return f"{name}.npy"  # without the ending, spdl searches a list

    def array(self, key: str) -> Array:
        array: Array = self.file[key]
        return array

    def fill(self, keys: Sequence[str], starts: Sequence[int], out: Array) -> None:
        fill_with(self.find, keys, starts, out)


class SPDL(Ours):
    """spdl cannot write archives. It reads those of mmnpz."""

    can_append = False

    def open(self, path: str, row: tuple[int, ...] = ()) -> Store:
        return SPDLStore(path, row)


class NinjaStore(Store):
    def __init__(self, path: str, row: tuple[int, ...]) -> None:
        super().__init__(row)
        from mmap_ninja.ragged import RaggedMmap

        self.ragged = RaggedMmap(path)

    def key(self, name: str) -> int:
        return number_of(name)

    def array(self, key: int) -> Array:
        array: Any = self.ragged[key]
        return cast("Array", array)

    def fill(self, keys: Sequence[int], starts: Sequence[int], out: Array) -> None:
        fill_with(self.ragged.get_single, keys, starts, out)


class Ninja(Peer):
    """A `RaggedMmap`: arrays in one file, their offsets and shapes in other files. It knows no names."""

    BATCH = 1 << 26
    """The number of bytes in one write."""

    def write(self, path: Path, arrays: Arrays) -> None:
        from itertools import chain

        from mmap_ninja.ragged import RaggedMmap

        arrays = iter(arrays)
        name, first = next(arrays)
        RaggedMmap.from_generator(
            path,
            (array for _, array in chain([(name, first)], arrays)),
            batch_size=max(1, self.BATCH // first.nbytes),
        )

    def append(self, path: Path, name: str, array: Array) -> None:
        from mmap_ninja.ragged import RaggedMmap

        RaggedMmap(path).append(array)

    def open(self, path: str, row: tuple[int, ...] = ()) -> Store:
        return NinjaStore(path, row)


class FilesStore(Store):
    """The store maps the file of an array at the first access, and keeps the map."""

    def __init__(self, path: str, row: tuple[int, ...]) -> None:
        super().__init__(row)
        self.path = path
        self.find = cache(self.array)

    def key(self, name: str) -> Any:
        return f"{self.path}/{name}.npy"

    def array(self, key: str) -> Array:
        return np.lib.format.open_memmap(key, "r")

    def fill(self, keys: Sequence[str], starts: Sequence[int], out: Array) -> None:
        fill_with(self.find, keys, starts, out)


class Files(Peer):
    """A folder with an `.npy` file for each array. Linux allows a process 65,530 maps."""

    def write(self, path: Path, arrays: Arrays) -> None:
        path.mkdir()
        for name, array in arrays:
            self.append(path, name, array)

    def append(self, path: Path, name: str, array: Array) -> None:
        np.save(f"{path}/{name}.npy", array)

    def open(self, path: str, row: tuple[int, ...] = ()) -> Store:
        return FilesStore(path, row)


def number_of(name: str) -> int:
    """Return the number of a member, for peers that know no names."""
    return int(name.removeprefix("item"))


PEERS: dict[str, Peer] = {
    "safetensors": Safetensors(),
    "h5py": HDF5(),
    "LMDB": LMDB(),
    "ztensor": ZTensor(),
    "zarr": Zarr(),
    "tensorstore": TensorStore(),
    "spdl": SPDL(),
    "mmap_ninja": Ninja(),
    "np.memmap": Files(),
}
