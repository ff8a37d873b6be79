"""Signal handlers run during long calls, and programs may end during them.

Each test runs code in another process, because a signal handler belongs to the whole process.
"""

import signal
import struct
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest

import mmnpz
from tests.archives import npy
from tests.processes import run_python

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no interval timers"),
    pytest.mark.thread_unsafe(reason="works in a process of its own"),
]

PREAMBLE = """
import signal, sys, threading, zipfile
import numpy as np, mmnpz

class Stopped(Exception):
    pass

def stop(number, frame):
    raise Stopped

def after(seconds, handler, interval=0):
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds, interval)

# 8 GB, of which 8 kB are in memory
huge = np.broadcast_to(np.arange(1000.0), (1_000_000, 1000))
path = sys.argv[1]
"""


def test_a_long_write_can_be_interrupted_and_leaves_the_writer_usable(tmp_path: Path) -> None:
    code = """
import os, subprocess
with mmnpz.NpzWriter(path) as writer:
    writer.write("before", np.arange(3))
    used = os.stat(path).st_blocks
    after(0.05, stop)
    try:
        writer.write("huge", huge)
    except Stopped:
        pass
    else:
        sys.exit("not interrupted")
    writer.write("after", np.arange(4))
# The file does not get shorter under a reader, but what it has no need of is given back to the disk, up to
# one page of each 64 KiB, which tells readers how to go on. Not in memory: a reader that looks at a hole
# there could find no page for it.
status = os.stat(path)
kept = 512 * (status.st_blocks - used)
if subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True).stdout != "tmpfs\\n":
    assert kept < 500_000 + status.st_size // 15, (kept, status)
with zipfile.ZipFile(path) as file:
    assert file.namelist() == ["before.npy", "after.npy"]
    assert file.testzip() is None
"""
    run_python(PREAMBLE + code, tmp_path / "a.npz")


def test_closing_in_a_handler_that_interrupts_a_write_does_not_wait_for_itself(tmp_path: Path) -> None:
    code = """
writer = mmnpz.NpzWriter(path)
after(0.05, lambda *_: writer.close())
try:
    writer.write("huge", huge)
except ValueError as error:
    assert "in the middle of a write of the same thread" in str(error), error
else:
    sys.exit("not interrupted")
writer.write("after", np.arange(4))
writer.close()
assert mmnpz.load(path).files == ["after"]
"""
    run_python(PREAMBLE + code, tmp_path / "a.npz")


def test_closing_can_be_interrupted_while_another_thread_writes(tmp_path: Path) -> None:
    code = """
import time
writer = mmnpz.NpzWriter(path)
thread = threading.Thread(target=writer.write, args=("large", huge[:100_000]))
thread.start()
time.sleep(0.02)  # a write takes some 300 ms
after(0.02, stop)
try:
    writer.close()
except Stopped:
    # As if it had not been called.
    writer.write("small", 1)
else:
    assert not thread.is_alive()
thread.join()
writer.close()
with zipfile.ZipFile(path) as file:
    assert "large.npy" in file.namelist()
    assert file.testzip() is None
"""
    run_python(PREAMBLE + code, tmp_path / "a.npz")


def test_an_interrupted_first_access_is_no_bad_header(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(3000):
            file.writestr(f"{number}.npy", npy(np.zeros(1, [(f"field{number}", "<f4"), ("b", "<i2")])))
    code = """
reader = mmnpz.load(path)
names = reader.files
for attempt in range(200):
    try:
        # It may be over before the next line, on a machine that has much to do.
        after(0.0002 + 0.000013 * attempt, stop)
        while True:
            for name in names:
                reader.load(name)
    except Stopped:
        pass
"""
    run_python(PREAMBLE + code, path)


@pytest.mark.parametrize("work", ["mmnpz.load(path)['a']", "writer.write(str(next(numbers)), large)"])
def test_a_program_may_end_while_a_daemon_thread_works(tmp_path: Path, work: str) -> None:
    code = f"""
import itertools, time
np.savez(path, a=np.arange(1000))
writer = mmnpz.NpzWriter(path + "w", "w")
large = np.zeros(400_000)
numbers = itertools.count()

def forever():
    while True:
        {work}

for _ in range(2):
    threading.Thread(target=forever, daemon=True).start()
time.sleep(0.1)
"""
    for _ in range(3):
        run_python(PREAMBLE + code, tmp_path / "a.npz")


# `load` reads only the local header of a finished large member, so `load` with `known` takes no time.
@pytest.mark.parametrize(
    ("work", "known"),
    [
        ("mmnpz.load(path)", False),
        *(("mmnpz.NpzWriter(path, 'a')", known) for known in (True, False)),
        *(("mmnpz.repair(path)", known) for known in (True, False)),
    ],
)
def test_handlers_run_while_a_whole_file_is_looked_through(tmp_path: Path, work: str, known: bool) -> None:
    """Signal handlers run during the scan of a large file, not only at its end.

    If the scan ran no handlers, the handler would run once, after it. With `known`, mmnpz compares the
    checksum of the large member. Otherwise the member has no local header, and mmnpz searches for the next
    one.
    """
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer.write("small", 1)
        writer.write("large", np.ones(1 << 29, np.uint8))
    with zipfile.ZipFile(path) as file:
        info = file.getinfo("large.npy")
    with path.open("r+b") as raw:
        raw.seek(info.header_offset)
        lengths = struct.unpack("<26x2H", raw.read(30))
        # Cut off the directory.
        raw.truncate(info.header_offset + 30 + sum(lengths) + info.file_size)
        if not known:
            raw.seek(info.header_offset)
            raw.write(bytes(4))
    code = f"""
    import warnings
    warnings.simplefilter("ignore")
    runs = 0

    def count(number, frame):
        global runs
        runs += 1

    after(0.001, count, 0.001)
    {work}
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert runs >= 4, runs
    """
    run_python(PREAMBLE + textwrap.dedent(code), path)


@pytest.mark.parametrize(
    "work",
    [
        "writer.write('x', large, progress=wait)",
        "writer.update({'x': large}, progress=wait)",
        "reader.verify(progress=wait)",
    ],
)
def test_a_program_ends_while_a_daemon_thread_is_told_of_progress(tmp_path: Path, work: str) -> None:
    code = f"""
import threading, time, warnings
warnings.simplefilter("ignore")
large = np.ones(60_000_000, "u1")
with mmnpz.NpzWriter(path + ".other") as other:
    other.write("x", large)
reader = mmnpz.load(path + ".other")
writer = mmnpz.NpzWriter(path)
def wait(done, total):
    time.sleep(0.01)
def run():
    while True:
        {work}
threading.Thread(target=run, daemon=True).start()
time.sleep(0.1 + int(sys.argv[2]) * 0.0137)
"""
    for number in range(4):
        path = tmp_path / f"{number}.npz"
        run_python(PREAMBLE + textwrap.dedent(code), path, number)
