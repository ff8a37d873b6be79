"""mmnpz writes arrays of any size and strides in bounded memory, with the checksum of the stored bytes."""

import os
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mmnpz
from tests.archives import extra_fields, npy, same
from tests.processes import run_python

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

ANONYMOUS_MEMORY = """
def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

class Watch:
    \"\"\"The most anonymous memory while something runs.\"\"\"
    def __enter__(self):
        import threading
        self.start, self.most, self.done = anonymous(), 0, threading.Event()
        def look():
            while not self.done.wait(0.002):
                self.most = max(self.most, anonymous() - self.start)
        self.thread = threading.Thread(target=look)
        self.thread.start()
        return self
    def __exit__(self, *args):
        self.done.set()
        self.thread.join()
"""


@needs_proc
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_memory_stays_bounded_for_mapped_and_strided_sources(tmp_path: Path) -> None:
    side = 3000  # the array has 72 MB
    source = tmp_path / "source.npy"
    array = np.lib.format.open_memmap(source, "w+", "<f8", (side, side))
    array[...] = np.arange(side)[:, None] * 10_000.0 + np.arange(side)
    array.flush()
    del array
    run_python(
        ANONYMOUS_MEMORY
        + """
import sys
import numpy as np, mmnpz
source = np.load(sys.argv[1], mmap_mode="r")
views = [source, source.T, source[::2, ::-1], source[::-1].T[:, ::3]]
views.append(np.broadcast_to(source[:1], source.shape))
with Watch() as watch, mmnpz.NpzWriter(sys.argv[2]) as writer:
    for number, view in enumerate(views):
        writer.write(str(number), view)
assert watch.most < 16_000_000, watch.most
""",
        source,
        tmp_path / "a.npz",
    )
    source_again = np.load(source, mmap_mode="r")
    data = mmnpz.load(tmp_path / "a.npz")
    assert np.array_equal(data["0"], source_again)
    assert data["1"].flags.f_contiguous
    assert np.array_equal(data["1"], source_again.T)
    assert np.array_equal(data["2"], source_again[::2, ::-1])
    assert np.array_equal(data["3"], source_again[::-1].T[:, ::3])
    assert np.array_equal(data["4"], np.broadcast_to(source_again[:1], (side, side)))
    with zipfile.ZipFile(tmp_path / "a.npz") as file:
        assert file.testzip() is None


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Path]:
    """A folder with 10 GiB free: in memory if possible, where the test takes 2 seconds instead of 17."""
    for place in (Path("/dev/shm"), tmp_path):
        if place.is_dir():
            free = os.statvfs(place)
            if free.f_bavail * free.f_frsize > 10 << 30:
                with tempfile.TemporaryDirectory(dir=place) as folder:
                    yield Path(folder)
                return
    pytest.skip("needs 10 GiB of room")


@needs_proc
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_a_member_over_4_gib(roomy: Path) -> None:
    size = 4097 << 20
    path = roomy / "a.npz"
    run_python(
        ANONYMOUS_MEMORY
        + """
import sys
import numpy as np, mmnpz
row = np.zeros(1 << 20, "u1")
row[-4:] = list(b"tail")
with Watch() as watch, mmnpz.NpzWriter(sys.argv[1]) as writer:
    writer.write("before", 1)
    writer.write("big", np.broadcast_to(row, (4097, 1 << 20)))
    writer.write("behind", 2)
assert watch.most < 16_000_000, watch.most
""",
        path,
    )
    data = mmnpz.load(path)
    assert data["big"].shape == (4097, 1 << 20)
    assert data["big"][4095:, -5:].tobytes() == b"\0tail\0tail"
    assert data["before"] == 1
    assert data["behind"] == 2
    with zipfile.ZipFile(path) as file:
        assert [info.extract_version for info in file.infolist()] == [20, 45, 45]
        big = file.getinfo("big.npy")
        assert big.file_size == big.compress_size == size + 128
        fields = [extra_fields(info.extra).get(1) for info in file.infolist()]
        # The second member needs both sizes in its zip64 field, the third only its offset (section 4.5.3).
        assert [len(field) if field is not None else None for field in fields] == [None, 16, 8]
        assert file.read("behind.npy") == npy(2)
    with np.load(path) as theirs:
        assert theirs["behind"] == 2
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("appended", 3)
    assert mmnpz.load(path)["appended"] == 3
    assert np.load(path)["behind"] == 2
    path.unlink()


def test_the_checksum_is_of_what_is_stored(tmp_path: Path) -> None:
    """The checksum is that of the stored bytes, even if another thread changes the array during the write."""
    array = np.zeros(8_000_000)
    small = np.zeros(10_000)
    strided = array.reshape(4000, 2000)[::2, ::-1]
    stop = threading.Event()

    def change() -> None:
        number = 0.0
        while not stop.is_set():
            number += 1
            array.fill(number)
            small.fill(number)

    thread = threading.Thread(target=change)
    thread.start()
    path = tmp_path / "a.npz"
    try:
        with mmnpz.NpzWriter(path) as writer:
            for number in range(3):
                writer.write(f"big{number}", array)
                writer.write(f"strided{number}", strided)
                for item in range(100):
                    writer.write(f"small{number}/{item}", small)
    finally:
        stop.set()
        thread.join()
    with zipfile.ZipFile(path) as file:
        assert len(file.namelist()) == 306
        assert file.testzip() is None
    data = mmnpz.load(path)
    assert any(np.ptp(data[f"big{number}"]) > 0 for number in range(3)), "the race did not take place"


@pytest.mark.parametrize("size", [2**18 - 200, 2**18 - 128, 2**18, 2**18 + 1, 2**19 - 128, 10**6])
def test_sizes_around_a_block(tmp_path: Path, size: int) -> None:
    """Arrays of about the size of a block, which is a power of two or close to one, are written correctly."""
    path = tmp_path / "a.npz"
    array = np.arange(size, dtype="u4").astype("u1")
    items = np.zeros(size // 7 + 1, "V7")
    items.view("u1")[:] = np.arange(items.nbytes) % 251
    with mmnpz.NpzWriter(path) as writer:
        for step in (1, 2, 3):
            writer.write(f"{step}", array[::step])
            writer.write(f"items{step}", items[::-step])
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
    data = mmnpz.load(path)
    for step in (1, 2, 3):
        assert same(data[f"{step}"], array[::step].copy())
        assert same(data[f"items{step}"], items[::-step].copy())
