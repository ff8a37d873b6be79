"""`NpzReader.verify` finds the members whose bytes are not those that were written, as `zipfile` does."""

import os
import signal
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmnpz
from tests.archives import Entry, build_zip, npy
from tests.faults.recorder import compile_shim, why_not
from tests.processes import wait_for

BLOCK = 1 << 18
"""What `verify` reads of a member at first."""

PIECE = 1 << 23
"""What a thread takes of a large member at a time."""

SIZES = [0, 1, 100, BLOCK - 1200, BLOCK - 200, BLOCK, BLOCK + 1, PIECE, PIECE + BLOCK, 3 * PIECE + 5]


def write(path: Path, sizes: list[int]) -> None:
    rng = np.random.default_rng(0)
    with mmnpz.NpzWriter(path, "w") as writer:
        for number, size in enumerate(sizes):
            writer.write(f"a{number}", rng.integers(0, 256, size, np.uint8))


def flip(path: Path, at: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x10]))


def names(damaged: list[mmnpz.DamagedMember]) -> list[str]:
    return [member.name for member in damaged]


@pytest.mark.parametrize("threads", [None, 1, 2, 5])
def test_each_byte_counts(tmp_path: Path, threads: int | None) -> None:
    path = tmp_path / "a.npz"
    write(path, SIZES)
    data: Any = mmnpz.load(path)
    assert data.verify(threads=threads) == []
    for name in data.files:
        view = data[name]
        for at in {0, view.size // 2, view.size - 1} if view.size else ():
            flip(path, view.offset + at)
            (found,) = data.verify(threads=threads)
            assert found.name == name
            assert found.expected != found.found
            with zipfile.ZipFile(path) as file:
                info = file.getinfo(f"{name}.npy")
                assert (found.offset, found.expected) == (info.header_offset, info.CRC)
            flip(path, view.offset + at)
        flip(path, view.offset - 1)  # of the .npy header
        assert names(data.verify(threads=threads)) == [name]
        flip(path, view.offset - 1)
    assert data.verify(threads=threads) == []


@given(
    sizes=st.lists(st.integers(0, 2000) | st.sampled_from([BLOCK, BLOCK + 7]), max_size=40),
    data=st.data(),
    threads=st.integers(1, 3),
)
def test_as_testzip_does(
    new_path: Callable[[], Path], sizes: list[int], data: st.DataObject, threads: int
) -> None:
    path = new_path()
    write(path, sizes)
    reader: Any = mmnpz.load(path)
    wrong = sorted(data.draw(st.sets(st.sampled_from(range(len(sizes))), max_size=5))) if sizes else []
    for number in wrong:
        view = reader[f"a{number}"]
        flip(path, view.offset - 1 - data.draw(st.integers(0, 20)))
    expected = [f"a{number}" for number in wrong]
    assert names(reader.verify(threads=threads)) == expected
    with zipfile.ZipFile(path) as file:
        assert file.testzip() == (f"{expected[0]}.npy" if expected else None)
    backwards = reader.files[::-1]
    assert names(reader.verify(backwards, threads=threads)) == expected[::-1]
    if expected:
        with pytest.raises(zipfile.BadZipFile, match=r'member "a\d+": its bytes have the CRC-32 0x'):
            reader.verify(threads=threads, strict=True)
    else:
        assert reader.verify(threads=threads, strict=True) == []


def test_files_of_other_programs(tmp_path: Path) -> None:
    """Headers of any length, data descriptors, a prefix, several members with one name."""
    path = tmp_path / "a.npz"
    arrays = {f"a{number}": np.arange(number * 1000) for number in range(5)}
    extra = struct.pack("<2H", 0x6D6D, 65_000) + bytes(65_000)
    entries = [
        Entry(f"{name}.npy", npy(array), local_extra=extra[: number * 65_004], descriptor=number == 3)
        for number, (name, array) in enumerate(arrays.items())
    ]
    path.write_bytes(build_zip(*entries, junk=b"a program" * 100))
    data: Any = mmnpz.load(path)
    assert data.verify() == []
    flip(path, data["a3"].offset + 5)
    assert names(data.verify()) == ["a3"]
    np.savez(path, **arrays)  # type: ignore[arg-type]
    assert mmnpz.load(path).verify() == []
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("a1.npy", npy(np.arange(3)))
    assert mmnpz.load(path).verify() == []


def test_an_archive_without_a_directory(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write(path, [1000, 2000, BLOCK * 2])
    start = min(path.read_bytes().index(b"PK\1\2"), path.stat().st_size)
    os.truncate(path, start)
    with pytest.warns(UserWarning, match="no complete directory"):
        data: Any = mmnpz.load(path)
    assert data.verify() == []
    flip(path, data["a1"].offset + 1999)
    flip(path, data["a2"].offset + BLOCK + BLOCK // 2)
    assert names(data.verify()) == ["a1", "a2"]


def test_headers_that_do_not_fit_the_directory(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write(path, [10, 10, 10])
    data = mmnpz.load(path)
    with zipfile.ZipFile(path) as file:
        offsets = [info.header_offset for info in file.infolist()]
    flip(path, offsets[0])  # the signature
    flip(path, offsets[1] + 30)  # the name
    first, second = data.verify()
    assert (first.name, first.offset, first.expected, first.found) == ("a0", offsets[0], None, None)
    assert "local file header" in first.reason
    assert second.name == "a1"
    assert "name" in second.reason


def test_a_file_that_was_cut_short(tmp_path: Path) -> None:
    """To look at the missing part through the map would end the process."""
    path = tmp_path / "a.npz"
    write(path, [100, 1000])
    data: Any = mmnpz.load(path)
    for at in (path.stat().st_size - 1, data["a1"].offset + 10, 0):
        os.truncate(path, at)
        with pytest.raises(OSError, match="cut short since it was opened"):
            data.verify()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_file_that_is_cut_short_meanwhile(tmp_path: Path, threads: int) -> None:
    path = tmp_path / "a.npz"
    write(path, [100] * 20 + [8 * PIECE, 5 * PIECE])
    data: Any = mmnpz.load(path)
    end = data["a20"].offset + 7 * PIECE + 9
    damaged = data.verify(threads=threads, progress=lambda done, total: os.truncate(path, end))
    assert names(damaged) == ["a20", "a21"]
    assert {member.reason for member in damaged} == {"the file ends inside of it"}


def test_a_file_that_was_replaced_or_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write(path, SIZES)
    data: Any = mmnpz.load(path)
    os.rename(path, tmp_path / "b.npz")
    flip(tmp_path / "b.npz", data["a9"].offset)
    assert names(data.verify()) == ["a9"]
    write(path, [5, 5])
    assert names(data.verify()) == ["a9"]
    os.remove(path)
    os.mkfifo(path)
    assert names(data.verify()) == ["a9"]


def test_a_relative_path_and_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.npz", [100, 1000])
    monkeypatch.chdir(tmp_path)
    data = mmnpz.load("a.npz")
    monkeypatch.chdir("/")
    assert data.verify() == []
    os.truncate(tmp_path / "a.npz", 500)
    with pytest.raises(OSError, match="cut short since it was opened"):
        data.verify()


@pytest.mark.thread_unsafe(reason="uses up all descriptors")
def test_no_descriptor_left(tmp_path: Path) -> None:
    import resource

    write(tmp_path / "a.npz", [100])
    data = mmnpz.load(tmp_path / "a.npz")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            data.verify()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert data.verify() == []


def test_members_that_were_written_since(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write(path, [1000] * 3)
    data = mmnpz.load(path)
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("new", np.arange(1000))
    assert data.verify() == []
    assert mmnpz.load(path).verify(["new", "a0"]) == []


def test_what_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write(path, [10] * 3)
    data: Any = mmnpz.load(path)
    flip(path, data["a1"].offset)
    assert names(data.verify(iter(["a2", "a1", "a0", "a1"]))) == ["a1", "a1"]
    assert data.verify([]) == []
    with pytest.raises(KeyError, match="missing"):
        data.verify(["a0", "missing"])
    for wrong in ([3], "a0", b"a0"):
        with pytest.raises(TypeError):
            data.verify(wrong)
    with pytest.raises(KeyError):
        data.verify(["\ud800"])
    assert names(data.verify(threads=1 << 70, strict=0)) == ["a1"]
    for threads in (0, -1):
        with pytest.raises(ValueError, match="threads"):
            data.verify(threads=threads)
    data.close()
    with pytest.raises(ValueError, match="closed"):
        data.verify()


@pytest.mark.parametrize("chosen", [False, True])
def test_more_members_than_are_looked_up_at_a_time(tmp_path: Path, chosen: bool) -> None:
    path = tmp_path / "a.npz"
    write(path, [3] * 10_000)
    data: Any = mmnpz.load(path)
    wrong = ["a0", "a4095", "a4096", "a9999"]
    for name in wrong:
        flip(path, data[name].offset)
    assert names(data.verify(data.files if chosen else None)) == wrong


def test_progress(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write(path, [1000] * 100 + [20 * PIECE])
    data = mmnpz.load(path)
    calls: list[tuple[int, int]] = []
    assert data.verify(progress=lambda *numbers: calls.append(numbers)) == []
    with zipfile.ZipFile(path) as file:
        total = sum(info.file_size for info in file.infolist())
    assert calls[-1] == (total, total)
    assert calls == sorted(calls)
    assert {total for _, total in calls} == {total}
    calls.clear()
    assert data.verify(["a0", "a5"], progress=lambda *numbers: calls.append(numbers)) == []
    assert calls[-1] == (2 * 1128, 2 * 1128)

    def fail(done: int, total: int) -> None:
        raise RuntimeError(f"at {done} of {total}")

    with pytest.raises(RuntimeError, match=f"of {total}"):
        data.verify(progress=fail)


def verify_for_ever(data: mmnpz.NpzReader) -> NoReturn:
    while True:
        data.verify()


@pytest.mark.thread_unsafe(reason="sends a signal to the main thread")
def test_a_signal_handler_that_raises_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write(path, [1])
    # It takes longer to read than the alarm waits.
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("large", np.broadcast_to(np.uint8(0), 1 << 28))
    data = mmnpz.load(path)

    class AlarmError(Exception):
        pass

    def ring(*_: object) -> None:
        raise AlarmError

    old = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(AlarmError):
            verify_for_ever(data)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert data.verify() == []


@pytest.mark.thread_unsafe(reason="forks")
def test_a_callback_that_forks(tmp_path: Path) -> None:
    """The child has none of the threads that help: it checks all members by itself."""
    path = tmp_path / "a.npz"
    write(path, [100_000] * 300 + [4 * PIECE])
    data: Any = mmnpz.load(path)
    flip(path, data["a100"].offset)
    flip(path, data["a300"].offset + 3 * PIECE)
    parent = os.getpid()
    children: list[int] = []

    def progress(done: int, total: int) -> None:
        if not children and os.getpid() == parent:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of a process with threads
                children.append(os.fork())
            if not children[0]:
                signal.alarm(60)

    found: list[str] = []
    status = 1
    try:
        while not children:
            found = names(data.verify(threads=3, progress=progress))
        status = 0 if found == ["a100", "a300"] else 2
    finally:
        if os.getpid() != parent:
            os._exit(status)
    assert status == 0
    wait_for(children[0])


READ = """
import sys, mmnpz
for member in mmnpz.load(sys.argv[1]).verify():
    print(member.name, member.reason)
"""


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_what_the_disk_cannot_read(tmp_path: Path) -> None:
    """A member that the disk cannot read is damaged, and the others are checked."""
    path = tmp_path / "a.npz"
    write(path, [1000, BLOCK * 3, 1000])
    data: Any = mmnpz.load(path)
    flip(path, data["a2"].offset)
    library = compile_shim(tmp_path, "flaky")
    for name, at in [("a0", data["a0"].offset), ("a1", data["a1"].offset + BLOCK * 2)]:
        environment = {**os.environ, "LD_PRELOAD": str(library), "UNREADABLE": str(at)}
        command = [sys.executable, "-c", READ, str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        first, second = done.stdout.splitlines()
        assert first == f"{name} Input/output error (os error 5)"
        assert second.startswith("a2 its bytes")


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_small_member_that_the_disk_cannot_read_hurts_none_near_it(tmp_path: Path) -> None:
    """Small members are read many at a time."""
    path = tmp_path / "a.npz"
    write(path, [10] * 500)
    data: Any = mmnpz.load(path)
    flip(path, data["a252"].offset)
    library = compile_shim(tmp_path, "flaky")
    environment = {**os.environ, "LD_PRELOAD": str(library), "UNREADABLE": str(data["a250"].offset)}
    command = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["a250", "a252"]
