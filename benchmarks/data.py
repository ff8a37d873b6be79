"""The archives that the scenarios read, and the sizes of a run."""

import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from harness import ITEMS, member_name, small_array
from numpy.typing import NDArray
from peers import PEERS, NumPy, Ours

Excerpt = Callable[[str, int, int], NDArray[Any]]
"""A function of a name, a first row and a stop: it returns these rows of the array."""

COLUMNS = 80

BLOCK_ITEMS = 500

LOCAL = struct.Struct("<4s5H3L2H")
ZIP64_EXTRA = struct.Struct("<2H2Q")
CENTRAL = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR64 = struct.Struct("<4sLQL")

VERSION, UNIX, FIRST_DAY = 45, 3, 1 << 5 | 1
MAX16, MAX32 = 0xFFFF, 0xFFFFFFFF


def write_like_savez(path: Path, members: int) -> None:
    """
    Write small arrays as `numpy.savez` does, byte for byte, in a tenth of the time.

    `numpy.savez` and `zipfile` take 20 s for a million members. This function does not use mmnpz, so that the
    file never has anything that mmnpz adds to its files.
    """
    empty = BytesIO()
    np.save(empty, small_array(0))
    header = empty.getvalue()[: -4 * ITEMS]
    size = len(empty.getvalue())
    extra = ZIP64_EXTRA.pack(1, 16, size, size)
    array = small_array(0)
    directory = bytearray()
    offset = 0
    with path.open("xb") as file:
        for number in range(members):
            array[0] = number
            content = header + array.tobytes()
            crc = zlib.crc32(content)
            name = f"{member_name(number)}.npy".encode()
            local = LOCAL.pack(
                b"PK\3\4", VERSION, 0, 0, 0, FIRST_DAY, crc, MAX32, MAX32, len(name), len(extra)
            )
            file.write(local + name + extra + content)
            directory += CENTRAL.pack(
                *(b"PK\1\2", UNIX << 8 | VERSION, VERSION, 0, 0, 0, FIRST_DAY, crc, size, size),
                *(len(name), 0, 0, 0, 0, 0o600 << 16, offset),
            )
            directory += name
            offset += len(local) + len(name) + len(extra) + size
        file.write(directory)
        if members >= MAX16:
            behind = offset + len(directory)
            counts = (0, 0, members, members, len(directory), offset)
            file.write(END64.pack(b"PK\6\6", END64.size - 12, VERSION, VERSION, *counts))
            file.write(LOCATOR64.pack(b"PK\6\7", 0, behind, 1))
        count = min(members, MAX16)
        file.write(END.pack(b"PK\5\6", 0, 0, count, count, len(directory), offset, 0))


OWN, SAVEZ = "ours", "numpy.savez"
"""The writers of archives that mmnpz and other contenders read: mmnpz itself, and `write_like_savez`."""

DEFLATED, ZSTANDARD = "deflated", "zstandard"
"""The writers of compressed archives: `numpy.savez_compressed`, and the same with Zstandard."""


def write_compressed(method: str, path: Path, arrays: Iterable[tuple[str, NDArray[Any]]]) -> None:
    from backports.zstd.zipfile import ZIP_DEFLATED, ZIP_ZSTANDARD, ZipFile

    with ZipFile(path, "x", {DEFLATED: ZIP_DEFLATED, ZSTANDARD: ZIP_ZSTANDARD}[method]) as file:
        for name, array in arrays:
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array)


# The contents of the members.


