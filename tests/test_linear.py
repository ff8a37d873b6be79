"""Forged archives: sixteen times the bytes take some sixteen times the work, and memory in proportion.

What is compared is the processor's time of the same calls on a small and on a large file of one kind. A
search that goes through the rest of the file for each thing that it finds takes 256 times as long for the
large one.
"""

import json
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import run_python
from tests.test_claims import state

pytestmark = [
    pytest.mark.thread_unsafe(reason="works in other processes"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc for what memory was taken"),
]

SMALL = 1 << 17
TIMES = 16

MEASURE = """
import contextlib, json, shutil, sys, time, warnings, zipfile
import numpy as np
import mmnpz
warnings.simplefilter("ignore")

def expected():
    return contextlib.suppress(zipfile.BadZipFile, KeyError, ValueError, IndexError)

def read(path):
    with expected(), mmnpz.load(path) as data:
        for look in (
            lambda: data.files,
            lambda: "missing" in data,
            lambda: [data.get(name) is None for name in names],
            lambda: sum(1 for _ in data.items()),
            lambda: data.gather([0, len(data) - 1], 0, 1, pad=0),
        ):
            with expected():
                look()

def repair(path):
    with expected():
        mmnpz.repair(path)
    read(path)

def append(path):
    with expected(), mmnpz.NpzWriter(path, "a") as writer:
        writer.write("appended", np.arange(3, dtype="<i4"))
    read(path)

def memory(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(key))

path, names = sys.argv[1], [f"name{number}" for number in range(int(sys.argv[2]))]
found = {}
for work in (read, repair, append):
    took = []
    for _ in range(3):
        shutil.copyfile(path, path + ".copy")
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before, start = memory("VmRSS"), time.process_time()
        work(path + ".copy")
        took.append(time.process_time() - start)
        found[work.__name__ + " memory"] = memory("VmHWM") - before
    found[work.__name__] = min(took)
print(json.dumps(found))
"""


def checksum(kind: int, places: tuple[int, int, int], crc: int, name: bytes) -> int:
    padded = name.ljust(len(name) // 8 * 8 + 8, b"\0")
    return state([kind, *places, crc, len(name), *struct.unpack(f"<{len(padded) // 8}Q", padded)]) >> 32


def local(
    at: int, size: int, name: bytes = b"a.npy", *, kind: int = 2, crc: int = 0, water: int = 0
) -> bytes:
    """The local header of a member of ours."""
    file = at + 30 + len(name) + 9
    mark = checksum(water << 8 | kind, (at, file, file + size), crc if kind == 2 else 0, name)
    fields = (20, 0, 0, 0, 33, crc if kind == 2 else 0, size, size, len(name), 9)
    return b"PK\3\4" + struct.pack("<5H3I2H", *fields) + name + struct.pack("<2HIB", 0x6D6D, 5, mark, water)


def seal(at: int, sizes: list[int], crcs: list[int], kind: int = 1, indexed: int = 0) -> bytes:
    """A sound seal at this byte."""
    raw = bytearray(struct.pack("<8s8Q5I2H", b"PKmmseal", at, *sizes, *crcs, kind, 0, indexed, 0))
    raw[88:92] = struct.pack("<I", zlib.crc32(raw))
    return bytes(raw)


def end_record(count: int, size: int, at: int) -> bytes:
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, size, at, 0)


def seals(size: int, *, kind: int = 1, index: bool = False, with_end: bool = True) -> bytes:
    """Seals, each of which claims that all behind it is its directory, or all in front of it its index."""
    out = bytearray(local(0, 8) + bytes(8))
    each = 96 + 22 * with_end
    count = size // each
    total = len(out) + count * each
    for _ in range(count):
        at = len(out)
        directory = 0 if index else total - at - 96
        sizes = [0, len(out), directory, total, 1, 0, at if index else 0]
        out += seal(at, sizes, [0, 0, 12345], kind, indexed=int(index))
        out += end_record(1, directory, at + 96) if with_end else b""
    return bytes(out)


def left_over(size: int, *, lists_all: bool) -> bytes:
    """Small arrays, and seals of empty directories behind them. Some say that these list all arrays."""
    out, body = bytearray(), bytes(8)
    while len(out) < size // 2:
        out += local(len(out), 8, crc=zlib.crc32(body)) + body
    below = len(out) if lists_all else 0
    while len(out) < size:
        at = len(out)
        end = end_record(0, 0, at + 96)
        out += seal(at, [below, at, 0, at + 96 + len(end), 0, 0, 0], [0, 0, zlib.crc32(end)], kind=0) + end
    return bytes(out)


def behind_junk(raw: bytes) -> bytes:
    """What is out of reach of the search for an end record."""
    return raw + b"\1" * 70_000


def headers(size: int, *, claim: int | None = None, kind: int = 2, water: int = 0, body: int = 0) -> bytes:
    """Local headers, each of which claims that all behind it is its array, or so many bytes."""
    out = bytearray()
    while len(out) < size:
        rest = size - len(out) - 60
        out += local(
            len(out), max(0, min(rest, claim) if claim is not None else rest), kind=kind, water=water
        )
        out += bytes(body)
    return bytes(out)


def turns(size: int, *, crc_is_right: bool) -> bytes:
    """Small arrays, of which every other one is begun."""
    out, body = bytearray(), bytes(8)
    while len(out) < size:
        out += local(len(out), 8, crc=zlib.crc32(body) if crc_is_right else 1, water=63) + body
        out += local(len(out), 8, kind=1, water=63) + body
    return bytes(out)


def bases(size: int) -> bytes:
    """Bases, each of which vouches for an end record in front of it."""
    out = bytearray(local(0, 8) + bytes(8))
    while len(out) < size:
        out += end_record(0, 0, len(out))
        raw = bytearray(struct.pack("<8s2Q2I", b"PKmmbase", len(out), len(out) - 22, 0, len(out) % 2))
        raw[24:28] = struct.pack("<I", zlib.crc32(raw))
        out += raw
    return bytes(out)


def gaps(size: int) -> bytes:
    """Fillers in one another."""
    out = bytearray()
    name = b"mmnpz.gap"
    while len(out) < size:
        rest = max(0, size - len(out) - 39)
        out += b"PK\3\4" + struct.pack("<5H3I2H", 20, 0, 0, 0, 33, 0, rest, rest, len(name), 0) + name
    return bytes(out)


def end_records(size: int) -> bytes:
    """End records, each of which claims that all in front of it is its directory."""
    out = bytearray(b"PK\1\2" * 12)
    while len(out) < size:
        out += end_record(min(0xFFFF, len(out) // 46), len(out), 0)
    return bytes(out)


def entries(size: int, *, extra: bytes = b"", shared: bool = True) -> bytes:
    """A directory in which all entries lead to one member, or have one name."""
    data = (
        b"\x93NUMPY\1\0\x76\0" + b"{'descr': '<i4', 'fortran_order': False, 'shape': (0,)}".ljust(117) + b"\n"
    )
    out = bytearray(local(0, len(data), b"name0.npy", crc=zlib.crc32(data)) + data)
    start, count = len(out), 0
    while len(out) < size:
        name = f"name{0 if shared else count}.npy".encode()
        fields = (20, 0, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(name), len(extra))
        out += b"PK\1\2\x14\3" + struct.pack("<5H3I2H", *fields) + bytes(14) + name + extra
        count += 1
    at = len(out)
    out += struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, at - start, start)
    out += struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    return bytes(out + end_record(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)[:-2] + b"\0\0")


def sealed(size: int, *, slots: str, cut: bool) -> bytes:
    """A sound seal over an index whose slots are all taken."""
    raw = entries(size * 3 // 4, shared=False)
    start = raw.index(b"PK\1\2")
    ends = raw.rindex(b"PK\6\6")
    directory = raw[start:ends]
    count = int.from_bytes(raw[ends + 24 : ends + 32], "little")
    number = 8
    while 20 * count > 17 * number:
        number += number // 8
    slot = {
        "wrong": struct.pack("<IQ", 1, 12345),
        "one": struct.pack("<IQ", count, len(directory) - 56 << 24),
    }[slots]
    index = slot * number + bytes(-(-number // 16) * 8)
    at = start + len(index)
    end = bytearray(raw[ends:])
    end[48:56] = struct.pack("<Q", at + 96)
    end[64:72] = struct.pack("<Q", at + 96 + len(directory))
    total = at + 96 + len(directory) + len(end)
    sizes = [start, start, len(directory), total, count, 0, len(index)]
    crcs = [zlib.crc32(directory), zlib.crc32(index), zlib.crc32(end)]
    return raw[:start] + index + seal(at, sizes, crcs, indexed=2 if cut else 1) + directory + bytes(end)


def repeated(size: int) -> bytes:
    """Archives of ours behind one another."""
    out = bytearray()
    while len(out) < size:
        at = len(out)
        out += local(at, 8) + struct.pack("<Q", 1)
        out += seal(len(out), [at, len(out), 0, len(out) + 96, 0, 0, 0], [0, 0, 0], kind=0)
    return bytes(out)


FORGED: dict[str, Callable[[int], bytes]] = {
    "seals": seals,
    "seals out of reach": lambda size: behind_junk(seals(size)),
    "seals without end records": lambda size: behind_junk(seals(size, with_end=False)),
    "open seals": lambda size: behind_junk(seals(size, kind=0)),
    "growing seals": lambda size: behind_junk(seals(size, kind=2)),
    "seals with indexes": lambda size: behind_junk(seals(size, index=True)),
    "seals of no members": lambda size: behind_junk(left_over(size, lists_all=False)),
    "seals older than members": lambda size: behind_junk(left_over(size, lists_all=True)),
    "headers": headers,
    "headers of small arrays": lambda size: headers(size, claim=60_000),
    "headers of empty arrays": lambda size: headers(size, claim=0),
    "headers begun": lambda size: headers(size, kind=1),
    "headers begun, small": lambda size: headers(size, kind=1, claim=5000),
    "headers that vouch for nothing": lambda size: headers(size, water=63),
    "headers that vouch for nothing, small": lambda size: headers(size, claim=60_000, water=63),
    "headers with signatures": lambda size: headers(size, claim=60_000, water=20, body=8).replace(
        bytes(8), b"PK\3\4PK\3\4"
    ),
    "headers begun in turn": lambda size: turns(size, crc_is_right=True),
    "headers begun and torn in turn": lambda size: turns(size, crc_is_right=False),
    "bases": bases,
    "bases out of reach": lambda size: behind_junk(bases(size)),
    "fillers": gaps,
    "end records": end_records,
    "entries of one name": entries,
    "entries of one member": lambda size: entries(size, shared=False),
    "entries with long extra fields": lambda size: entries(
        size, extra=struct.pack("<2H", 0x6D6D, 996) + bytes(996)
    ),
    "an index of wrong slots": lambda size: sealed(size, slots="wrong", cut=False),
    "an index that leads to one entry": lambda size: sealed(size, slots="one", cut=False),
    "an index in blocks": lambda size: sealed(size, slots="wrong", cut=True),
    "archives": repeated,
    "signatures": lambda size: b"PK\3\4" * (size // 4),
    "signatures of entries": lambda size: b"PK\1\2" * (size // 4),
    "signatures of ends": lambda size: b"PK\5\6" * (size // 4),
    "signatures of ends of more": lambda size: b"PK\6\6PK\6\7" * (size // 8),
    "names of seals": lambda size: local(0, 8) + bytes(8) + b"PKmmseal" * (size // 8),
    "names of bases": lambda size: local(0, 8) + bytes(8) + b"PKmmbase" * (size // 8),
}


@pytest.mark.parametrize("kind", FORGED)
def test_work_grows_as_a_forged_archive_does(tmp_path: Path, kind: str) -> None:
    found = []
    for number, size in enumerate((SMALL, TIMES * SMALL)):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(FORGED[kind](size))
        found.append(json.loads(run_python(MEASURE, path, size // 2048)))
    small, large = found
    for work in ("read", "repair", "append"):
        # Below a millisecond, other things count.
        most = TIMES * 4 * max(small[work], 0.001)
        assert large[work] < most, (
            f"{work} took {large[work]:.4f} s, and {small[work]:.4f} s in {1 / TIMES} of it"
        )
        assert large[f"{work} memory"] < 12 * TIMES * SMALL, f"{work} took {large[f'{work} memory']:,} bytes"
