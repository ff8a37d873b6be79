"""Reader processes open one file again and again, beside writers that are killed or whose writes fail.

A reader must find, with the right bytes, every array whose `write` returned before the reader opened the
file. No signal may end a reader. `MMNPZ_BESIDE` is the number of seconds that each test takes.
"""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.faults.promise import TRIED
from tests.faults.recorder import compile_shim, why_not
from tests.faults.scenarios import MANY
from tests.processes import fork

SECONDS = float(os.environ.get("MMNPZ_BESIDE", "3"))
READERS = 3
WRITERS = 3
# Each file is used for at most this many seconds: checking a longer file takes longer.
LIFE = 10.0

pytestmark = [
    pytest.mark.thread_unsafe(reason="has processes of its own, and kills them"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
    pytest.mark.timeout(SECONDS * 2 + 120),
]

# The array of a member follows from its name: the reader computes the expected array as `array_of` does.
READING = """
import os, random, sys, time, warnings, zipfile, zlib
import numpy as np, mmnpz

path, report, seed = sys.argv[1:]
chance = random.Random(int(seed))
warnings.simplefilter("ignore")

def is_right(name, array):
    number = zlib.crc32(name.encode())
    return array.dtype == np.uint32 and (array == number).all() and (array.size > 0 or number % 5 == 0)

def lines():
    with open(report) as file:
        # Another process may have written a part of the last line only.
        return file.read().rpartition("\\n")[0].split("\\n")

def names_of(data):
    # Of an array whose write failed at its very last step, a reader that was opened just then cannot tell the
    # name any more, once another array is in its place.
    try:
        return data.files
    except zipfile.BadZipFile:
        return None

print("ready", flush=True)
opened = 0
# Such arrays, whose names were known before.
gone = set()
while not os.path.exists(report + "-end"):
    written = lines()
    some = {*written[-8:], *chance.choices(written, k=4)}
    ways = chance.sample(["files", "missing", "name", "items", "positions"], 5)
    data = mmnpz.load(path)
    opened += 1
    for way in ways[: chance.choice([1, 1, 1, 2, 5])]:
        try:
            if way == "files":
                lost = set(written) - set(names_of(data) or mmnpz.load(path).files)
                assert not lost, f"lost {len(lost)}: {sorted(lost)[:5]}"
            elif way == "missing":
                assert "missing" not in data
            elif way == "name":
                for name in some:
                    assert name in data, f"lost {name}"
                    assert is_right(name, data[name]), f"{name} is wrong"
            elif way == "positions":
                files = names_of(data)
                if files is None:
                    continue
                position = chance.randrange(len(files))
                try:
                    array = data.gather([position])[0]
                except zipfile.BadZipFile:
                    gone.add(files[position])
                else:
                    assert is_right(files[position], array), f"{files[position]} is wrong"
            elif opened % 8 == 0:
                items = iter(data.items())
                for name in names_of(data) or []:
                    try:
                        other, array = next(items)
                    except zipfile.BadZipFile:
                        gone.add(name)
                    else:
                        assert other == name
                        assert is_right(name, array), f"{name} is wrong"
        except BaseException as error:
            error.add_note(f"in {way}, after {opened} openings of a file of {os.stat(path).st_size} bytes")
            raise
    data.close()
time.sleep(0.2)
lost = gone.intersection(lines())
assert not lost, f"cannot be read: {lost}"
print(opened, flush=True)
"""


def array_of(name: str, size: int) -> Any:
    """Return an array whose items are the CRC-32 of its name. For one name of five, it may be empty."""
    number = zlib.crc32(name.encode())
    return np.full(size if number % 5 == 0 else max(size, 1), number, np.uint32)


class Readers:
    """Processes that read a file until `stop` is called."""

    def __init__(self, path: Path, report: Path, seed: int) -> None:
        self.report = report
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", READING, str(path), str(report), str(seed * READERS + number)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(READERS)
        ]
        for process in self.processes:
            assert process.stdout is not None
            process.stdout.readline()

    def live(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def stop(self) -> None:
        """Stop the readers, and fail if a reader died or found a wrong array."""
        Path(f"{self.report}-end").touch()
        problems = []
        for process in self.processes:
            out, err = process.communicate(timeout=60)
            if process.returncode < 0:
                problems.append(f"a reader was ended by {signal.Signals(-process.returncode).name}")
            elif process.returncode:
                problems.append(err[-1500:])
            else:
                TRIED["openings beside writers"] += int(out)
        assert not problems, "\n".join(problems)


def begin(folder: Path, number: int) -> tuple[Path, Path]:
    """Write a file, and the report of its names. Every second file has a large directory."""
    path, report = folder / f"{number}.npz", folder / f"report-{number}"
    names = [f"base/{each}" for each in range(MANY if number % 2 else 5)]
    with mmnpz.NpzWriter(path) as writer:
        for name in names:
            writer.write(name, array_of(name, 3))
    report.write_text("".join(f"{name}\n" for name in names))
    return path, report


def append(path: Path, report: Path, seed: int) -> None:
    """Open the file, append and close, again and again, until killed."""
    chance = random.Random(seed)
    log = os.open(report, os.O_WRONLY | os.O_APPEND)
    warnings.simplefilter("ignore")
    count = 0
    while True:
        try:
            writer = mmnpz.NpzWriter(path, "a")
        except BlockingIOError:
            time.sleep(0.0005)
            continue
        for _ in range(chance.choice([0, 1, 1, 5, 30])):
            name = f"{seed}/{count}"
            writer.write(name, array_of(name, chance.choice([0, 1, 50, 50, 1000, 1000, 10_000])))
            # One system call for the whole line: a kill cannot leave a part of it in the report.
            os.write(log, f"{name}\n".encode())
            count += 1
            if chance.random() < 0.2:
                writer.flush()
        if chance.random() < 0.9:
            writer.close()
        else:
            del writer


def check_end(path: Path, report: Path) -> None:
    """Repair the file, and check with NumPy that it has every array in the report."""
    mmnpz.repair(path)
    names = report.read_text().split()
    with np.load(path) as data:
        missing = set(names) - set(data.files)
        assert not missing, f"{len(missing)} are lost: {sorted(missing)[:5]}"
        for name in names:
            array = data[name]
            assert (array == zlib.crc32(name.encode())).all(), f"{name} is wrong"


def test_appending_processes_are_killed(tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("MMNPZ_SEED", "1")))
    end = time.monotonic() + SECONDS
    number = seed = 0
    while time.monotonic() < end:
        path, report = begin(tmp_path, number)
        readers = Readers(path, report, number)
        end_of_life = min(end, time.monotonic() + min(LIFE, SECONDS / 2))
        writers: list[int] = []
        try:
            while time.monotonic() < end_of_life and readers.live():
                while len(writers) < WRITERS:
                    seed += 1
                    writers.append(fork(partial(append, path, report, seed)))
                time.sleep(chance.choice([0, chance.uniform(0, 0.003), chance.uniform(0, 0.03)]))
                victim = writers.pop(chance.randrange(WRITERS))
                os.kill(victim, signal.SIGKILL)
                _, status = os.waitpid(victim, 0)
                assert status == signal.SIGKILL, f"a writer ended with {status}, see its standard error"
                TRIED["writers killed"] += 1
        finally:
            for process in writers:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
            readers.stop()
        check_end(path, report)
        path.unlink()
        number += 1


