"""The archives that are read, and the sizes of a run."""

import os
import shutil
import struct
import zlib
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from harness import ITEMS, member_name, small_array

import mmnpz

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
    Writes small arrays as `numpy.savez` does, byte for byte, in a tenth of the time.

    `numpy.savez` and `zipfile` take 20 s for a million members. Nothing of mmnpz is used: whatever its writer
    will one day add to its files is not in this one.
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


def write_with_ours(path: Path, members: int) -> None:
    array = small_array(0)
    with mmnpz.NpzWriter(path) as writer:
        for number in range(members):
            array[0] = number
            writer.write(member_name(number), array)


def directory_start(path: Path) -> int:
    """Where the directory of an archive without a comment starts."""
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
    What a run measures on.

    Attributes
    ----------
    folder : Path
        Where the files are.
    quick : bool
        Whether all sizes are tiny.
    """

    folder: Path
    quick: bool
    built: dict[tuple[str, int], Path] = field(default_factory=dict)

    def scaled(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    @property
    def member_counts(self) -> tuple[int, ...]:
        return (10**3, 10**4) if self.quick else (10**4, 10**5, 10**6)

    @property
    def most_members(self) -> int:
        return self.member_counts[-1]

    def savez_archive(self, members: int) -> Path:
        """An archive as anyone writes it."""
        return self._archive("savez", members)

    def our_archive(self, members: int) -> Path:
        return self._archive("ours", members)

    def _archive(self, writer: str, members: int) -> Path:
        path = self.built.get((writer, members))
        if path is None:
            path = self.folder / f"{writer}-{members}.npz"
            (write_like_savez if writer == "savez" else write_with_ours)(path, members)
            self.built[writer, members] = path
        return path


def copy_of(archive: str) -> Path:
    """A copy to be changed, beside the archive."""
    path = Path(archive)
    copy = path.with_name(f"copy-{os.getpid()}-{path.name}")
    shutil.copyfile(path, copy)
    return copy
