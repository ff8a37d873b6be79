"""`copy.copy(reader)` is a handle on the same map, index and views; a deep copy has views of its own."""

import copy
import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz


def test_handles_share_the_map_and_the_views(archive: Path, arrays: dict[str, Any]) -> None:
    first = mmnpz.load(archive)
    second = copy.copy(first)
    third = copy.copy(second)
    assert type(second) is mmnpz.NpzReader
    assert second.mmap is first.mmap
    names = list(arrays)
    assert second[names[0]] is first[names[0]]  # the copy makes the view
    assert first[names[1]] is second[names[1]]  # the original makes the view
    assert third[names[2]] is second[names[2]] is third[names[2]]  # a copy of the copy makes the view
    assert list(third) == first.files == names


def test_arrays_of_every_handle_hold_what_any_of_them_handed_out(archive: Path) -> None:
    first = mmnpz.load(archive)
    second = copy.copy(first)
    kept = first.arrays
    view = second["matrix"]
    assert second.arrays is kept is first.arrays
    assert kept == {"matrix": view}
    assert kept["matrix"] is view


@pytest.mark.thread_unsafe(reason="looks at what the whole process has open")
def test_a_handle_takes_no_descriptor_and_no_map(archive: Path) -> None:
    reader = mmnpz.load(archive)

    def maps() -> int:
        return Path("/proc/self/maps").read_text().count(str(archive))

    descriptors = len(os.listdir("/proc/self/fd"))
    handles = [copy.copy(reader) for _ in range(100)]
    assert maps() == 1
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert all(handle["matrix"] is reader["matrix"] for handle in handles)


def test_closing_one_handle_leaves_the_others(archive: Path, arrays: dict[str, Any]) -> None:
    for close_the_copy in (False, True):
        reader = mmnpz.load(archive)
        handle = copy.copy(reader)
        closed, open_one = (handle, reader) if close_the_copy else (reader, handle)
        closed.close()
        with pytest.raises(ValueError, match="closed"):
            closed["matrix"]
        np.testing.assert_array_equal(open_one["matrix"], arrays["matrix"])
        with pytest.raises(ValueError, match="closed"):
            copy.copy(closed)


@pytest.mark.thread_unsafe(reason="looks at what the whole process has open")
def test_the_map_goes_with_the_last_handle(archive: Path) -> None:
    reader = mmnpz.load(archive)
    handle = copy.copy(reader)
    handle["matrix"]
    del reader
    gc.collect()
    assert str(archive) in Path("/proc/self/maps").read_text()
    del handle
    gc.collect()
    assert str(archive) not in Path("/proc/self/maps").read_text()


OPTIONS = [{"cache": False}, {"preload": True}, {"subok": False}]


@pytest.mark.parametrize("options", OPTIONS)
def test_options_hold_for_handles(archive: Path, options: dict[str, Any]) -> None:
    reader = mmnpz.load(archive, **options)
    handle = copy.copy(reader)
    assert (handle.cache, handle.preload) == (reader.cache, reader.preload)
    assert type(handle["matrix"]) is type(reader["matrix"])
    assert (handle["matrix"] is reader["matrix"]) == reader.cache
    assert (handle["matrix"] is handle["matrix"]) == reader.cache


def test_a_subclass_keeps_its_attributes(archive: Path) -> None:
    class Tagged(mmnpz.NpzReader):
        def __init__(self, path: Path, tag: str) -> None:
            super().__init__(path)
            self.tag = tag

    handle = copy.copy(Tagged(archive, "x"))
    assert type(handle) is Tagged
    assert handle.tag == "x"
    assert handle["matrix"].shape == (3, 4)


