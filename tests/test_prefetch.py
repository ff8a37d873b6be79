"""`prefetch` and `advise` have the operating system read pages, and never change what a reader returns."""

import ctypes
import mmap
import os
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmnpz
from mmnpz._mmnpz import _fetch, _fetch_headers, _is_mapped
from tests.threads import in_threads

ADVICE: tuple[Any, ...] = ("normal", "random", "sequential", "willneed", "dontneed")

PAGE = mmap.PAGESIZE
ROWS = 4096
"""The number of rows of 64 float32 in an array: each array has a megabyte."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at the page cache of Linux")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(8):
            writer[str(number)] = np.full((ROWS, 64), number, np.float32)
        writer["fortran"] = np.asfortranarray(np.arange(ROWS * 64, dtype=np.float32).reshape(ROWS, 64))
        writer["scalar"] = np.float64(2)
        writer["empty"] = np.zeros((0, 3))
    return path


def drop(path: Path) -> None:
    """Remove a file from the page cache, except for pages that a process has mapped."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def resident(path: Path) -> Iterator[Any]:
    """Give a function that returns which share of the pages of a range of the file is in memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        start_of_map = np.frombuffer(mapped, np.uint8).ctypes.data

        def share(start: int, stop: int) -> float:
            first = start // PAGE * PAGE
            pages = (ctypes.c_ubyte * (-(-(stop - first) // PAGE)))()
            address = ctypes.c_void_p(start_of_map + first)
            assert libc.mincore(address, ctypes.c_size_t(stop - first), pages) == 0
            return sum(page & 1 for page in pages) / len(pages)

        yield share


def place(data: Any, name: str) -> int:
    """Return the offset of the first item of an array in the file."""
    return int(data[name].ctypes.data - data.mmap.ctypes.data)


def test_prefetching_says_nothing_and_changes_nothing(archive: Path) -> None:
    data = mmnpz.load(archive)
    names = list(data)
    data.prefetch(names)
    data.prefetch(names[:8], 5)
    data.prefetch(names[:8], [1] * 8, length=7)
    data.prefetch(names[:8], None, np.arange(8))
    data.prefetch(["fortran", "empty"], 3, 9)
    data.prefetch(["0"], 10**12, length=10**6)
    data.prefetch(["0"], [0], stops=[2**62])
    assert all((data[str(number)] == number).all() for number in range(8))


def test_what_cannot_be_prefetched(archive: Path) -> None:
    data = mmnpz.load(archive)
    with pytest.raises(KeyError, match="nothing"):
        data.prefetch(["0", "nothing"])
    with pytest.raises(IndexError, match=f'{archive.name}: member "1": rows must not be negative, got -1:3'):
        data.prefetch(["0", "1"], [0, -1], length=4)
    with pytest.raises(IndexError, match='member "1": rows 5:4'):
        data.prefetch(["0", "1"], 5, [6, 4])
    with pytest.raises(ValueError, match="got 2 names and 1 starts"):
        data.prefetch(["0", "1"], [0])
    with pytest.raises(TypeError, match="integers"):
        data.prefetch(["0"], 1.5)  # type: ignore[arg-type]


@linux
@pytest.mark.thread_unsafe(reason="looks at the page cache")
def test_prefetching_reads_what_was_named_and_no_more(archive: Path) -> None:
    drop(archive)
    with resident(archive) as share:
        if share(0, archive.stat().st_size) > 0.5:
            pytest.skip("this file system keeps its files in memory")
        data = mmnpz.load(archive)
        data.advise("random")  # the system then reads no pages ahead
        begin = place(data, "3")
        data.prefetch(["3", "5"], [1000, 0], length=500)
        wait_until(lambda: share(begin + 256_000, begin + 384_000) == 1)
        wait_until(lambda: share(place(data, "5"), place(data, "5") + 128_000) == 1)
        assert share(begin + 400_000, begin + 1_000_000) < 0.1
        assert share(place(data, "1"), place(data, "1") + 1_000_000) < 0.1
        data.prefetch(["fortran"], 100, length=1)
        wait_until(lambda: share(place(data, "fortran"), place(data, "fortran") + 1_000_000) == 1)
        data.advise("willneed")
        wait_until(lambda: share(0, archive.stat().st_size) == 1)


@linux
@pytest.mark.thread_unsafe(reason="looks at the page cache")
@pytest.mark.parametrize("backwards", [False, True])
def test_parts_of_views_are_read_and_no_more(archive: Path, backwards: bool) -> None:
    """`_fetch`, which NpzDataset calls, reads the parts of views that lie in the file, and no other pages."""
    drop(archive)
    with resident(archive) as share:
        if share(0, archive.stat().st_size) > 0.5:
            pytest.skip("this file system keeps its files in memory")
        data = mmnpz.load(archive)
        data.advise("random")
        part = data["3"][1500:1000:-1, 1:] if backwards else data["3"][1000:1500]
        sparse = data["2"][::100, :1]
        _fetch(data, [np.zeros(5), sparse, part, data["empty"], data["5"][:500]])
        begin = place(data, "3")
        wait_until(lambda: share(begin + 260_000, begin + 384_000) == 1)
        wait_until(lambda: share(place(data, "5"), place(data, "5") + 128_000) == 1)
        for at in (begin + 400_000, place(data, "1"), place(data, "2")):
            assert share(at, at + 600_000) < 0.1


def test_what_an_array_holds_of_a_file(archive: Path) -> None:
    data: Any = mmnpz.load(archive)
    for part in (
        data["3"],
        data["3"][5:7, ::-2],
        data["fortran"][::-1],
        data["scalar"],
        data["3"][4, 5:6],
        data.mmap,
    ):
        assert _is_mapped(data, part)
    beyond = np.lib.stride_tricks.as_strided(data.mmap[-8:], (9,))
    before = np.lib.stride_tricks.as_strided(data.mmap[:8], (9,), (-1,))
    for part in (np.zeros(3), np.array(data["3"]), data["3"][:0], beyond, before, [1], "text", None):
        assert not _is_mapped(data, part)
    _fetch(data, [beyond, before, "text", None])
    data.close()
    with pytest.raises(ValueError, match="closed"):
        _is_mapped(data, np.zeros(3))
    with pytest.raises(ValueError, match="closed"):
        _fetch(data, [])


@linux
@pytest.mark.thread_unsafe(reason="looks at the page cache")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [None, "f8"])
def test_a_cold_batch_is_what_a_warm_one_is(archive: Path, threads: int, dtype: Any) -> None:
    names = [str(number) for number in (3, 1, 7, 0, 0, 5)] + ["fortran"]
    starts = [0, 3000, 17, 500, 3500, 4095, 1]
    drop(archive)
    cold = mmnpz.load(archive).gather(names, starts, length=1500, pad=-1, threads=threads, dtype=dtype)
    warm = mmnpz.load(archive).gather(names, starts, length=1500, pad=-1, threads=threads, dtype=dtype)
    assert np.array_equal(cold, warm)
    assert all((cold[i, : 4096 - starts[i]] == int(names[i])).all() for i in range(6))
    drop(archive)
    assert np.array_equal(
        mmnpz.load(archive).gather(names, threads=threads, dtype=dtype)[5], np.full((ROWS, 64), 5)
    )


def wait_until(condition: Any) -> None:
    """Wait until the disk has read what the test expects."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "the system has not read the expected pages"
        time.sleep(0.001)