def write_shards(path: Path, members: int) -> None:
    """Write the recordings as shards of webdataset: tar files, with an `.npy` file for each."""
    import webdataset

    module: Any = webdataset
    path.mkdir()
    with module.ShardWriter(f"{path}/%06d.tar", maxcount=max(members // 20, 1), verbose=0) as shards:
        for number in range(members):
            content = BytesIO()
            np.save(content, recording(number))
            shards.write({"__key__": member_name(number), "npy": content.getvalue()})


def rows_of(number: int) -> int:
    return 200 + number * 7919 % 801


def recording(number: int) -> NDArray[np.float32]:
    """Return 200 to 1000 rows. No other member has the same value at the same place."""
    return rows_of_recording(number, 0, rows_of(number))


def rows_of_recording(number: int, start: int, stop: int) -> NDArray[np.float32]:
    return (np.arange(start * COLUMNS, stop * COLUMNS, dtype=np.float32) + number).reshape(-1, COLUMNS)


def signal(number: int) -> NDArray[np.int16]:
    """Return a random walk in 80 columns of 16 bits, as a recorder gives them."""
    steps = np.random.default_rng(number).integers(-8, 9, (4 * rows_of(number), COLUMNS))
    return steps.cumsum(0).astype(np.int16)


CONTENTS: dict[str, Callable[[int], NDArray[Any]]] = {
    "small": small_array,
    "block": partial(small_array, items=BLOCK_ITEMS),
    "recording": recording,
    "signal": signal,
}


# Functions that take excerpts.


def excerpts_of(data: Any) -> Excerpt:
    """Take excerpts from a mapping of names to arrays."""
    return lambda name, start, stop: data[name][start:stop]


def safetensors_excerpts(path: str, *, keep: bool) -> Excerpt:
    """Take excerpts with safetensors. With `keep`, make the slice object of an array only once."""
    from safetensors import safe_open

    return _excerpts(safe_open(path, "numpy").get_slice, keep=keep)


def h5py_excerpts(path: str, *, keep: bool) -> Excerpt:
    import h5py

    return _excerpts(h5py.File(path, "r").__getitem__, keep=keep)


def _excerpts(look_up: Callable[[str], Any], *, keep: bool) -> Excerpt:
    found = cache(look_up) if keep else look_up
    return lambda name, start, stop: found(name)[start:stop]


def lmdb_store(path: str) -> Any:
    """Open a store. A process must not open a store twice."""
    import lmdb

    return lmdb.open(path, subdir=False, readonly=True, lock=False)


def lmdb_excerpts(store: Any, row: tuple[int, ...] = ()) -> Excerpt:
    """Take excerpts from float32 arrays with rows of this shape, in the thread that calls this function."""
    get = store.begin(buffers=True).get
    array, dtype, shape = np.frombuffer, np.float32, (-1, *row)
    return lambda name, start, stop: array(get(name.encode()), dtype).reshape(shape)[start:stop]


def directory_start(path: Path) -> int:
    """Return the offset of the central directory of an archive without a comment."""
    with path.open("rb") as file:
        file.seek(-END.size, os.SEEK_END)
        fields = END.unpack(file.read())
        if fields[4] == MAX16 or fields[6] == MAX32:
            file.seek(-(END.size + LOCATOR64.size + END64.size), os.SEEK_END)
            fields = END64.unpack(file.read(END64.size))
            return int(fields[9])
        return int(fields[6])


@dataclass
class Plan:
    """
    The folders and sizes of a run.

    Attributes
    ----------
    folder : Path
        The folder of the files.
    quick : bool
        Whether all sizes are tiny.
    free_threaded : bool
        Whether the run also measures with a free-threaded interpreter.
    disk : Path, optional
        A folder on a disk, for files that are read cold.
    """

    folder: Path
    quick: bool
    free_threaded: bool = False
    disk: Path | None = None
    built: dict[tuple[str, str, int, bool], Path] = field(default_factory=dict)

    def scaled(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    @property
    def member_counts(self) -> tuple[int, ...]:
        return (10**3, 10**4) if self.quick else (10**4, 10**5, 10**6)

    @property
    def most_members(self) -> int:
        return self.member_counts[-1]

    def savez_archive(self, members: int) -> Path:
        """Return the path of an archive as `numpy.savez` writes it."""
        return self._archive("savez", "small", members, write_like_savez)

    def our_archive(self, members: int) -> Path:
        return self.archive("ours", "small", members)

    def shards(self, members: int) -> Path:
        return self._archive("webdataset", "recording", members, write_shards)

    def archive(self, writer: str, content: str, members: int, *, on_disk: bool = False) -> Path:
        """Return the path of a data set in the format of mmnpz, `numpy.savez` or a peer."""

        def write(path: Path, members: int) -> None:
            make = CONTENTS[content]
            arrays = ((member_name(number), make(number)) for number in range(members))
            if writer in (DEFLATED, ZSTANDARD):
                write_compressed(writer, path, arrays)
                return
            writers = {OWN: Ours(), SAVEZ: NumPy(), **PEERS}
            writers[writer].write(path, arrays)

        return self._archive(writer, content, members, write, on_disk=on_disk)

    def _archive(
        self,
        writer: str,
        content: str,
        members: int,
        write: Callable[[Path, int], None],
        *,
        on_disk: bool = False,
    ) -> Path:
        key = (writer, content, members, on_disk)
        if key not in self.built:
            folder = self.disk if on_disk and self.disk else self.folder
            path = folder / f"{writer}-{content}-{members}"
            write(path, members)
            if on_disk:
                for file in files_of(path):
                    with file.open("rb+") as opened:
                        os.fsync(opened.fileno())
            self.built[key] = path
        return self.built[key]

    def forget(self) -> None:
        """Remove the archives that are too large to keep for other scenarios."""
        for key in [key for key in self.built if key[1] in ("recording", "signal")]:
            remove(self.built.pop(key))


def copy_of(archive: str) -> Path:
    """Copy an archive, beside it, so that a contender may change the copy."""
    path = Path(archive)
    copy = path.with_name(f"copy-{os.getpid()}-{path.name}")
    if path.is_dir():
        shutil.copytree(path, copy)
    else:
        shutil.copyfile(path, copy)
    return copy


def remove(path: Path) -> None:
    """Remove a file, or the folder of a peer that writes folders."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def files_of(path: Path) -> list[Path]:
    """Return the files of an archive, which some peers write as a folder."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
