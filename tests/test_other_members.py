"""Members whose names do not end in .npy are found as NumPy finds them: by just their names."""

import copy
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmnpz
from tests.archives import Entry, build_zip, npy, own_copy, put, same

TEXT = b"what is in here\n" * 40


def deflated(raw: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(raw) + deflate.flush()


def entry(name: str, raw: bytes, is_deflated: bool = False) -> Entry:
    return Entry(name, raw, method=8, stored=deflated(raw)) if is_deflated else Entry(name, raw)


def equal(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, bytes):
        return isinstance(ours, bytes) and ours == theirs
    return isinstance(ours, np.ndarray) and same(ours, theirs)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    entries = (
        entry("a", npy(np.arange(3))),
        entry("a.npy", npy(np.arange(4))),
        entry("b", npy(np.arange(5)), True),
        entry("c.npy", npy(np.arange(6))),
        entry("readme.txt", TEXT),
        entry("packed.txt", TEXT, True),
        entry("folder/", b""),
        entry("empty", b""),
        entry("short", b"\x93NUM", True),
        Entry("packed folder/", b"", method=8, stored=b""),
    )
    return put(tmp_path / "a.npz", build_zip(*entries))


@pytest.mark.parametrize("options", [{}, {"cache": False}, {"preload": True}])
def test_they_are_found_as_numpy_finds_them(mixed: Path, options: dict[str, Any]) -> None:
    data = mmnpz.load(mixed, **options)
    with np.load(mixed) as theirs:
        names = [*theirs.files, "a.npy", "b.npy", "c.npy", "nothing", "folder", "readme.txt.npy", ""]
        for name in names:
            assert (name in data) == (name in theirs), name
            if name in theirs:
                assert equal(data[name], theirs[name]), name
                assert equal(data.get(name), theirs[name]), name
            else:
                with pytest.raises(KeyError):
                    data[name]
    # Only arrays are listed.
    assert data.files == list(data) == ["a", "c"]
    assert [(name, array.shape) for name, array in data.items()] == [("a", (3,)), ("c", (6,))]


def test_arrays_are_kept_and_bytes_are_not(mixed: Path) -> None:
    data = mmnpz.load(mixed)
    assert data["b"] is data["b"]
    assert data["a"] is data["a"]
    assert data["a.npy"] is data["a.npy"]
    assert data["c.npy"] is data["c"]
    assert data["readme.txt"] == TEXT
    assert sorted(data.arrays) == ["a", "a.npy", "b", "c"]
    assert data.arrays["c"] is data["c"]
    for other in (copy.copy(data), copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert other["packed.txt"] == TEXT
        assert same(other["a.npy"], np.arange(4))


def test_batches_and_verify_take_their_names(mixed: Path) -> None:
    data = mmnpz.load(mixed)
    names = ["c.npy", "b", "a.npy", "a"]
    arrays = {"c.npy": np.arange(6), "b": np.arange(5), "a.npy": np.arange(4), "a": np.arange(3)}
    for _ in range(2):
        data.prefetch(names, length=3)
        assert same(data.gather(names, 0, length=3), np.stack([arrays[name][:3] for name in names]))
    with pytest.raises(TypeError, match=r'a\.npz: member "readme.txt": it is no array'):
        data.gather(["c", "readme.txt"], 0, length=1)
    assert data.verify(["readme.txt", "packed.txt", "b", "a.npy", "a", "c.npy"]) == []
    assert data.verify() == []


@pytest.mark.parametrize("is_deflated", [False, True])
def test_their_bytes_are_compared_with_their_checksums(tmp_path: Path, is_deflated: bool) -> None:
    bad = entry("readme.txt", TEXT, is_deflated)
    bad.crc = 1
    path = put(tmp_path / "a.npz", build_zip(bad, entry("a.npy", npy(np.arange(3)))))
    data = mmnpz.load(path)
    with pytest.raises(zipfile.BadZipFile, match=r'a\.npz: member "readme.txt": .*CRC-32'):
        data["readme.txt"]
    assert [damage.name for damage in data.verify(["readme.txt", "a"])] == ["readme.txt"]


def test_a_lying_size_takes_no_memory(tmp_path: Path) -> None:
    """A gigabyte that is said to be in a megabyte is counted before it takes memory."""
    stored = deflated(bytes(100 << 20)) + bytes(1 << 20)
    lie = Entry("a", bytes(8), method=8, stored=stored, file_size=1 << 30)
    data = mmnpz.load(put(tmp_path / "a.npz", build_zip(lie, entry("b.npy", npy(np.arange(3))))))
    with pytest.raises(zipfile.BadZipFile, match=r'member "a": .*fewer bytes'):
        data["a"]


def test_a_warning_that_no_arrays_are_listed(tmp_path: Path) -> None:
    path = put(tmp_path / "a.npz", build_zip(*(entry(f"t{number}", TEXT) for number in range(7))))
    text = rf"{path}: no arrays .* has 7 members: 't0', 't1', 't2', 't3', 't4', …"
    with pytest.warns(UserWarning, match=text):
        data = mmnpz.load(path)
    assert data.files == []
    assert data["t6"] == TEXT
    one = put(tmp_path / "one.npz", build_zip(entry("weights", npy(np.arange(3)))))
    with pytest.warns(UserWarning, match="has 1 member: 'weights'$"):
        assert same(mmnpz.load(one)["weights"], np.arange(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(pickle.dumps(data))
        mmnpz.load(put(tmp_path / "empty.npz", build_zip()))
        mmnpz.load(put(tmp_path / "both.npz", build_zip(entry("t", TEXT), entry("a.npy", npy(np.arange(3))))))


def test_bytes_under_a_listed_name_are_not_kept(tmp_path: Path) -> None:
    path = put(
        tmp_path / "a.npz",
        build_zip(entry("a", TEXT), entry("a.npy", npy(np.arange(3))), entry("b.npy", npy(np.arange(4)))),
    )
    for data in (mmnpz.load(path), mmnpz.load(path, preload=True)):
        assert dict(data)["a"] == TEXT
        assert data["a"] == TEXT
        assert list(data.arrays) == ["b"]


def test_a_killed_append_does_not_change_what_a_name_means(tmp_path: Path) -> None:
    """Neither before nor after a repair."""
    path = put(tmp_path / "a.npz", build_zip(entry("a.npy", npy(np.arange(5)), True), entry("a", TEXT)))
    writer = mmnpz.NpzWriter(path, "a")
    with pytest.warns(UserWarning, match="Duplicate name"):
        writer.write("a", np.array([77]))
    left = put(tmp_path / "left.npz", path.read_bytes())
    writer.close()
    for killed in (False, True):
        if killed:
            with pytest.warns(UserWarning, match="no complete directory"):
                data = mmnpz.load(left)
        else:
            data = mmnpz.load(path)
        assert data["a"] == TEXT
        assert data["a.npy"].tolist() == [77]
    mmnpz.repair(left)
    assert mmnpz.load(left)["a"] == TEXT
    assert mmnpz.load(left)["a.npy"].tolist() == [77]


def test_checksums_of_a_streamed_archive_that_is_appended_to(tmp_path: Path) -> None:
    """They are behind the members, once the directory is overwritten that an open reader knows."""
    entries = [Entry("t", TEXT, descriptor=True), Entry("a.npy", npy(np.arange(5)), descriptor=True)]
    path = put(tmp_path / "a.npz", build_zip(*entries))
    data = mmnpz.load(path)
    crc = zlib.crc32(npy(np.arange(5)))
    for _ in range(3):
        assert data["t"] == TEXT
        assert data.verify() == data.verify(["t"]) == []
        assert data.info("a").crc == data.layout().crc[0] == crc
        with mmnpz.NpzWriter(path, "a") as writer:
            writer.write(f"new {path.stat().st_size}", np.arange(3))
    assert mmnpz.load(path).verify() == []


def test_they_stay_when_arrays_are_appended(mixed: Path, tmp_path: Path) -> None:
    path = own_copy(mixed, tmp_path)
    with mmnpz.NpzWriter(path, "a") as writer:
        assert writer.files == ["a", "c"]
        writer.write("new", np.arange(9))
    data = mmnpz.load(path)
    with np.load(path) as theirs:
        assert all(equal(data[name], theirs[name]) for name in theirs.files)
    assert data.files == ["a", "c", "new"]


def test_a_listed_name_counts_more_than_a_whole_one(tmp_path: Path) -> None:
    """NumPy gives the array `a` for both names: of what `files` lists, it hides one."""
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer.write("a", np.arange(3))
        writer.write("a.npy", np.arange(4))
        writer.write("b.npy", np.arange(5))
    data = mmnpz.load(path)
    assert {name: array.size for name, array in data.items()} == {"a": 3, "a.npy": 4, "b.npy": 5}
    assert data["a.npy"].size == 4
    assert data["a.npy.npy"].size == 4
    assert data["b.npy"].size == 5
    assert "b" not in data


def test_names_without_the_extension_in_a_large_archive_of_ours(tmp_path: Path) -> None:
    """Where the index of the file is used, which is believed only once it was checked."""
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(3000):
            writer.write(f"n{number}", np.full(2, number))
    data = mmnpz.load(path)
    assert data["n2999.npy"][0] == 2999
    assert "n7.npy" in data
    assert "n7.txt" not in data
    assert list(data.gather(["n1.npy", "n2"])[:, 0]) == [1, 2]
    assert data["n1.npy"] is data["n1"]


NAMES = st.sampled_from(["a", "b", "a.npy", "b.npy", "a/", "a/.npy", ".npy", "é", "é.npy", "x.txt"])
CONTENTS = st.one_of(
    st.integers(0, 9).map(lambda number: npy(np.arange(number))),
    st.binary(max_size=9),
    st.sampled_from([b"\x93NUMPY", b"\x93NUMP"]),
)


@given(members=st.lists(st.tuples(NAMES, CONTENTS, st.booleans()), max_size=6, unique_by=lambda one: one[0]))
def test_any_names_and_contents(new_path: Callable[[], Path], members: list[tuple[str, bytes, bool]]) -> None:
    path = put(new_path(), build_zip(*(entry(*member) for member in members)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        data = mmnpz.load(path)
    with np.load(path) as theirs:
        # Of NumPy before 1.25, `name in theirs` reads the member.
        there = {*theirs.files, *theirs.zip.namelist()}
        contents = [(name, raw) for name, raw, _ in members]
        asked = {*theirs.files, *(name for name, *_ in members), "a", "b.npy"}
        for name in sorted(asked):
            assert (name in data) == (name in there)
            if name not in there:
                continue
            try:
                expected = theirs[name]
            except ValueError:
                with pytest.raises(ValueError, match="member"):
                    data[name]
                continue
            try:
                found = data[name]
            except ValueError:
                # NumPy gives the bytes of an .npy member that is no array; mmnpz does not.
                assert isinstance(expected, bytes)
                assert name.endswith(".npy") or name not in dict(contents)
            else:
                assert equal(found, expected), name
