"""The cache of views: one view of each member, for all threads and in forked children, and no more memory."""

import gc
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.processes import copied, fork, run_python, wait_for
from tests.threads import in_threads

FORKS = int(os.environ.get("MMNPZ_FORKS", "100"))
MEMBERS = 400

pytestmark = pytest.mark.thread_unsafe(reason="has threads of its own, forks, and looks at the whole process")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("views") / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(MEMBERS):
            writer.write(str(number), np.full(3, number))
    return path


def by_gather(data: mmnpz.NpzReader, number: int) -> Any:
    assert data.gather([number]).tolist() == [[number] * 3]
    return data[str(number)]


def by_walk(data: mmnpz.NpzReader, number: int) -> Any:
    for name, view in data.items():
        if name == str(number):
            return view
    raise AssertionError


@pytest.mark.parametrize("asked", [False, True])
def test_all_threads_look_one_member_up_at_once(path: Path, asked: bool) -> None:
    """By name, by position and in a walk, whether somebody keeps the dict or not."""
    ways: list[Callable[[mmnpz.NpzReader, int], Any]] = [
        lambda data, number: data[str(number)],
        by_gather,
        lambda data, number: data.get(str(number)),
        lambda data, number: data.arrays.get(str(number), data[str(number)]),
        by_walk,
    ]
    readers = [mmnpz.load(path) for _ in range(20)]
    for reader in readers:
        assert not asked or reader.arrays == {}
    barrier = threading.Barrier(len(ways))

    def look_up(thread: int) -> list[Any]:
        views = []
        for turn, data in enumerate(readers):
            for number in range(turn, MEMBERS, 40):
                barrier.wait(60)
                view = ways[(thread + number) % len(ways)](data, number)
                assert view.tolist() == [number] * 3
                # Whoever has the view finds it in the dict.
                assert data.arrays[str(number)] is view
                views.append(view)
        return views

    for views in zip(*in_threads(look_up, len(ways)), strict=True):
        assert len({id(view) for view in views}) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("way", ["data[names[number]]", "data.gather([number])"])
def test_a_million_members_of_which_a_thousand_are_looked_up(tmp_path: Path, way: str) -> None:
    members, looked_up = 1_000_000, 1_000
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(members):
            writer.write(str(number), np.int8(0))
    taken = run_python(
        f"""
        import random, re, sys
        import numpy as np
        import mmnpz

        def memory():
            with open("/proc/self/status") as file:
                return int(re.search(r"RssAnon:\\s+(\\d+) kB", file.read())[1])

        chance = random.Random(1)
        data = mmnpz.load(sys.argv[1])
        numbers = [chance.randrange({members}) for _ in range({looked_up})]
        names = {{number: str(number) for number in range({members})}} if "names" in {way!r} else {{}}
        other = mmnpz.load(sys.argv[1])
        for number in range({looked_up}):
            other[str(number)]
        before = memory()
        for _ in range(4):
            for number in numbers:
                {way}
        assert len(data.arrays) == len(set(numbers))
        print(memory() - before)
        """,
        path,
    )
    # The views themselves take most of it. A page for each of them would be four megabytes.
    assert int(taken) < 1800, f"{taken} kB for {looked_up} views"


