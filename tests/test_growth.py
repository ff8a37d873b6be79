"""mmnpz adds entries to a directory in place: fast, without reading it, and only if its seal is right."""

import os
import struct
import sys
import threading
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import Parts, npy, parts, same
from tests.processes import run_python
from tests.test_index import agree, array, is_stored_index_used, pages_in_memory, write

pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.thread_unsafe(reason="changes a file in place, which others would have mapped"),
]

MANY = 1500
"""With this many members, the directory is so large that `close` leaves room for some ten more members."""


FIELDS = {
    "listed": (16, "<Q"),
    "next": (24, "<Q"),
    "size": (32, "<Q"),
    "members": (48, "<Q"),
    "hinted": (56, "<Q"),
    "index": (64, "<Q"),
    "crc": (72, "<I"),
    "state": (84, "<I"),
    "indexed": (92, "<I"),
}


def write_seal(path: Path, old: Parts, **changes: int) -> None:
    """Change fields of the seal, and give it the right checksum."""
    seal = bytearray(old.seal)
    for name, value in changes.items():
        offset, form = FIELDS[name]
        struct.pack_into(form, seal, offset, value)
    seal[88:92] = bytes(4)
    seal[88:92] = struct.pack("<I", zlib.crc32(seal))
    with path.open("r+b") as file:
        file.seek(len(old.members) + old.room + len(old.table))
        file.write(seal)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "a.npz", MANY)


def check(path: Path, members: int, new: dict[str, Any]) -> None:
    """Check that NumPy, `zipfile` and mmnpz find the members n0, n1, … and the `new` ones."""
    data = mmnpz.load(path)
    assert len(data) == members + len(new)
    assert data.files == [*(f"n{number}" for number in range(members)), *new]
    assert all(same(data[name], value) for name, value in new.items())
    assert all(same(data[f"n{number}"], array(number)) for number in range(members))
    assert "nothing" not in data
    with np.load(path) as theirs:
        assert theirs.files == data.files
        assert all(same(theirs[name], value) for name, value in new.items())
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None


def test_adding_a_member_moves_nothing(path: Path) -> None:
    before = parts(path)
    assert before.room > 1000
    # The room has a fence, and zeros behind that.
    assert not any(path.read_bytes()[len(before.members) :][46 : before.room])
    write(path, 1, "a", MANY)
    after = parts(path)
    assert after.members.startswith(before.members)
    assert after.directory.startswith(before.directory)
    assert after.room == before.room - (len(after.members) - len(before.members))
    assert len(after.table) == len(before.table)
    # One slot of the index changes, and one place, which the index has for every sixteenth entry.
    changed = sum(one != other for one, other in zip(before.table, after.table, strict=True))
    assert 0 < changed <= 12 + 8
    assert path.stat().st_size < sum(map(len, (before.members, before.table, before.directory))) + (
        before.room + 96 + 100 + 22
    )
    check(path, MANY + 1, {})


@pytest.mark.parametrize(("step", "sessions"), [(1, 150), (3, 50), (250, 5)])
def test_many_sessions_make_the_same_file_as_one(tmp_path: Path, step: int, sessions: int) -> None:
    """Many sessions write the bytes that one session writes, apart from the room.

    The sessions fill the room, move the directory when the room is used up, and make the index anew when it
    gets too small.
    """
    path = write(tmp_path / "a.npz", MANY)
    moved, members = 0, MANY
    start = len(parts(path).members) + parts(path).room
    for _ in range(sessions):
        write(path, step, "a", members)
        members += step
        assert is_stored_index_used(path)
        now = parts(path)
        moved += len(now.members) + now.room != start
        start = len(now.members) + now.room
    assert 2 < moved < 50
    once = parts(write(tmp_path / "b.npz", members))
    now = parts(path)
    assert (now.members, now.table, now.directory) == (once.members, once.table, once.directory)
    check(path, members, {})


def test_the_room_is_small_and_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    block = np.zeros(100_000, "u1")
    with mmnpz.NpzWriter(path) as writer:
        for number in range(1000):
            writer.write(f"n{number}", block)
    room, size = parts(path).room, path.stat().st_size
    assert 90_000 < room < size // 128
    if sys.platform == "linux":
        assert path.stat().st_blocks * 512 < size - room + 20_000
    # A small directory, which is moved fast, has room for a fence only.
    assert parts(write(tmp_path / "b.npz", 500)).room == 46


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its page cache")
@pytest.mark.thread_unsafe(reason="of a page cache that others use too")
def test_appending_reads_little_of_a_file_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    block = np.arange(1 << 13, dtype="<f4")
    with mmnpz.NpzWriter(path) as writer:
        for number in range(3000):
            writer.write(f"{number}" * 800, block)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if pages_in_memory(path).any():
        pytest.skip("this file system keeps its files in memory")
    members = len(parts(path).members) // 4096
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert not pages_in_memory(path).any()
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("new", block)
    # mmnpz reads the start and the end of the file. The system reads up to 8 MiB ahead around these.
    assert not pages_in_memory(path)[2048 : members - 2048].any()
    assert same(mmnpz.load(path)["new"], block)


