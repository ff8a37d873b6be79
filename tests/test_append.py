"""Mode "a" appends to archives of all programs, and keeps their members."""

import io
import os
import signal
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import Entry, build_zip, npy, put, streamed
from tests.processes import fork

OLD = np.arange(100, dtype="<i4")


def savez(compressed: bool = False) -> bytes:
    out = io.BytesIO()
    members: dict[str, Any] = {"old": OLD, "folder/ä": OLD}
    (np.savez_compressed if compressed else np.savez)(out, **members)
    return out.getvalue()


def zipped(comment: bytes = b"", junk: bytes = b"", **options: Any) -> bytes:
    out = io.BytesIO(junk)
    with zipfile.ZipFile(out, "a", **options) as file:
        file.writestr("old.npy", npy(OLD))
        file.writestr("readme.txt", "hello" * 100)
        file.comment = comment
    return out.getvalue()


def mmnpz_wrote(tmp_path: Path) -> bytes:
    with mmnpz.NpzWriter(tmp_path / "tmp.npz") as writer:
        writer.write("old", OLD)
    return (tmp_path / "tmp.npz").read_bytes()


FORGED = Entry("old.npy", npy(OLD))
ARCHIVES: dict[str, Callable[[Path], bytes]] = {
    "ours": mmnpz_wrote,
    "savez": lambda _: savez(),
    "savez_compressed": lambda _: savez(compressed=True),
    "zipfile": lambda _: zipped(),
    "deflated": lambda _: zipped(compression=zipfile.ZIP_DEFLATED),
    "bzip2": lambda _: zipped(compression=zipfile.ZIP_BZIP2),
    "comment": lambda _: zipped(comment=b"This is a comment"),
    "longest comment": lambda _: zipped(comment=b"\xff" * 65535),
    "junk in front, offsets from the file": lambda _: zipped(junk=b"#!/bin/sh\n" * 50),
    "junk in front, offsets from the archive": lambda _: build_zip(FORGED, junk=b"junk" * 100),
    "data descriptors": lambda _: streamed(["old"], OLD),
    "forged data descriptors": lambda _: build_zip(Entry("old.npy", npy(OLD), descriptor=True)),
    "zip64 everywhere": lambda _: build_zip(Entry("old.npy", npy(OLD), zip64=True), zip64_end=True),
    "gap before the directory": lambda _: build_zip(FORGED, gap=b"\0" * 300),
    "CP437": lambda _: build_zip(FORGED, Entry(b"\x84.npy", npy(OLD))),
    "extra fields and comments": lambda _: build_zip(
        Entry("old.npy", npy(OLD), local_extra=b"\1\2\3\0abc", central_extra=b"\1\2\0\0", comment=b"mine")
    ),
    "encrypted": lambda _: build_zip(FORGED, Entry("secret.npy", bytes(50), flags=1)),
    "no members": lambda _: build_zip(),
    "no members but a comment": lambda _: build_zip(comment=b"empty"),
    "an empty file": lambda _: b"",
}


def contents(path: Path) -> list[tuple[Any, ...]]:
    """Return what zipfile tells about each member, and the bytes from its local header to its end."""
    found = []
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        for info in file.infolist():
            at = info.header_offset
            name_length, extra_length = raw[at + 26] + 256 * raw[at + 27], raw[at + 28] + 256 * raw[at + 29]
            end = at + 30 + name_length + extra_length + info.compress_size
            found.append(
                (
                    info.filename,
                    info.CRC,
                    info.file_size,
                    info.flag_bits,
                    info.date_time,
                    info.comment,
                    info.extra,
                    info.external_attr,
                    info.compress_type,
                    at,
                    raw[at:end],
                )
            )
    return found


