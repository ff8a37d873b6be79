"""A full file system in memory: whoever reads a hole through a map needs a page, and there is none."""

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

# A writer that is killed after a flush leaves room in the file, which is a hole.
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

# Both may need space that is not there.
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
    # The file stays as it is: nothing closes the writer.
    os._exit(0)
"""


def fill(folder: Path) -> None:
    """Take all space that there is."""
    with suppress(OSError), (folder / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert os.statvfs(folder).f_bavail == 0


def python(code: str, *arguments: Any) -> str:
    """Run code in a process of its own; gives how that failed, if it did."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode < 0:
        return f"ended by {signal.Signals(-done.returncode).name}"
    return done.stderr if done.returncode else ""


def flushed(path: Path) -> int:
    """Leave a file as a writer does that is killed after a flush."""
    assert python(FLUSHED, path) == "ended by SIGKILL"
    return 3


def closed(path: Path) -> int:
    """Write a file whose directory is so large that closing leaves room in front of it."""
    with mmnpz.NpzWriter(path) as writer:
        for number in range(150):
            writer.write(f"n{number}", np.arange(1000) + number)
        # Closing puts the directory where the flush has, and leaves that room.
        writer.flush()
    return 150


def grown(path: Path) -> int:
    """Write a file to which members were added in place."""
    count = closed(path)
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("last", np.arange(1000))
    return count


def give_back_holes(path: Path) -> None:
    """Make holes of what has space and holds nothing, as programs do that copy files."""
    with path.open("r+b") as file:
        start = end = 0
        while (start := os.lseek(file.fileno(), end, os.SEEK_HOLE)) < path.stat().st_size:
            try:
                end = os.lseek(file.fileno(), start, os.SEEK_DATA)
            except OSError:
                end = path.stat().st_size
            places = ["--offset", str(start), "--length", str(end - start)]
            subprocess.run(["fallocate", "--punch-hole", *places, path], check=True)
    # And of zeros that were written.
    subprocess.run(["fallocate", "--dig-holes", path], check=True)


def space_of_holes(path: Path) -> int:
    return path.stat().st_size - path.stat().st_blocks * 512


@pytest.mark.parametrize("leave", [closed, grown])
def test_a_closed_file_in_memory_has_no_hole(memory: Path, leave: Any) -> None:
    """Whoever looks at all of its bytes through a map would need pages for one."""
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
    assert space_of_holes(path) > 4096, "this file was to have a hole"
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
    # With room again, all is as ever.
    (memory / "filler").unlink()
    mmnpz.repair(path)
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("more", np.arange(1000))
    assert python(LOADING, path, count) == ""
    with np.load(path) as data:
        assert "more" in data.files
