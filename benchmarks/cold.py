"""Remove files from the page cache."""

import ctypes
import mmap
import os
import time
from collections.abc import Iterable
from pathlib import Path

PAGE = mmap.PAGESIZE

ATTEMPTS = 50


def drop(files: Iterable[Path]) -> float:
    """
    Remove files from the page cache. They must be on a disk, with all pages written out.

    The system keeps pages that are in the page tables of a process. So this function first removes them from
    the page tables of this process. Its maps stay valid, and read the pages again at the next access.

    Returns
    -------
    float
        The share of the pages that is still in the page cache, which should be next to nothing.
    """
    files = list(files)
    _leave_page_tables({str(file) for file in files})
    left = _drop(files)
    for _ in range(ATTEMPTS):
        if not left:
            break
        time.sleep(0.02)  # the system keeps pages while it reads them ahead or writes them back
        left = _drop(files)
    return left


def _drop(files: list[Path]) -> float:
    left = pages = 0
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            size = os.fstat(descriptor).st_size
            left += _resident(descriptor, size)
            pages += -(-size // PAGE)
        finally:
            os.close(descriptor)
    return left / max(pages, 1)


def _leave_page_tables(names: set[str]) -> None:
    madvise = _libc().madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in names:
            start, end = (int(address, 16) for address in fields[0].split("-"))
            if madvise(start, end - start, mmap.MADV_DONTNEED):
                raise OSError(ctypes.get_errno(), "madvise")


def _resident(descriptor: int, size: int) -> int:
    """Return how many pages of a file are in the page cache."""
    if not size:
        return 0
    mincore = _libc().mincore
    mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    found = ctypes.create_string_buffer(-(-size // PAGE))
    # A private map is writable, and ctypes returns the address of a writable buffer only.
    with mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY) as pages:
        first = ctypes.c_char.from_buffer(pages)
        failed = mincore(ctypes.addressof(first), size, found)
        del first
    if failed:
        raise OSError(ctypes.get_errno(), "mincore")
    return sum(byte & 1 for byte in found.raw)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
