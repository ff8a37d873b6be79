"""The reader as a Python object: its interface, its methods of a mapping, its cache."""

import collections.abc
import gc
import importlib
import inspect
import os
import pathlib
import pickle
import sys
import weakref
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
import mmnpz.reading
import mmnpz.writing
from mmnpz import NpzReader, NpzWriter
from tests.archives import same


def test_names_are_those_of_version_1() -> None:
    assert mmnpz.load is NpzReader or callable(mmnpz.load)
    assert mmnpz.reading.NpzReader is mmnpz.NpzReader
    assert mmnpz.writing.NpzWriter is mmnpz.NpzWriter


def test_signature_starts_as_in_version_1() -> None:
    parameters = inspect.signature(NpzReader).parameters
    positional = [
        name
        for name, parameter in parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    # Those of version 1, and what follows them in numpy.load.
    assert positional == ["fn", "mmap_mode", *list(inspect.signature(np.load).parameters)[2:5]]
    others = list(parameters)[len(positional) :]
    assert others[:2] == ["cache", "preload"]
    assert {parameters[name].kind for name in others} == {inspect.Parameter.KEYWORD_ONLY}
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert (defaults["mmap_mode"], defaults["cache"], defaults["preload"]) == ("r", True, False)
    assert defaults["max_header_size"] == 10000
    assert list(inspect.signature(mmnpz.load).parameters) == list(parameters)


def test_all_arrays_are_read(archive: Path, arrays: dict[str, Any]) -> None:
    data = mmnpz.load(archive)
    for name, array in arrays.items():
        assert same(data[name], array), name


class PathOfBytes:
    def __init__(self, path: str) -> None:
        self.path = path

    def __fspath__(self) -> bytes:
        return os.fsencode(self.path)


@pytest.mark.parametrize("path_type", [str, pathlib.PurePath, pathlib.Path, os.fsencode, PathOfBytes])
def test_paths_of_any_type(archive: Path, tmp_path: Path, path_type: Any) -> None:
    data: Any = mmnpz.load(fn=path_type(str(archive)))
    assert len(data) == len(pickle.loads(pickle.dumps(data))) == 8
    assert os.path.samefile(data.mmap.filename, archive)
    with NpzWriter(path_type(str(tmp_path / "written \udcff.npz"))) as writer:
        writer.write("a", [1])
    assert mmnpz.load(path_type(str(tmp_path / "written \udcff.npz"))).files == ["a"]


@pytest.mark.parametrize("path", [3, 3.5, None, ["a.npz"]])
def test_not_a_path(path: Any) -> None:
    for call in (mmnpz.load, NpzWriter):
        with pytest.raises(TypeError, match=f"expected a path.* a binary file.*, got {type(path).__name__}$"):
            call(path)


def test_the_keywords_of_numpy_load(archive: Path, arrays: dict[str, Any]) -> None:
    data = mmnpz.load(archive, "r", True, False, "latin1", max_header_size=5000)
    assert data.files == list(arrays)
    assert mmnpz.load(archive, allow_pickle=False, fix_imports=True, encoding="bytes").files == data.files
    with pytest.raises(ValueError, match="encoding"):
        np.load(archive, encoding="utf-8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="encoding"):
        mmnpz.load(archive, encoding="utf-8")  # type: ignore[arg-type]


def test_attributes_of_an_npz_file(archive: Path) -> None:
    data, theirs = mmnpz.load(archive), np.load(archive)
    name = data.files[0]
    assert data.f is not None
    assert getattr(data.f, name) is data[name]
    assert dir(data.f) == sorted(data.files) == sorted(dir(theirs.f))
    assert not hasattr(data.f, "missing")
    assert data._ipython_key_completions_() == data.files
    for attribute in ("zip", "fid"):
        assert not hasattr(data, attribute)
        with pytest.raises(AttributeError, match=rf"'NpzReader' object has no attribute '{attribute}': .+"):
            getattr(data, attribute)


def test_the_version_is_where_version_1_had_it() -> None:
    assert importlib.import_module("mmnpz.version").__version__ == mmnpz.__version__


def test_repr(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=1)
    data = mmnpz.load(path)
    assert repr(data) == f"<NpzReader {str(path)!r} with 1 array: a>"
    assert repr(data.items()) == f"ItemsView({data!r})"
    assert repr(data.values()) == f"ValuesView({data!r})"
    assert repr(data.keys()) == f"KeysView({data!r})"
    for count, names in [(0, ""), (5, ": x0, x1, x2, x3, x4"), (1234, ": x0, x1, x2, x3, x4, …")]:
        with NpzWriter(path, "w") as writer:
            for number in range(count):
                writer.write(f"x{number}", 0)
        assert repr(Named(path)) == f"<Named {str(path)!r} with {count:,} arrays{names}>"
    data.close()
    assert repr(data) == "<NpzReader: the reader is closed>"


class Named(NpzReader):
    pass


def test_repr_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with NpzWriter(path) as writer:
        for name in ("line\nbreak", "\x1b[31mred", "ä", "x" * 1000):
            writer.write(name, 0)
    expected = rf"<NpzReader {str(path)!r} with 4 arrays: 'line\nbreak', '\x1b[31mred', ä, {'x' * 60}…>"
    assert repr(mmnpz.load(path)) == expected
    assert repr(mmnpz.load(np.str_(path))) == expected


class Damaged(NpzReader):
    def __len__(self) -> int:
        raise zipfile.BadZipFile("a.npz: no directory")


def test_repr_of_a_damaged_directory(archive: Path) -> None:
    assert repr(Damaged(archive)) == "<Damaged: a.npz: no directory>"


def test_repr_reads_no_member(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with NpzWriter(path) as writer:
        writer.write("a", np.zeros(100_000))
    data = mmnpz.load(path)
    raw = bytearray(path.read_bytes())
    raw[:100_000] = bytes(100_000)
    with open(path, "r+b") as file:
        file.write(raw)
    assert "a>" in repr(data)
    assert data.arrays == {}


@pytest.mark.parametrize("mode", ["r+", "w", "", "rb", "R", 1, b"r"])
def test_other_map_modes_are_refused(archive: Path, mode: Any) -> None:
    with pytest.raises(ValueError, match="mmap_mode"):
        mmnpz.load(archive, mode)


def test_it_is_a_mapping(archive: Path, arrays: dict[str, Any]) -> None:
    data = mmnpz.load(archive)
    names = list(arrays)
    assert isinstance(data, collections.abc.Mapping)
    assert list(data) == list(data.keys()) == data.files == names
    assert type(data.files) is list
    assert len(data) == len(names)
    assert all(name in data for name in names)
    assert [name for name, _ in data.items()] == names
    assert all(same(value, arrays[name]) for name, value in data.items())
    assert all(same(value, array) for value, array in zip(data.values(), arrays.values(), strict=True))
    assert data.get("matrix") is data["matrix"]
    assert data.get("nothing") is None
    assert data.get("nothing", 3) == 3
    assert set(data.keys()) & {"matrix", "x"} == {"matrix"}


def test_an_array_can_have_the_name_of_a_method(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for name in ("close", "files", "self", "fn"):
            writer.write(name, np.arange(3))
    data = mmnpz.load(path)
    assert callable(data.close)
    assert data["close"].shape == (3,)
    assert data.files == ["close", "files", "self", "fn"]


def test_equality_is_that_of_mappings(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "ones.npz"
    np.savez(path, a=np.array(1), b=np.array(2))
    data = mmnpz.load(path)
    assert data == {"a": 1, "b": 2}
    assert data == mmnpz.load(path)
    assert data != {"a": 1}
    assert data != mmnpz.load(archive)
    other: object = 5
    assert data != other


@pytest.mark.parametrize(
    "key", ["nothing", "matrix.npz", "matri", "matrix\0", "\ud800", b"matrix", None, 3, ("a",)]
)
def test_unknown_names(archive: Path, key: Any) -> None:
    data = mmnpz.load(archive)
    assert key not in data
    for read in (data.__getitem__, data.load):
        with pytest.raises(KeyError) as info:
            read(key)
        assert info.value.args == (key,)


def notes(data: NpzReader, name: str) -> list[str]:
    with pytest.raises(KeyError) as info:
        data[name]
    assert info.value.args == (name,)
    assert str(info.value) == repr(name)
    return getattr(info.value, "__notes__", [])


def test_what_may_have_been_meant(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, labels=1, embed=2, embeddings=3, other=4)
    data = mmnpz.load(path)
    assert notes(data, "embd") == [f"{path}: among the names of 4 arrays are 'embed', 'embeddings'"]
    first = "'labels', 'embed', 'embeddings'"
    assert notes(data, "x") == [f"{path}: of the names of 4 arrays, the first are {first}"]
    assert notes(data, "labls") != []
    # A program that asks often does not read them.
    assert notes(data, "embd") == []
    np.savez(path, only=1)
    assert notes(mmnpz.load(path), "x") == [f"{path}: the only array is 'only'"]
    np.savez(path)
    assert notes(mmnpz.load(path), "x") == [f"{path}: there are no arrays"]


def test_the_note_of_a_key_error_is_short_and_fast(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    odd = "line\nbreak " + "x" * 60_000
    with NpzWriter(path, "w") as writer:
        writer.write(odd, 1)
        writer.write("other", 2)
    # Names are compared in a time that does not go with the product of these lengths.
    (note,) = notes(mmnpz.load(path), odd + "x")
    assert "the first are 'line\\nbreak xxx" in note
    assert "\n" not in note
    assert len(note) < len(str(path)) + 200
    with NpzWriter(path, "w") as writer:
        for number in range(50_000):
            writer.write(f"n{number}", 1)
    (note,) = notes(mmnpz.load(path), "n12x")
    assert note == f"{path}: among the names of 50000 arrays are 'n12', 'n120', 'n121'"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cuts no mapped file short")
def test_a_file_that_was_cut_short_is_not_read_for_a_note(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    arrays: dict[str, Any] = {f"a{number}": np.arange(100) for number in range(50)}
    np.savez(path, **arrays)
    data = mmnpz.load(path)
    os.truncate(path, 0)
    # A process that reads these bytes dies of SIGBUS.
    assert notes(data, "missing") == [f"{path}: the file was changed since it was opened: open it again"]


def test_the_note_outlives_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, embed=1, other=2)
    with pytest.raises(KeyError) as info, mmnpz.load(path) as data:
        data["embd"]
    os.truncate(path, 0)
    assert "'embed'" in info.value.__notes__[0]


def test_str_subclass_as_name(archive: Path) -> None:
    class Name(str):
        pass

    data = mmnpz.load(archive)
    first = data[Name("matrix")]
    assert data["matrix"] is first
    assert Name("matrix") in data
    assert [type(name) for name in data.arrays] == [str]


def test_views_are_read_only_slices_of_the_map(archive: Path, arrays: dict[str, Any]) -> None:
    data = mmnpz.load(archive)
    assert isinstance(data.mmap, np.memmap)
    assert data.mmap.dtype == np.uint8
    assert data.mmap.tobytes() == archive.read_bytes()
    assert not data.mmap.flags.writeable
    start = data.mmap.__array_interface__["data"][0]
    for name in arrays:
        view = data[name]
        assert isinstance(view, np.memmap)
        assert isinstance(view, mmnpz.memmap)
        assert view.base is data.mmap
        assert not view.flags.writeable
        assert not view.flags.owndata
        if view.size:
            assert start <= view.__array_interface__["data"][0] < start + data.mmap.size
            assert np.shares_memory(view, data.mmap)
        with pytest.raises(ValueError, match="read-only"):
            view[...] = view
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.setflags(write=True)


def test_plain_arrays_on_request(archive: Path, arrays: dict[str, Any]) -> None:
    data = mmnpz.load(archive, subok=False)
    for name, array in arrays.items():
        assert type(data[name]) is np.ndarray
        assert type(data.load(name)) is np.ndarray
        assert same(data[name], array)
        assert not data[name].flags.writeable
    assert isinstance(data.mmap, np.memmap)
    assert data["matrix"].base is data.mmap


def test_cached_names_give_the_same_object(archive: Path) -> None:
    data = mmnpz.load(archive)
    assert (data.cache, data.preload) == (True, False)
    assert data.arrays == {}
    assert type(data.arrays) is dict
    first = data["matrix"]
    assert data["matrix"] is first
    assert data.get("matrix") is first
    assert list(data.arrays) == ["matrix"]
    assert data.arrays["matrix"] is first
    assert dict(data.items())["matrix"] is first
    assert len(data.arrays) == 8


def test_arrays_is_live(archive: Path) -> None:
    data = mmnpz.load(archive)
    arrays = data.arrays
    view = data["fortran"]
    assert arrays["fortran"] is view
    assert data.arrays is arrays


def test_without_cache_each_access_is_a_new_view(archive: Path) -> None:
    data = mmnpz.load(archive, cache=False)
    assert (data.cache, data.preload) == (False, False)
    assert data["matrix"] is not data["matrix"]
    assert same(data["matrix"], data["matrix"])
    assert data.arrays == {}


@pytest.mark.parametrize("cache", [True, False])
def test_preloading_makes_all_views_and_caches(archive: Path, arrays: dict[str, Any], cache: bool) -> None:
    data = mmnpz.load(archive, cache=cache, preload=True)
    assert (data.cache, data.preload) == (True, True)
    assert list(data.arrays) == list(arrays)
    assert type(data.arrays) is dict
    for name in arrays:
        assert data[name] is data.arrays[name] is data[name]


def test_load_goes_past_the_cache(archive: Path) -> None:
    data = mmnpz.load(archive)
    fresh = data.load("matrix")
    assert data.arrays == {}
    cached = data["matrix"]
    assert cached is not fresh
    assert data.load("matrix") is not cached
    assert data["matrix"] is cached
    assert fresh.base is data.mmap


def test_a_damaged_member_hurts_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(3), b=np.arange(4))
    path.write_bytes(path.read_bytes().replace(b"\x93NUMPY", b"\x93NUMPX", 1))
    data = mmnpz.load(path)
    assert data.files == ["a", "b"]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"member .a."):
            data["a"]
    assert data["b"].tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"member .a."):
        mmnpz.load(path, preload=True)


def test_subclass_with_another_signature(archive: Path) -> None:
    class Dataset(NpzReader):
        def __init__(self, folder: Path, split: str, *, extra: int = 1) -> None:
            super().__init__(folder / f"{split}.npz", preload=True)
            self.extra = extra

        def __getitem__(self, name: str) -> Any:
            return super().__getitem__(name.lower())

    data = Dataset(archive.parent, split="archive", extra=5)
    assert data.extra == 5
    assert data["MATRIX"] is data.arrays["matrix"]
    assert data.get("MATRIX") is data["matrix"]
    with data as entered:
        assert entered is data


def test_new_without_init_is_a_closed_reader(archive: Path) -> None:
    data = NpzReader.__new__(NpzReader)
    with pytest.raises(ValueError, match="closed"):
        data["matrix"]
    assert data.arrays == {}
    assert not hasattr(data, "mmap")
    data.close()


def test_a_reader_whose_opening_failed_can_be_dropped(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mmnpz.load(tmp_path / "nothing.npz")
    gc.collect()


def test_weak_references(archive: Path) -> None:
    data = mmnpz.load(archive)
    reference = weakref.ref(data)
    del data
    gc.collect()
    assert reference() is None


def test_an_archive_without_members(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    mmnpz.NpzWriter(path).close()
    for preload in (False, True):
        data = mmnpz.load(path, preload=preload)
        assert data.files == list(data) == []
        assert len(data) == 0
        assert data == {}
        assert data.arrays == {}


def test_many_members(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(3000):
            writer.write(f"k{number}", np.array(number))
    data = mmnpz.load(path)
    assert data.files == [f"k{number}" for number in range(3000)]
    assert [int(data[f"k{number}"]) for number in range(3000)] == list(range(3000))
    assert "k3000" not in data


def test_arrays_do_not_share_a_dtype_whose_fields_can_be_renamed(tmp_path: Path) -> None:
    inner = np.dtype([("x", "<f4"), ("y", "<i2")])
    array = np.zeros(2, [("a", inner), ("b", "<f8")])
    path = tmp_path / "a.npz"
    np.savez(path, one=array, two=array)
    reader = mmnpz.load(path)
    one, two = reader["one"], reader["two"]
    one.dtype.names = ("p", "q")
    one.dtype["p"].names = ("r", "s")
    assert two.dtype == mmnpz.load(path)["one"].dtype == array.dtype


@pytest.mark.thread_unsafe(reason="looks at what the whole process has open")
def test_a_view_in_a_cycle_is_collected_with_its_map(tmp_path: Path) -> None:
    path = tmp_path / "cycle.npz"
    np.savez(path, a=np.arange(3))
    for _ in range(10):
        reader = mmnpz.load(path)
        view: Any = reader["a"]
        view.reader = reader
        del view, reader
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()
