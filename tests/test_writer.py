"""The writer as a Python object: modes, names, refused arrays, closing."""

import gc
import inspect
import pathlib
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from mmnpz import NpzWriter
from tests.archives import npy, same


def test_signature_starts_as_in_version_1() -> None:
    parameters = inspect.signature(NpzWriter).parameters
    assert list(parameters)[:2] == ["fn", "mode"]
    assert parameters["mode"].default == "x"
    assert [parameter.kind for parameter in parameters.values()][:2] == [
        inspect.Parameter.POSITIONAL_OR_KEYWORD
    ] * 2
    assert parameters["align"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["align"].default == 64


@pytest.mark.parametrize("path_type", [str, pathlib.PurePath, pathlib.Path])
def test_paths_of_any_type(tmp_path: Path, path_type: Any) -> None:
    path = tmp_path / "ä.npz"
    with NpzWriter(fn=path_type(str(path))) as writer:
        writer.write("x", [1, 2])
    assert np.load(path)["x"].tolist() == [1, 2]


def test_arrays_of_all_kinds(tmp_path: Path, arrays: dict[str, Any]) -> None:
    path = tmp_path / "a.npz"
    with NpzWriter(path) as writer:
        for name, array in arrays.items():
            writer.write(name, array)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert file.namelist() == [f"{name}.npy" for name in arrays]
        for name, array in arrays.items():
            assert file.read(f"{name}.npy") == npy(array)
            assert file.getinfo(f"{name}.npy").compress_type == zipfile.ZIP_STORED


def test_an_array_is_written_the_same_after_any_other_array(tmp_path: Path) -> None:
    """A header that a thread keeps from its last array is not used for an array that needs another one."""
    ordinary: list[Any] = [
        np.arange(12, dtype="<f4").reshape(3, 4),
        np.arange(12, dtype="<f4").reshape(3, 4, order="F"),
        np.arange(12, dtype="<f4").reshape(4, 3),
        np.arange(12, dtype=">f4").reshape(3, 4),
        np.arange(12, dtype="<i4").reshape(3, 4),
        np.arange(12, dtype="<f4"),
        np.arange(12, dtype="<f4")[:1],
        np.float32(1),
        np.zeros((0, 3), "<f4"),
        np.zeros((3, 4), [("é", "<f4")]),
    ]
    path = tmp_path / "a.npz"
    expected = {
        f"{i}{j}{k}": item
        for i, a in enumerate(ordinary)
        for j, b in enumerate(ordinary)
        for k, item in enumerate((a, b))
    }
    with NpzWriter(path) as writer:
        for name, array in expected.items():
            writer.write(name, array)
    with zipfile.ZipFile(path) as file, mmnpz.load(path) as data:
        for name, array in expected.items():
            assert file.read(f"{name}.npy") == npy(array)
            assert same(data[name], array)


def test_dtypes_that_change_or_go_away_are_described_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    expected = {}
    with NpzWriter(path) as writer:
        array: Any = np.zeros(3, [("a", "<f4")])
        for name in "abc":
            array.dtype.names = (name,)
            writer.write(name, array)
            expected[name] = npy(array)
        # Each dtype is likely to have the address of the previous one, which was freed.
        for number in range(100):
            array = np.zeros(3, f"S{number + 1}")
            writer.write(str(number), array)
            expected[str(number)] = npy(array)
            del array
    with zipfile.ZipFile(path) as file:
        assert {name: file.read(f"{name}.npy") for name in expected} == expected


def test_long_headers_warn_each_time(tmp_path: Path) -> None:
    array = np.zeros(3, [("日", "<f4")])
    with NpzWriter(tmp_path / "a.npz") as writer:
        for name in "ab":
            with pytest.warns(UserWarning, match="format 3"):
                writer.write(name, array)


def test_arguments_by_name_and_by_item(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with NpzWriter(path) as writer:
        writer.write(name="a", array=np.arange(3))
        writer["b"] = np.arange(4)
        writer["c"] = 5
    with np.load(path) as data:
        assert {name: data[name].tolist() for name in data} == {"a": [0, 1, 2], "b": [0, 1, 2, 3], "c": 5}


def test_x_creates_and_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    NpzWriter(path, "x").close()
    before = path.read_bytes()
    cases: list[tuple[Any, ...]] = [(path,), (path, "x"), (tmp_path,)]
    for arguments in cases:
        with pytest.raises(FileExistsError):
            NpzWriter(*arguments)
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", ["r", "r+", "wb", "", "X", "xw", None, 1])
def test_other_modes_are_refused(tmp_path: Path, mode: Any) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(ValueError, match="mode"):
        NpzWriter(path, mode)
    assert not path.exists()


@pytest.mark.parametrize("mode", ["x", "w", "a"])
def test_every_mode_creates(tmp_path: Path, mode: Any) -> None:
    path = tmp_path / "a.npz"
    with NpzWriter(path, mode) as writer:
        writer.write("x", 1)
    assert np.load(path)["x"] == 1


@pytest.mark.parametrize("mode", ["x", "w", "a"])
def test_a_missing_folder(tmp_path: Path, mode: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.npz"):
        NpzWriter(tmp_path / "nothing" / "a.npz", mode)


@pytest.mark.parametrize("mode", ["w", "a"])
def test_a_folder_is_refused(tmp_path: Path, mode: Any) -> None:
    with pytest.raises(IsADirectoryError):
        NpzWriter(tmp_path, mode)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_without_members_is_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    NpzWriter(path).close()
    assert zipfile.is_zipfile(path)
    with np.load(path) as data:
        assert data.files == []


def test_closing_twice_and_writing_after(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    writer = NpzWriter(path)
    writer.write("x", 1)
    writer.close()
    before = path.read_bytes()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write("y", 1)
    with pytest.raises(ValueError, match="closed"):
        writer["y"] = 1
    del writer
    gc.collect()
    assert path.read_bytes() == before


def test_an_exception_inside_keeps_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(ZeroDivisionError), NpzWriter(path) as writer:  # noqa: PT012
        writer.write("x", np.arange(3))
        raise ZeroDivisionError
    assert np.load(path)["x"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="closed"):
        writer.write("y", 1)


def test_the_finalizer_closes(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    writer = NpzWriter(path)
    writer.write("x", np.arange(3))
    del writer
    gc.collect()
    assert np.load(path)["x"].tolist() == [0, 1, 2]


def test_a_writer_whose_opening_failed_can_be_dropped(tmp_path: Path) -> None:
    cases: list[tuple[Any, ...]] = [(tmp_path, "w"), (tmp_path / "a.npz", "r")]
    for arguments in cases:
        with pytest.raises((OSError, ValueError)):
            NpzWriter(*arguments)
    writer = NpzWriter.__new__(NpzWriter)
    with pytest.raises(ValueError, match="closed"):
        writer.write("x", 1)
    writer.close()
    del writer
    gc.collect()


def test_subclass_with_another_signature(tmp_path: Path) -> None:
    class Log(NpzWriter):
        def __init__(self, folder: Path, *, number: int) -> None:
            super().__init__(folder / f"{number}.npz", "w", align=4096)
            self.number = number

        def write(self, name: str, array: Any, **options: Any) -> None:
            super().write(f"log/{name}", array, **options)

    with Log(tmp_path, number=7) as writer:
        writer.write("x", 1)
        assert writer.number == 7
    assert mmnpz.load(tmp_path / "7.npz").files == ["log/x"]


@pytest.mark.parametrize("existing", ["from this session", "from us", "from numpy"])
@pytest.mark.parametrize("name", ["x", "ü", "f/ß/x", ""])
def test_duplicates_warn_as_zipfile_does_and_the_last_wins(tmp_path: Path, existing: str, name: str) -> None:
    path = tmp_path / "a.npz"
    if existing == "from us":
        with NpzWriter(path) as writer:
            writer.write(name, 1)
    elif existing == "from numpy":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(f"{name}.npy", npy(1))
    with NpzWriter(path, "a") as writer:
        if existing == "from this session":
            writer.write(name, 1)
        writer.write("other", 1)
        for value in (2, 3):
            with pytest.warns(UserWarning, match="Duplicate") as ours:
                writer.write(name, value)
            assert len(ours) == 1
            assert ours[0].filename == __file__
            with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
                file.writestr(f"{name}.npy", b"")
                with pytest.warns(UserWarning, match="Duplicate") as theirs:
                    file.writestr(f"{name}.npy", b"")
            assert str(ours[0].message) == str(theirs[0].message)
    assert mmnpz.load(path)[name] == 3
    assert np.load(path)[f"{name}.npy"] == 3
    with zipfile.ZipFile(path) as file:
        assert sorted(file.namelist()) == sorted([f"{name}.npy"] * 3 + ["other.npy"])
        assert file.testzip() is None


def test_a_duplicate_is_not_written_if_the_warning_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with NpzWriter(path) as writer:
        writer.write("x", 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserWarning):
                writer.write("x", 2)
        writer.write("y", 3)
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == ["x.npy", "y.npy"]
    assert np.load(path)["x"] == 1


NAMES = [
    "a",
    "",
    " ",
    "a b",
    "a.npy",
    ".npy",
    "folder/x",
    "a/b/c/d",
    "/absolute",
    "../up",
    "C:\\x",
    "trailing/",
    "ä",
    "日本語",
    "\U0001f600",
    "é vs e\u0301",
    "tab\there",
    "new\nline",
    "'\"",
    "x" * 65531,
    "ü" * 32765 + "u",
]


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name[:20]) for name in NAMES])
def test_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.npz"
    with NpzWriter(path) as writer:
        writer.write(name, np.arange(3))
    assert mmnpz.load(path).files == [name]
    assert name in mmnpz.load(path)
    assert mmnpz.load(path)[name].tolist() == [0, 1, 2]
    with zipfile.ZipFile(path) as file:
        [info] = file.infolist()
        assert info.filename == name + ".npy"
        assert bool(info.flag_bits & 0x800) is not name.isascii()
        assert file.testzip() is None


@pytest.mark.parametrize("name", ["x\0", "\0", "a\0b", "x" * 65532, "ü" * 32766, "\ud800", "a\udcff"])
def test_names_that_no_zip_can_hold(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.npz"
    with NpzWriter(path) as writer:
        writer.write("before", 1)
        with pytest.raises(ValueError, match=r"name|surrogate"):
            writer.write(name, 2)
        writer.write("after", 3)
    with np.load(path) as data:
        assert data.files == ["before", "after"]
        assert data["after"] == 3


@pytest.mark.parametrize("name", [None, 1, b"x", ("x",), Path("x")])
def test_names_are_strings(tmp_path: Path, name: Any) -> None:
    with NpzWriter(tmp_path / "a.npz") as writer, pytest.raises(TypeError):
        writer.write(name, 1)


def refused() -> dict[str, Callable[[], Any]]:
    return {
        "objects": lambda: np.array([None, "x"], dtype=object),
        "list of mixed": lambda: [1, {"a": 2}],
        "0-d object": lambda: {"a": 1},
        "empty object": lambda: np.zeros((0, 3), object),
        "None": lambda: None,
        "field of objects": lambda: np.zeros(3, [("a", "<i4"), ("b", "O")]),
        "sub-array of objects": lambda: np.zeros(3, [("a", [("b", "O", (2,))])]),
        "field of no items": lambda: np.zeros(0, [("b", "O")]),
    }


@pytest.mark.parametrize("kind", refused())
def test_objects_are_refused_and_leave_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.npz"
    value = refused()[kind]()
    with NpzWriter(path) as writer:
        writer.write("before", 1)
        with pytest.raises(ValueError, match="object"):
            writer.write("bad", value)
        writer.write("bad", 2)  # no warning: the refused array left no member of this name
        with pytest.raises(ValueError, match="object"):
            writer["other"] = value
    with np.load(path) as data:
        assert data.files == ["before", "bad"]
        assert data["bad"] == 2
    alone = tmp_path / "alone.npz"
    with NpzWriter(alone) as writer, pytest.raises(ValueError, match="object"):
        writer.write("bad", value)
    assert np.load(alone).files == []


def test_ragged_lists_and_failing_conversions_leave_nothing(tmp_path: Path) -> None:
    class Failing:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            raise KeyError("no array today")

    path = tmp_path / "a.npz"
    with NpzWriter(path) as writer:
        with pytest.raises(KeyError, match="today"):
            writer.write("x", Failing())
        writer.write("y", 1)
    assert np.load(path).files == ["y"]


@pytest.mark.skipif(np.__version__.startswith("1."), reason="NumPy 2 has it")
def test_variable_width_strings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    array = np.array(["a", "b" * 100], dtype=np.dtypes.StringDType())
    with NpzWriter(path) as writer:
        with pytest.raises(ValueError, match="cannot be written"):
            writer.write("x", array)
        with pytest.raises(ValueError, match="cannot be written"):
            writer.write("x", array[:0])
    assert np.load(path).files == []


def test_a_writer_can_write_while_an_array_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with NpzWriter(path) as writer:

        class Nested:
            def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
                writer.write("inner", np.arange(2))
                return np.arange(3)

        writer.write("outer", Nested())
    with np.load(path) as data:
        assert data.files == ["inner", "outer"]
        assert same(data["outer"], np.arange(3))


def test_closing_while_an_array_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    writer = NpzWriter(path)

    class Closing:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            writer.close()
            return np.arange(3)

    with pytest.raises(ValueError, match="closed"):
        writer.write("x", Closing())
    assert np.load(path).files == []


@pytest.mark.thread_unsafe(reason="changes the working folder")
def test_a_writer_syncs_its_folder_wherever_that_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    monkeypatch.chdir(first)
    with mmnpz.NpzWriter("a.npz") as writer:
        writer["a"] = np.arange(3)
        monkeypatch.chdir(tmp_path)
        writer.flush(sync=True)
        first.rename(second)
        writer["b"] = np.arange(4)
        writer.flush(sync=True)
        (second / "a.npz").rename(second / "b.npz")
        writer["c"] = np.arange(5)
        writer.flush(sync=True)
        (second / "b.npz").unlink()
        writer["d"] = np.arange(6)
        writer.flush(sync=True)
