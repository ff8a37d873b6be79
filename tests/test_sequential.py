"""Programs that go from local header to local header find exactly the arrays that numpy.load finds."""

import hashlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

import mmnpz
from tests import sequential
from tests.archives import npy, same

pytestmark = pytest.mark.thread_unsafe(reason="works in processes of their own")

SOURCES = Path(__file__).parent / "data" / "readers"
NPM = Path(__file__).parent.parent / ".tools" / "npm" / "node_modules"


def missing(name: str) -> NoReturn:
    """Skip a test whose program is not installed, or fail if MMNPZ_READERS says that all are installed."""
    if os.environ.get("MMNPZ_READERS"):
        pytest.fail(f"{name} is not installed")
    pytest.skip(f"{name} is not installed")


def run(*command: Any, stdin: Path | None = None) -> str:
    if not shutil.which(str(command[0])):
        missing(command[0])
    # Pass the file through a pipe: the program cannot seek to the directory in it.
    piped = stdin.read_bytes() if stdin else b""
    done = subprocess.run([*map(str, command)], input=piped, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout.decode()


def printed(text: str) -> dict[str, str]:
    return {name: digest for digest, name in (line.split(" ", 1) for line in text.splitlines())}


def unpacked(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


@cache
def compiled() -> "tempfile.TemporaryDirectory[str]":
    """Compile the Java reader, and return the folder of its class, which lives as long as the tests run."""
    folder = tempfile.TemporaryDirectory()
    run("javac", "-d", folder.name, SOURCES / "Sequential.java")
    return folder


def java(path: Path, scratch: Path) -> dict[str, str]:
    return printed(run("java", "-cp", compiled().name, "Sequential", path))


def perl(path: Path, scratch: Path) -> dict[str, str]:
    return printed(run("perl", SOURCES / "sequential.pl", path))


def npm(package: str) -> Callable[[Path, Path], dict[str, str]]:
    def read(path: Path, scratch: Path) -> dict[str, str]:
        if not (NPM / package).exists():
            missing(f"npm {package}")
        return printed(run("node", SOURCES / "sequential.js", NPM / package, path))

    return read


def stream_unzip(path: Path, scratch: Path) -> dict[str, str]:
    try:
        from stream_unzip import stream_unzip as members
    except ImportError:
        missing("stream-unzip")
    with path.open("rb") as file:
        return {
            name.decode(): hashlib.sha256(b"".join(parts)).hexdigest()
            for name, _, parts in members(iter(lambda: file.read(65536), b""))
        }


def bsdtar(path: Path, scratch: Path) -> dict[str, str]:
    run("bsdtar", "-xf", "-", "-C", scratch, stdin=path)
    return unpacked(scratch)


def busybox(path: Path, scratch: Path) -> dict[str, str]:
    run("busybox", "unzip", "-q", "-", "-d", scratch, stdin=path)
    return unpacked(scratch)


READERS = {
    "java": java,
    "perl": perl,
    "stream-unzip": stream_unzip,
    "unzipper": npm("unzipper"),
    "unzip-stream": npm("unzip-stream"),
    "bsdtar": bsdtar,
    "busybox": busybox,
}


def array(number: int) -> Any:
    return np.arange(3 + 50 * (number % 50), dtype=("<i4", "<f8", "u1")[number % 3])


def write(path: Path, mode: Any, numbers: range, align: int) -> None:
    with mmnpz.NpzWriter(path, mode, align=align) as writer:
        for number in numbers:
            writer.write(f"k{number}", array(number))


def numpy_file(path: Path, align: int) -> None:
    np.savez(path, **{f"k{number}": array(number) for number in range(5)})


def by_hand(path: Path, align: int) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for number in range(5):
            file.writestr(f"k{number}.npy", npy(array(number)))


def new(path: Path, align: int) -> None:
    write(path, "x", range(8), align)


def sessions(path: Path, align: int) -> None:
    for first in range(0, 9, 3):
        write(path, "a", range(first, first + 3), align)


def flushes(path: Path, align: int) -> None:
    with mmnpz.NpzWriter(path, align=align) as writer:
        for number in range(6):
            writer.write(f"k{number}", array(number))
            writer.flush()


def many(path: Path, align: int) -> None:
    """Write a file whose index does not fit into one extra field."""
    write(path, "x", range(5000), align)


def many_in_sessions(path: Path, align: int) -> None:
    """Write a file with room, and add members while its directory grows in place."""
    large = np.zeros(40_000_000, np.uint8)
    with mmnpz.NpzWriter(path, align=align) as writer:
        writer.write("large", large)
        for number in range(5000):
            writer.write(f"k{number}", array(number % 10))
    start = directory_at(path)
    for number in range(5000, 5003):
        write(path, "a", range(number, number + 1), align)
    assert directory_at(path) == start


def directory_at(path: Path) -> int:
    with zipfile.ZipFile(path) as file:
        return file.start_dir


def threads(path: Path, align: int) -> None:
    with mmnpz.NpzWriter(path, align=align) as writer, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: writer.write(f"k{number}", array(number)), range(40)))


