"""Readers that open, look and close all the time, beside writers that are killed or fail again and again.

A reader finds all that was said to be written before it opened the file, with the right bytes, and lives.
`MMNPZ_BESIDE` is the number of seconds that each test takes.
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
# A new file is begun after so many seconds: looking through a longer one takes longer.
LIFE = 10.0

pytestmark = [
    pytest.mark.thread_unsafe(reason="has processes of its own, and kills them"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
    pytest.mark.timeout(SECONDS * 2 + 120),
]

# An array is made from its name, here and in the reader.
READING = """
import os, random, sys, warnings, zlib
import numpy as np, mmnpz

path, report, seed = sys.argv[1:]
chance = random.Random(int(seed))
warnings.simplefilter("ignore")

def is_right(name, array):
    number = zlib.crc32(name.encode())
    return array.dtype == np.uint32 and (array == number).all() and (array.size > 0 or number % 5 == 0)

print("ready", flush=True)
opened = 0
while not os.path.exists(report + "-end"):
    with open(report) as file:
        # Its last line may be there in part.
        written = file.read().rpartition("\\n")[0].split("\\n")
    some = {*written[-8:], *chance.choices(written, k=4)}
    ways = chance.sample(["files", "missing", "name", "items", "positions"], 5)
    data = mmnpz.load(path)
    opened += 1
    for way in ways[: chance.choice([1, 1, 1, 2, 5])]:
        try:
            if way == "files":
                lost = set(written) - set(data.files)
                assert not lost, f"lost {len(lost)}: {sorted(lost)[:5]}"
            elif way == "missing":
                assert "missing" not in data
            elif way == "name":
                for name in some:
                    assert name in data, f"lost {name}"
                    assert is_right(name, data[name]), f"{name} is wrong"
            elif way == "positions":
                files = data.files
                position = chance.randrange(len(files))
                assert is_right(files[position], data.gather([position])[0]), f"{files[position]} is wrong"
            elif opened % 8 == 0:
                for name, array in data.items():
                    assert is_right(name, array), f"{name} is wrong"
        except BaseException as error:
            error.add_note(f"in {way}, after {opened} openings of a file of {os.stat(path).st_size} bytes")
            raise
    data.close()
print(opened, flush=True)
"""


def array_of(name: str, size: int) -> Any:
    """An array that tells its name; only some may be empty."""
    number = zlib.crc32(name.encode())
    return np.full(size if number % 5 == 0 else max(size, 1), number, np.uint32)


class Readers:
    """Processes that read a file until they are told to stop."""

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
        """Stop them; they must have lived, and found all right."""
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
    """Begin a file and the report of what is said to be in it; every other one has a large directory."""
    path, report = folder / f"{number}.npz", folder / f"report-{number}"
    names = [f"base/{each}" for each in range(MANY if number % 2 else 5)]
    with mmnpz.NpzWriter(path) as writer:
        for name in names:
            writer.write(name, array_of(name, 3))
    report.write_text("".join(f"{name}\n" for name in names))
    return path, report


def append(path: Path, report: Path, seed: int) -> None:
    """Append in sessions until killed."""
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
            # A line in one call: it is there whole or not.
            os.write(log, f"{name}\n".encode())
            count += 1
            if chance.random() < 0.2:
                writer.flush()
        if chance.random() < 0.9:
            writer.close()
        else:
            del writer


def check_end(path: Path, report: Path) -> None:
    """Let NumPy look for all that was said to be written."""
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


# A limit that lets a part of a large array through.
LARGE = 6 << 20
LIMIT = 4 << 20


def fail(path: Path, report: Path, error: int, prepare: Callable[[], None]) -> None:
    """Write large arrays, all of which fail, and small ones between them."""
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
            assert fails(writer.write, f"large/{count}", large), "this was to fail"
            failed += 1
            count += 1
            # Few, so that the file does not reach the limit by them.
            if count % 50 == 1:
                name = f"small/{count}"
                array = array_of(name, chance.choice([1, 100]))
                if not fails(writer.write, name, array):
                    os.write(log, f"{name}\n".encode())
            if chance.random() < 0.1:
                # What the failed write has made longer can leave no room for a directory behind it.
                fails(writer.flush)
        if fails(writer.close):
            # It is left as a killed writer leaves it. The next one mends that.
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
        # It is closed or left as a killed writer leaves it.
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
        # It may have to load its packages.
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
        # Where there is room for a directory.
        copy = report_in / "copy.npz"
        shutil.copy(path, copy)
        check_end(copy, report)
        path.unlink()
        number += 1


def forked(error: int, prepare: Callable[[], None]) -> Callable[[Path, Path], int]:
    """What starts a writer whose large writes all fail."""
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
