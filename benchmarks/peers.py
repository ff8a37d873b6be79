"""
The peers: how each writes a data set, and how it reads it.

Each is set up as its documentation says for speed, and as trying confirmed; what was tried and was slower is
said here. All keep the bytes as they are: nothing is compressed, nothing converted.

This module is imported into every process that measures, also into those of mmnpz 1.0.0, and so imports a
peer only where it is used.
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

    Its keys are what it looks arrays up by, made of the names once and for all: bytes or numbers for some.
    """

    def __init__(self, row: tuple[int, ...]) -> None:
        self.row = row
        self.items = int(np.prod(row, dtype=int))

    def key(self, name: str) -> Any:
        return name

    @abstractmethod
    def array(self, key: Any) -> Array:
        """A whole array, looked up as if for the first time."""

    @abstractmethod
    def fill(self, keys: Sequence[Any], starts: Sequence[int], out: Array) -> None:
        """Fills each item of `out` with so many rows of an array, from a row on."""

    def close(self) -> None:
        return None


class Peer(ABC):
    """How a peer writes and reads arrays of float32 whose rows have the same shape."""

    can_append: ClassVar[bool] = True

    @abstractmethod
    def write(self, path: Path, arrays: Arrays) -> None: ...

    @abstractmethod
    def open(self, path: str, row: tuple[int, ...] = ()) -> Store: ...

    def append(self, path: Path, name: str, array: Array) -> None:
        """Adds an array to what is there: opens, writes, closes."""
        raise NotImplementedError


def fill_with(
    find: Callable[[Any], Any], keys: Sequence[Any], starts: Sequence[int], out: NDArray[Any]
) -> None:
    """The loop of those that have something to slice for each array."""
    length = out.shape[1]
    for number, (key, start) in enumerate(zip(keys, starts, strict=True)):
        out[number] = find(key)[start : start + length]


class OursStore(Store):
    """mmnpz, of either version: views are kept by the reader."""

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
    """mmnpz, a batch in one call."""

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
    """The limit of all that map a file: plain views, in a dict, made before."""

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
        with path.open("xb") as file:  # a path would get the ending .npz
            np.savez(file, **dict(arrays))  # type: ignore[arg-type]  # no array is called allow_pickle

    def open(self, path: str, row: tuple[int, ...] = ()) -> Store:
        return NumPyStore(path, row)


class SafetensorsStore(Store):
    """What stands for an array is kept; slicing it copies."""

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
    Views into the map for one transaction that stays open, which save a copy.

    Without `readahead`, which is its documentation's advice for random reads of what is larger than memory,
    the first epoch over what is in memory is slower.
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
    One file, the bytes of an array as a value; shapes are for the user to know.

    All arrays of a run are written in one transaction, in the order of their keys, without locks and without
    waiting for the disk: what mmnpz promises for a killed process after each `write`, it promises at the end.
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
    Datasets are looked up through the low-level interface, in a quarter of the time of `file[name]`.

    They are kept, and excerpts are slices of them: `read_direct`, and reading through the low-level
    interface, which save a copy, take longer.
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

    Made through the low-level interface, in a third of the time of `create_dataset`.
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
    """Its own format, with the closest alignment that it has: the canonical form gives each array 64 KiB."""

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
    """A batch is read as the documentation says for many reads: all at once, awaiting them together."""

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
        # Looking up reads and waits by itself, which is not allowed inside what is awaited.
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
    A group with an array of one uncompressed chunk for each of ours.

    All in one array with chunks of 64 to 128 rows, sharded or not, was slower to read from, by 0.9 to 0.5,
    although fewer bytes are read: what costs is the work for each chunk.
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
    """All reads of a batch are started, and then waited for."""

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
    The rows of all arrays in one uncompressed, sharded zarr3 array, and the number of each array's first row.

    Its driver with the least work for each read, without a cache: with one that holds all, excerpts are twice
    as fast, but the data sets that this is about are larger than memory. Mapping the files
    (`file_io_mode`) makes no difference. One array for each of ours was slower, by 0.5. It knows no names.
    """

    SHARD = 512
    """Chunks in a shard."""

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
    `load_npz` of a map of our file: it takes the bytes of an archive, and gives views into them.

    Each lookup computes the checksum of the whole array. So the arrays are kept.
    """

    def __init__(self, path: str, row: tuple[int, ...]) -> None:
        super().__init__(row)
        import spdl.io

        with open(path, "rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.file = spdl.io.load_npz(memoryview(self.map))
        self.find = cache(self.file.__getitem__)

    def key(self, name: str) -> str:
        return f"{name}.npy"  # found at once; without the ending it searches a list

    def array(self, key: str) -> Array:
        array: Array = self.file[key]
        return array

    def fill(self, keys: Sequence[str], starts: Sequence[int], out: Array) -> None:
        fill_with(self.find, keys, starts, out)


class SPDL(Ours):
    """Reads what others wrote."""

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
    """A `RaggedMmap`: arrays in one file, their places and shapes in others. It knows no names."""

    BATCH = 1 << 26
    """Bytes that are written at once."""

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
    """Each array is mapped when it is first needed, and stays so."""

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
    """A folder with an `.npy` file for each array. Linux lets a process have 65530 maps."""

    def write(self, path: Path, arrays: Arrays) -> None:
        path.mkdir()
        for name, array in arrays:
            self.append(path, name, array)

    def append(self, path: Path, name: str, array: Array) -> None:
        np.save(f"{path}/{name}.npy", array)

    def open(self, path: str, row: tuple[int, ...] = ()) -> Store:
        return FilesStore(path, row)


def number_of(name: str) -> int:
    """What number a member has, for those that know no names."""
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