@pytest.mark.parametrize("kind", ARCHIVES)
def test_append(tmp_path: Path, kind: str) -> None:
    raw = ARCHIVES[kind](tmp_path)
    path = put(tmp_path / "a.npz", raw)
    before = contents(path) if raw else []
    with zipfile.ZipFile(path, "a") as file:
        comment = file.comment
    put(path, raw)
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("new/ü", np.arange(1000.0))
        writer.write("n", 5)
    after = contents(path)
    assert after[: len(before)] == before
    assert [item[0] for item in after[len(before) :]] == ["new/ü.npy", "n.npy"]
    with zipfile.ZipFile(path) as file:
        assert file.comment == comment
        readable = [info for info in file.infolist() if not info.flag_bits & 1]
        for info in readable:
            file.read(info)  # checks the CRC
        assert file.read("new/ü.npy") == npy(np.arange(1000.0))
    data = mmnpz.load(path)
    assert np.array_equal(data["new/ü"], np.arange(1000.0))
    assert data["n"] == 5
    if "old" in data and kind != "bzip2":
        assert np.array_equal(data["old"], OLD)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_appended_data_is_aligned(tmp_path: Path, kind: str) -> None:
    path = put(tmp_path / "a.npz", ARCHIVES[kind](tmp_path))
    with mmnpz.NpzWriter(path, "a", align=256) as writer:
        writer.write("new", np.arange(1000.0))
    data = mmnpz.load(path)
    start = data["new"].__array_interface__["data"][0] - data.mmap.__array_interface__["data"][0]
    assert start % 256 == 0


@pytest.mark.parametrize("kind", [kind for kind in ARCHIVES if kind != "an empty file"])
def test_appending_nothing_changes_nothing(tmp_path: Path, kind: str) -> None:
    raw = ARCHIVES[kind](tmp_path)
    path = put(tmp_path / "a.npz", raw)
    mmnpz.NpzWriter(path, "a").close()
    with mmnpz.NpzWriter(path, "a") as writer, pytest.raises(ValueError, match="object"):
        writer.write("x", np.array(None))
    assert path.read_bytes() == raw


@pytest.mark.parametrize("kind", ARCHIVES)
def test_appending_many_times_leaves_no_garbage(tmp_path: Path, kind: str) -> None:
    raw = ARCHIVES[kind](tmp_path)
    path = put(tmp_path / "a.npz", raw)
    with zipfile.ZipFile(io.BytesIO(raw), "a") as file:
        before = len(file.namelist())
    for number in range(20):
        with mmnpz.NpzWriter(path, "a") as writer:
            writer.write(f"x{number}", np.full(number, number))
    data = mmnpz.load(path)
    assert all(data[f"x{number}"].tolist() == [number] * number for number in range(20))
    with zipfile.ZipFile(path) as file:
        assert len(file.namelist()) == before + 20
        assert all(file.read(f"x{number}.npy") for number in range(20))
    # The file keeps one copy of the other program's directory and comment. No session leaves an old
    # directory.
    assert path.stat().st_size < 2 * len(raw) + 20 * 700 + 1000


def test_zipfile_and_mmnpz_append_by_turns(tmp_path: Path) -> None:
    path = put(tmp_path / "a.npz", mmnpz_wrote(tmp_path))
    for number in range(3):
        with zipfile.ZipFile(path, "a") as file:
            file.writestr(f"theirs{number}.npy", npy(OLD + number))
        with mmnpz.NpzWriter(path, "a") as writer:
            writer.write(f"ours{number}", OLD - number)
    with np.load(path) as data, zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert len(data.files) == 7
        for number in range(3):
            assert np.array_equal(data[f"theirs{number}"], OLD + number)
            assert np.array_equal(data[f"ours{number}"], OLD - number)


def test_a_file_of_zeros_is_a_new_one(tmp_path: Path) -> None:
    """A file of zeros counts as an empty file. A power failure can leave a file that has its size only."""
    path = put(tmp_path / "a.npz", bytes(1000))
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("x", 1)
    assert np.load(path).files == mmnpz.load(path).files == ["x"]


