"""Readers and writers that threads share."""

import random
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import npy

THREADS = 8


@pytest.fixture(autouse=True, scope="module")
def hectic() -> Iterator[None]:
    """Threads take turns a thousand times as often as usual, which brings races about."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(interval)


def in_threads(function: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """Runs a function in many threads that start together; gives back all results, or raises their error."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            barrier.wait()
            results[number] = function(number)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


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


def test_closing_while_others_read(many: Path) -> None:
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


def test_opening_again_while_others_read(many: Path, tmp_path: Path) -> None:
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


def test_closing_while_others_write(tmp_path: Path) -> None:
    """What was written before stays; each write either is in the archive or raised."""
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
