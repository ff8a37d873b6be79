"""mmnpz uses the index of names and the header fields if they are right, and never returns a wrong array."""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from mmnpz._mmnpz import _name_at, _position
from tests.archives import give_names, npy, parts, same
from tests.test_interop import tool

pytestmark = pytest.mark.filterwarnings("error")

FEW = 12
MANY = 1500
"""With this many members, mmnpz does not check the whole directory and index when it opens the file."""


def index_size(raw: bytes | bytearray, seal: int) -> int:
    """Return the size in bytes of the index in front of a seal."""
    return int.from_bytes(raw[seal + 64 : seal + 72], "little")


def array(number: int) -> Any:
    return np.full((number % 7 + 1, 2), number, dtype=["<f4", "<i8", ">u2"][number % 3])


def write(path: Path, members: int, mode: Any = "x", first: int = 0) -> Path:
    with mmnpz.NpzWriter(path, mode) as writer:
        for number in range(first, first + members):
            writer.write(f"n{number}", array(number))
    return path


def is_stored_index_used(path: Path) -> bool:
    return mmnpz.load(path)._index_memory == 0


def all_of(path: Path) -> dict[str, Any]:
    """Return the arrays that `zipfile` and NumPy read, with an exception for each that they refuse."""
    found: dict[str, Any] = {}
    with zipfile.ZipFile(path) as file:
        for name in dict.fromkeys(file.namelist()):
            if not name.endswith(".npy"):
                continue
            try:
                with file.open(name) as member:
                    found[name[:-4]] = np.lib.format.read_array(member)
            except Exception as error:
                found[name[:-4]] = error
    return found


def agree(path: Path, names: list[str]) -> None:
    """Check that mmnpz reads each name as `zipfile` and NumPy do, or raises an error.

    The order of lookups must not matter. Check nothing if mmnpz refuses the file. If mmnpz warns that it
    found members without the directory, it may find more or fewer than `zipfile`, but each must be right.
    """
    oracle: dict[str, Any] | None = None
    with contextlib.suppress(Exception):  # zipfile may find no archive
        oracle = all_of(path)
    for order in (names, names[::-1]):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                data = mmnpz.load(path)
            except (ValueError, zipfile.BadZipFile):
                return
            for name in order:
                expected = (oracle or {}).get(name)
                try:
                    view = data[name]
                except KeyError:
                    missing = expected is None or isinstance(expected, Exception)
                    assert missing or caught, f"mmnpz does not find {name}"
                except (ValueError, NotImplementedError, zipfile.BadZipFile):
                    pass
                else:
                    # If zipfile or NumPy refuse the member, for a version or a checksum, mmnpz must return
                    # the array that was written.
                    right = expected if isinstance(expected, np.ndarray) else array(int(name[1:]))
                    assert same(view, right), name
            assert oracle is None or data.files == list(oracle) or caught
        assert all("mmnpz.repair" in str(warning.message) for warning in caught), caught


# Opening and lookup in whole files.