# The size of a large array, and a limit for the file size: only a part of such an array fits into the file.
LARGE = 6 << 20
LIMIT = 4 << 20


def fail(path: Path, report: Path, error: int, prepare: Callable[[], None]) -> None:
    """Write large arrays, for which every write must fail, and small ones between them."""
    prepare()
    warnings.simplefilter("ignore")
    log = os.open(report, os.O_WRONLY | os.O_APPEND)
    chance = random.Random(3)
    large = np.ones(LARGE // 4, np.uint32)
    count = failed = 0

    def fails(call: Callable[..., object], *arguments: Any) -> bool:
        try:
            call(*arguments)
        except OSError as raised:
            if raised.errno != error:
                raise
            return True
        return False

    while not Path(f"{report}-end").exists():
        writer = mmnpz.NpzWriter(path, "a")
        for _ in range(20):
            assert fails(writer.write, f"large/{count}", large), "the write of a large array must fail"
            failed += 1
            count += 1
            # Few small arrays, so that they alone do not fill the file up to the limit.
            if count % 50 == 1:
                name = f"small/{count}"
                array = array_of(name, chance.choice([1, 100]))
                if not fails(writer.write, name, array):
                    os.write(log, f"{name}\n".encode())
            if chance.random() < 0.1:
                # May fail: a failed write makes the file longer, and the directory may not fit behind that.
                fails(writer.flush)
        if fails(writer.close):
            # The file is then as a killed writer leaves it. The next writer repairs it.
            del writer
    assert failed


def fail_now_and_then(path: Path, report: Path) -> None:
    """Write arrays of all sizes to a disk on which any write can fail."""
    warnings.simplefilter("ignore")
    log = os.open(report, os.O_WRONLY | os.O_APPEND)
    chance = random.Random(4)
    count = failed = 0
    while not Path(f"{report}-end").exists():
        writer = None
        try:
            writer = mmnpz.NpzWriter(path, "a")
            for _ in range(chance.choice([1, 20])):
                count += 1
                name = f"array/{count}"
                writer.write(name, array_of(name, chance.choice([1, 100, 1000, 10_000, LARGE // 8])))
                os.write(log, f"{name}\n".encode())
                if chance.random() < 0.1:
                    writer.flush()
            writer.close()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            failed += 1
        # The finalizer closes the file, or fails and leaves it as a killed writer does.
        del writer
    assert failed


def limit_size() -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))


def beside_failures(folder: Path, report_in: Path, start: Callable[[Path, Path], int]) -> None:
    end = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < end:
        path, _ = begin(folder, number)
        report = report_in / f"report-{number}"
        if folder != report_in:
            (folder / report.name).replace(folder / "moved")
            report.write_text((folder / "moved").read_text())
            (folder / "moved").unlink()
        readers = Readers(path, report, number)
        before = report.stat().st_size
        writer = start(path, report)
        # Wait for the first array: a new process may first have to import its packages.
        patience = time.monotonic() + 30
        while report.stat().st_size == before and time.monotonic() < patience and readers.live():
            time.sleep(0.01)
        end_of_life = time.monotonic() + min(LIFE, SECONDS / 2)
        try:
            while time.monotonic() < end_of_life and readers.live():
                time.sleep(0.01)
        finally:
            Path(f"{report}-end").touch()
            status = os.waitpid(writer, 0)[1]
            readers.stop()
        assert status == 0, f"the writer ended with {status}, see its standard error"
        # Check a copy in a folder where a repair has space for a directory.
        copy = report_in / "copy.npz"
        shutil.copy(path, copy)
        check_end(copy, report)
        path.unlink()
        number += 1


def forked(error: int, prepare: Callable[[], None]) -> Callable[[Path, Path], int]:
    """Return a function that starts a writer, in a fork, whose large writes all fail with `error`."""
    return lambda path, report: fork(partial(fail, path, report, error, prepare), seconds=int(SECONDS) + 60)


def test_large_writes_fail_at_a_limit(tmp_path: Path) -> None:
    beside_failures(tmp_path, tmp_path, forked(errno.EFBIG, limit_size))


def test_large_writes_fail_on_a_full_file_system(memory: Path, tmp_path: Path) -> None:
    beside_failures(memory, tmp_path, forked(errno.ENOSPC, lambda: None))


@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("often", [7, 40])
def test_any_write_fails(tmp_path: Path, often: int) -> None:
    library = compile_shim(tmp_path, "flaky")
    code = "import sys; from pathlib import Path; from tests import test_beside as beside\n"
    code += "beside.fail_now_and_then(*map(Path, sys.argv[1:]))"

    def start(path: Path, report: Path) -> int:
        environment = {**os.environ, "LD_PRELOAD": str(library), "FLAKY": str(often)}
        command = [sys.executable, "-c", code, str(path), str(report)]
        return os.posix_spawn(sys.executable, command, environment)

    beside_failures(tmp_path, tmp_path, start)