@contextmanager
def publishers(path: Path, shared: list[mmnpz.NpzReader]) -> Iterator[None]:
    """Let threads publish views all the time, in readers of their own and in the last one of `shared`."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def run(first: int) -> None:
        try:
            while not stop.is_set():
                own = mmnpz.load(path)
                for reader in (own, shared[-1]):
                    for number in range(first, MEMBERS, 3):
                        assert reader[str(number)][0] == number
                        assert number % 50 or len(reader.arrays) > 0
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def check_child(reader: mmnpz.NpzReader, known: dict[str, Any], depth: int) -> None:
    """Look all up in several threads of a child, and in a child of it."""

    def read(thread: int) -> None:
        for name, view in known.items():
            assert reader[name] is view
        names = [str(number) for number in range(MEMBERS)]
        views = {name: reader[name] for name in (names if thread % 2 else reversed(names))}
        arrays = reader.arrays
        assert len(arrays) == MEMBERS
        for name, view in views.items():
            assert view.tolist() == [int(name)] * 3
            assert arrays[name] is view
            assert reader[name] is view

    arrays = reader.arrays
    for name, view in known.items():
        assert arrays[name] is view
    in_threads(read, 3)
    assert reader.arrays is arrays
    if depth:
        known = {name: reader[name] for name in ("0", "7", str(MEMBERS - 1))}
        wait_for(fork(lambda: check_child(reader, known, depth - 1)))


@forks
@pytest.mark.parametrize("preload", [False, True])
def test_children_find_the_views_that_were_published_before(path: Path, preload: bool) -> None:
    shared = [mmnpz.load(path, preload=preload)]
    with publishers(path, shared):
        for turn in range(FORKS // 2):
            shared.append(mmnpz.load(path, preload=preload))
            reader = copied(shared[-1])
            numbers = range(MEMBERS) if preload else range(turn, MEMBERS, 9)
            known = {str(number): reader[str(number)] for number in numbers}
            wait_for(fork(lambda reader=reader, known=known: check_child(reader, known, 1)))  # type: ignore[misc]


@forks
def test_a_child_frees_the_views_of_its_parent(path: Path) -> None:
    """It owns each of them once: the collector finds cycles with them, and the map goes with the last."""
    reader: Any = mmnpz.load(path)
    other: Any = mmnpz.load(path)
    for number in range(MEMBERS):
        assert reader[str(number)][0] == other[str(number)][0] == number
    assert len(other.arrays) == MEMBERS

    def free(depth: int) -> None:
        nonlocal reader, other
        gc.collect()
        assert reader["5"].tolist() == [5] * 3
        gc.collect()
        assert reader["5"].tolist() == [5] * 3
        if depth:
            wait_for(fork(lambda: free(depth - 1)))
        reader["7"].me = reader.me = reader
        seen = [weakref.ref(reader), weakref.ref(reader["8"])]
        del reader
        gc.collect()
        assert [view() for view in seen] == [None, None]
        view = weakref.ref(other["9"])
        other.close()
        del other
        gc.collect()
        assert view() is None
        if sys.platform == "linux":
            assert str(path) not in Path("/proc/self/maps").read_text()

    wait_for(fork(lambda: free(2)))


# What is kept is what all others get.

CHANGES: dict[str, Any] = {"shape": (3, 1), "dtype": np.dtype("i4"), "strides": (0,)}


def change(view: Any, attribute: str) -> None:
    with warnings.catch_warnings():
        # NumPy deprecates setting these.
        warnings.simplefilter("ignore", DeprecationWarning)
        setattr(view, attribute, CHANGES[attribute])


@pytest.mark.parametrize("attribute", CHANGES)
@pytest.mark.parametrize("options", [{}, {"preload": True}])
def test_what_others_share_keeps_its_shape_and_its_dtype(
    path: Path, attribute: str, options: dict[str, Any]
) -> None:
    data = mmnpz.load(path, **options)
    expected = np.full(3, 7)
    for view in (data["7"], data.get("7"), data.arrays["7"], dict(data)["7"], data["7.npy"]):
        with pytest.raises(AttributeError, match=r"keeps this view.*reshape.*cache=False"):
            change(view, attribute)
    assert np.array_equal(data["7"], expected)
    assert data.gather(["7"]).tolist() == [[7] * 3]
    data.gather(["8"])
    with pytest.raises(AttributeError):
        change(data["8"], attribute)
    whole: Any = data.mmap
    with pytest.raises(AttributeError):
        change(whole, attribute)


@pytest.mark.parametrize("attribute", CHANGES)
def test_what_is_ones_own_can_be_changed(path: Path, attribute: str) -> None:
    data = mmnpz.load(path)
    alone = mmnpz.load(path, cache=False)
    kept = data["7"]
    own: Any = alone.get("7")
    for view in (alone["7"], own, data.load("7"), kept[:], kept.view(), kept.copy(), kept[::2]):
        if len(view) == 3:
            change(view, attribute)
    for _, view in alone.items():
        change(view, attribute)
    assert np.array_equal(data["7"], np.full(3, 7))
    view = alone["7"]
    change(view, "shape")
    assert view.shape == (3, 1)
    assert alone["7"].shape == (3,)
    assert alone.gather(["7"]).shape == (1, 3)


def test_other_attributes_can_be_set(path: Path) -> None:
    view: Any = mmnpz.load(path)["7"]
    view.note = "seventh"
    assert vars(view) == {"note": "seventh"}
