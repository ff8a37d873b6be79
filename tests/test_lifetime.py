"""Closing and garbage collection: how long the descriptors, the map and the views of a reader live."""

import gc
import os
import sys
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import same
from tests.processes import run_python

pytestmark = pytest.mark.thread_unsafe(reason="looks at what the whole process has open")
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def descriptors_on(path: Path) -> list[str]:
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:  # listdir had this descriptor open
            continue
        if target.removesuffix(" (deleted)") == str(path):
            found.append(descriptor)
    return found


def test_a_closed_reader_raises(archive: Path) -> None:
    data = mmnpz.load(archive)
    data["matrix"]
    data.close()
    data.close()
    assert not hasattr(data, "mmap")
    assert data.arrays == {}
    uses: list[Callable[[], Any]] = [
        lambda: data["matrix"],
        lambda: data["nothing"],
        lambda: data.load("matrix"),
        lambda: "matrix" in data,
        lambda: len(data),
        lambda: list(data),
        lambda: data.files,
    ]
    for use in uses:
        with pytest.raises(ValueError, match="closed"):
            use()


@pytest.mark.skipif(FREE_THREADED, reason="there, only strings are looked up")
@pytest.mark.parametrize("equal", [True, False])
def test_closed_while_a_key_is_compared(archive: Path, equal: bool) -> None:
    data = mmnpz.load(archive)
    view = data["matrix"]
    others: list[Any] = []

    class Closing:
        def __hash__(self) -> int:
            return hash("matrix")

        def __eq__(self, other: object) -> bool:
            data.close()
            # New objects overwrite the memory of the dict, if closing has freed it.
            others.extend({} for _ in range(1000))
            return equal

    key: Any = Closing()
    if equal:
        assert data[key] is view
    else:
        with pytest.raises(ValueError, match="closed"):
            data[key]


def test_lookups_keep_no_references(archive: Path) -> None:
    data: Any = mmnpz.load(archive)
    view, arrays = data["matrix"], data.arrays
    references = sys.getrefcount(view), sys.getrefcount(arrays)
    for _ in range(100):
        data["matrix"]
        with pytest.raises(KeyError):
            data["nothing"]
        with pytest.raises(TypeError):
            data[[]]
    assert (sys.getrefcount(view), sys.getrefcount(arrays)) == references


def test_views_and_dicts_outlive_the_reader(archive: Path, arrays: dict[str, Any]) -> None:
    data = mmnpz.load(archive, preload=True)
    kept, one, base = data.arrays, data.load("fortran"), data.mmap
    data.close()
    assert data.arrays == {}
    assert list(kept) == list(arrays)
    del data
    gc.collect()
    for name, array in arrays.items():
        assert same(kept[name], array)
    assert same(one, arrays["fortran"])
    assert base.tobytes() == archive.read_bytes()


def test_rebinding_to_arrays(archive: Path, arrays: dict[str, Any]) -> None:
    data: Any = mmnpz.load(archive, preload=True)
    data = data.arrays
    gc.collect()
    assert same(data["matrix"], arrays["matrix"])


def test_context_manager_closes(archive: Path) -> None:
    with mmnpz.load(archive) as data:
        view = data["matrix"]
    assert not hasattr(data, "mmap")
    assert view[1, 1] == 5.0
    with pytest.raises(KeyError), mmnpz.load(archive) as data:
        data["nothing"]
    assert not hasattr(data, "mmap")


