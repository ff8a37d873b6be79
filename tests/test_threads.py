"""Threads share readers and writers."""

import copy
import gc
import os
import random
import struct
import sys
import sysconfig
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import npy
from tests.threads import THREADS, in_threads

pytestmark = pytest.mark.thread_unsafe(reason="has threads of its own")

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


@pytest.fixture(autouse=True, scope="module")
def hectic() -> Iterator[None]:
    """Let threads take turns a thousand times as often as usual, which makes races likely."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("many") / "many.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(500):
            writer.write(f"k{number}", np.full(4, number))
    return path


@pytest.mark.parametrize("how", ["getitem", "get", "values", "arrays"])
def test_exactly_one_view_per_name(many: Path, how: str) -> None:
    for attempt in range(10):
        data = mmnpz.load(many)
        names = list(data)

        def read(number: int, names: list[str] = names, data: Any = data) -> dict[str, Any]:
            if how == "values":
                return dict(zip(names, data.values(), strict=True))
            mine = {name: data.get(name) if how == "get" else data[name] for name in names}
            return dict(data.arrays) if how == "arrays" else mine

        results = in_threads(read)
        for name in names:
            views = {id(result[name]) for result in results}
            assert views == {id(data[name])} == {id(data.arrays[name])}, (attempt, name)
        assert len(data.arrays) == len(names)


def test_each_thread_in_its_own_order(many: Path) -> None:
    data = mmnpz.load(many)

    def read(number: int) -> dict[str, int]:
        names = list(data)
        random.Random(number).shuffle(names)
        for name in names:
            assert data[name][0] == int(name[1:])
        return {name: id(data[name]) for name in names}

    results = in_threads(read)
    assert all(result == results[0] for result in results)


def test_load_gives_each_thread_its_own(many: Path) -> None:
    data = mmnpz.load(many)
    results = in_threads(lambda number: [data.load(name) for name in data])
    assert len({id(view) for result in results for view in result}) == THREADS * 500
    assert data.arrays == {}


def test_closing_while_other_threads_read(many: Path) -> None:
    for attempt in range(30):
        data = mmnpz.load(many, cache=bool(attempt % 2), preload=attempt % 3 == 0)
        closed = threading.Event()

        def use(number: int, data: Any = data, closed: threading.Event = closed) -> int:
            if number == 0:
                for _ in range(random.Random(number).randrange(2000)):
                    pass
                data.close()
                closed.set()
                return 0
            count = 0
            while not closed.is_set() or count == 0:
                for at in (0, 100, 250, 499):
                    try:
                        view = data[f"k{at}"]
                        assert view.tolist() == [at] * 4
                        assert f"k{at}" in data
                        assert len(data) == 500
                        assert len(data.files) == 500
                    except ValueError as error:
                        assert "closed" in str(error)  # noqa: PT017
                count += 1
            return count

        in_threads(use, 4)
        assert not hasattr(data, "mmap")
        with pytest.raises(ValueError, match="closed"):
            data["k0"]
        assert data.arrays == {}


def test_opening_again_while_other_threads_read(many: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    np.savez(other, k1=np.full(4, -1))
    data = mmnpz.load(many)
    stop = threading.Event()

    def use(number: int) -> None:
        if number == 0:
            for attempt in range(100):
                data.__init__(many if attempt % 2 else other)  # type: ignore[misc]
            stop.set()
        while not stop.is_set():
            assert data["k1"].tolist() in ([1] * 4, [-1] * 4)
            assert len(data) in (1, 500)

    in_threads(use, 4)


def test_a_failing_member_fails_in_every_thread(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("bad.npy", b"\x93NUMPY\1\0")
        file.writestr("good.npy", npy(1))
    data = mmnpz.load(path)

    def use(number: int) -> Any:
        for _ in range(100):
            with pytest.raises(ValueError, match="bad"):
                data["bad"]
        return id(data["good"])

    assert set(in_threads(use)) == {id(data["good"])}


@pytest.mark.parametrize("when", ["before", "by the first thread", "by all threads"])
def test_arrays_has_every_view_that_a_lookup_returned(many: Path, when: str) -> None:
    """`arrays` has each view that a lookup returned, whichever thread made the view.

    The thread that puts a view into the dict may be slower than a thread that finds the view.
    """
    for attempt in range(20):
        data = mmnpz.load(many)
        names = list(data)
        if when == "before":
            assert data.arrays == {}

        def read(number: int, names: list[str] = names, data: Any = data, attempt: int = attempt) -> None:
            # All threads take the names in the same order, so that they look up a name at the same time.
            for at, name in enumerate(names):
                view = data[name]
                asks = at >= 10 * attempt and (when != "by the first thread" or number == 0)
                if asks or when == "before":
                    assert data.arrays.get(name) is view, name

        in_threads(read, 4)
        assert list(map(id, data.arrays.values())) != []
        assert {name: id(view) for name, view in data.arrays.items()} == {
            name: id(data[name]) for name in names
        }


def test_arrays_are_iterated_copied_and_changed_while_views_are_published(many: Path) -> None:
    """A thread may change the dict of views. Lookups in other threads return the same views all the same."""
    for _ in range(10):
        data = mmnpz.load(many)
        names = list(data)
        done = threading.Event()

        def use(
            number: int, data: Any = data, names: list[str] = names, done: threading.Event = done
        ) -> dict[str, Any]:
            if number < 2:
                mine = {}
                for name in names:
                    mine[name] = data[name]
                    assert mine[name].tolist() == [int(name[1:])] * 4
                if number == 0:
                    done.set()
                return mine
            rounds = 0
            while not done.is_set() or rounds == 0:
                rounds += 1
                arrays = data.arrays
                if number == 2:
                    try:
                        for name, view in arrays.items():
                            assert view.tolist() == [int(name[1:])] * 4
                        for name in arrays:
                            assert name in data
                    except RuntimeError as error:
                        assert "changed" in str(error)  # noqa: PT017
                elif number == 3:
                    for name, view in dict(arrays).items():
                        assert view.tolist() == [int(name[1:])] * 4
                    assert all(name.startswith("k") for name in arrays.copy())
                else:
                    arrays.pop(names[rounds % 500], None)
                    if rounds % 50 == 0:
                        arrays.clear()
            return {}

        one, two, *_ = in_threads(use, 5)
        assert {name: id(view) for name, view in one.items()} == {
            name: id(view) for name, view in two.items()
        }
        # A view that a thread removed from the dict is still the view of its name.
        assert all(data[name] is view for name, view in one.items())


@pytest.mark.parametrize("options", [{"cache": False}, {"preload": True}, {"subok": False}])
def test_options_hold_in_threads(many: Path, options: dict[str, Any]) -> None:
    data: Any = mmnpz.load(many, **options)

    def read(number: int) -> list[int]:
        views = [data[name] for name in data]
        for at, view in enumerate(views):
            assert view.tolist() == [at] * 4
            assert type(view) is (mmnpz.memmap if options.get("subok", True) else np.ndarray)
            assert view.base is data.mmap
        assert len(data.arrays) == (500 if data.cache else 0)
        return views  # keep the views alive, so that no two of them have the same id

    results = in_threads(read, 4)
    different = {id(view) for views in results for view in views}
    assert len(different) == (500 if data.cache else 4 * 500)


def test_threads_open_with_preload_at_once(many: Path) -> None:
    readers = in_threads(lambda number: mmnpz.load(many, preload=True))
    for reader in readers:
        assert list(reader.arrays) == reader.files
        assert all(reader.arrays[name] is reader[name] for name in reader)
    assert len({id(reader["k0"]) for reader in readers}) == THREADS


def test_all_threads_get_the_same_list_of_names(tmp_path: Path) -> None:
    """All threads get the same list of names, although several threads make one at the same time."""
    path = tmp_path / "a.npz"
    names = [str(number) for number in range(20_000)]
    with mmnpz.NpzWriter(path) as writer:
        for name in names:
            writer.write(name, 0)
    for _ in range(20):
        data = mmnpz.load(path)
        lists = in_threads(lambda number, data=data: data.files)  # type: ignore[misc]
        assert all(found is lists[0] for found in lists)
        assert data.files is lists[0]
        assert lists[0] == names


def test_copies_share_views_and_deep_copies_do_not_in_all_threads(many: Path) -> None:
    for _ in range(5):
        data = mmnpz.load(many)
        names = list(data)

        def read(number: int, data: Any = data, names: list[str] = names) -> tuple[Any, dict[str, Any]]:
            handle = copy.deepcopy(data) if number % 2 else copy.copy(data)
            return handle, {name: handle[name] for name in names}

        results = in_threads(read)
        shared = {name: data[name] for name in names}
        for number, (handle, mine) in enumerate(results):
            own = number % 2 == 1
            for name, view in mine.items():
                assert view is handle[name] is handle.arrays[name]
                assert (view is shared[name]) != own
                assert view.base is handle.mmap
                assert view.tolist() == [int(name[1:])] * 4
            assert (handle.mmap is data.mmap) != own
        assert len({id(handle["k0"]) for handle, _ in results}) == 1 + THREADS // 2


def test_handles_are_closed_while_other_threads_read_theirs(many: Path) -> None:
    for _ in range(20):
        data = mmnpz.load(many)
        data["k3"]

        def use(number: int, data: Any = data) -> None:
            for turn in range(30):
                try:
                    handle = copy.deepcopy(data) if (number + turn) % 2 else copy.copy(data)
                except ValueError as error:
                    assert "closed" in str(error)  # noqa: PT017
                    break
                for at in range(turn, 500, 60):
                    assert handle[f"k{at}"].tolist() == [at] * 4
                kept = handle.arrays
                handle.close()
                assert kept[f"k{turn}"].tolist() == [turn] * 4
                if (number, turn) == (0, 20):
                    data.close()
                elif turn % 10 == 0:
                    gc.collect()

        in_threads(use, 4)
        with pytest.raises(ValueError, match="closed"):
            copy.copy(data)


def test_opened_again_under_load_by_all_threads(many: Path, tmp_path: Path) -> None:
    """Each lookup returns an array of one of the two files. A copy keeps the file of its reader."""
    other = tmp_path / "other.npz"
    np.savez(other, k1=np.full(4, -1))
    data: Any = mmnpz.load(many)

    def use(number: int) -> None:
        for turn in range(40):
            if turn % 4 == number:
                data.__init__(other if turn % 3 else many, preload=turn % 5 == 0, cache=turn % 2 == 0)
            handle = copy.deepcopy(data) if turn % 2 else copy.copy(data)
            mine = {1: [-1] * 4, 500: [1] * 4}[len(handle)]
            for _ in range(3):
                assert handle["k1"].tolist() == mine
            assert all(view.base is handle.mmap for view in handle.arrays.values())
            assert len(data.files) in (1, 500)
            assert data["k1"].tolist() in ([1] * 4, [-1] * 4)
            with pytest.raises(KeyError):
                data["nothing"]

    in_threads(use, 4)


def test_errors_in_some_threads_leave_the_others_alone(many: Path) -> None:
    data: Any = mmnpz.load(many)

    def use(number: int) -> dict[str, int]:
        if number % 2:
            for wrong, error in (("nothing", KeyError), (1, KeyError), ([], TypeError), ("\ud800", KeyError)):
                for _ in range(100):
                    with pytest.raises(error):
                        data[wrong]
                    with pytest.raises(error):
                        data.load(wrong)
        return {name: id(data[name]) for name in data}

    results = in_threads(use)
    assert all(result == results[0] for result in results)
    assert len(data.arrays) == 500


def test_attributes_of_one_view_are_set_by_many_threads(many: Path) -> None:
    """Threads that set attributes of a view tell the garbage collector about the view only once.

    A second call would end the process.
    """
    view: Any = mmnpz.load(many)["k7"]

    turns = 4_000_000 if FREE_THREADED else 2000

    def use(number: int) -> None:
        for turn in range(turns):
            if number % 2:
                vars(view)["tag"] = turn
            else:
                view.tag = turn

    in_threads(use, 4)
    assert view.tag == turns - 1
    assert gc.is_tracked(view)


@pytest.mark.parametrize("size", [3, 200_000])
def test_a_writer_that_threads_share_loses_nothing(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.npz"
    each = 200 if size < 1000 else 10
    with mmnpz.NpzWriter(path) as writer:

        def write(number: int) -> None:
            for item in range(each):
                writer.write(f"{number}/{item}", np.full(size, number * 1000 + item))

        in_threads(write)
    data = mmnpz.load(path)
    assert len(data) == THREADS * each
    for number in range(THREADS):
        for item in range(each):
            view = data[f"{number}/{item}"]
            assert view.shape == (size,)
            assert view[0] == view[-1] == number * 1000 + item
            assert view.__array_interface__["data"][0] % 64 == 0
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert len(file.namelist()) == THREADS * each


def test_each_thread_writes_in_its_own_order(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:

        def write(number: int) -> None:
            for item in range(50):
                writer.write(f"{number}/{item}", np.zeros(10 ** (item % 6)))

        in_threads(write, 4)
    names = mmnpz.load(path).files
    for number in range(4):
        mine = [name for name in names if name.startswith(f"{number}/")]
        assert sorted(mine, key=lambda name: int(name.split("/")[1])) == [
            f"{number}/{item}" for item in range(50)
        ]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_from_many_threads(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:

        def write(number: int) -> None:
            for _ in range(20):
                writer.write("same", np.full(5, number))

        in_threads(write)
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == ["same.npy"] * (THREADS * 20)
        assert file.testzip() is None
    assert len(mmnpz.load(path)) == 1
    assert np.array_equal(mmnpz.load(path)["same"], np.load(path)["same"])


def test_closing_while_other_threads_write(tmp_path: Path) -> None:
    """Each write either raises, or the archive has its member, when another thread closes the writer."""
    for attempt in range(10):
        path = tmp_path / f"{attempt}.npz"
        writer = mmnpz.NpzWriter(path)
        writer.write("first", 1)

        def write(number: int, writer: Any = writer, attempt: int = attempt) -> list[str]:
            if number == 0:
                for item in range(attempt * 3):
                    writer.write(f"closer{item}", item)
                writer.close()
                return [f"closer{item}" for item in range(attempt * 3)]
            done = []
            for item in range(1000):
                try:
                    writer.write(f"{number}/{item}", np.zeros(20_000))
                except ValueError as error:
                    assert "closed" in str(error)  # noqa: PT017
                    break
                done.append(f"{number}/{item}")
            return done

        written = [name for names in in_threads(write, 4) for name in names]
        assert sorted(mmnpz.load(path).files) == sorted(["first", *written])
        with zipfile.ZipFile(path) as file:
            assert file.testzip() is None


def test_failing_writes_among_good_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:

        def write(number: int) -> None:
            for item in range(100):
                if (number + item) % 2:
                    with pytest.raises(ValueError, match="object"):
                        writer.write(f"bad{number}/{item}", np.array([None]))
                else:
                    writer.write(f"{number}/{item}", np.full(number, item))

        in_threads(write)
    data = mmnpz.load(path)
    assert len(data) == THREADS * 50
    assert not any(name.startswith("bad") for name in data)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None


@pytest.mark.skipif(not hasattr(os, "pread"), reason="looks into the file while it is written")
def test_two_members_are_written_at_the_same_time(tmp_path: Path) -> None:
    """Two threads write two large members at the same time: neither waits until the other has finished."""
    size = 32 << 20
    source = np.full(size, 255, "u1")

    def begun(file: Any, number: int) -> bool:
        blocks = range(number * size + (1 << 19), (number + 1) * size, 1 << 20)
        return any(os.pread(file.fileno(), 1, at) == b"\xff" for at in blocks)

    def finished(file: Any, number: int) -> bool:
        # The CRC-32 of a large member is 0 in its local header until all of the member is in the file.
        first = os.pread(file.fileno(), 30, 0)
        if number == 0:
            return any(first[14:18])
        if len(first) < 30:
            return False
        stored, name, extra = struct.unpack("<4xI4x2H", first[14:])
        return any(os.pread(file.fileno(), 4, 30 + name + extra + stored + 14))
        return any(os.pread(file.fileno(), 4, 30 + name + extra + size + 14))

    for attempt in range(50):
        path = tmp_path / f"{attempt}.npz"
        with mmnpz.NpzWriter(path) as writer, path.open("rb") as file:

            def use(number: int, writer: Any = writer, file: Any = file) -> bool:
                if number < 2:
                    writer.write(str(number), source)
                    return False
                while not (finished(file, 0) and finished(file, 1)):
                    # The order matters: both members have begun before the first is found to be unfinished.
                    if begun(file, 0) and begun(file, 1) and not finished(file, 0) and not finished(file, 1):
                        return True
                return False

            overlapped = in_threads(use, 3)[2]
        path.unlink()
        if overlapped:
            return
    pytest.fail("one thread always waited for the other")


@pytest.mark.skipif(FREE_THREADED, reason="there is no GIL to release")
def test_writing_releases_the_gil(tmp_path: Path) -> None:
    array = np.zeros(1 << 20)
    seen: list[bool] = []
    turn = threading.Lock()
    turn.acquire()

    def other() -> None:
        turn.acquire()
        seen.append(True)

    thread = threading.Thread(target=other)
    thread.start()
    interval = sys.getswitchinterval()
    # With such a long interval, a thread keeps the GIL until it releases it by itself.
    sys.setswitchinterval(1000)
    try:
        with mmnpz.NpzWriter(tmp_path / "a.npz") as writer:
            turn.release()
            number = 0
            while not seen and number < 100:
                writer.write(f"{number}", array)
                number += 1
            found = list(seen)
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert found


def test_finished_files_are_read_while_the_next_are_written(tmp_path: Path) -> None:
    """Two threads write one file after the other. Other threads read the finished files as NumPy does."""
    files, each = 6, 40
    finished = [threading.Event() for _ in range(files)]
    halfway = [threading.Barrier(2) for _ in range(files)]
    writers: list[Any] = [None] * files
    one_at_a_time = threading.Lock()

    def content(number: int, half: int, item: int) -> Any:
        return np.arange(item * 7000 * (item % 13 == 0) + item, dtype="<i8") * (number + 1) + half

    def write(half: int) -> None:
        for number, path in enumerate(paths):
            if half == 0:
                writers[number] = mmnpz.NpzWriter(path)
            halfway[number].wait(60)
            for item in range(each):
                writers[number].write(f"{half}/{item}", content(number, half, item))
            halfway[number].wait(60)
            if half == 0:
                writers[number].close()
                finished[number].set()

    def read(reader: int) -> None:
        for number, path in enumerate(paths):
            assert finished[number].wait(60)
            for before in paths[max(0, number - 1) : number + 1]:
                # NumPy reads headers with `ast`. In CPython 3.11, two threads may not do that at the same
                # time: "AST constructor recursion depth mismatch".
                with one_at_a_time, np.load(before) as oracle:
                    expected = dict(oracle)
                with mmnpz.load(before) as data:
                    assert set(data) == set(expected)
                    for name, array in expected.items():
                        np.testing.assert_array_equal(data[name], array)
            with zipfile.ZipFile(path) as file:
                assert file.testzip() is None
            with mmnpz.load(path) as data:
                for half in range(2):
                    for item in range(each):
                        assert np.array_equal(data[f"{half}/{item}"], content(number, half, item))

    paths = [tmp_path / f"{number}.npz" for number in range(files)]
    in_threads(lambda number: write(number) if number < 2 else read(number), 4)


def test_a_thread_appends_to_a_file_that_other_threads_have_mapped(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer.write("k", np.arange(1000))
    rounds = 30
    done = threading.Event()
    # All threads open the file before the first session. Later they could find no directory, and get a
    # warning.
    opened = threading.Barrier(4)

    def use(number: int) -> None:
        if number == 0:
            opened.wait(60)
            for turn in range(rounds):
                with mmnpz.NpzWriter(path, "a") as writer:
                    writer.write(f"more{turn}", np.full(500, turn))
            done.set()
            return
        old = mmnpz.load(path)
        opened.wait(60)
        while not done.is_set():
            assert old.files == ["k"]
            (item,) = old.items()
            assert item[0] == "k"
            assert np.array_equal(item[1], np.arange(1000))

    in_threads(use, 4)
    with np.load(path) as oracle, mmnpz.load(path) as data:
        assert data.files == oracle.files
        assert len(data) == rounds + 1
