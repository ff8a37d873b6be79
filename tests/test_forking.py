"""A forked child can use an inherited reader at once, whatever the threads of its parent were doing."""

import gc
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mmnpz
from tests.processes import copied, fork, wait_for
from tests.threads import in_threads

FORKS = int(os.environ.get("MMNPZ_FORKS", "100"))
MEMBERS = 300

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
    pytest.mark.thread_unsafe(reason="has threads of its own, and forks"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(MEMBERS):
            writer.write(str(number), np.full(50, number))
    return path


def check(reader: mmnpz.NpzReader, first: int) -> None:
    """Read every seventh array. The reader has no view of some of them yet."""
    for number in range(first, MEMBERS, 7):
        view = reader[str(number)]
        assert view[0] == view[-1] == number
        assert reader[str(number)] is view
    assert len(reader.files) == MEMBERS


def everything(reader: mmnpz.NpzReader, first: int, forks: int) -> None:
    """Use a reader in all ways at once, also in a child, its child, and so on for `forks` generations."""
    names = [str(number) for number in range(first, MEMBERS, 7)]

    def list_all() -> None:
        arrays = reader.arrays
        for name in names:
            view = reader[name]
            assert arrays[name] is view
        assert reader.arrays is arrays
        assert all(view.tolist() == [int(name)] * 50 for name, view in list(arrays.items()))
        assert all(reader[name] is view for name, view in reader.items())

    def copy_it() -> None:
        handle = copied(reader)
        check(handle, first)
        assert handle[names[1]] is reader[names[1]]
        assert handle.arrays is reader.arrays
        handle.close()

    def copy_deeply() -> None:
        own = copied(reader, deeply=True)
        check(own, first)
        assert own.arrays[names[2]] is own[names[2]]
        assert own[names[2]] is not reader[names[2]]
        own.close()

    def pickle_it() -> None:
        again = pickle.loads(pickle.dumps(reader))
        check(again, first)
        assert again.arrays[names[3]] is again[names[3]]
        del again
        gc.collect()

    def fork_again() -> None:
        wait_for(fork(lambda: everything(reader, (first + 1) % 7, forks - 1)))

    uses = [lambda: check(reader, first), list_all, copy_it, copy_deeply, pickle_it]
    if forks:
        uses.append(fork_again)
    in_threads(lambda number: uses[number](), len(uses))
    view = reader[names[0]]
    reader.close()
    assert reader.arrays == {}
    assert view.tolist() == [first] * 50


def fork_and_check(reader: mmnpz.NpzReader, first: int) -> int:
    """Fork a child that reads, and return its process id."""

    def read() -> None:
        check(reader, first)
        check(copied(reader), first)
        reader.close()

    return fork(read)


def under_load(
    path: Path, forks: int, load: Callable[[mmnpz.NpzReader], None], fork_off: Callable[..., int]
) -> None:
    """Fork `forks` children, one after the other, while three threads call `load` with a shared reader."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while not stop.is_set():
                load(shared)
        except BaseException as error:
            failures.append(error)

    shared = mmnpz.load(path)
    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(forks):
            shared = mmnpz.load(path) if number % 10 == 0 else shared
            wait_for(fork_off(shared, number % 7))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_children_read_while_threads_of_the_parent_read_publish_and_close(path: Path) -> None:
    def load(shared: mmnpz.NpzReader) -> None:
        # A new reader in each round, so that the threads make, return and free views all the time.
        with mmnpz.load(path) as reader:
            check(reader, 0)
            check(shared, 1)

    under_load(path, FORKS, load, fork_and_check)


def test_children_use_everything_while_threads_of_the_parent_do(path: Path) -> None:
    def load(shared: mmnpz.NpzReader) -> None:
        with mmnpz.load(path) as reader:
            check(reader, 0)
            for number in range(2, MEMBERS, 7):
                assert shared.arrays.get(str(number), shared[str(number)]) is shared[str(number)]
            assert len(list(shared.arrays.items())) <= MEMBERS
            with (
                copied(shared) as handle,
                copied(reader, deeply=True) as own,
                copied(shared, deeply=True) as third,
            ):
                check(handle, 3)
                check(own, 4)
                assert len(own.arrays) == len(range(4, MEMBERS, 7))
                check(third, 5)
            pickle.dumps(shared)

    # Each child forks another one.
    under_load(path, FORKS // 2, load, lambda reader, first: fork(lambda: everything(reader, first, 1)))


def test_a_child_uses_the_dict_of_views_that_threads_were_filling(path: Path) -> None:
    """A child has a dict of views that works, even if a thread of its parent held the lock of the dict.

    In the child, the parent's dict may stay locked for ever, or lack views. So the child makes another dict.
    """
    for number in range(FORKS):
        reader = mmnpz.load(path)
        barrier = threading.Barrier(3)

        def fill(ask: bool, reader: mmnpz.NpzReader = reader, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            for name in reader.files:
                view = reader[name]
                if ask:
                    assert reader.arrays[name] is view

        def ask(reader: mmnpz.NpzReader = reader, first: int = number % 7) -> None:
            before = set(reader.arrays)
            check(reader, first)
            arrays = reader.arrays
            assert before <= set(arrays)
            assert {str(number) for number in range(first, MEMBERS, 7)} <= set(arrays)
            for name, view in arrays.items():
                assert reader[name] is view
                assert view.tolist() == [int(name)] * 50
            fill(True, reader, threading.Barrier(1))
            assert len(arrays) == MEMBERS

        threads = [threading.Thread(target=fill, args=(ask,)) for ask in (False, True)]
        for thread in threads:
            thread.start()
        barrier.wait()
        try:
            wait_for(fork(ask))
        finally:
            for thread in threads:
                thread.join()
        assert len(reader.arrays) == MEMBERS


def test_a_child_uses_the_list_of_names_that_threads_were_reading(tmp_path: Path) -> None:
    """A child has a list of names that works, even if a thread of its parent held the lock of the list.

    In the child, the parent's list may stay locked for ever. So the child makes another list.
    """
    path = tmp_path / "a.npz"
    names = tuple(str(number) for number in range(20_000))  # a tuple has no lock
    with mmnpz.NpzWriter(path) as writer:
        for name in names:
            writer.write(name, 0)

    def read(reader: mmnpz.NpzReader) -> None:
        assert tuple(reader.files) == tuple(reader) == names

    under_load(path, FORKS // 2, lambda shared: read(shared), lambda reader, _: fork(lambda: read(reader)))


def test_children_read_what_threads_of_the_parent_have_read(path: Path) -> None:
    reader = mmnpz.load(path)
    threads = [threading.Thread(target=check, args=(reader, number)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(7):
        wait_for(fork_and_check(reader, number))


def test_a_child_leaves_the_file_of_an_inherited_writer_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer.write("before", np.arange(3))
        size = path.stat().st_size

        def write_in_vain() -> None:
            with pytest.raises(RuntimeError, match="fork"):
                writer.write("in the child", 1)
            writer.close()

        wait_for(fork(write_in_vain))
        assert path.stat().st_size == size
        writer.write("after", np.arange(4))
    assert mmnpz.load(path).files == ["before", "after"]


@pytest.mark.skipif(os.name != "posix", reason="locks of descriptors")
def test_a_child_keeps_its_own_lock_when_it_drops_an_inherited_writer(tmp_path: Path) -> None:
    """The child uses the descriptor, and the place for it, of the lock that it gave up."""
    inherited = [mmnpz.NpzWriter(tmp_path / "parent.npz")]

    def work() -> None:
        own = mmnpz.NpzWriter(tmp_path / "child.npz")
        own.write("a", np.arange(3))
        inherited.clear()
        gc.collect()
        with pytest.raises(BlockingIOError):
            mmnpz.NpzWriter(tmp_path / "child.npz", "a")
        own.close()

    wait_for(fork(work))
    inherited[0].close()