def test_a_reader_left_open_does_not_warn(archive: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mmnpz.load(archive)["matrix"]
        gc.collect()


@linux
def test_no_descriptor_after_opening(archive: Path) -> None:
    data = mmnpz.load(archive, preload=True)
    assert descriptors_on(archive) == []
    assert data["matrix"].size == 12
    assert descriptors_on(archive) == []


@linux
def test_opening_fails_without_leaving_a_descriptor_or_map(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(b"PK" * 5000)
    with pytest.raises(Exception, match=r"bad\.npz"):
        mmnpz.load(path)
    gc.collect()
    assert descriptors_on(path) == []
    assert not is_mapped(path)


@linux
def test_one_descriptor_suffices_to_open(archive: Path) -> None:
    run_python(
        """
        import os, resource, sys
        import mmnpz
        mmnpz.load(sys.argv[1])["matrix"]  # whatever is imported late is imported now
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        taken = []
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            os.close(taken.pop())
        assert mmnpz.load(sys.argv[1], preload=True)["matrix"].size == 12
        taken.append(os.open(os.devnull, os.O_RDONLY))  # it is free again
        try:
            mmnpz.load(sys.argv[1])
        except OSError as error:
            assert error.errno == 24, error
        else:
            raise AssertionError("opened without a descriptor")
        """,
        archive,
    )


KEEP: dict[str, Callable[[Any], Any]] = {
    "view": lambda data: data["matrix"],
    "slice": lambda data: data["matrix"][1:, ::2],
    "field": lambda data: data["table"]["b"],
    "mmap": lambda data: data.mmap,
    "dict": lambda data: (data["matrix"], data.arrays)[1],
    "transposed": lambda data: data.load("matrix").T,
    "plain": lambda data: np.asarray(data["matrix"]),
    "memoryview": lambda data: memoryview(data["matrix"]),
}


@linux
@pytest.mark.parametrize("keep", KEEP)
def test_the_map_lives_as_long_as_anything_that_shows_it(archive: Path, keep: str) -> None:
    data: Any = mmnpz.load(archive)
    kept = KEEP[keep](data)
    assert is_mapped(archive)
    data.close()
    del data
    gc.collect()
    assert is_mapped(archive)
    str(kept)
    kept = None
    gc.collect()
    assert not is_mapped(archive)


@linux
def test_no_reference_cycle_keeps_the_map(archive: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        data: Any = mmnpz.load(archive, preload=True)
        view = data["matrix"]
        del data
        assert is_mapped(archive)
        assert view[0, 1] == 1.0
        del view
        assert not is_mapped(archive)
    finally:
        gc.enable()


@linux
def test_copies_do_not_keep_the_map(archive: Path) -> None:
    data: Any = mmnpz.load(archive)
    copies = [data["matrix"].copy(), data["matrix"][[0, 1]], data["matrix"] + 1, data["matrix"][0, 0]]
    del data
    gc.collect()
    assert not is_mapped(archive)
    assert len(copies) == 4


@linux
def test_opened_again_in_place(archive: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    np.savez(other, x=np.arange(3))
    data = mmnpz.load(archive)
    data["matrix"]
    data.__init__(other)  # type: ignore[misc]
    gc.collect()
    assert data.files == ["x"]
    assert data.arrays == {}
    assert not is_mapped(archive)
    assert "matrix" not in data


@linux
def test_the_collector_frees_cycles_through_a_reader(archive: Path) -> None:
    data: Any = mmnpz.load(archive)
    data.me = data
    data["matrix"]
    data.arrays["cycle"] = data
    del data
    gc.collect()
    assert not is_mapped(archive)


def replace_dict(view: Any) -> None:
    view.__dict__ = {"me": view}


CYCLES: dict[str, Callable[[Any], Any]] = {
    "attribute": lambda view: setattr(view, "me", view),
    "__dict__": lambda view: view.__dict__.update(me=view),
    "vars": lambda view: vars(view).update(me=view),
    "getattr": lambda view: object.__getattribute__(view, "__dict__").update(me=view),
    "another __dict__": replace_dict,
    "descriptor": lambda view: mmnpz.memmap.__dict__["__dict__"].__set__(view, {"me": view}),
    "slice": lambda view: vars(view[1:]).update(me=view),
}


@linux
@pytest.mark.parametrize("make", CYCLES)
def test_the_collector_frees_cycles_through_attributes_of_a_view(archive: Path, make: str) -> None:
    data: Any = mmnpz.load(archive)
    for view in [data["matrix"], data.load("fortran"), data.mmap]:
        CYCLES[make](view)
    del view
    data.close()
    del data
    # NumPy does not show the collector the base of an array. So the first run frees the views, and the second
    # run the map.
    gc.collect()
    gc.collect()
    assert not is_mapped(archive)


def test_a_view_with_no_attributes_is_left_out_by_the_collector(archive: Path) -> None:
    data = mmnpz.load(archive)
    view = data["matrix"]
    assert not gc.is_tracked(view)
    assert vars(view) == {}
    assert gc.is_tracked(view)
    assert vars(view) == {}
    assert gc.is_tracked(view)


def test_deleting_and_replacing_the_file_leaves_views_alone(archive: Path, arrays: dict[str, Any]) -> None:
    data = mmnpz.load(archive)
    archive.unlink()
    assert same(data["matrix"], arrays["matrix"])
    np.savez(archive, matrix=np.zeros(3))
    assert same(data["fortran"], arrays["fortran"])


def test_appending_leaves_open_readers_alone(archive: Path, arrays: dict[str, Any]) -> None:
    data = mmnpz.load(archive)
    with mmnpz.NpzWriter(archive, "a") as writer:
        for number in range(200):
            writer.write(f"new{number}", np.full(50, number))
    assert data.files == list(arrays)
    assert "new0" not in data
    for name, array in arrays.items():
        assert name in data
        assert same(data[name], array)
    assert len(mmnpz.load(archive)) == len(arrays) + 200