@pytest.mark.parametrize("advice", ADVICE)
def test_advice_changes_nothing_that_is_read(archive: Path, advice: Any) -> None:
    data = mmnpz.load(archive)
    for number in range(4):
        assert (data[str(number)] == number).all()
    data.advise(advice)
    for number in range(8):
        assert (data[str(number)] == number).all()
    data.advise("normal")


@pytest.mark.parametrize("advice", ["", "Random", "free", "random\0", "hugepage"])
def test_other_advice_is_refused(archive: Path, advice: Any) -> None:
    data = mmnpz.load(archive)
    with pytest.raises(ValueError, match="advice must be one of 'normal', 'random', 'sequential'"):
        data.advise(advice)
    with pytest.raises(TypeError):
        data.advise(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        data.advise()  # type: ignore[call-arg]


@linux
@pytest.mark.thread_unsafe(reason="looks at the maps of the process")
@pytest.mark.parametrize(("advice", "flag"), [("random", "rr"), ("sequential", "sr")])
def test_advice_reaches_the_system(archive: Path, advice: Any, flag: str) -> None:
    data = mmnpz.load(archive)

    def flags() -> list[str]:
        maps = Path("/proc/self/smaps").read_text().split(str(archive))[1:]
        lines = [line for part in maps for line in part.splitlines() if line.startswith("VmFlags")]
        return lines[0].split()

    assert flag not in flags()
    data.advise(advice)
    assert flag in flags()
    data.advise("normal")
    assert flag not in flags()


@linux
@pytest.mark.thread_unsafe(reason="looks at the maps of the process")
def test_dontneed_unmaps_pages(archive: Path) -> None:
    data = mmnpz.load(archive)

    def mapped() -> int:
        text = Path("/proc/self/smaps").read_text().split(str(archive))[1]
        return int(text.partition("Rss:")[2].split()[0])

    for name in data:
        data[name].sum()
    assert mapped() > 8000
    data.advise("dontneed")
    assert mapped() < 1000
    assert (data["3"] == 3).all()


def test_an_empty_archive_takes_advice(tmp_path: Path) -> None:
    mmnpz.NpzWriter(tmp_path / "a.npz").close()
    data = mmnpz.load(tmp_path / "a.npz")
    for advice in ADVICE:
        data.advise(advice)
    data.prefetch([])


def test_threads_prefetch_and_advise(archive: Path) -> None:
    data = mmnpz.load(archive)

    def work(number: int) -> None:
        for turn in range(50):
            data.advise(ADVICE[(number + turn) % len(ADVICE)])
            data.prefetch([str(number)], turn, length=100)
            assert (data.gather([str(number)], turn, length=100) == number).all()

    in_threads(work)


@given(
    number=st.integers(0, 7), start=st.integers(0, 5000), stop=st.integers(0, 5000), step=st.integers(0, 3)
)
def test_any_range(
    tmp_path_factory: pytest.TempPathFactory, number: int, start: int, stop: int, step: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "ranges.npz"
    if not path.exists():
        # Threads that run this test at the same time must not see a file that is only half written.
        own = path.with_name(f"ranges-{threading.get_ident()}.npz")
        np.savez(own, a=np.zeros((4096, 5), "i2"), b=np.zeros((4096, 5), "i2", order="F"))
        own.replace(path)
    data = mmnpz.load(path, cache=number % 2 == 0)
    if start <= stop:
        data.prefetch(["a", "b"], start, stop)
    else:
        with pytest.raises(IndexError):
            data.prefetch(["a", "b"], start, stop)
    data.prefetch(["a", "b"], start, length=step)


@pytest.fixture
def numpy_file(tmp_path: Path) -> Path:
    """The path of a file that NumPy wrote: its directory has no header fields."""
    path = tmp_path / "theirs.npz"
    arrays: dict[str, Any] = {str(number): np.full((ROWS, 64), number, np.float32) for number in range(40)}
    np.savez(path, **arrays)
    return path


@linux
@pytest.mark.thread_unsafe(reason="looks at the page cache")
@pytest.mark.parametrize("by", ["name", "position"])
def test_the_headers_of_a_batch_are_read_at_once(numpy_file: Path, by: str) -> None:
    with zipfile.ZipFile(numpy_file) as file:
        headers = [info.header_offset for info in file.infolist()]
    drop(numpy_file)
    with resident(numpy_file) as share:
        if share(0, numpy_file.stat().st_size) > 0.5:
            pytest.skip("this file system keeps its files in memory")
        data = mmnpz.load(numpy_file)
        keys: list[Any] = list(range(40)) if by == "position" else [str(number) for number in range(40)]
        _fetch_headers(data, keys)
        wait_until(lambda: all(share(at, at + 200) == 1 for at in headers))
        # If mmnpz touched each header, the system would read some megabytes ahead each time.
        assert share(0, headers[-1]) < 0.1


@linux
@pytest.mark.thread_unsafe(reason="looks at the page cache")
@pytest.mark.parametrize("how", ["gather", "prefetch"])
def test_batches_of_a_numpy_file_read_little_more_than_headers_and_excerpts(
    numpy_file: Path, how: str
) -> None:
    drop(numpy_file)
    with resident(numpy_file) as share:
        if share(0, numpy_file.stat().st_size) > 0.5:
            pytest.skip("this file system keeps its files in memory")
        data = mmnpz.load(numpy_file)
        names = [str(number) for number in range(0, 40, 2)]
        if how == "prefetch":
            data.prefetch(names, 1000, length=100)
        assert (data.gather(names, 1000, length=100)[:, 0, 0] == np.arange(0, 40, 2)).all()
        assert share(0, numpy_file.stat().st_size) < 0.3
    # An unknown name raises the usual error.
    with pytest.raises(KeyError, match="nothing"):
        data.gather(["1", "nothing"], 0, length=1)
