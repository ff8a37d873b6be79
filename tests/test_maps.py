"""If a process has used up its memory maps, opening a reader fails, and the process goes on."""

import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import mmnpz
from tests.processes import run_python

LIMIT = Path("/proc/sys/vm/max_map_count")
pytestmark = [
    pytest.mark.thread_unsafe(reason="works in other processes"),
    pytest.mark.skipif(sys.platform != "linux", reason="Linux limits the maps of a process"),
]
USED_UP = """
import ctypes, errno, gc, mmap, sys, threading
import numpy as np
import mmnpz

path, limit = sys.argv[1], int(sys.argv[2])
page = mmap.PAGESIZE

# Pages with other rights than their neighbours are maps of their own: that is quick, and leaves some 2000.
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
with open("/proc/self/maps") as file:
    count = limit - 2000 - sum(1 for _ in file)
start = libc.mmap(None, count * page, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, -1, 0)
for number in range(1, count, 2):
    assert libc.mprotect(start + number * page, page, mmap.PROT_READ) == 0

readers = []

def fill():
    try:
        while True:
            readers.append(mmnpz.load(path))
    except OSError as error:
        assert error.errno == errno.ENOMEM, error
        assert error.filename == path, error

fill()
"""
USES = {
    "views": """
        views = [[data.load("a") for _ in range(50)] for data in readers]
        kept = [data["b"] for data in readers]
        assert all(view[1] == 1 for view in kept)
        """,
    "gather": """
        for data in readers:
            assert data.gather(["a"] * 30)[29, 1] == 1
        """,
    "objects": """
        texts = [str(number) * 20 for number in range(500_000)]
        arrays = [np.zeros(40) for _ in range(100_000)]
        """,
    "writer": """
        for number in range(5):
            with mmnpz.NpzWriter(f"{path}{number}", "w") as writer:
                for array in range(1000):
                    writer.write(str(array), np.arange(1000))
        """,
    "modules and threads": """
        import decimal, sqlite3
        threads = [threading.Thread(target=lambda: readers[number]["a"].sum()) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        """,
    "failing": """
        for _ in range(1000):
            fill()
        """,
    "closing": """
        count = len(readers)
        del readers[:500]
        gc.collect()
        fill()
        assert count - 600 < len(readers) < count + 300, (count, len(readers))
        """,
}


@pytest.mark.parametrize("use", USES)
def test_a_process_goes_on_when_no_more_readers_can_be_opened(tmp_path: Path, use: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(5), b=np.arange(3))
    run_python(USED_UP + textwrap.dedent(USES[use]), path, LIMIT.read_text())


def test_readers_that_are_closed_make_room_for_others(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(5))
    for _ in range(2000):
        assert mmnpz.load(path)["a"][1] == 1
    readers = [mmnpz.load(path) for _ in range(2000)]
    assert all(data["a"][1] == 1 for data in readers)
