"""A reader is pickled as a path and options, a view as its own items, and a writer not at all."""

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import own_copy
from tests.processes import run_python

PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)


class Tagged(mmnpz.NpzReader):
    """A reader whose constructor has other arguments, and which has one more attribute."""

    def __init__(self, folder: Path, tag: str) -> None:
        super().__init__(folder / "archive.npz", subok=False)
        self.tag = tag


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_reader_comes_back_open(archive: Path, arrays: dict[str, Any], protocol: int) -> None:
    reader = mmnpz.load(archive)
    again = pickle.loads(pickle.dumps(reader, protocol))
    assert type(again) is mmnpz.NpzReader
    assert again.files == reader.files
    assert again.mmap is not reader.mmap
    assert again.arrays == {}
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize(
    "options", [{}, {"cache": False}, {"preload": True}, {"subok": False}, {"max_header_size": 10}]
)
def test_options_come_back(archive: Path, options: dict[str, Any]) -> None:
    reader = mmnpz.load(archive, **options)
    again = pickle.loads(pickle.dumps(reader))
    assert (again.cache, again.preload, len(again.arrays)) == (
        reader.cache,
        reader.preload,
        len(reader.arrays),
    )
    if "max_header_size" in options:
        with pytest.raises(ValueError, match="max_header_size"):
            again["matrix"]
    else:
        assert type(again["matrix"]) is type(reader["matrix"])
    twice = pickle.loads(pickle.dumps(again))
    assert (twice.cache, twice.preload) == (reader.cache, reader.preload)


def test_a_subclass_with_other_arguments_comes_back(archive: Path) -> None:
    again = pickle.loads(pickle.dumps(Tagged(archive.parent, "x")))
    assert type(again) is Tagged
    assert again.tag == "x"
    assert type(again["matrix"]) is np.ndarray


def test_a_pickle_has_at_most_a_kilobyte(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(20_000):
            writer.write(str(number), np.arange(10))
    reader = mmnpz.load(path, preload=True)
    assert len(reader.files) == len(reader.arrays) == 20_000
    for protocol in PROTOCOLS:
        assert len(pickle.dumps(reader, protocol)) <= 1024


@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_a_relative_path_is_found_from_another_folder(archive: Path) -> None:
    code = f"""
import os, pickle, mmnpz
os.chdir({str(archive.parent)!r})
pickled = pickle.dumps(mmnpz.load({archive.name!r}))
os.chdir("/")
assert pickle.loads(pickled)["matrix"].shape == (3, 4)
"""
    run_python(code)


def _append(path: Path) -> None:
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("more", 1)


def _replace(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


def _touch(path: Path) -> None:
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize("change", [_append, _replace, _touch])
def test_another_file_is_refused(archive: Path, change: Callable[[Path], None], tmp_path: Path) -> None:
    archive = own_copy(archive, tmp_path)
    pickled = pickle.dumps(mmnpz.load(archive))
    # A hard link keeps the inode of the archive in use, so that a new file cannot get it.
    holder = archive.with_suffix(".held")
    os.link(archive, holder)
    change(archive)
    with pytest.raises(ValueError, match=rf"{archive.name}: the file is not the one"):
        pickle.loads(pickled)


def test_a_file_that_is_gone_is_missed(archive: Path, tmp_path: Path) -> None:
    archive = own_copy(archive, tmp_path)
    pickled = pickle.dumps(mmnpz.load(archive))
    archive.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        pickle.loads(pickled)
    assert caught.value.filename == str(archive)


def test_a_closed_reader_is_not_pickled(archive: Path) -> None:
    reader = mmnpz.load(archive)
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        pickle.dumps(reader)


def test_opening_again_in_vain_leaves_what_is_pickled(archive: Path) -> None:
    reader = mmnpz.load(archive, preload=True)
    with pytest.raises(FileNotFoundError):
        reader.__init__(archive.parent / "nothing.npz")  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(reader))
    assert again.preload
    assert again.files == reader.files
    assert reader.preload


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_readers_and_views_travel_to_processes(archive: Path, method: str) -> None:
    code = f"""
import multiprocessing, operator
import numpy as np, mmnpz
reader = mmnpz.load({str(archive)!r})
view = reader["matrix"][1:]
with multiprocessing.get_context({method!r}).Pool(1) as pool:
    assert pool.apply(list, (reader,)) == reader.files
    there = pool.apply(operator.getitem, (reader, "matrix"))
    assert type(there) is np.ndarray and (there == reader["matrix"]).all()
    assert pool.apply(np.sum, (view,)) == view.sum()
"""
    run_python(code)


def test_a_view_pickles_as_its_own_items(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(100_000))
    view = mmnpz.load(path)["a"]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        pickled = pickle.dumps(view[5:10], protocol)
        assert len(pickled) < 1000
        again = pickle.loads(pickled)
        assert type(again) is np.ndarray
        np.testing.assert_array_equal(again, [5, 6, 7, 8, 9])


def test_a_writer_is_not_pickled(tmp_path: Path) -> None:
    with mmnpz.NpzWriter(tmp_path / "a.npz") as writer:
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="writer"):
                attempt(writer)
