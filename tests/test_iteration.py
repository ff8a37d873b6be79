"""`values()` and `items()` give the views that a lookup of each name gives, in the order of `files`."""

import collections.abc
import gc
import weakref
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import give_names, npy, same
from tests.test_index import MANY, array, write
from tests.test_prefetch import drop, linux, resident
from tests.threads import in_threads

OPTIONS: list[dict[str, bool]] = [
    {},
    {"cache": False},
    {"preload": True},
    {"subok": False},
    {"cache": False, "subok": False},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "a.npz", MANY)


def names_of(count: int = MANY) -> list[str]:
    return [f"n{number}" for number in range(count)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_items_and_values_give_all_views(tmp_path: Path, whose: str, options: Any) -> None:
    path = tmp_path / "a.npz"
    if whose == "ours":
        write(path, MANY)
    else:
        np.savez(path, **{f"n{number}": array(number) for number in range(MANY)})
    data = mmnpz.load(path, **options)
    items = list(data.items())
    assert [name for name, _ in items] == data.files == names_of()
    assert all(same(view, array(number)) for number, (_, view) in enumerate(items))
    assert {type(view) for _, view in items} == {mmnpz.memmap if options.get("subok", True) else np.ndarray}
    values = list(data.values())
    for (name, view), value in zip(items, values, strict=True):
        assert (view is value is data[name]) == data.cache
    assert len(data.arrays) == (len(items) if data.cache else 0)
    assert all(data.arrays[name] is view for name, view in items if data.cache)


def test_items_and_values_are_views_of_a_mapping(path: Path) -> None:
    data = mmnpz.load(path)
    assert isinstance(data.items(), collections.abc.ItemsView)
    assert isinstance(data.values(), collections.abc.ValuesView)
    assert len(data.items()) == len(data.values()) == MANY
    first = iter(data.items())
    assert iter(first) is first
    assert next(first)[0] == "n0"
    assert next(iter(data.items()))[0] == "n0"
    assert next(first)[0] == "n1"
    # The iterator makes no view before its turn.
    assert list(data.arrays) == ["n0", "n1"]


def test_an_exhausted_iterator_stays_exhausted(tmp_path: Path) -> None:
    data = mmnpz.load(write(tmp_path / "a.npz", 2))
    items = iter(data.items())
    assert [name for name, _ in items] == ["n0", "n1"]
    data.files.append("n0")
    assert list(items) == []
    data.close()
    assert list(items) == []


def test_views_that_were_kept_before_are_the_same(path: Path) -> None:
    data = mmnpz.load(path)
    some = {name: data[name] for name in names_of()[3::500]}
    assert all(view is some.get(name, view) for name, view in data.items())
    assert all(data[name] is view for name, view in some.items())


def test_a_bad_member_is_named_and_the_others_follow(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(5):
            file.writestr(f"n{number}.npy", b"no array" if number == 2 else npy(array(number)))
    items = iter(mmnpz.load(path).items())
    assert [next(items)[0] for _ in range(2)] == ["n0", "n1"]
    with pytest.raises(ValueError, match=r"a\.npz: member \"n2\""):
        next(items)
    assert [name for name, _ in items] == ["n3", "n4"]


@pytest.mark.parametrize("at", [0, 1, 700])
def test_iteration_fails_once_the_reader_is_closed(path: Path, at: int) -> None:
    data = mmnpz.load(path)
    values = iter(data.values())
    for _ in range(at):
        next(values)
    data.close()
    with pytest.raises(ValueError, match="closed"):
        next(values)
    assert list(values) == []
    with pytest.raises(ValueError, match="closed"):
        next(iter(data.items()))


@pytest.mark.thread_unsafe(reason="looks at the maps of the process")
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell what is mapped")
def test_an_iterator_does_not_keep_the_file_of_a_closed_reader_mapped(path: Path) -> None:
    data = mmnpz.load(path, cache=False)
    values = iter(data.values())
    next(values)
    data.close()
    with pytest.raises(ValueError, match="closed"):
        next(values)
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_iteration_while_the_reader_is_opened_anew(path: Path, tmp_path: Path) -> None:
    data = mmnpz.load(path)
    items = iter(data.items())
    assert same(next(items)[1], array(0))
    # Another file has other arrays with the same names. The iterator goes on with the arrays of the first
    # file.
    with mmnpz.NpzWriter(tmp_path / "b.npz") as writer:
        for name in names_of():
            writer[name] = np.float64(-1)
    mmnpz.NpzReader.__init__(data, tmp_path / "b.npz")
    assert all(same(view, array(int(name[1:]))) for name, view in items)
    assert {float(view) for view in data.values()} == {-1}


def test_iteration_follows_a_changed_list_of_names(path: Path) -> None:
    data = mmnpz.load(path)
    items = iter(data.items())
    next(items)
    data.files.reverse()
    rest = list(items)
    assert [name for name, _ in rest] == names_of()[-2::-1]
    assert all(same(view, array(int(name[1:]))) and view is data[name] for name, view in rest)
    data.files[:] = ["n3", "nothing"]
    items = iter(data.items())
    assert next(items)[0] == "n3"
    with pytest.raises(KeyError, match="nothing"):
        next(items)


class Doubled(mmnpz.NpzReader):
    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(name) * 2


class Sorted(mmnpz.NpzReader):
    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.files))