def test_a_deep_copy_has_the_same_map_and_views_of_its_own(archive: Path, arrays: dict[str, Any]) -> None:
    reader = mmnpz.load(archive)
    reader["matrix"]
    own = copy.deepcopy(reader)
    assert type(own) is mmnpz.NpzReader
    assert own.files is reader.files
    assert own.mmap is not reader.mmap
    assert own.mmap.base is reader.mmap.base
    assert own.arrays == {}
    assert own.arrays is not reader.arrays
    for name, array in arrays.items():
        view = own[name]
        assert view is own[name] is own.arrays[name] is not reader[name]
        assert view.base is own.mmap
        assert reader[name].base is reader.mmap
        assert view.ctypes.data == reader[name].ctypes.data
        np.testing.assert_array_equal(view, array)
    third = copy.deepcopy(own)
    assert third.mmap.base is reader.mmap.base
    assert third["matrix"] is not own["matrix"]
    handle = copy.copy(own)
    assert handle["matrix"] is own["matrix"]


@pytest.mark.parametrize("options", OPTIONS)
def test_options_hold_for_deep_copies(archive: Path, options: dict[str, Any]) -> None:
    reader = mmnpz.load(archive, **options)
    own = copy.deepcopy(reader)
    assert (own.cache, own.preload) == (reader.cache, reader.preload)
    # A deep copy of a preloaded reader makes all views anew.
    assert list(own.arrays) == list(reader.arrays)
    assert not any(own.arrays[name] is view for name, view in reader.arrays.items())
    assert type(own["matrix"]) is type(reader["matrix"])
    assert (own["matrix"] is own["matrix"]) == reader.cache


@pytest.mark.thread_unsafe(reason="looks at what the whole process has open")
def test_a_deep_copy_builds_no_index_and_needs_no_file(archive: Path, arrays: dict[str, Any]) -> None:
    reader = mmnpz.load(archive)
    descriptors = len(os.listdir("/proc/self/fd"))
    archive.unlink()
    own = copy.deepcopy(reader)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert Path("/proc/self/maps").read_text().count(str(archive)) == 1
    reader.close()
    for name, array in arrays.items():
        np.testing.assert_array_equal(own[name], array)
    own.close()
    with pytest.raises(ValueError, match="closed"):
        copy.deepcopy(own)


def test_closing_a_deep_copy_leaves_the_reader(archive: Path, arrays: dict[str, Any]) -> None:
    reader = mmnpz.load(archive)
    with copy.deepcopy(reader) as own:
        kept = own["matrix"]
    np.testing.assert_array_equal(reader["matrix"], arrays["matrix"])
    del reader, own
    gc.collect()
    np.testing.assert_array_equal(kept, arrays["matrix"])


def test_attributes_and_references_are_copied_deeply(archive: Path) -> None:
    class Tagged(mmnpz.NpzReader):
        tags: list[Any]

    reader = Tagged(archive)
    reader.tags = [reader, []]
    twice = copy.deepcopy([reader, reader])
    own = twice[0]
    assert type(own) is Tagged
    assert own is twice[1] is own.tags[0]
    assert own.tags[1] == []
    assert own.tags[1] is not reader.tags[1]
    assert own["matrix"].base is own.mmap


@pytest.mark.thread_unsafe(reason="has threads of its own")
def test_threads_with_a_handle_each_get_the_same_views(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    names = [str(number) for number in range(200)]
    with mmnpz.NpzWriter(path) as writer:
        for name in names:
            writer.write(name, np.arange(int(name)))
    for _ in range(20):
        reader = mmnpz.load(path)
        barrier = threading.Barrier(4)

        def look(
            number: int, reader: mmnpz.NpzReader = reader, barrier: threading.Barrier = barrier
        ) -> list[Any]:
            handle = copy.copy(reader) if number else reader
            barrier.wait()
            return [handle[name] for name in names]

        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(look, range(4)))
        for views in zip(*results, strict=True):
            assert all(view is views[0] for view in views)
        assert len(reader.arrays) == len(names)
        assert all(reader.arrays[name] is view for name, view in zip(names, results[0], strict=True))
