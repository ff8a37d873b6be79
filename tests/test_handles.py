"""`copy.copy(reader)`: another handle on the same map, index and views."""

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
    assert second[names[0]] is first[names[0]]  # first seen through the copy
    assert first[names[1]] is second[names[1]]  # first seen through the original
    assert third[names[2]] is second[names[2]] is third[names[2]]  # through a copy of the copy
    assert list(third) == first.files == names


def test_arrays_of_every_handle_hold_what_any_of_them_handed_out(archive: Path) -> None:
    first = mmnpz.load(archive)
    second = copy.copy(first)
    kept = first.arrays
    view = second["matrix"]
    assert second.arrays is kept is first.arrays
    assert kept == {"matrix": view}
    assert kept["matrix"] is view


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


@pytest.mark.parametrize("options", [{"cache": False}, {"preload": True}, {"subok": False}])
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