def test_appending_to_more_members_than_16_bits_count(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as file:
        raw = npy(np.zeros((), "u1"))
        for number in range(65_600):
            file.writestr(f"{number}.npy", raw)
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("new", 1)
        with pytest.warns(UserWarning, match="Duplicate"):
            writer.write("65599", 2)
    data = mmnpz.load(path)
    assert len(data) == 65_601
    assert data["new"] == 1
    assert data["65599"] == 2
    assert data["7"] == 0
    with zipfile.ZipFile(path) as file:
        assert len(file.namelist()) == 65_602


@pytest.mark.parametrize(
    "raw", [b"x", b"not a zip file at all, " * 10, npy(OLD), b"PK\5\6" + bytes(10), bytes(999) + b"x"]
)
def test_what_is_no_archive_is_not_appended_to(tmp_path: Path, raw: bytes) -> None:
    path = put(tmp_path / "a.npz", raw)
    with pytest.raises(zipfile.BadZipFile, match=r"a\.npz"):
        mmnpz.NpzWriter(path, "a")
    assert path.read_bytes() == raw


def test_a_comment_that_zipfile_itself_cannot_read(tmp_path: Path) -> None:
    raw = build_zip(FORGED, comment=b"see PK\5\6 for more")
    path = put(tmp_path / "a.npz", raw)
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("new", 1)
    data = mmnpz.load(path)
    assert data.files == ["old", "new"]
    assert np.array_equal(data["old"], OLD)
    assert data["new"] == 1
    assert path.read_bytes().endswith(b"see PK\5\6 for more")


UNREADABLE = {
    "an array name that is not the UTF-8 it is flagged as": Entry(b"\xff.npy", npy(OLD), flags=0x800),
    "a file name that is not the UTF-8 it is flagged as": Entry(b"\xff.txt", npy(OLD), flags=0x800),
    "no zip64 field where one must be": Entry(
        "b.npy", npy(OLD), compressed_size=2**32 - 1, file_size=2**32 - 1
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_not_appended_to(tmp_path: Path, kind: str) -> None:
    """Mode "a" refuses the archives that `load` refuses: no reader would find an appended array."""
    raw = build_zip(FORGED, UNREADABLE[kind])
    path = put(tmp_path / "a.npz", raw)
    try:
        mmnpz.load(path)
    except zipfile.BadZipFile:
        with pytest.raises(zipfile.BadZipFile, match=r"a\.npz"):
            mmnpz.NpzWriter(path, "a")
        assert path.read_bytes() == raw
    else:
        with mmnpz.NpzWriter(path, "a") as writer:
            writer.write("new", 1)
        assert mmnpz.load(path)["new"] == 1


def test_a_broken_directory_is_not_appended_to(tmp_path: Path) -> None:
    raw = bytearray(savez())
    raw[raw.rindex(b"PK\1\2")] ^= 1
    path = put(tmp_path / "a.npz", bytes(raw))
    with pytest.raises(zipfile.BadZipFile):
        mmnpz.NpzWriter(path, "a")
    assert path.read_bytes() == raw


def test_a_file_with_bytes_behind_the_archive_does_not_get_shorter(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(5))
    with path.open("ab") as file:
        file.write(bytes(60_000))
    reader = mmnpz.load(path)
    size = path.stat().st_size
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("b", [1])
    assert path.stat().st_size >= size
    assert reader.mmap[-1] in range(256)  # SIGBUS if the writer had truncated the file
    assert np.load(path).files == mmnpz.load(path).files == ["a", "b"]


def test_a_sparse_file_that_claims_a_huge_directory_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sparse.npz"
    size = 1 << 40
    with path.open("wb") as file:
        file.write(b"PK\x01\x02")
        file.seek(size)
        zip64 = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, size // 46, size // 46, size, 0)
        locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, size, 1)
        end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
        file.write(zip64 + locator + end)
    for attempt in (mmnpz.load, lambda path: mmnpz.NpzWriter(path, "a")):
        with pytest.raises(zipfile.BadZipFile, match=r"sparse\.npz"):
            attempt(path)
    assert path.stat().st_blocks * 512 < 1 << 20


def test_what_another_program_hides_stays_in_the_file(tmp_path: Path) -> None:
    """Appending keeps the bytes of a member that another program's directory does not list.

    The writer wrote the member after a flush, and was killed. Then another program appended to the file.
    """
    path = tmp_path / "a.npz"
    hidden = np.random.default_rng(1).integers(0, 256, 5000, np.uint8)
    writer = mmnpz.NpzWriter(path)
    writer.write("first", OLD)
    writer.flush()
    writer.write("hidden", hidden)
    killed = path.read_bytes()
    writer.close()
    path.write_bytes(killed)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("theirs.npy", npy(OLD))
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("last", OLD)
    mmnpz.repair(path)
    assert mmnpz.load(path).files == ["first", "theirs", "last"]
    assert hidden.tobytes() in path.read_bytes()


@pytest.mark.parametrize("comment", [b"short", b"long" * 15_000, b"PK\3\4" + bytes(30)])
@pytest.mark.parametrize("has_room", [False, True])
@pytest.mark.parametrize("count", [3, 3000])
def test_the_comment_that_another_program_gave_to_an_mmnpz_file_stays(
    tmp_path: Path, count: int, has_room: bool, comment: bytes
) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(count):
            writer.write(f"k{number}", OLD[: number % 5])
        if has_room:
            writer.flush()
    with zipfile.ZipFile(path, "a") as file:
        file.comment = comment
    assert len(mmnpz.load(path).files) == count  # a warning would be an error
    assert not mmnpz.repair(path).changed
    for session in range(4):
        with mmnpz.NpzWriter(path, "a") as writer:
            writer.write(f"new{session}", OLD)
            if session == 1:
                writer.flush()
            if session == 2:
                writer.write("large", np.zeros(1 << 20))
        with zipfile.ZipFile(path) as file:
            assert file.comment == comment
            assert file.testzip() is None
        assert np.array_equal(mmnpz.load(path)[f"new{session}"], OLD)
    assert len(mmnpz.load(path).files) == count + 5
    assert not mmnpz.repair(path).changed


@pytest.mark.thread_unsafe(reason="forks")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("base", ["savez", "junk behind the end"])
def test_no_program_finds_a_directory_that_lists_some_of_the_members(tmp_path: Path, base: str) -> None:
    """After a kill, no program takes an old directory, which mmnpz keeps in the file, for the current one."""
    path = tmp_path / "a.npz"
    path.write_bytes(savez() + (b"junk" * 30 if base != "savez" else b""))
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("listed", OLD)

    def work() -> None:
        writer = mmnpz.NpzWriter(path, "a")
        writer.write("unlisted", OLD)
        assert not zipfile.is_zipfile(path)
        os.kill(os.getpid(), signal.SIGKILL)

    assert os.waitpid(fork(work), 0)[1] == signal.SIGKILL
    assert not zipfile.is_zipfile(path)
    with pytest.warns(UserWarning, match="no complete directory"):
        assert mmnpz.load(path).files == ["old", "folder/ä", "listed", "unlisted"]
    mmnpz.repair(path)
    with np.load(path) as data:
        assert data.files == ["old", "folder/ä", "listed", "unlisted"]


def test_the_comment_of_an_archive_that_others_have_changed_twice_is_kept(tmp_path: Path) -> None:
    """The directory is not what its seal says, and the end record is not the one that belongs to that."""
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(5):
            writer.write(f"old{number}", OLD)
    path.write_bytes(path.read_bytes().replace(b"old3.npy", b"new3.npy"))
    with zipfile.ZipFile(path, "a") as file:
        file.comment = b"a comment, PK\3\4"
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("more", OLD)
    with zipfile.ZipFile(path) as file:
        assert file.comment == b"a comment, PK\3\4"
        assert file.namelist() == ["old0.npy", "old1.npy", "old2.npy", "new3.npy", "old4.npy", "more.npy"]
