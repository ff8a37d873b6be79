"""Every error has a type that callers already catch, and names the file, the member and the reason."""

import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import Entry, build_zip, npy, npy_with_header, put, same
from tests.processes import run_python

A = np.arange(10, dtype="<i4")
MAPS = Path("/proc/self/maps")
DOCUMENTED = (zipfile.BadZipFile, ValueError, KeyError, OSError)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as info:
        mmnpz.load(tmp_path / "no.npz")
    assert info.value.errno == 2
    assert info.value.filename == str(tmp_path / "no.npz")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as info:
        mmnpz.load(tmp_path)
    assert info.value.filename == str(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_no_permission(archive: Path) -> None:
    archive.chmod(0)
    archive.parent.chmod(0o711)
    run_python(
        """
        import os
        import mmnpz
        if os.geteuid() == 0:  # who may read everything
            os.setegid(65534)
            os.seteuid(65534)
        try:
            mmnpz.load("archive.npz")
        except PermissionError as error:
            assert error.filename == "archive.npz", error.filename
        else:
            raise AssertionError("read")
        """,
        cwd=archive.parent,
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs of POSIX")
@pytest.mark.timeout(20)
def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises((zipfile.BadZipFile, OSError), match="fifo"):
        mmnpz.load(fifo)
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_path_with_a_nul(tmp_path: Path) -> None:
    for opener in (mmnpz.load, mmnpz.NpzWriter):
        with pytest.raises(ValueError, match=r"a.*b\.npz|null|nul"):
            opener(str(tmp_path / "a\0b.npz"))


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff\xfe.npz")
    try:
        path.touch()
    except (OSError, UnicodeError):
        pytest.skip("this file system has only Unicode names")
    path.unlink()
    with mmnpz.NpzWriter(path) as writer:
        writer.write("x", 1)
    data: Any = mmnpz.load(path)
    assert data["x"] == 1
    assert data.mmap.filename == np.memmap(path, mode="r").filename
    path.write_bytes(b"no zip")
    with pytest.raises(zipfile.BadZipFile):
        mmnpz.load(path)


@pytest.mark.parametrize("array", [A, np.zeros(0), np.zeros(100_000)])
def test_an_npy_file_is_told_apart(tmp_path: Path, array: Any) -> None:
    path = put(tmp_path / "a.npz", npy(array))
    with pytest.raises(
        zipfile.BadZipFile, match=r"a\.npz.*np\.load\(…, mmap_mode=\"r\"\)|numpy\.load"
    ) as info:
        mmnpz.load(path)
    assert 'mmap_mode="r"' in str(info.value)


@pytest.mark.parametrize("raw", [b"", b"P", b"PK\5\6", bytes(21), bytes(22), b"x" * 100_000, b"PK\3\4" * 30])
def test_no_archives(tmp_path: Path, raw: bytes) -> None:
    path = put(tmp_path / "a.npz", raw)
    assert not zipfile.is_zipfile(path)
    with pytest.raises(zipfile.BadZipFile, match=r"a\.npz"):
        mmnpz.load(path)


BAD_HEADERS = {
    "no magic": b"nothing of the kind" * 10,
    "empty": b"",
    "only a magic": b"\x93NUMPY",
    "version 0": b"\x93NUMPY\0\0\x10\0" + b" " * 30,
    "version 4": b"\x93NUMPY\4\0\x10\0" + b" " * 30,
    "version 1.1": b"\x93NUMPY\1\1\x10\0" + b" " * 30,
    "length beyond the end": b"\x93NUMPY\1\0\xff\xff{'descr': '<f4'",
    "no dict": npy_with_header("[1, 2]"),
    "nothing": npy_with_header(""),
    "code": npy_with_header("__import__('os').system('false')"),
    "missing key": npy_with_header("{'descr': '<f4', 'shape': ()}"),
    "further key": npy_with_header("{'descr': '<f4', 'shape': (), 'fortran_order': False, 'x': 1}"),
    "bytes key": npy_with_header("{b'descr': '<f4', 'shape': (), 'fortran_order': False}"),
    "unhashable key": npy_with_header("{[]: 1}"),
    "no bool": npy_with_header("{'descr': '<f4', 'shape': (), 'fortran_order': 1}"),
    "list as shape": npy_with_header("{'descr': '<f4', 'shape': [], 'fortran_order': False}"),
    "float in shape": npy_with_header("{'descr': '<f4', 'shape': (1.0,), 'fortran_order': False}", bytes(99)),
    "bool in shape": npy_with_header("{'descr': '<f4', 'shape': (True,), 'fortran_order': False}", bytes(99)),
    "negative": npy_with_header("{'descr': '<f4', 'shape': (-1,), 'fortran_order': False}", bytes(99)),
    "two negatives": npy_with_header(
        "{'descr': '<f4', 'shape': (-1, -2), 'fortran_order': False}", bytes(99)
    ),
    "too many": npy_with_header("{'descr': '<f4', 'shape': (25,), 'fortran_order': False}", bytes(99)),
    "overflow": npy_with_header(
        f"{{'descr': '<f4', 'shape': ({2**62}, 4), 'fortran_order': False}}", bytes(99)
    ),
    "overflow to 0": npy_with_header(
        f"{{'descr': '<f4', 'shape': ({2**32}, {2**32}), 'fortran_order': False}}"
    ),
    "beyond 64 bits": npy_with_header(f"{{'descr': '<f4', 'shape': ({2**64},), 'fortran_order': False}}"),
    "beyond 64 bits, 0": npy_with_header(
        f"{{'descr': '<f4', 'shape': ({2**64}, 0), 'fortran_order': False}}"
    ),
    "unknown dtype": npy_with_header("{'descr': '<q9', 'shape': (), 'fortran_order': False}", bytes(99)),
    "comma dtype": npy_with_header("{'descr': ',,', 'shape': (), 'fortran_order': False}", bytes(99)),
    "tuple dtype": npy_with_header("{'descr': (), 'shape': (), 'fortran_order': False}", bytes(99)),
    "None dtype": npy_with_header("{'descr': None, 'shape': (), 'fortran_order': False}", bytes(99)),
    "list of numbers": npy_with_header("{'descr': [1, 2], 'shape': (), 'fortran_order': False}", bytes(99)),
    "negative sub-array": npy_with_header(
        "{'descr': [('a', '<f4', (-1,))], 'shape': (), 'fortran_order': False}", bytes(99)
    ),
    "huge sub-array": npy_with_header(
        f"{{'descr': [('a', '<f4', ({2**40},))], 'shape': (), 'fortran_order': False}}", bytes(99)
    ),
    "same field twice": npy_with_header(
        "{'descr': [('a', '<f4'), ('a', '<f4')], 'shape': (), 'fortran_order': False}", bytes(99)
    ),
    "unclosed": npy_with_header("{'descr': '<f4', 'shape': (), 'fortran_order': False", bytes(99)),
    "unclosed string": npy_with_header("{'descr': '<f4, 'shape': (), 'fortran_order': False}", bytes(99)),
    "trailing text": npy_with_header("{'descr': '<f4', 'shape': (), 'fortran_order': False} 1", bytes(99)),
    "deep": npy_with_header("(" * 4000 + ")" * 4000),
    "deep lists": npy_with_header("{'descr': " + "[" * 3000 + "]" * 3000 + "}"),
    "long number": npy_with_header(f"{{'descr': '<f4', 'shape': ({'9' * 5000},), 'fortran_order': False}}"),
    "not UTF-8": npy_with_header(
        b"{'descr': [('\xff', '<f4')], 'shape': (), 'fortran_order': False}", bytes(9), 3
    ),
    "NUL": npy_with_header("{'descr': '<f4', \0'shape': (), 'fortran_order': False}", bytes(99)),
    "objects": npy_with_header("{'descr': '|O', 'shape': (1,), 'fortran_order': False}", bytes(99)),
    "no objects": npy_with_header("{'descr': '|O', 'shape': (0,), 'fortran_order': False}", bytes(99)),
    "object field": npy_with_header(
        "{'descr': [('a', '<f4'), ('b', '|O')], 'shape': (1,), 'fortran_order': False}", bytes(99)
    ),
    "object by another name": npy_with_header(
        "{'descr': 'object', 'shape': (1,), 'fortran_order': False}", bytes(99)
    ),
    "cut short": npy(A)[:-1],
    "cut in the header": npy(A)[:100],
}


@pytest.mark.filterwarnings("ignore")  # NumPy warns about some of these headers before it refuses them
@pytest.mark.parametrize("kind", BAD_HEADERS)
def test_bad_members(tmp_path: Path, kind: str) -> None:
    path = put(
        tmp_path / "some.npz",
        build_zip(Entry("folder/bäd.npy", BAD_HEADERS[kind]), Entry("good.npy", npy(A))),
    )
    with np.load(path) as theirs, pytest.raises(Exception):  # noqa: B017, PT011, PT012
        # NumPy returns the raw bytes of a member without magic string.
        if isinstance(theirs["folder/bäd"], bytes):
            raise ValueError
    data = mmnpz.load(path)
    assert data.files == ["folder/bäd", "good"]
    for read in (data.__getitem__, data.load, data.get):
        with pytest.raises(ValueError, match=r"some\.npz") as info:
            read("folder/bäd")
        assert "folder/bäd" in str(info.value)
        if "object" in kind:
            assert "object arrays cannot be mapped" in str(info.value)
    assert same(data["good"], A)
    with pytest.raises(ValueError, match="folder/bäd"):
        mmnpz.load(path, preload=True)


@pytest.mark.parametrize("text", ["unhashable", {}, []])
def test_keys_that_are_none(archive: Path, text: Any) -> None:
    data = mmnpz.load(archive)
    with pytest.raises((KeyError, TypeError)):
        data[text]


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux tells what a process has mapped")
@pytest.mark.thread_unsafe(reason="looks at what the whole process has open")
def test_errors_keep_nothing_open(tmp_path: Path) -> None:
    """A kept exception does not keep the file mapped: its traceback refers to nothing of the archive."""
    path = put(tmp_path / "a.npz", build_zip(Entry("a.npy", b"bad")))
    data = mmnpz.load(path)
    assert str(path) in MAPS.read_text()
    with pytest.raises(ValueError, match="npy") as info:
        data["a"]
    data.close()
    assert info.value is not None
    assert str(path) not in MAPS.read_text()


def small_archives() -> dict[str, bytes]:
    return {
        "one": build_zip(Entry("a.npy", npy(np.arange(3, dtype="u1")))),
        "zip64": build_zip(Entry("a.npy", npy(np.uint8(1)), zip64=True), zip64_end=True, comment=b"hi"),
        "two": build_zip(Entry("ä.npy", npy(np.uint8(1))), Entry("b.npy", npy(np.uint8(1)), descriptor=True)),
    }


@pytest.mark.parametrize("kind", small_archives())
def test_truncated_at_every_length(tmp_path: Path, kind: str) -> None:
    raw = small_archives()[kind]
    for length in range(len(raw)):
        path = put(tmp_path / f"{length}.npz", raw[:length])
        for mode in ("r", "a"):
            try:
                if mode == "a":
                    mmnpz.NpzWriter(path, "a").close()
                else:
                    data = mmnpz.load(path)
                    for name in data:
                        np.array(data[name])
            except DOCUMENTED:
                continue
            assert zipfile.is_zipfile(path), (length, mode)


@pytest.mark.parametrize("kind", small_archives())
def test_cut_at_the_front_at_every_length(tmp_path: Path, kind: str) -> None:
    raw = small_archives()[kind]
    for length in range(1, len(raw)):
        path = put(tmp_path / f"{length}.npz", raw[length:])
        try:
            data = mmnpz.load(path)
            views = [np.array(data[name]) for name in data]
        except DOCUMENTED:
            continue
        # The cut archive may have fewer members, but never data that the whole archive does not have.
        assert all(view.tobytes() in raw for view in views)


CHANGED = "; the file was changed since it was opened: open it again"


@pytest.mark.parametrize("indexed", [True, False])
def test_an_error_says_that_the_file_was_changed(tmp_path: Path, indexed: bool) -> None:
    path, other = tmp_path / "a.npz", tmp_path / "b.npz"
    # Too many for one look at all of the directory when the file is opened.
    arrays: dict[str, Any] = {f"a{number}": np.arange(10) for number in range(3000)}
    (mmnpz.savez if indexed else np.savez)(path, **arrays)
    data = mmnpz.load(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    os.utime(path, (1, 1))  # some file systems have coarse times
    for read in (data.__getitem__, data.load, lambda name: data.gather([name]), lambda _: list(data.items())):
        with pytest.raises(zipfile.BadZipFile) as info:
            read("a7")
        assert str(info.value).startswith(f"{path}: ")
        assert str(info.value).endswith(CHANGED)
    # A file that is wrong from the start, and one that another took the place of.
    np.savez(path, a=1)
    path.write_bytes(path.read_bytes().replace(b"\x93NUMPY", b"\x93numpy"))
    data = mmnpz.load(path)
    for _ in range(2):
        with pytest.raises(ValueError, match="magic") as wrong:
            data["a"]
        assert CHANGED not in str(wrong.value)
        np.savez(other, a=1)
        os.replace(other, path)