def test_a_member_that_does_not_fit_moves_the_directory(path: Path) -> None:
    room = parts(path).room
    new = {
        "a": np.arange(10.0),
        "large": np.ones(room, "u1"),
        "b": np.arange(5),
        "larger": np.ones(2 << 20, "u1"),
    }
    with mmnpz.NpzWriter(path, "a") as writer:
        for name, value in new.items():
            writer.write(name, value)
    check(path, MANY, new)
    size = path.stat().st_size
    assert size < len(parts(path).members) * 130 / 128 + 200_000
    write(path, 1, "a", MANY)
    assert path.stat().st_size < size + 200


def test_threads_and_flushes(path: Path) -> None:
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("first", np.arange(3))

        def work(thread: int) -> None:
            for number in range(20):
                writer.write(f"{thread}/{number}", np.full(number * 20, thread))
                if number == 7 * thread:
                    writer.flush()

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.write("last", np.arange(4))
    data = mmnpz.load(path)
    for writer_number in range(3):
        for number in range(20):
            value = np.full(number * 20, writer_number)
            assert same(data[f"{writer_number}/{number}"], value)
    assert len(data) == MANY + 62
    agree(path, [*(f"n{number}" for number in range(MANY)), "nothing"])


def test_the_writer_knows_the_names_that_are_there(path: Path) -> None:
    with mmnpz.NpzWriter(path, "a") as writer:
        assert "n7" in writer
        assert "new" not in writer
        writer["new"] = array(1)
        assert "new" in writer
        assert "nothing" not in writer
        assert writer.files == [*(f"n{number}" for number in range(MANY)), "new"]
        assert len(writer) == MANY + 1
        with pytest.warns(UserWarning, match=r"Duplicate name: 'n5\.npy'"):
            writer["n5"] = array(6)
        with pytest.warns(UserWarning, match=r"Duplicate name: 'new\.npy'"):
            writer["new"] = array(8)
        assert len(writer) == MANY + 1
    data = mmnpz.load(path)
    assert same(data["n5"], array(6))
    assert same(data["new"], array(8))
    assert len(data) == MANY + 1


def test_a_failed_write_leaves_no_trace(path: Path) -> None:
    before = path.read_bytes()
    with mmnpz.NpzWriter(path, "a") as writer, pytest.raises(ValueError, match="object"):
        writer.write("x", np.array(None))
    assert path.read_bytes() == before


@pytest.mark.parametrize("opened", ["before", "between"])
def test_readers_keep_what_they_had(path: Path, opened: str) -> None:
    readers = [mmnpz.load(path)] if opened == "before" else []
    for session in range(25):
        if opened == "between":
            readers.append(mmnpz.load(path))
        write(path, 1, "a", MANY + session)
    for session, data in enumerate(readers):
        members = MANY + session
        assert f"n{members}" not in data
        assert len(data) == members
        for number in range(members - 1, -1, -7):
            assert same(data[f"n{number}"], array(number))
        assert data.files == [f"n{number}" for number in range(members)]


def test_a_reader_that_is_opened_while_the_directory_grows(path: Path) -> None:
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("new", array(3))
        data = mmnpz.load(path)
        assert same(data["new"], array(3))
        assert same(data["n7"], array(7))
        assert len(data) == MANY + 1
        # Other programs read the old directory until the writer closes.
        with np.load(path) as theirs:
            assert len(theirs.files) == MANY
    assert same(data["n8"], array(8))
    check(path, MANY, {"new": array(3)})


# Files that other programs changed.


def swap(path: Path, old: bytes, new: bytes, everywhere: bool = True) -> None:
    """Replace a name in the local header and in the entry, or only in the entry."""
    raw = path.read_bytes()
    at = raw.rindex(old)
    assert raw.count(old) == 2
    path.write_bytes(raw.replace(old, new) if everywhere else raw[:at] + new + raw[at + len(old) :])


