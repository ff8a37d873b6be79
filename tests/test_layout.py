"""The bytes of an mmnpz file: alignment, zip64 records only where needed, the same bytes every time."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmnpz
from tests.archives import END, extra_fields, npy, parse_zip

ALIGNMENTS = [1 << power for power in range(16)]


def write_all(path: Path, members: dict[str, Any], mode: Any = "x", **options: Any) -> bytes:
    with mmnpz.NpzWriter(path, mode, **options) as writer:
        for name, array in members.items():
            writer.write(name, array)
    return path.read_bytes()


@pytest.mark.parametrize("align", ALIGNMENTS)
def test_array_data_is_aligned(new_path: Callable[[], Path], align: int) -> None:
    path = new_path()
    members = {"x" * length: np.arange(length, dtype="u1") for length in range(70)}
    members["ä"] = np.asfortranarray(np.ones((30, 40)))
    raw = write_all(path, members, align=align)
    parsed = parse_zip(raw)
    assert len(parsed) == len(members)
    for member, (name, array) in zip(parsed, members.items(), strict=True):
        assert member.data_offset(raw) % align == 0
        assert member.name == name.encode() + b".npy"
        assert raw[member.start : member.end] == npy(array)
        extra_fields(member.local_extra)  # asserts that the fields fill the extra data
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None


def test_views_are_aligned_in_memory(new_path: Callable[[], Path]) -> None:
    path = new_path()
    write_all(path, {f"{'n' * number}": np.arange(number, dtype="<g") for number in range(1, 50)})
    for view in mmnpz.load(path).values():
        assert view.__array_interface__["data"][0] % 64 == 0
        assert view.flags.aligned


def test_the_default_is_64(new_path: Callable[[], Path]) -> None:
    members = {"a": np.arange(5), "bc": np.arange(7)}
    raw = write_all(new_path(), members)
    assert raw == write_all(new_path(), members, align=64)
    assert all(member.data_offset(raw) % 64 == 0 for member in parse_zip(raw))


@pytest.mark.parametrize(
    "align", [0, -1, -64, 3, 63, 65, 1 << 16, 1 << 17, 1 << 40, 1 << 64, 2.5, "64", None]
)
def test_other_alignments_are_refused(new_path: Callable[[], Path], align: Any) -> None:
    path = new_path()
    expected = ValueError if isinstance(align, int) else (ValueError, TypeError)
    with pytest.raises(expected, match="align" if isinstance(align, int) else None):
        mmnpz.NpzWriter(path, align=align)
    assert not path.exists()
    path.write_bytes(b"precious")
    with pytest.raises(expected):
        mmnpz.NpzWriter(path, "w", align=align)
    assert path.read_bytes() == b"precious"


@given(
    names=st.lists(st.text("abä/", max_size=90), unique=True, max_size=8),
    sizes=st.lists(st.integers(0, 70_000), min_size=8, max_size=8),
    align=st.sampled_from(ALIGNMENTS),
    later=st.sampled_from(ALIGNMENTS),
)
def test_any_names_and_sizes(
    new_path: Callable[[], Path], names: list[str], sizes: list[int], align: int, later: int
) -> None:
    path = new_path()
    members = {name: np.full(size, size % 251, "u1") for name, size in zip(names, sizes, strict=False)}
    half = len(members) // 2
    write_all(path, dict(list(members.items())[:half]), align=align)
    raw = write_all(path, dict(list(members.items())[half:]), "a", align=later)
    for number, member in enumerate(parse_zip(raw)):
        assert member.data_offset(raw) % (align if number < half else later) == 0
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert file.namelist() == [name + ".npy" for name in names]
        for name, array in members.items():
            assert file.read(name + ".npy") == npy(array)
    # The file has no more bytes than members, padding and headers need.
    overhead = sum(128 + 2 * (46 + len(name.encode()) + 20) + 2 * max(align, later, 8) for name in names)
    index = 8 * 12 + 8 + 40 * len(names)
    assert len(raw) <= sum(array.nbytes for array in members.values()) + overhead + index + 96 + END.size


def test_the_same_arrays_give_the_same_bytes(new_path: Callable[[], Path], arrays: dict[str, Any]) -> None:
    assert write_all(new_path(), arrays) == write_all(new_path(), arrays)
    path = new_path()
    for name, array in arrays.items():  # one session for each array
        write_all(path, {name: array}, "a")
    assert path.read_bytes() == write_all(new_path(), arrays)


def test_replaced_files_have_no_trace_of_the_old(
    new_path: Callable[[], Path], arrays: dict[str, Any]
) -> None:
    path = new_path()
    write_all(path, {"old": np.ones(10_000)})
    assert write_all(path, arrays, "w") == write_all(new_path(), arrays)


def test_small_archives_have_no_zip64_records(new_path: Callable[[], Path], arrays: dict[str, Any]) -> None:
    raw = write_all(new_path(), arrays)
    for member in parse_zip(raw):
        assert 1 not in extra_fields(member.extra)
        assert 1 not in extra_fields(member.local_extra)
        assert member.version_needed <= 20
        assert member.local_version <= 20
        assert member.local_sizes == (member.size, member.size)
        assert member.flags & ~0x800 == 0  # no data descriptors
    assert b"PK\6\6" not in raw
    assert b"PK\6\7" not in raw


@pytest.mark.parametrize("count", [65_534, 65_535, 65_536, 65_537])
def test_zip64_from_65536_members_on(new_path: Callable[[], Path], count: int) -> None:
    path = new_path()
    with mmnpz.NpzWriter(path) as writer:
        item = np.zeros((), "u1")
        for number in range(count):
            writer.write(f"{number}", item)
    tail = path.read_bytes()[-98:]
    assert (b"PK\6\7" in tail) == (count > 65_535)
    with zipfile.ZipFile(path) as file:
        assert len(file.filelist) == count
    data = mmnpz.load(path)
    assert len(data) == count
    assert str(count - 1) in data
    assert str(count) not in data


def test_what_close_writes_is_the_end_of_the_file(new_path: Callable[[], Path]) -> None:
    """A file that was longer before a session ends with the new end record, not with the old one."""
    path = new_path()
    write_all(path, {f"{'long name ' * 100}{number}": np.arange(1) for number in range(50)})
    raw = write_all(path, {"x": np.arange(1)}, "a")
    assert END.unpack(raw[-END.size :])[4] == 51
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert len(file.namelist()) == 51


def test_names_are_flagged_as_utf8_only_where_needed(new_path: Callable[[], Path]) -> None:
    flags = {member.name: member.flags for member in parse_zip(write_all(new_path(), {"a": 1, "ä": 2}))}
    assert flags == {b"a.npy": 0, "ä.npy".encode(): 0x800}


def test_other_programs_see_readable_files(new_path: Callable[[], Path]) -> None:
    path = new_path()
    write_all(path, {"a": np.arange(3)})
    with zipfile.ZipFile(path) as file:
        [info] = file.infolist()
        assert info.external_attr >> 16 & 0o444 == 0o444
        assert not info.is_dir()
        assert info.date_time[0] >= 1980
        assert info.create_version <= 45
        assert info.extract_version <= 20
