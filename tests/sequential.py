"""A strict reader that goes from local header to local header, and never reads the central directory."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tests.archives import LOCAL, SATURATED


def read(path: Path) -> dict[str, Any]:
    """Return the arrays in front of the first bytes that are no local header."""
    return {name: np.load(io.BytesIO(data), allow_pickle=False) for name, data in walk(path)[0].items()}


def walk(path: Path) -> tuple[dict[str, bytes], int]:
    """Return the .npy files in front of the first bytes that are no local header, and the offset of these."""
    raw, place, files = path.read_bytes(), 0, {}
    while raw[place : place + 4] == b"PK\3\4":
        _, _, flags, method, _, _, crc, size, full, name_length, extra_length = LOCAL.unpack_from(raw, place)
        assert method in {0, 8}, "a member is neither stored nor deflated"
        assert not flags & 8, "a member has its size in a data descriptor behind it"
        behind = place + LOCAL.size + name_length
        name, extra = raw[place + LOCAL.size : behind], raw[behind : behind + extra_length]
        while len(extra) >= 4:
            kind, length = struct.unpack_from("<2H", extra)
            if kind == 1 and SATURATED in (size, full):
                full, size = struct.unpack_from("<2Q", extra, 4)
            extra = extra[4 + length :]
        place = behind + extra_length + size
        data = raw[behind + extra_length : place]
        assert len(data) == size, "the file ends in a member"
        if method:
            data = zlib.decompress(data, -15)
        assert len(data) == full, "a member has another uncompressed size than its local header says"
        assert zlib.crc32(data) == crc, f"the CRC-32 of {name!r} is wrong"
        if name.endswith(b".npy"):
            files[name.decode()[:-4]] = data
    return files, place