def test_names_that_were_changed_in_place(path: Path) -> None:
    swap(path, b"n700.npy", b"x700.npy")
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("new", array(1))
    data = mmnpz.load(path)
    assert "n700" not in data
    assert same(data["x700"], array(700))
    assert same(data["new"], array(1))
    agree(path, ["n700", "n699", "nothing"])
    with mmnpz.NpzWriter(path, "a") as writer:
        assert "x700" in writer
        assert "n700" not in writer
        assert "x700" in writer.files
        writer.write("newer", array(2))
    # The file is not as mmnpz wrote it any more, so mmnpz keeps all of its members.
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert file.namelist()[-2:] == ["new.npy", "newer.npy"]
    assert not is_stored_index_used(path)
    for number in range(3):
        write(path, 1, "a", MANY + number)
        agree(path, ["n700", "n699", "nothing", f"n{MANY + number}"])
        assert same(mmnpz.load(path)["x700"], array(700))


def test_a_name_that_was_changed_in_place_is_written_again(path: Path) -> None:
    swap(path, b"n700.npy", b"x700.npy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mmnpz.NpzWriter(path, "a") as writer:
            writer.write("x700", array(1))
    with np.load(path) as theirs:
        assert same(theirs["x700"], array(1))
    data = mmnpz.load(path)
    assert same(data["x700"], array(1))
    assert same(data["n699"], array(699))


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_index_or_directory(path: Path, seed: int) -> None:
    """After a session on a file with a damaged index or directory, mmnpz finds what `zipfile` finds."""
    old = parts(path)
    generator = np.random.default_rng(seed)
    raw = bytearray(path.read_bytes())
    start = len(old.members) + old.room
    for at in generator.integers(start, len(raw) - 22, 40 if seed % 2 else 1):
        raw[at] = generator.integers(0, 256)
    path.write_bytes(raw)
    try:
        with mmnpz.NpzWriter(path, "a") as writer:
            writer.write(f"n{MANY}", array(MANY))
            writer.write(f"n{MANY + 1}", array(MANY + 1))
    except (zipfile.BadZipFile, ValueError):
        return
    agree(path, [f"n{number}" for number in range(MANY + 3)])


@pytest.mark.parametrize("cut", ["behind", "in front", "end record"])
def test_a_file_whose_start_or_end_was_changed(path: Path, cut: str) -> None:
    raw = path.read_bytes()
    if cut == "behind":
        path.write_bytes(raw[:-22] + raw[-22:-2] + struct.pack("<H", 5) + b"hello")
    elif cut == "in front":
        path.write_bytes(b"#!/bin/sh\n" + raw)
    else:
        path.write_bytes(raw[:-2] + b"\1\0")
    write(path, 1, "a", MANY)
    agree(path, [f"n{number}" for number in range(0, MANY + 2, 7)])
    assert same(mmnpz.load(path)[f"n{MANY}"], array(MANY))


def test_another_program_uses_the_room(path: Path) -> None:
    """Another program, for which the room is a gap, writes a member there, and mmnpz appends after that."""
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("theirs.npy", npy(array(5)))
    write(path, 1, "a", MANY)
    data = mmnpz.load(path)
    assert same(data["theirs"], array(5))
    check(path, MANY, {"theirs": array(5), f"n{MANY}": array(MANY)})


def test_a_writer_that_was_killed_while_the_directory_grew(path: Path) -> None:
    """A kill while a directory grows loses nothing, whether the writer had changed the end record or not."""
    old = parts(path)
    write_seal(path, old, state=2)
    assert len(mmnpz.load(path)) == MANY
    raw = path.read_bytes()
    path.write_bytes(raw[:-22] + bytes(4) + raw[-18:])
    with pytest.warns(UserWarning, match="not closed"):
        data = mmnpz.load(path)
    assert len(data) == MANY
    assert same(data["n7"], array(7))
    write(path, 1, "a", MANY)
    check(path, MANY + 1, {})
    assert is_stored_index_used(path)


def test_an_index_that_the_seal_denies_is_not_added_to(path: Path) -> None:
    write_seal(path, parts(path), indexed=0)
    write(path, 1, "a", MANY)
    check(path, MANY + 1, {})


@pytest.mark.parametrize(
    "value", [0, 1, MANY - 1, MANY + 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63, 2**64 - 1]
)
@pytest.mark.parametrize("field", ["listed", "next", "size", "members", "hinted", "index"])
def test_a_seal_with_wrong_numbers(path: Path, field: str, value: int) -> None:
    """A seal with wrong numbers and a right checksum makes mmnpz neither crash nor read a wrong array."""
    before = path.stat().st_size
    write_seal(path, parts(path), **{field: value})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write(path, 2, "a", MANY)
    except (zipfile.BadZipFile, ValueError):
        return
    assert path.stat().st_size < 2 * before
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = mmnpz.load(path)
    for number in range(0, MANY + 2, 7):
        if f"n{number}.npy" in names and f"n{number}" in data:
            assert same(data[f"n{number}"], array(number))


# Kills, and full file systems. A kill leaves the bytes that are in the file at that moment.


def leave_as_killed(path: Path, writer: mmnpz.NpzWriter) -> None:
    """Close a writer, and restore the bytes that the file had before."""
    raw = path.read_bytes()
    writer.close()
    path.write_bytes(raw)


@pytest.mark.parametrize("moment", ["written", "flushed", "entered"])
def test_an_index_that_was_not_finished_is_made_again(path: Path, moment: str) -> None:
    old = parts(path)
    writer = mmnpz.NpzWriter(path, "a")
    writer["x"] = array(1)
    if moment == "flushed":
        writer.flush()
    before = path.read_bytes()
    leave_as_killed(path, writer)
    if moment == "entered":
        # The index has the new slot, and the file has no other change.
        write(path.with_name("b.npz"), MANY)
        with mmnpz.NpzWriter(path.with_name("b.npz"), "a") as other:
            other["x"] = array(1)
        start = len(old.members) + old.room
        table = parts(path.with_name("b.npz")).table
        path.write_bytes(before[:start] + table + before[start + len(table) :])
    for number in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write(path, 1, "a", MANY + number)
        assert is_stored_index_used(path)
    check_names = mmnpz.load(path)
    assert check_names.files == [*(f"n{number}" for number in range(MANY)), "x", f"n{MANY}", f"n{MANY + 1}"]
    assert "nothing" not in check_names
    assert is_stored_index_used(path)


def test_members_that_another_program_added_after_an_edit_stay(path: Path) -> None:
    swap(path, b"n700.npy", b"x700.npy")
    with mmnpz.NpzWriter(path, "a") as writer:
        writer["new"] = np.ones(300_000, "u1")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("theirs.npy", npy(array(7)))
    writer = mmnpz.NpzWriter(path, "a")
    writer["x"] = np.ones(100_000, "u1")
    leave_as_killed(path, writer)
    for repaired in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = mmnpz.load(path)
        assert same(data["theirs"], array(7))
        assert same(data["x700"], array(700))
        assert {"new", "x"} < set(data)
        if not repaired:
            mmnpz.repair(path)


LIMITED = """
import os, resource, signal, sys
import numpy as np, mmnpz
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
path = sys.argv[1]
"""

KILLED_AND_FULL = f"""{LIMITED}
import warnings
warnings.simplefilter("ignore")
for size in range(3, 130):
    with mmnpz.NpzWriter(path, "w", align=1) as writer:
        for number in range(1500):
            writer.write(f"n{{number:04}}", np.arange(3, dtype="u1"))
    length = os.path.getsize(path)
    writer = mmnpz.NpzWriter(path, "a", align=1)
    writer.write("m0000", np.arange(size, dtype="u1"))
    raw = open(path, "rb").read()  # a kill would leave these bytes
    writer.close()
    open(path, "wb").write(raw)
    limit(length)
    writer = mmnpz.NpzWriter(path, "a", align=1)
    try:
        writer.close()
    except OSError:
        pass
    raw = open(path, "rb").read()
    limit(resource.RLIM_INFINITY)
    writer.close()
    open(path, "wb").write(raw)
    names = mmnpz.load(path).files
    assert sorted(names) == ["m0000", *(f"n{{number:04}}" for number in range(1500))], (size, len(names))
"""

FULL_AND_LARGE = f"""{LIMITED}
with mmnpz.NpzWriter(path) as writer:
    for number in range(1500):
        writer.write(f"n{{number}}", np.arange(3))
    writer.write("large", np.zeros(3_000_000, "u1"))
writer = mmnpz.NpzWriter(path, "a")
for number in range(60):
    writer.write(f"x{{number:03}}" * 20, np.arange(3))
limit(os.path.getsize(path) + 7000)
for step in (writer.close, lambda: writer.write("big", np.zeros(4_000_000, "u1"))):
    length = os.path.getsize(path)
    try:
        step()
    except OSError:
        assert os.path.getsize(path) >= length, "the file got shorter, which a reader may have mapped"
    else:
        raise AssertionError("there was room")
limit(resource.RLIM_INFINITY)
writer.close()
data = mmnpz.load(path)
assert len(data) == 1561 and data["n7"].tolist() == [0, 1, 2]
assert np.load(path).files == data.files
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits are those of POSIX")
@pytest.mark.thread_unsafe(reason="works in a process of its own")
@pytest.mark.parametrize("script", [KILLED_AND_FULL, FULL_AND_LARGE], ids=["killed", "large"])
def test_out_of_space_while_the_directory_grows(tmp_path: Path, script: str) -> None:
    run_python(script, tmp_path / "a.npz")