def test_iteration_calls_the_methods_that_a_subclass_overrides(path: Path) -> None:
    doubled = Doubled(path)
    assert all(same(np.asarray(value), array(int(name[1:])) * 2) for name, value in doubled.items())
    assert same(np.asarray(next(iter(doubled.values()))), array(0) * 2)
    in_order = Sorted(path)
    assert [name for name, _ in in_order.items()] == sorted(names_of())
    assert all(same(view, array(int(name[1:]))) for name, view in in_order.items())


def test_threads_that_iterate_get_the_same_views(path: Path) -> None:
    data = mmnpz.load(path)
    walks = in_threads(lambda _: list(data.items()))
    for walk in walks[1:]:
        assert all(mine[1] is first[1] for mine, first in zip(walk, walks[0], strict=True))
    assert len(data.arrays) == MANY


@pytest.mark.thread_unsafe(reason="changes a file in place, which others would have mapped")
@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("sessions", [1, 2])
def test_iteration_while_a_writer_appends(path: Path, sessions: int, cache: bool) -> None:
    data = mmnpz.load(path, cache=cache)
    items = iter(data.items())
    some = [next(items) for _ in range(200)]
    for number in range(sessions):
        # These members overwrite the whole directory and index.
        write(path, MANY, "a", first=(number + 1) * MANY)
    some.extend(items)
    assert [name for name, _ in some] == names_of()
    assert all(same(view, array(int(name[1:]))) for name, view in some)


@pytest.mark.thread_unsafe(reason="changes a file in place, which others would have mapped")
def test_iteration_after_another_program_renames_members(path: Path) -> None:
    data = mmnpz.load(path)
    items = iter(data.items())
    some = [next(items) for _ in range(200)]
    give_names(path, {"n1000": "n1001", "n1001": "n1000"})
    some.extend(items)
    assert [name for name, _ in some] == names_of()
    with np.load(path) as theirs:
        assert not same(theirs["n1000"], array(1000))
        assert all(same(view, theirs[name]) for name, view in some)


@linux
@pytest.mark.thread_unsafe(reason="looks at the page cache")
@pytest.mark.parametrize("how", ["preload", "items"])
def test_iteration_reads_only_the_headers_of_files_of_other_programs(tmp_path: Path, how: str) -> None:
    path = tmp_path / "theirs.npz"
    # Large members, because the system reads between a hundred kilobytes and some megabytes ahead of a page.
    arrays: dict[str, Any] = {f"n{number}": np.full(2**18, number, np.float64) for number in range(40)}
    np.savez(path, **arrays)
    drop(path)
    with resident(path) as share:
        if share(0, path.stat().st_size) > 0.5:
            pytest.skip("this file system keeps its files in memory")
        data = mmnpz.load(path, preload=how == "preload")
        assert len(list(data.items())) == 40
        assert share(0, path.stat().st_size) < 0.2
    assert all(view[-1] == int(name[1:]) for name, view in data.items())


def test_the_garbage_collector_frees_an_iterator_in_a_cycle(path: Path) -> None:
    class Mark:
        pass

    mark: Any = Mark()
    gone = weakref.ref(mark)
    data: Any = mmnpz.load(path)
    data.walk = mark.walk = iter(data.items())
    data.mark = mark
    next(data.walk)
    del data, mark
    gc.collect()
    assert gone() is None
