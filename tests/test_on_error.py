"""`on_error="skip"`: a reader is as of a file without the members that are no arrays, and nothing else is."""

import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import same

BAD: dict[str, bytes | np.ndarray[Any, Any]] = {
    "__MACOSX/._a": b"\0\5\x16\7\0\2\0\0Mac OS X        ",
    "labels": np.array(["x", None], object),
    "empty": b"",
    "cut": b"\x93NUMPY\1\0",
}


def add(path: Path, name: str, content: Any) -> None:
    with zipfile.ZipFile(path, "a") as file, file.open(f"{name}.npy", "w") as member:
        if isinstance(content, bytes):
            member.write(content)
        else:
            np.lib.format.write_array(member, np.asanyarray(content))


def written_by_numpy(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path)
    for name, array in arrays.items():
        add(path, name, array)


def written_by_us(path: Path, arrays: dict[str, Any]) -> None:
    with mmnpz.NpzWriter(path, "w") as writer:
        for name, array in arrays.items():
            writer.write(name, array)


def with_an_index(path: Path, arrays: dict[str, Any]) -> None:
    # The bad members are kept in a directory of mmnpz.
    written_by_us(path, {})
    for name, content in BAD.items():
        add(path, name, content)
    with mmnpz.NpzWriter(path, "a") as writer:
        for name, array in arrays.items():
            writer.write(name, array)


def skipping(path: Path, **options: Any) -> mmnpz.NpzReader:
    left_out = f"{path}: left out 4 members from which no array can be read: .*'__MACOSX/._a'"
    with pytest.warns(UserWarning, match=left_out.replace("(", r"\(")) as warned:
        data = mmnpz.load(path, on_error="skip", **options)
    assert len(warned) == 1
    return data


# Two thousand are so many that opening a file with an index does not look at all of it.
@pytest.mark.parametrize(
    ("write", "count"),
    [
        (written_by_numpy, 3),
        (written_by_us, 3),
        (with_an_index, 3),
        (written_by_us, 2000),
        (with_an_index, 2000),
    ],
)
@pytest.mark.parametrize("preload", [False, True])
def test_all_others_are_there(
    tmp_path: Path, write: Callable[[Path, dict[str, Any]], None], count: int, preload: bool
) -> None:
    path = tmp_path / "a.npz"
    arrays: dict[str, Any] = {f"a{number}": np.arange(number % 50) for number in range(count)}
    write(path, arrays)
    arrays["last"] = np.array([5])
    if write is with_an_index:
        with mmnpz.NpzWriter(path, "a") as writer:
            writer.write("last", [5])
    else:
        for name, content in BAD.items():
            add(path, name, content)
        add(path, "last", [5])
    data = skipping(path, preload=preload)
    for reader in (data, pickle.loads(pickle.dumps(data))):
        assert reader.files == list(reader) == [name for name, _ in reader.items()] == list(arrays)
        assert len(reader) == len(arrays)
        for name, array in dict(reader).items():
            assert same(array, arrays[name])
        for position in (0, 1, count):
            assert same(reader.gather([position])[0], list(arrays.values())[position])
        for name in BAD:
            assert name not in reader
            with pytest.raises(KeyError):
                reader[name]
    # Without it, each of these is an error, and a reader that does not ask for them reads the others.
    data = mmnpz.load(path)
    for name in BAD:
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            data[name]
    assert same(data["last"], arrays["last"])


def test_a_good_file_gives_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for save in (np.savez, mmnpz.savez):
        save(path, a=1, b=[2, 3])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert mmnpz.load(path, on_error="skip").files == ["a", "b"]


def test_the_last_member_of_a_name_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=1, b=2)
    with pytest.warns(UserWarning, match="Duplicate"):
        add(path, "a", b"nothing")
    with pytest.warns(UserWarning, match="left out 1 member from which no array can be read: 'a'$"):
        assert mmnpz.load(path, on_error="skip").files == ["b"]


def test_of_many_the_first_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    objects: dict[str, Any] = {f"o{number}": np.array(None) for number in range(6)}
    np.savez(path, **objects)
    with pytest.warns(UserWarning, match="left out 6 members .*: 'o0', 'o1', 'o2', 'o3', 'o4', …$"):
        assert mmnpz.load(path, on_error="skip").files == []


def test_other_values_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=1)
    with pytest.raises(ValueError, match="on_error must be 'raise' or 'skip', got 'ignore'"):
        mmnpz.load(tmp_path / "a.npz", on_error="ignore")  # type: ignore[arg-type]
    assert mmnpz.load(tmp_path / "a.npz", on_error="raise").files == ["a"]


def test_members_that_a_killed_writer_left(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.npz", tmp_path / "b.npz"
    np.savez(path, good=1, bad=np.array(None))
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("more", [1, 2])
        # As a kill leaves the file.
        whole.write_bytes(path.read_bytes())
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        data = mmnpz.load(whole, on_error="skip")
    found, left_out = [str(each.message) for each in warned]
    assert "arrays were found without it" in found
    assert left_out == f"{whole}: left out 1 member from which no array can be read: 'bad'"
    assert data.files == ["good", "more"]
    assert data["more"].tolist() == [1, 2]
