"""mmnpz reads the archives of other programs as zipfile and NumPy do."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import END, Entry, build_zip, npy, npy_with_header, put, same

A = np.arange(10, dtype="<i4")
B = np.asfortranarray(np.arange(6.0).reshape(2, 3))


def listed_by_zipfile(path: Path) -> list[str]:
    """Return the names that mmnpz must list."""
    with zipfile.ZipFile(path) as file:
        return [name[:-4] for name in dict.fromkeys(file.namelist()) if name.endswith(".npy")]


GOOD: dict[str, bytes] = {
    "plain": build_zip(Entry("a.npy", npy(A)), Entry("b.npy", npy(B))),
    "comment": build_zip(Entry("a.npy", npy(A)), comment=b"hello"),
    "longest comment": build_zip(Entry("a.npy", npy(A)), comment=b"x" * 65535),
    "junk in front": build_zip(Entry("a.npy", npy(A)), Entry("b.npy", npy(B)), junk=b"\x7fELF" + bytes(999)),
    "an archive in front": build_zip(Entry("b.npy", npy(B)), junk=build_zip(Entry("a.npy", npy(A)))),
    "gap": build_zip(Entry("a.npy", npy(A)), gap=b"PK\1\2" + bytes(200)),
    "data descriptors": build_zip(*(Entry(f"{n}.npy", npy(A + n), descriptor=True) for n in range(4))),
    "zip64 members": build_zip(*(Entry(f"{n}.npy", npy(A + n), zip64=True) for n in range(3))),
    "zip64 end": build_zip(Entry("a.npy", npy(A)), zip64_end=True),
    "zip64 everywhere": build_zip(
        Entry("a.npy", npy(A), zip64=True),
        Entry("b.npy", npy(B), zip64=True, descriptor=True),
        zip64_end=True,
        comment=b"64",
        junk=b"12345",
    ),
    "extra fields": build_zip(
        Entry("a.npy", npy(A), local_extra=b"UT\5\0\3abcd", central_extra=b"UT\5\0\3abcdux\0\0"),
        Entry("b.npy", npy(B), local_extra=b"\xaa\xaa\xe0\xff" + bytes(0xFFE0)),
    ),
    "member comments": build_zip(Entry("a.npy", npy(A), comment=b"c" * 999), Entry("b.npy", npy(B))),
    "folders": build_zip(Entry("f/", b""), Entry("f/a.npy", npy(A)), Entry("f/g/b.npy", npy(B))),
    "other members": build_zip(
        Entry("a.txt", b"text"), Entry("a.npy", npy(A)), Entry("npy", npy(B)), Entry("b.NPY", npy(B))
    ),
    "only the extension": build_zip(Entry(".npy", npy(A)), Entry("x/.npy", npy(B))),
    "CP437": build_zip(Entry(bytes(range(128, 256)) + b".npy", npy(A)), Entry(b"\x84/\xe1.npy", npy(B))),
    "UTF-8": build_zip(Entry("ä/日本語\U0001f600.npy", npy(A)), Entry("plain.npy", npy(B), flags=0x800)),
    "UTF-8 and CP437 of one text": build_zip(Entry("ä.npy", npy(A)), Entry(b"\x84.npy", npy(B))),
    "control characters": build_zip(Entry(b"a\n\t\x7f.npy", npy(A))),
    "NUL behind the name": build_zip(Entry(b"a.npy\0garbage", npy(A))),
    "NUL in the name": build_zip(Entry(b"a\0b.npy", npy(A)), Entry("b.npy", npy(B))),
    "trailing bytes in a member": build_zip(Entry("a.npy", npy(A) + b"behind" * 9), Entry("b.npy", npy(B))),
    "duplicates": build_zip(Entry("a.npy", npy(A)), Entry("b.npy", npy(B)), Entry("a.npy", npy(A + 1))),
    "compressed, then stored": build_zip(
        Entry("a.npy", npy(A), method=8), Entry("b.npy", npy(B)), Entry("a.npy", npy(A + 1))
    ),
    "stored, then compressed": build_zip(
        Entry("a.npy", npy(A)), Entry("b.npy", npy(B)), Entry("a.npy", npy(A + 1), method=8)
    ),
    "stored, compressed, stored": build_zip(
        Entry("a.npy", npy(A)),
        Entry("b.npy", npy(B)),
        Entry("a.npy", npy(A), method=8),
        Entry("a.npy", npy(A + 2)),
    ),
    "compressed, stored, compressed": build_zip(
        Entry("c.npy", npy(B)),
        Entry("a.npy", npy(A), method=8),
        Entry("a.npy", npy(A)),
        Entry("a.npy", npy(A), method=8),
    ),
    "compressed only": build_zip(Entry("a.npy", npy(A), method=8)),
    "no members": build_zip(),
}


@pytest.mark.parametrize("preload", [False, True])
@pytest.mark.parametrize("kind", GOOD)
def test_read_as_zipfile_and_numpy_do(tmp_path: Path, kind: str, preload: bool) -> None:
    path = put(tmp_path / "a.npz", GOOD[kind])
    data = mmnpz.load(path, preload=preload)
    assert sorted(data.files) == sorted(listed_by_zipfile(path))
    assert len(data) == len(data.files) == len(set(data.files))
    with zipfile.ZipFile(path) as file:
        for name in data.files:
            assert name in data
            # Do not use numpy.load: it does not tell the names "a" and "a.npy" apart.
            assert same(data[name], np.load(io.BytesIO(file.read(name + ".npy"))))
        for info in file.infolist():
            if not info.filename.endswith(".npy"):
                raw, found = file.read(info.filename), data[info.filename]
                is_array = raw.startswith(b"\x93NUMPY")
                assert same(found, np.load(io.BytesIO(raw))) if is_array else found == raw
                assert info.filename in data
                assert info.filename not in data.files


def test_archive_order_is_that_of_the_directory(tmp_path: Path) -> None:
    one, two = Entry("b.npy", npy(B)), Entry("a.npy", npy(A))
    raw = bytearray(build_zip(one, two))
    start = struct.unpack("<L", raw[-6:-2])[0]
    first, second = raw[start : start + 51], raw[start + 51 : start + 102]
    raw[start : start + 102] = second + first
    data = mmnpz.load(put(tmp_path / "a.npz", bytes(raw)))
    assert data.files == ["a", "b"]
    assert same(data["a"], A)
    assert same(data["b"], B)


@pytest.mark.parametrize("count", [1, 3])
def test_comments_that_hold_the_signature_of_an_end_record(tmp_path: Path, count: int) -> None:
    """mmnpz finds the directory of an archive with such a comment. zipfile does not."""
    raw = build_zip(Entry("a.npy", npy(A)), comment=b"see PK\5\6 and so on " * count)
    data = mmnpz.load(put(tmp_path / "a.npz", raw))
    assert data.files == ["a"]
    assert same(data["a"], A)


def test_the_last_of_two_end_records_counts_as_in_zipfile(tmp_path: Path) -> None:
    inner = build_zip(Entry("b.npy", npy(B)))
    path = put(tmp_path / "a.npz", build_zip(Entry("a.npy", npy(A)), comment=inner))
    assert mmnpz.load(path).files == listed_by_zipfile(path) == ["b"]


def test_bytes_behind_the_archive(tmp_path: Path) -> None:
    """mmnpz ignores bytes behind the archive, as zipfile does: a comment longer than the end record says."""
    path = put(tmp_path / "a.npz", build_zip(Entry("a.npy", npy(A))) + b"\r\n" * 20)
    assert listed_by_zipfile(path) == ["a"]
    assert same(mmnpz.load(path)["a"], A)


def test_a_longer_name_field_in_the_local_header(tmp_path: Path) -> None:
    """The lengths in the local header, not those in the directory, tell where the data starts."""
    raw = build_zip(Entry("a.npy", npy(A), local_extra=b"\1\2\x64\0" + bytes(100), central_extra=b"\1\2\0\0"))
    assert same(mmnpz.load(put(tmp_path / "a.npz", raw))["a"], A)


def test_names_that_differ_from_the_local_header_are_refused_as_by_zipfile(tmp_path: Path) -> None:
    raw = build_zip(Entry("a.npy", npy(A), local_name=b"x.npy"), Entry("b.npy", npy(B)))
    path = put(tmp_path / "a.npz", raw)
    with zipfile.ZipFile(path) as file, pytest.raises(zipfile.BadZipFile):
        file.open("a.npy")
    data = mmnpz.load(path)
    with pytest.raises((zipfile.BadZipFile, ValueError)):
        data["a"]
    assert same(data["b"], B)


@pytest.mark.parametrize("method", [0, 8])
def test_encrypted_members(tmp_path: Path, method: int) -> None:
    raw = build_zip(Entry("secret.npy", npy(A), flags=1, method=method), Entry("b.npy", npy(B)))
    data = mmnpz.load(put(tmp_path / "a.npz", raw))
    assert same(data["b"], B)
    assert data.files == ["secret", "b"]
    for read in (data.__getitem__, data.load):
        with pytest.raises(ValueError, match="encrypted"):
            read("secret")


def test_members_that_winzip_encrypted(tmp_path: Path) -> None:
    raw = build_zip(Entry("a.npy", npy(A), method=99), Entry("b.npy", npy(B)))
    data = mmnpz.load(put(tmp_path / "a.npz", raw))
    assert data.files == ["a", "b"]
    with pytest.raises(ValueError, match="encrypted"):
        data["a"]


def with_sizes(array: Any, compressed: int, size: int) -> bytes:
    entry = Entry("a.npy", npy(array), compressed_size=compressed, file_size=size)
    return build_zip(entry, Entry("b.npy", npy(B)))


@pytest.mark.parametrize("compressed", [0, 5, 12, 127, 128, 129, 167])
@pytest.mark.parametrize("size", [None, 168])
def test_no_array_reaches_past_its_member(tmp_path: Path, compressed: int, size: int | None) -> None:
    assert len(npy(A)) == 168
    raw = with_sizes(A, compressed, compressed if size is None else size)
    data = mmnpz.load(put(tmp_path / "a.npz", raw))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"a\.npz.*'?a"):
            data["a"]
    assert same(data["b"], B)


@pytest.mark.parametrize("size", [10**6, 2**32 - 2, 2**40])
def test_no_member_reaches_past_the_file(tmp_path: Path, size: int) -> None:
    large = size >= 2**32
    entry = Entry("a.npy", npy(A), compressed_size=size, file_size=size, zip64=large)
    data = mmnpz.load(put(tmp_path / "a.npz", build_zip(Entry("b.npy", npy(B)), entry)))
    with pytest.raises((zipfile.BadZipFile, ValueError)):
        data["a"]
    assert same(data["b"], B)


@pytest.mark.parametrize("offset", [1, 10, 10**6, 2**32 - 2, 2**62, 2**63, 2**64 - 1])
def test_local_headers_that_are_elsewhere(tmp_path: Path, offset: int) -> None:
    entry = Entry("a.npy", npy(A), offset=offset, zip64=offset >= 2**32)
    path = put(tmp_path / "a.npz", build_zip(entry, Entry("b.npy", npy(B))))
    try:
        data = mmnpz.load(path)
    except zipfile.BadZipFile:
        return
    with pytest.raises((zipfile.BadZipFile, ValueError)):
        data["a"]
    assert same(data["b"], B)


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_versions(tmp_path: Path, version: int, order: Any) -> None:
    array = np.array(np.arange(6.0).reshape(2, 3), order=order)
    file = io.BytesIO()
    if version == 3:  # numpy.lib.format writes version 3 only for names that need it
        header = npy(array)[10:128]
        raw = npy_with_header(header, array.tobytes("A"), 3)
    else:
        np.lib.format.write_array(file, array, (version, 0))
        raw = file.getvalue()
    view = mmnpz.load(put(tmp_path / "a.npz", build_zip(Entry("a.npy", raw))))["a"]
    assert same(view, np.load(io.BytesIO(raw)))
    assert same(view, array)


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (10L,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2L, 5L), }\n",
        "{'descr': '<f8', 'fortran_order': True, 'shape': (2 L, 5), }",
        "{'descr': [('a', '<f8', (5L,))], 'fortran_order': False, 'shape': (2L,), }",
    ],
)
@pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file required additional header parsing")
def test_headers_of_python_2(tmp_path: Path, text: str) -> None:
    raw = npy_with_header(text, np.arange(10.0).tobytes())
    view = mmnpz.load(put(tmp_path / "a.npz", build_zip(Entry("a.npy", raw))))["a"]
    assert same(view, np.load(io.BytesIO(raw)))


@pytest.mark.parametrize("length", [9_999, 10_000, 10_001, 60_000])
@pytest.mark.parametrize("limit", [None, 59_999, 60_000, 10])
def test_max_header_size(tmp_path: Path, length: int, limit: int | None) -> None:
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }".ljust(length - 1) + "\n"
    raw = npy_with_header(text, np.arange(3.0).tobytes(), 2)
    options: dict[str, Any] = {} if limit is None else {"max_header_size": limit}
    data = mmnpz.load(put(tmp_path / "a.npz", build_zip(Entry("a.npy", raw))), **options)
    try:
        expected: Any = np.load(io.BytesIO(raw), **options)
    except ValueError:
        with pytest.raises(ValueError, match="max_header_size"):
            data["a"]
    else:
        assert same(data["a"], expected)


def test_unaligned_data(tmp_path: Path) -> None:
    for length in range(1, 17):
        path = tmp_path / f"{length}.npz"
        members: dict[str, Any] = {"x" * length: np.arange(5.0), "y" * length: np.arange(5, dtype="c16")}
        np.savez(path, **members)
        for name, view in mmnpz.load(path).items():
            assert view.sum() == 10, name
            assert view[1:3].tolist() == [1.0, 2.0], name


def test_numpy_savez_of_everything(new_path: Callable[[], Path], arrays: dict[str, Any]) -> None:
    path = new_path()
    named = {name: array for name, array in arrays.items() if name}
    np.savez(path, np.arange(3), **named)
    data = mmnpz.load(path)
    assert sorted(data.files) == sorted(["arr_0", *named])
    assert all(same(data[name], array) for name, array in named.items())
    compressed = new_path()
    np.savez_compressed(compressed, **named)
    data = mmnpz.load(compressed)
    assert sorted(data.files) == sorted(named)
    assert all(same(data[name], array) for name, array in named.items())


def test_end_records_whose_counts_are_wrong(tmp_path: Path) -> None:
    """mmnpz counts the entries of the directory, as zipfile does, and ignores a wrong count."""
    raw = bytearray(build_zip(Entry("a.npy", npy(A)), Entry("b.npy", npy(B))))
    for count in (0, 1, 3, 65535):
        struct.pack_into("<2H", raw, len(raw) - END.size + 8, count, count)
        path = put(tmp_path / f"{count}.npz", bytes(raw))
        assert mmnpz.load(path).files == listed_by_zipfile(path) == ["a", "b"]


@pytest.mark.parametrize(("disk", "directory_disk"), [(1, 1), (1, 0), (0, 1)])
@pytest.mark.parametrize("zip64", [False, True])
def test_a_part_of_a_split_archive_is_refused(
    tmp_path: Path, disk: int, directory_disk: int, zip64: bool
) -> None:
    """mmnpz neither reads nor changes a part of a split archive.

    The members are in other files. If mmnpz appended to a part, nobody could join the parts any more.
    """
    raw = bytearray(build_zip(Entry("a.npy", npy(A)), zip64_end=zip64))
    end = raw.rindex(b"PK\5\6")
    raw[end + 4 : end + 8] = struct.pack("<2H", disk, directory_disk)
    path = tmp_path / "a.npz"
    path.write_bytes(raw)
    calls: list[Callable[[], Any]] = [
        lambda: mmnpz.load(path),
        lambda: mmnpz.NpzWriter(path, "a"),
        lambda: mmnpz.repair(path),
    ]
    for call in calls:
        with pytest.raises(zipfile.BadZipFile, match="several disks"):
            call()
    assert path.read_bytes() == raw


@pytest.mark.parametrize("size", [3, 500, 50_000])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed, mmnpz.savez])
def test_the_last_of_two_archives_counts(tmp_path: Path, size: int, save: Any) -> None:
    """As for all zip readers, be the first one of mmnpz or not."""
    path = tmp_path / "c.npz"
    for first in (np.savez, mmnpz.savez):
        first(tmp_path / "a.npz", a=np.arange(size), c=np.arange(3))
        save(tmp_path / "b.npz", b=np.arange(size))
        path.write_bytes((tmp_path / "a.npz").read_bytes() + (tmp_path / "b.npz").read_bytes())
        assert list(np.load(path)) == mmnpz.load(path).files == ["b"]
        assert same(mmnpz.load(path)["b"], np.arange(size))
        with mmnpz.NpzWriter(path, "a") as writer:
            writer.write("new", 1)
        assert list(np.load(path)) == mmnpz.load(path).files == ["b", "new"]


@pytest.mark.parametrize("size", [3, 500])
@pytest.mark.parametrize("save", [np.savez, mmnpz.savez])
def test_zipfile_appends_behind_two_archives(tmp_path: Path, size: int, save: Any) -> None:
    """What zip readers find last is what the file has, also where an archive of mmnpz is in front."""
    path = tmp_path / "c.npz"
    mmnpz.savez(tmp_path / "a.npz", a=np.arange(size))
    save(tmp_path / "b.npz", b=np.arange(size))
    path.write_bytes((tmp_path / "a.npz").read_bytes() + (tmp_path / "b.npz").read_bytes())
    with zipfile.ZipFile(path, "a") as file, file.open("z.npy", "w") as member:
        np.save(member, np.arange(size))
    assert mmnpz.load(path).files == ["b", "z"]
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("new", 1)
    assert list(np.load(path)) == mmnpz.load(path).files == ["b", "z", "new"]
    mmnpz.repair(path)
    assert list(np.load(path)) == mmnpz.load(path).files == ["b", "z", "new"]