def after_numpy(path: Path, align: int) -> None:
    numpy_file(path, align)
    write(path, "a", range(5, 8), align)
    write(path, "a", range(8, 30), align)


def after_zipfile(path: Path, align: int) -> None:
    by_hand(path, align)
    write(path, "a", range(5, 7), align)


def by_zipfile(path: Path, number: int) -> None:
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(f"k{number}.npy", npy(array(number)))


def in_turn(path: Path, align: int) -> None:
    write(path, "x", range(5), align)
    by_zipfile(path, 5)
    by_zipfile(path, 6)
    write(path, "a", range(7, 9), align)
    by_zipfile(path, 9)
    write(path, "a", range(10, 11), align)


def added_then_repaired(path: Path, align: int) -> None:
    flushes(path, align)
    by_zipfile(path, 6)
    assert mmnpz.repair(path).changed
    assert not mmnpz.repair(path).changed


def added_to_one_without_an_index(path: Path, align: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mmnpz.NpzWriter(path, align=align) as writer:
            writer.write("k0", array(0))
            writer.write("k0", array(0))  # a repeated name: mmnpz then writes no index
    by_zipfile(path, 1)
    write(path, "a", range(2, 3), align)


OTHERS = [numpy_file, by_hand]
OURS = [
    new,
    sessions,
    flushes,
    threads,
    after_numpy,
    after_zipfile,
    in_turn,
    added_then_repaired,
    added_to_one_without_an_index,
]
CASES = [
    *((make, 1) for make in OTHERS),
    *((make, align) for make in OURS for align in (1, 64, 4096, 32768)),
    (many, 64),
    (many_in_sessions, 1),
]
# The cases for other programs, which take a second each: those that differ most.
FEWER = [(make, align) for make, align in CASES if align in {1, 4096} or make is many]


def cases(chosen: list[tuple[Any, int]]) -> pytest.MarkDecorator:
    ids = [f"{make.__name__}-{align}" for make, align in chosen]
    return pytest.mark.parametrize(("make", "align"), chosen, ids=ids)


@cases(CASES)
def test_the_strict_reader(make: Any, align: int, tmp_path: Path) -> None:
    make(tmp_path / "a.npz", align)
    found = sequential.read(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as data:
        assert sorted(found) == sorted(set(data.files))
        assert all(same(found[name], data[name]) for name in data.files)


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="the files are those of the other build, whose tests run these programs",
)
@cases(FEWER)
@pytest.mark.parametrize("reader", READERS)
def test_sequential_readers_of_other_programs(reader: str, make: Any, align: int, tmp_path: Path) -> None:
    if reader == "busybox" and make in {numpy_file, after_numpy}:
        pytest.skip("busybox cannot read the zip64 local headers of numpy.savez")
    make(tmp_path / "a.npz", align)
    (tmp_path / "scratch").mkdir()
    with np.load(tmp_path / "a.npz") as data:
        expected = {f"{name}.npy": hashlib.sha256(npy(data[name])).hexdigest() for name in data.files}
    found = READERS[reader](tmp_path / "a.npz", tmp_path / "scratch")
    # Ignore fillers, which are no arrays.
    assert {name: digest for name, digest in found.items() if name != "mmnpz.gap"} == expected
