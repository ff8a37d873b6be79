"""Build and parse zip archives byte by byte, without the package under test."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
ZIP64_END = struct.Struct("<4sQ2H2L4Q")
ZIP64_LOCATOR = struct.Struct("<4sLQL")
SATURATED = 0xFFFFFFFF


class Unseekable(io.RawIOBase):
    """A file without `seek`, like a pipe, for which zipfile writes data descriptors."""

    def __init__(self) -> None:
        self.bytes = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.bytes += bytes(data)
        return len(data)


def streamed(names: Iterable[str], array: Any) -> bytes:
    """Return what zipfile writes to a pipe: a zip archive with an array under each of these names."""
    out = Unseekable()
    with zipfile.ZipFile(out, "w") as file:
        for name in names:
            with file.open(f"{name}.npy", "w") as member:
                member.write(npy(array))
    return out.bytes


def npy(array: Any) -> bytes:
    """Return the bytes that numpy.save writes for an array."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def npy_with_header(text: str | bytes, data: bytes = b"", version: int = 1) -> bytes:
    """Return a .npy file whose header holds any text."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8" if version == 3 else "latin-1")
    length = struct.pack("<H" if version == 1 else "<L", len(raw))
    return b"\x93NUMPY" + bytes([version, 0]) + length + raw + data


@dataclass
class Entry:
    """A member for `build_zip`. A field that is None gets its correct value."""

    name: str | bytes
    data: bytes
    method: int = 0
    flags: int | None = None
    crc: int | None = None
    compressed_size: int | None = None
    file_size: int | None = None
    local_name: bytes | None = None
    local_extra: bytes = b""
    central_extra: bytes = b""
    comment: bytes = b""
    offset: int | None = None
    descriptor: bool = False
    zip64: bool = False
    stored: bytes | None = None


def _zip64_field(*numbers: int) -> bytes:
    return struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers)


def build_zip(
    *entries: Entry, comment: bytes = b"", junk: bytes = b"", gap: bytes = b"", zip64_end: bool = False
) -> bytes:
    """Return an archive of these members, with `junk` in front of it and `gap` in front of its directory.

    The offsets in the archive count from the end of `junk`.
    """
    out = bytearray()
    central = bytearray()
    for entry in entries:
        name = entry.name.encode() if isinstance(entry.name, str) else entry.name
        flags = entry.flags
        if flags is None:
            flags = 0x800 if isinstance(entry.name, str) and not name.isascii() else 0
        if entry.descriptor:
            flags |= 8
        stored = entry.data if entry.stored is None else entry.stored
        if entry.method == 8 and entry.stored is None:
            deflate = zlib.compressobj(wbits=-15)
            stored = deflate.compress(entry.data) + deflate.flush()
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        compressed = len(stored) if entry.compressed_size is None else entry.compressed_size
        size = len(entry.data) if entry.file_size is None else entry.file_size
        offset = len(out) if entry.offset is None else entry.offset
        local_name = name if entry.local_name is None else entry.local_name
        local_extra, central_extra = entry.local_extra, entry.central_extra
        sizes, local_offset = (compressed, size), offset
        if entry.zip64:
            local_extra = _zip64_field(size, compressed) + local_extra
            central_extra = _zip64_field(size, compressed, offset) + central_extra
            sizes, local_offset = (SATURATED, SATURATED), SATURATED
        local_sizes = (0, 0, 0) if entry.descriptor else (crc, *sizes)
        version = 45 if entry.zip64 else 20
        out += LOCAL.pack(
            b"PK\3\4", version, flags, entry.method, 0, 33, *local_sizes, len(local_name), len(local_extra)
        )
        out += local_name + local_extra + stored
        if entry.descriptor:
            out += struct.pack("<4s3L", b"PK\7\x08", crc, compressed, size)
        central += CENTRAL.pack(
            b"PK\1\2", 0x300 | version, version, flags, entry.method, 0, 33, crc, *sizes,
            len(name), len(central_extra), len(entry.comment), 0, 0, 0o644 << 16, local_offset,
        )  # fmt: skip
        central += name + central_extra + entry.comment
    out += gap
    start = len(out)
    out += central
    count = len(entries)
    if zip64_end:
        out += ZIP64_END.pack(b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(central), start)
        out += ZIP64_LOCATOR.pack(b"PK\6\7", 0, start + len(central), 1)
        out += END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, SATURATED, SATURATED, len(comment))
    else:
        out += END.pack(b"PK\5\6", 0, 0, count, count, len(central), start, len(comment))
    return junk + bytes(out) + comment


@dataclass
class Parsed:
    """A member, as its entry and its local header describe it."""

    name: bytes
    flags: int
    method: int
    crc: int
    size: int
    version_needed: int
    extra: bytes
    header: int
    local_version: int
    local_sizes: tuple[int, int]
    local_extra: bytes
    start: int

    @property
    def end(self) -> int:
        return self.start + self.size

    def data_offset(self, raw: bytes) -> int:
        """Return the offset of the first item of the array, which follows the .npy header."""
        npy_start = raw[self.start : self.start + 12]
        if npy_start[6] == 1:
            return self.start + 10 + int(struct.unpack("<H", npy_start[8:10])[0])
        return self.start + 12 + int(struct.unpack("<L", npy_start[8:12])[0])


def extra_fields(extra: bytes) -> dict[int, bytes]:
    """Return extra fields by their number. Every byte must belong to a field."""
    fields = {}
    while extra:
        number, length = struct.unpack("<2H", extra[:4])
        assert len(extra) >= 4 + length
        fields[number] = extra[4 : 4 + length]
        extra = extra[4 + length :]
    return fields


def parse_zip(raw: bytes) -> list[Parsed]:
    """Return the members of an archive that has no comment, and no bytes in front of it."""
    end = END.unpack(raw[-END.size :])
    assert end[0] == b"PK\5\6"
    assert end[-1] == 0
    count, size, start = end[4], end[5], end[6]
    directory_end = len(raw) - END.size
    if raw[directory_end - 20 : directory_end - 16] == b"PK\6\7":
        place = ZIP64_LOCATOR.unpack(raw[directory_end - 20 : directory_end])[2]
        zip64 = ZIP64_END.unpack(raw[place : place + ZIP64_END.size])
        assert zip64[0] == b"PK\6\6"
        count, size, start = zip64[7], zip64[8], zip64[9]
        directory_end = place
    assert start + size == directory_end
    members = []
    at = start
    for _ in range(count):
        record = CENTRAL.unpack(raw[at : at + CENTRAL.size])
        assert record[0] == b"PK\1\2"
        name_at = at + CENTRAL.size
        extra_at = name_at + record[10]
        at = extra_at + record[11] + record[12]
        extra = raw[extra_at : extra_at + record[11]]
        stored, offset = record[8], record[16]
        if 1 in extra_fields(extra):
            numbers = list(struct.unpack(f"<{len(extra_fields(extra)[1]) // 8}Q", extra_fields(extra)[1]))
            size = numbers.pop(0) if record[9] == SATURATED else record[9]
            stored = numbers.pop(0) if stored == SATURATED else stored
            offset = numbers.pop(0) if offset == SATURATED else offset
            assert not numbers
        local = LOCAL.unpack(raw[offset : offset + LOCAL.size])
        assert local[0] == b"PK\3\4"
        local_extra_at = offset + LOCAL.size + local[9]
        data_at = local_extra_at + local[10]
        members.append(
            Parsed(
                name=raw[name_at:extra_at],
                flags=record[3],
                method=record[4],
                crc=record[7],
                size=stored,
                version_needed=record[2],
                extra=extra,
                header=offset,
                local_version=local[1],
                local_sizes=(local[7], local[8]),
                local_extra=raw[local_extra_at:data_at],
                start=data_at,
            )
        )
    assert at == directory_end
    return members


class Parts(NamedTuple):
    """The parts of an mmnpz file, in their order; `room` is a size, and `table` the index of names."""

    members: bytes
    room: int
    table: bytes
    seal: bytes
    directory: bytes
    end: bytes


def parts(path: Path) -> Parts:
    """Split an mmnpz file that has no zip64 end record."""
    raw = path.read_bytes()
    size, start = struct.unpack("<2I", raw[-10:-2])
    seal = start - 96
    assert raw[seal : seal + 8] == b"PKmmseal"
    behind = struct.unpack("<Q", raw[seal + 24 : seal + 32])[0]
    index = seal - struct.unpack("<Q", raw[seal + 64 : seal + 72])[0]
    return Parts(
        raw[:behind], index - behind, raw[index:seal], raw[seal:start], raw[start : start + size], raw[-22:]
    )


def same_items(ours: Any, theirs: Any) -> bool:
    """Return whether two arrays of one dtype and shape hold the same bytes, NaN included, padding excluded.

    NumPy leaves the padding uninitialized when it writes strided arrays or reads from a zip.
    """
    if ours.dtype.names is not None:
        # With one axis, the axes of sub-arrays do not exceed the number of axes that NumPy allows.
        ours, theirs = ours.reshape(-1), theirs.reshape(-1)
        return all(same_items(ours[name], theirs[name]) for name in ours.dtype.names)
    return bool(ours.tobytes() == theirs.tobytes())


def same(ours: Any, theirs: Any) -> bool:
    """Return whether two arrays agree in what a .npy file stores: dtype, shape, memory order and items."""

    def order(array: Any) -> tuple[bool, bool]:
        return array.flags.c_contiguous, array.flags.f_contiguous

    return bool(
        ours.dtype == theirs.dtype
        and ours.dtype.byteorder == theirs.dtype.byteorder
        and ours.shape == theirs.shape
        # NumPy does not define the order of items that have no bytes.
        and (ours.dtype.itemsize == 0 or order(ours) == order(theirs))
        and same_items(ours, theirs)
    )


def put(path: Path, raw: bytes) -> Path:
    """Write a file and return its path, for use inside an expression."""
    path.write_bytes(raw)
    return path


def own_copy(path: Path, folder: Path) -> Path:
    """Copy an archive that a fixture made into `folder`, so that the test may change the copy.

    pytest-run-parallel runs a test in several threads. These share the fixtures, and have a folder each.
    """
    copy = folder / f"own-{path.name}"
    copy.write_bytes(path.read_bytes())
    return copy


def give_names(path: Path, names: dict[str, str]) -> None:
    """Rename members in place, to names of the same length, as `zipnote -w` does."""
    raw = path.read_bytes()
    for number, old in enumerate(names):
        raw = raw.replace(f"{old}.npy".encode(), b"\0%*d\0" % (len(old) + 2, number))
    for number, (old, new) in enumerate(names.items()):
        raw = raw.replace(b"\0%*d\0" % (len(old) + 2, number), f"{new}.npy".encode())
    with path.open("r+b") as file:
        file.write(raw)