def pages_in_memory(path: Path) -> Any:
    """Return for each page of a file whether it is in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    size = path.stat().st_size
    count = -(-size // 4096)
    with path.open("rb") as file:
        address = libc.mmap(None, ctypes.c_size_t(size), 1, 1, file.fileno(), ctypes.c_size_t(0))
    assert address != ctypes.c_void_p(-1).value
    found = (ctypes.c_ubyte * count)()
    assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), found) == 0
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
    return np.array(found, "u1") & 1


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its page cache")
@pytest.mark.thread_unsafe(reason="of a page cache that others use too")
@pytest.mark.parametrize("preload", [False, True])
def test_opening_touches_no_page_of_a_member(tmp_path: Path, preload: bool) -> None:
    path = tmp_path / "a.npz"
    block = np.arange(1 << 18, dtype="<f4")
    with mmnpz.NpzWriter(path) as writer:
        for number in range(100):
            writer.write(f"n{number}", block + number)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if pages_in_memory(path).any():
        pytest.skip("this file system keeps its files in memory")
    data = mmnpz.load(path, preload=preload)
    assert data["n7"].shape == block.shape
    assert data["n7"].dtype == block.dtype
    if preload:
        assert len(data.arrays) == 100
    # Each member is a MiB. mmnpz reads the end of the file, and the system up to 8 MiB ahead around that.
    assert not pages_in_memory(path)[: 80 * 256].any()
    assert data["n7"][5] == 12
    assert pages_in_memory(path)[: 80 * 256].any()


def test_a_reader_of_an_mmnpz_file_needs_no_index_in_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", MANY)
    data = mmnpz.load(path)
    assert data._index_memory == 0
    assert len(data) == MANY
    for number in (0, 1, MANY // 2, MANY - 1):
        assert same(data[f"n{number}"], array(number))
    assert "n" not in data
    assert "" not in data
    with pytest.raises(KeyError):
        data[f"n{MANY}"]
    assert data.files == [f"n{number}" for number in range(MANY)]
    assert data._index_memory == 0


@pytest.mark.parametrize("members", [0, 1, 2, 15, 16, 17, 100, MANY])
def test_any_number_of_members(tmp_path: Path, members: int) -> None:
    path = write(tmp_path / "a.npz", members)
    data = mmnpz.load(path)
    assert len(data) == members
    assert not data._index_memory
    for number in range(members):
        assert _name_at(data, number) == f"n{number}"
        assert _position(data, f"n{number}") == number
    with pytest.raises(IndexError):
        _name_at(data, members)
    assert all(same(data[f"n{number}"], array(number)) for number in range(members))


def test_names_of_all_kinds(tmp_path: Path) -> None:
    names = [
        "",
        "a",
        "é",
        "日本",
        "a/b",
        "x" * 60_000,
        "n.npy",
        "a b",
        "A",
        *(f"p{n}" * 9 for n in range(MANY)),
    ]
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number, name in enumerate(names):
            writer.write(name, number)
    data = mmnpz.load(path)
    assert data._index_memory == 0
    assert [int(data[name]) for name in names] == list(range(len(names)))
    assert data.files == names


DESCRIBED = [
    np.arange(6, dtype=">i4").reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array(5, "<u1"),
    np.zeros((0, 4), "<f2"),
    np.array(["a", "bcd"]),
    np.array([b"", b"xy"]),
    np.array([(1, 2.0)], dtype=[("a", "<i2"), ("b", "<f8", (2,))]),
    np.array([(1,)], dtype=[("é'\"\\", "<i2")]),
    np.zeros(3, dtype=[(("title", "name"), "<f4")]),
    np.zeros(2, dtype={"names": ["a", "b"], "formats": ["<i1", "<f8"], "offsets": [0, 8]}),
    np.array(["2020-01-01"], dtype="<M8[D]"),
    np.zeros(2, "V7"),
    np.zeros(2, dtype=[("x" * 3000, "<f4")]),
    np.zeros((1,) * 32, "?"),
]


def test_the_directory_describes_each_array_as_its_header_does(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number, described in enumerate(DESCRIBED):
            writer.write(str(number), described)
    raw = path.read_bytes()
    # Destroy the .npy headers of the members, so that mmnpz can read the header fields only.
    without = tmp_path / "without.npz"
    without.write_bytes(raw.replace(b"\x93NUMPY", b"\x93number"[:6]))
    hinted, parsed, blind = mmnpz.load(path), mmnpz.load(path, max_header_size=9999), mmnpz.load(without)
    for number, described in enumerate(DESCRIBED):
        name = str(number)
        for view in (hinted[name], parsed[name]):
            assert same(view, described)
            assert view.flags.f_contiguous == described.flags.f_contiguous
        if described.dtype.names != ("x" * 3000,):
            assert same(blind[name], described)
    with pytest.raises(ValueError, match="12"):
        blind["12"]


def test_a_limit_on_headers_holds_for_those_in_the_directory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", 1)
    with pytest.raises(ValueError, match="50"):
        mmnpz.load(path, max_header_size=50)["n0"]


def test_an_ordinary_member_costs_forty_bytes_at_most(tmp_path: Path) -> None:
    """The additions of mmnpz behind the members take at most 40 bytes for each ordinary member.

    Every archive has an entry of 46 bytes and the name for each member.
    """
    path = tmp_path / "a.npz"
    count = 10_000
    with mmnpz.NpzWriter(path) as writer:
        for number in range(count):
            writer.write(f"{number:06}", np.zeros((100, 80), "<f4"))
    taken = parts(path)
    size = len(taken.table) + len(taken.seal) + len(taken.directory) + len(taken.end)
    assert size < count * (46 + 10 + 40)


# Appending.


def test_the_index_has_the_members_of_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **{f"n{number}": array(number) for number in range(MANY)})
    write(path, 1, "a", MANY)
    assert is_stored_index_used(path)
    data = mmnpz.load(path)
    assert all(same(data[f"n{number}"], array(number)) for number in range(MANY + 1))


@pytest.mark.thread_unsafe(reason="looks at warnings, which all threads share")
@pytest.mark.parametrize("kind", ["compressed", "other", "twice", "twice at once", "encoded"])
def test_archives_that_cannot_have_an_index(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.npz"
    if kind == "compressed":
        np.savez_compressed(path, **{f"n{number}": array(number) for number in range(MANY)})
        write(path, MANY, "a", MANY)
    elif kind == "other":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("readme.txt", "hello")
        write(path, MANY, "a")
    elif kind == "encoded":
        with zipfile.ZipFile(path, "w") as file:
            info = zipfile.ZipInfo("a.npy")
            info.filename = "\u00e9.npy"
            file.writestr(info, npy(array(5)))
        path.write_bytes(path.read_bytes().replace(b"\xc3\xa9", b"\x82x"))  # not UTF-8, in spite of its flag
        with contextlib.suppress(zipfile.BadZipFile):
            write(path, MANY, "a")
        return
    else:
        write(path, MANY)
        for number in [6, 7] if kind == "twice" else [6]:
            with mmnpz.NpzWriter(path, "a") as writer, pytest.warns(UserWarning, match="Duplicate"):
                writer["n5"] = array(number)
    agree(path, [f"n{number}" for number in range(2 * MANY)])
    size = path.stat().st_size
    write(path, 1, "a", 3 * MANY)
    assert path.stat().st_size < size + 1000
    agree(path, [f"n{number}" for number in range(0, 3 * MANY + 1, 3)])


def test_members_written_by_threads_are_listed_as_they_lie_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:

        def work(thread: int) -> None:
            for number in range(thread, MANY, 4):
                writer.write(f"n{number}", np.full(number * 97 % 5000, number))

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    data = mmnpz.load(path)
    assert data._index_memory == 0
    for number in range(MANY):
        assert data[f"n{number}"].tolist() == [number] * (number * 97 % 5000)
        assert _name_at(data, _position(data, f"n{number}")) == f"n{number}"
    with zipfile.ZipFile(path) as file:
        offsets = [info.header_offset for info in file.infolist()]
        assert offsets == sorted(offsets)
        assert [info.filename[:-4] for info in file.infolist()] == data.files


# Writers and other programs change a mapped file.


@pytest.mark.parametrize("state", ["open", "closed", "closed twice", "flushed", "killed"])
@pytest.mark.parametrize("members", [FEW, MANY])
def test_a_reader_whose_directory_is_overwritten(tmp_path: Path, members: int, state: str) -> None:
    path = write(tmp_path / "a.npz", members)
    names = [f"n{number}" for number in range(members)]
    readers = [mmnpz.load(path) for _ in range(6)]
    seen = readers[0]["n3"]
    files = readers[1].files
    assert "nothing" not in readers[2]
    writers = [mmnpz.NpzWriter(path, "a")]
    # The new member is so large that it overwrites the whole directory and index.
    writers[0].write("new", np.ones(members * 300, "u1"))
    if state == "flushed":
        writers[0].flush()
    elif state.startswith("closed"):
        writers[0].close()
        if state == "closed twice":
            write(path, 10, "a", members)
    elif state == "killed":
        dead = tmp_path / "dead.npz"
        shutil.copy(path, dead)
        os.replace(dead, path)
    for count, data in enumerate(readers):
        if count == 0:
            assert data["n3"] is seen
        if count == 1:
            assert data.files is files
        if count == 3:
            assert data.files == names
        if count == 4:
            with pytest.raises(KeyError):
                data["new"]
        if count == 5:
            assert [_name_at(data, number) for number in range(members)] == names
        assert "new" not in data
        assert f"n{members}" not in data
        assert len(data) == members
        for number, name in enumerate(names):
            assert same(data[name], array(number)), name
            assert data[name] is data[name]
            assert _position(data, name) == number
        assert data.files == names
        assert set(data.arrays) == set(names)
        assert all(data.arrays[name] is data[name] for name in names)
    writers[0].close()


@pytest.mark.thread_unsafe(reason="changes a file in place, which others would have mapped")
@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("members", [FEW, MANY])
def test_members_that_another_program_renames_while_the_file_is_mapped(
    tmp_path: Path, members: int, checked: bool, cache: bool
) -> None:
    path = write(tmp_path / "a.npz", members)
    data = mmnpz.load(path, cache=cache)
    if checked:
        assert "nothing" not in data
    give_names(path, {"n7": "n8", "n8": "n7", "n9": "xx"})
    with np.load(path) as theirs:
        assert not same(theirs["n7"], array(7))
        for name in ("n7", "n8", "n2"):
            assert same(data[name], theirs[name]), name
        assert "n9" not in data
        with pytest.raises(KeyError, match="n9"):
            data["n9"]
        assert same(data["xx"], array(9))
        assert data.files == theirs.files


@pytest.mark.thread_unsafe(reason="changes a file in place, which others would have mapped")
def test_renamed_members_of_a_mapped_file_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **{f"n{number}": array(number) for number in range(FEW)})
    data = mmnpz.load(path)
    before = data["n9"]
    give_names(path, {"n7": "n8", "n8": "n7", "n9": "xx", "n2": "yy"})
    # For an old name, the reader neither raises KeyError, nor returns the array of another name.
    for name in ("n7", "n8", "n2"):
        with pytest.raises(zipfile.BadZipFile, match=rf"a\.npz: member \"{name}\": .*another name"):
            data[name]
    # The reader returns a kept view if it finds it by its name. On free-threaded Python it does not, because
    # it keeps no views by names there.
    with contextlib.suppress(zipfile.BadZipFile):
        assert data["n9"] is before
    assert same(before, array(9))
    assert same(data["n3"], array(3))
    with pytest.raises(KeyError):
        data["nothing"]
    assert same(mmnpz.load(path)["xx"], array(9))


def test_a_dataset_keeps_its_order_while_a_writer_appends(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from mmnpz.torch import NpzDataset

    path = write(tmp_path / "a.npz", MANY)
    dataset = NpzDataset(path)
    assert same(dataset[5].numpy(), array(5).astype(array(5).dtype.newbyteorder("=")))
    write(path, MANY, "a", MANY)
    for number in range(0, MANY, 3):
        assert dataset[number][0, 0] == number
    assert len(dataset) == MANY


def test_threads_read_while_a_writer_appends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", MANY)
    opened = threading.Barrier(4)
    done = threading.Event()
    errors: list[BaseException] = []

    def read(thread: int) -> None:
        try:
            data = mmnpz.load(path, cache=bool(thread % 2))
            opened.wait(60)
            generator = np.random.default_rng(thread)
            while not done.is_set():
                for number in generator.integers(0, MANY, 50):
                    assert same(data[f"n{number}"], array(number))
                assert "x0" not in data
        except BaseException as error:
            errors.append(error)
            opened.abort()

    threads = [threading.Thread(target=read, args=(thread,)) for thread in range(3)]
    for thread in threads:
        thread.start()
    opened.wait(60)
    for session in range(40):
        with mmnpz.NpzWriter(path, "a") as writer:
            for number in range(session % 4 + 1):
                writer.write(f"x{session}/{number}", np.ones(session * 500, "u1"))
            if session % 3 == 0:
                writer.flush()
                writer.write(f"y{session}", np.ones(200_000, "u1"))
    done.set()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]


# Other programs edit the file before it is opened.

Edit = Callable[[Path, Path], object]


def quiet(folder: Path, *command: Any, stdin: str | None = None) -> None:
    subprocess.run(
        [*map(str, command)], cwd=folder, input=stdin, text=True, capture_output=True, check=True, timeout=60
    )


def add_with_zipfile(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("added.npy", npy(array(77)))


def add_again_with_zipfile(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("n5.npy", npy(array(78)))


def add_with_zip(path: Path, folder: Path) -> None:
    np.save(folder / "added.npy", array(77))
    np.save(folder / "n5.npy", array(78))
    quiet(folder, tool("zip"), "-q", "-0", path, "added.npy", "n5.npy")


def delete_with_zip(path: Path, folder: Path) -> None:
    quiet(folder, tool("zip"), "-q", "-d", path, "n5.npy", "n0.npy")


def delete_last_with_zip(path: Path, folder: Path) -> None:
    last = mmnpz.load(path).files[-1]
    quiet(folder, tool("zip"), "-q", "-d", path, f"{last}.npy")


def comment_with_zip(path: Path, folder: Path) -> None:
    quiet(folder, tool("zip"), "-q", "-z", path, stdin="a comment\n")


def adjust_with_zip(path: Path, folder: Path) -> None:
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    quiet(folder, tool("zip"), "-q", "-A", path)


def rename_with_zipnote(path: Path, folder: Path) -> None:
    quiet(folder, tool("zipnote"), "-w", path, stdin="@ n5.npy\n@=xx.npy\n@ (comment above this line)\n")


def rename_to_another_with_zipnote(path: Path, folder: Path) -> None:
    quiet(folder, tool("zipnote"), "-w", path, stdin="@ n5.npy\n@=n6.npy\n@ (comment above this line)\n")


def add_with_7_zip(path: Path, folder: Path) -> None:
    np.save(folder / "added.npy", array(77))
    quiet(folder, tool("7z", "7zz", "7za"), "a", "-mx0", "-tzip", path, "added.npy")


def delete_with_7_zip(path: Path, folder: Path) -> None:
    quiet(folder, tool("7z", "7zz", "7za"), "d", "-tzip", path, "n5.npy")


def rename_with_7_zip(path: Path, folder: Path) -> None:
    quiet(folder, tool("7z", "7zz", "7za"), "rn", "-tzip", path, "n5.npy", "n6x.npy")


def copy_with_libarchive(path: Path, folder: Path) -> None:
    quiet(
        folder,
        tool("bsdtar"),
        "-c",
        "-f",
        "copy.zip",
        "--format=zip",
        "--options=compression=store",
        f"@{path}",
    )
    (folder / "copy.zip").replace(path)


def put_something_in_front(path: Path, folder: Path) -> None:
    path.write_bytes(b"something" * 100 + path.read_bytes())


def put_another_in_front(path: Path, folder: Path) -> None:
    other = write(folder / "other.npz", MANY // 2, first=3)
    path.write_bytes(other.read_bytes() + path.read_bytes())


def put_something_behind(path: Path, folder: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x" * 20)


def cut_the_members(path: Path, folder: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[500:])


def rename_in_place(path: Path, folder: Path) -> None:
    """Rename a member in its entry and in its local header."""
    path.write_bytes(path.read_bytes().replace(b"n5.npy", b"zz.npy"))


def rename_all_in_place(path: Path, folder: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b".npyPK\x01\x02", b".npxPK\x01\x02"))


def write_the_last_without_padding(path: Path, folder: Path) -> None:
    """Remove the mark field of the last member, like a program that keeps entries, but no local fields."""
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        at, name = file.infolist()[-1].header_offset, file.namelist()[-1]
        start = file.start_dir
    head = raw[at : at + 28] + b"\0\0" + name.encode()
    extra = int.from_bytes(raw[at + 28 : at + 30], "little")
    assert extra
    members = raw[:at] + head + raw[at + len(head) + extra : start]
    end = bytearray(raw[start:])
    end[-6:-2] = len(members).to_bytes(4, "little")
    path.write_bytes(members + end)


EDITS: list[Edit] = [
    write_the_last_without_padding,
    add_with_zipfile,
    add_again_with_zipfile,
    add_with_zip,
    delete_with_zip,
    delete_last_with_zip,
    comment_with_zip,
    adjust_with_zip,
    rename_with_zipnote,
    rename_to_another_with_zipnote,
    add_with_7_zip,
    delete_with_7_zip,
    rename_with_7_zip,
    copy_with_libarchive,
    put_something_in_front,
    put_another_in_front,
    put_something_behind,
    cut_the_members,
    rename_in_place,
    rename_all_in_place,
]


@pytest.mark.thread_unsafe(reason="works in processes of their own")
@pytest.mark.parametrize("members", [FEW, MANY])
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_reading_after_another_program_edited_the_file(tmp_path: Path, edit: Edit, members: int) -> None:
    path = write(tmp_path / "a.npz", members)
    before = mmnpz.load(path).files
    edit(path, tmp_path)
    after = list(all_of(path))
    names = [*before, *(set(after) - set(before)), "xx", "zz", "added", "nothing"]
    agree(path, names)
    data = mmnpz.load(path)
    if edit not in {cut_the_members}:
        for name, expected in all_of(path).items():
            if not isinstance(expected, Exception):
                assert same(data[name], expected)


@pytest.mark.thread_unsafe(reason="works in processes of their own")
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_appending_after_another_program_edited_the_file(tmp_path: Path, edit: Edit) -> None:
    path = write(tmp_path / "a.npz", MANY)
    edit(path, tmp_path)
    expected = all_of(path)
    if put_something_behind is edit:
        return  # zip programs do not agree on such a file
    write(path, 1, "a", 5 * MANY)
    with mmnpz.load(path) as data:
        for name, value in {**expected, f"n{5 * MANY}": array(5 * MANY)}.items():
            if not isinstance(value, Exception):
                assert same(data[name], value), name


def changes(raw: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    for at in range(start, end):
        for bit in (1, 0x20, 0x80):
            changed = bytearray(raw)
            changed[at] ^= bit
            yield at, bytes(changed)


@pytest.mark.thread_unsafe(reason="looks at warnings, which all threads share")
def test_any_byte_of_directory_and_index_changed(tmp_path: Path) -> None:
    """Whatever byte is changed in a directory that mmnpz checks while opening, mmnpz reads no wrong array."""
    path = write(tmp_path / "a.npz", FEW)
    raw = path.read_bytes()
    names = [*mmnpz.load(path).files, "n", "o1", "nothing"]
    seal = raw.rindex(b"PKmmseal")
    start = seal - index_size(raw, seal)
    assert start < seal
    for at, changed in changes(raw, start, len(raw)):
        path.write_bytes(changed)
        try:
            agree(path, names)
        except AssertionError as error:
            error.add_note(f"byte {at}, {raw[at]:#x} became {changed[at]:#x}")
            raise


def test_any_byte_of_a_large_index_changed(tmp_path: Path) -> None:
    """mmnpz finds every name with its own array, whatever byte of the index is changed.

    mmnpz checks such a large index as a whole only when it does not find a name.
    """
    path = write(tmp_path / "a.npz", MANY)
    raw = path.read_bytes()
    index_end = raw.rindex(b"PKmmseal")
    index_start = index_end - index_size(raw, index_end)
    generator = np.random.default_rng(0)
    for at in generator.integers(index_start, index_end, 150):
        changed = bytearray(raw)
        changed[at] ^= 1 << generator.integers(8)
        path.write_bytes(changed)
        data = mmnpz.load(path)
        for number in generator.permutation(MANY):
            assert same(data[f"n{number}"], array(number))
        assert [_name_at(data, number) for number in range(MANY)] == data.files
        assert "nothing" not in data


def test_any_byte_of_a_large_directory_changed(tmp_path: Path) -> None:
    """Whatever byte of an entry is changed, mmnpz reads the array that was written, or raises an error."""
    path = write(tmp_path / "a.npz", MANY)
    raw = path.read_bytes()
    start, end = raw.index(b"PK\x01\x02"), raw.rindex(b"PK\x05\x06")
    size = (end - start) // MANY
    middle = start + raw[start:].index(b"PK\x01\x02", size * (MANY // 2))
    names = [f"n{number}" for number in range(MANY)]
    for at, changed in changes(raw, middle, middle + 3 * size):
        path.write_bytes(changed)
        data = mmnpz.load(path)
        for name in names[MANY // 2 - 4 : MANY // 2 + 6]:
            # A changed date, for example, changes no array. If an entry now has the name of another member,
            # that member keeps its array.
            with contextlib.suppress(ValueError, zipfile.BadZipFile):
                try:
                    assert same(data[name], array(int(name[1:]))), (at, name)
                except KeyError:
                    assert name not in all_of(path), (at, name)


def test_views_keep_their_names_when_members_are_renumbered(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", MANY)
    raw = path.read_bytes()
    directory = raw.index(b"PK\x01\x02")
    path.write_bytes(raw[:directory] + raw[directory:].replace(b"n5.npy", b"n5.npx"))
    data = mmnpz.load(path)
    seen = {name: data[name] for name in ("n7", "n8", "n1200")}
    assert "n5" not in data
    for number in range(MANY):
        if number != 5:
            assert same(data[f"n{number}"], array(number))
    assert data.files == [f"n{number}" for number in range(MANY) if number != 5]
    assert all(same(view, array(int(name[1:]))) for name, view in {**seen, **data.arrays}.items())
    assert _position(data, "n8") == 7
    assert _name_at(data, 7) == "n8"


def test_zeros_in_place_of_the_index(tmp_path: Path) -> None:
    """mmnpz finds all names if a power failure left zeros in place of the index."""
    path = write(tmp_path / "a.npz", MANY)
    raw = bytearray(path.read_bytes())
    end = raw.rindex(b"PKmmseal")
    start = end - index_size(raw, end)
    raw[start:end] = bytes(end - start)
    path.write_bytes(raw)
    data = mmnpz.load(path)
    assert "nothing" not in data
    assert all(same(data[f"n{number}"], array(number)) for number in range(MANY))
    assert data.files == [f"n{number}" for number in range(MANY)]


@pytest.mark.parametrize("repaired", ["not", "before", "after"])
def test_a_directory_that_a_power_failure_tore(tmp_path: Path, repaired: str) -> None:
    """mmnpz notices a torn directory when it needs all of it, and then finds the members without it."""
    path = write(tmp_path / "a.npz", MANY)
    raw = bytearray(path.read_bytes())
    middle = (raw.rindex(b"PKmmseal") + len(raw)) // 2 // 4096 * 4096
    raw[middle : middle + 4096] = bytes(4096)
    path.write_bytes(raw)
    names = [f"n{number}" for number in range(MANY)]
    data = mmnpz.load(path)
    with pytest.warns(UserWarning, match=f"directory is damaged; {MANY} arrays"):
        assert "nothing" not in data
    assert data.files == names
    with pytest.warns(UserWarning, match="directory is damaged"):
        found = dict(mmnpz.load(path).items())
    assert all(same(found[name], array(number)) for number, name in enumerate(names))
    data = mmnpz.load(path)
    with pytest.warns(UserWarning, match="directory is damaged"):
        assert same(data.gather([MANY - 1]), array(MANY - 1)[None])
    if repaired == "before":
        mmnpz.repair(path)
    write(path, 3, "a", MANY)
    if repaired == "after":
        mmnpz.repair(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if repaired == "not" else "error")
        data = mmnpz.load(path)
        assert data.files == [f"n{number}" for number in range(MANY + 3)]
        assert all(same(data[f"n{number}"], array(number)) for number in range(MANY + 3))
    if repaired != "not":
        with np.load(path) as theirs:
            assert theirs.files == data.files


@pytest.mark.thread_unsafe(reason="looks at warnings, which all threads share")
def test_a_torn_directory_is_written_anew_by_the_next_writer_after_a_restart(tmp_path: Path) -> None:
    """A writer checks the directory of a file that is older than the last start of the system."""
    path = write(tmp_path / "a.npz", MANY)
    raw = bytearray(path.read_bytes())
    middle = (raw.rindex(b"PKmmseal") + len(raw)) // 2 // 4096 * 4096
    raw[middle : middle + 4096] = bytes(4096)
    path.write_bytes(raw)
    os.utime(path, (0, 1_000_000_000))
    write(path, 3, "a", MANY)
    with np.load(path) as theirs:
        assert theirs.files == [f"n{number}" for number in range(MANY + 3)]
    agree(path, ["n0", f"n{MANY + 2}", "nothing"])


@pytest.mark.thread_unsafe(reason="looks at warnings, which all threads share")
def test_an_index_that_is_torn_is_made_anew_after_a_restart(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", MANY)
    raw = bytearray(path.read_bytes())
    seal = raw.rindex(b"PKmmseal")
    raw[seal - 4096 : seal] = bytes(4096)
    path.write_bytes(raw)
    os.utime(path, (0, 1_000_000_000))
    write(path, 3, "a", MANY)
    assert is_stored_index_used(path)
    agree(path, ["n0", f"n{MANY + 2}", "nothing"])
