"""An archive that claims more members than fit into memory does not end the process."""

import mmap
import struct
import sys
import textwrap
import zlib
from pathlib import Path

import numpy as np
import pytest

import mmnpz
from tests.archives import npy
from tests.processes import run_python

pytestmark = [
    pytest.mark.thread_unsafe(reason="works in other processes"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs sparse files and limits"),
]
LIMITED = """
import resource, sys, zipfile
import numpy as np
import mmnpz, mmnpz._memmap
path, room = sys.argv[1], int(sys.argv[2]) << 20
with open(path, "rb") as file:
    size = file.seek(0, 2)
with open("/proc/self/statm") as file:
    taken = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + size + room,) * 2)
"""
"""Limits the address space, so that the process can map the file once, and allocate `room` megabytes."""


def run_limited(path: Path, megabytes: int, code: str) -> None:
    """Run code on a file, in a process that can map the file and allocate this many megabytes."""
    run_python(LIMITED + textwrap.dedent(code), path, megabytes)


def state(words: list[int]) -> int:
    value = 0
    for word in words:
        value = (value ^ word) * 0x9E3779B97F4A7C15 % 2**64
        value ^= value >> 32
    return value


def crc_of_zeros(crc: int, count: int) -> int:
    zeros = bytes(1 << 20)
    while count > 0:
        crc = zlib.crc32(zeros[:count], crc)
        count -= len(zeros)
    return crc


def claim(path: Path, members: int, room: int = 0, checksums: bool = False) -> None:
    """Write a sparse mmnpz file whose index, seal and end records claim this many members; only "a" exists.

    `room` bytes are in front of the index. The checksums of index and directory are right if `checksums`.
    """
    data, name = npy(np.arange(8)), b"a.npy"
    common = struct.pack("<5H3I2H", 20, 0, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(name), 0)
    local = b"PK\3\4" + common + name + data
    record = b"PK\1\2\x14\3" + common + bytes(14) + name
    slots = 8
    while 20 * members > 17 * slots:
        slots += slots // 8
    h = state([1, ord("a")])
    x = h * 0x9E3779B97F4A7C15 % 2**64
    check = (x ^ x >> 32) * 0x9E3779B97F4A7C15 % 2**64 >> 40
    slot, place = struct.pack("<IQ", 1, check), 12 * (h * slots >> 64)
    index, records = slots * 12 + -(-slots // 16) * 8, members * 46
    at = len(local) + room + index
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, members, members, records, at + 96)
    end += struct.pack("<4sLQL", b"PK\6\7", 0, at + 96 + records, 1)
    end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    crcs = [0, 0, zlib.crc32(end)]
    if checksums:
        crcs[0] = crc_of_zeros(zlib.crc32(record), records - len(record))
        crcs[1] = crc_of_zeros(zlib.crc32(slot, crc_of_zeros(0, place)), index - place - len(slot))
    sizes = [at, len(local), len(local), records, at + 96 + records + len(end), members, records, index]
    # Take the last bytes of the seal from a real file: they say that there is an index, and the version.
    with mmnpz.NpzWriter(path) as writer:
        writer.write("a", np.arange(8))
    raw = path.read_bytes()
    real = raw.rindex(b"PKmmseal")
    seal = bytearray(struct.pack("<8s8Q5I", b"PKmmseal", *sizes, *crcs, 1, 0) + raw[real + 92 : real + 96])
    seal[88:92] = struct.pack("<I", zlib.crc32(seal))
    with path.open("wb") as file:
        places = [0, at - index + place, at, at + 96, at + 96 + records]
        for start, content in zip(places, [local, slot, bytes(seal), record, end], strict=True):
            file.seek(start)
            file.write(content)


@pytest.mark.parametrize("members", [100_000_000, 2**31 - 2])
@pytest.mark.parametrize("options", ["", "preload=False, subok=False"])
def test_a_lookup_does_not_allocate_memory_for_claimed_members(
    tmp_path: Path, members: int, options: str
) -> None:
    path = tmp_path / "a.npz"
    claim(path, members)
    run_limited(
        path,
        200,
        f"""
        data = mmnpz.load(path, {options})
        assert len(data) == {members}
        assert data["a"][1] == 1
        assert data["a"] is data["a"]
        assert list(data.arrays) == ["a"]
        """,
    )


def test_a_claim_without_a_seal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    claim(path, 4_000_000)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        at = content.find(b"PKmmseal")
        content[at : at + 8] = bytes(8)
    run_limited(
        path,
        60,
        """
        try:
            mmnpz.load(path)
        except zipfile.BadZipFile as error:
            assert "directory" in str(error), error
        else:
            raise AssertionError("opened")
        """,
    )


@pytest.mark.parametrize("room", [0, 4096])
def test_a_directory_that_cannot_be_copied_is_not_appended_to(tmp_path: Path, room: int) -> None:
    path = tmp_path / "a.npz"
    claim(path, 4_000_000, room, checksums=True)
    run_limited(
        path,
        100,
        f"""
        with open(path, "rb") as file:
            before = file.read(1000)
        try:
            with mmnpz.NpzWriter(path, "a") as writer:
                writer.write("b", np.arange(3))
        except MemoryError as error:
            assert path in str(error), error
            assert {room} == 0
            with open(path, "rb") as file:
                assert file.read(1000) == before
        else:
            assert {room} > 0
            assert mmnpz.load(path)["b"][2] == 2
        assert mmnpz.load(path)["a"][1] == 1
        """,
    )
