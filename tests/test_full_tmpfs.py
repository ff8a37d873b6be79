"""mmnpz survives a full file system in memory, where a read of a hole through a map ends in SIGBUS.

Such a read needs a page, and a full tmpfs has none.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz

pytestmark = pytest.mark.thread_unsafe(reason="has processes of its own, and fills a file system")

# A writer that is killed after a flush leaves room in the file, and this room is a hole.
FLUSHED = """
import os, signal, sys, numpy as np, mmnpz
writer = mmnpz.NpzWriter(sys.argv[1])
for number in range(3):
    writer.write(f"n{number}", np.arange(1000) + number)
writer.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""

LOADING = """
import sys, warnings, numpy as np, mmnpz
warnings.simplefilter("ignore")
count = int(sys.argv[2])
data = mmnpz.load(sys.argv[1])
assert data.files[:count] == [f"n{number}" for number in range(count)], data.files
assert "missing" not in data
for name in data.files[:count]:
    assert np.array_equal(data[name], np.arange(1000) + int(name[1:])), name
assert dict(mmnpz.load(sys.argv[1]).items()).keys() == set(data.files)
assert mmnpz.load(sys.argv[1]).gather([0, -1]).shape == (2, 1000)
"""

BY_NUMPY = """
import sys, numpy as np
assert np.load(sys.argv[1])["n1"][5] == 6
"""

# `REPAIRING` and `APPENDING` may fail for lack of space, but only with ENOSPC.
REPAIRING = """
import errno, sys, mmnpz
try:
    mmnpz.repair(sys.argv[1])
except OSError as error:
    assert error.errno == errno.ENOSPC and error.filename == sys.argv[1], error
"""

APPENDING = """
import errno, os, sys, warnings, numpy as np, mmnpz
warnings.simplefilter("ignore")
try:
    writer = mmnpz.NpzWriter(sys.argv[1], "a")
    assert "n0" in writer and "missing" not in writer
    writer.write("added", np.arange(1000))
    writer.close()
except OSError as error:
    assert error.errno == errno.ENOSPC and error.filename == sys.argv[1], error
    # Exit without the finalizer of the writer, which would close the file.
    os._exit(0)
"""


def fill(folder: Path) -> None:
    """Fill the file system of a folder."""
    with suppress(OSError), (folder / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert os.statvfs(folder).f_bavail == 0


def python(code: str, *arguments: Any) -> str:
    """Run code in another process, and return how it failed, or an empty string."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode < 0:
        return f"ended by {signal.Signals(-done.returncode).name}"
    return done.stderr if done.returncode else ""


def flushed(path: Path) -> int:
    """Kill a writer after a flush, and return the number of members in its file."""
    assert python(FLUSHED, path) == "ended by SIGKILL"
    return 3


def closed(path: Path) -> int:
    """Write a file with room in front of its directory, and return the number of members."""
    with mmnpz.NpzWriter(path) as writer:
        for number in range(150):
            writer.write(f"n{number}", np.arange(1000) + number)
        # `close` writes the directory where the flush wrote it, and so keeps the room of the flush.
        writer.flush()
    return 150


def grown(path: Path) -> int:
    """Write a file whose directory has grown in place, and return the number of members with known arrays."""
    count = closed(path)
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("last", np.arange(1000))
    return count


def give_back_holes(path: Path) -> None:
    """Turn zeros that take space into holes, as programs that copy files do."""
    with path.open("r+b") as file:
        start = end = 0
        while (start := os.lseek(file.fileno(), end, os.SEEK_HOLE)) < path.stat().st_size:
            try:
                end = os.lseek(file.fileno(), start, os.SEEK_DATA)
            except OSError:
                end = path.stat().st_size
            places = ["--offset", str(start), "--length", str(end - start)]
            subprocess.run(["fallocate", "--punch-hole", *places, path], check=True)
    # `--dig-holes` finds zeros that were written.
    subprocess.run(["fallocate", "--dig-holes", path], check=True)


def space_of_holes(path: Path) -> int:
    return path.stat().st_size - path.stat().st_blocks * 512


@pytest.mark.parametrize("leave", [closed, grown])
def test_a_closed_file_in_memory_has_no_hole(memory: Path, leave: Any) -> None:
    """A closed file on tmpfs has no hole, so a reader of all its bytes needs no new page."""
    path = memory / "a.npz"
    leave(path)
    assert space_of_holes(path) <= 0
    fill(memory)
    assert python("import mmnpz, sys\nassert len(bytes(mmnpz.load(sys.argv[1]).mmap)) > 0", path) == ""


@pytest.mark.parametrize("leave", [flushed, closed, grown])
def test_a_full_file_system_in_memory(memory: Path, leave: Any) -> None:
    path = memory / "a.npz"
    count = leave(path)
    if space_of_holes(path) <= 4096:
        give_back_holes(path)
    assert space_of_holes(path) > 4096, "the file must have a hole"
    fill(memory)
    assert python(BY_NUMPY, path) == ""
    problems = {}
    for what, code in (
        ("load", LOADING),
        ("repair", REPAIRING),
        ("load after that", LOADING),
        ('mode "a"', APPENDING),
        ("load in the end", LOADING),
    ):
        if problem := python(code, path, count):
            problems[what] = problem
    assert not problems
    # Once the file system has space again, repairing and appending work.
    (memory / "filler").unlink()
    mmnpz.repair(path)
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("more", np.arange(1000))
    assert python(LOADING, path, count) == ""
    with np.load(path) as data:
        assert "more" in data.files
