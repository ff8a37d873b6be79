"""A forked process can use an inherited reader at once, whatever other threads of its parent were doing."""

import copy
import os
import signal
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import mmnpz

FORKS = int(os.environ.get("MMNPZ_FORKS", "100"))
MEMBERS = 300

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(MEMBERS):
            writer.write(str(number), np.full(50, number))
    return path


def check(reader: mmnpz.NpzReader, first: int) -> None:
    """Read every seventh array, some of which nobody has asked for yet."""
    for number in range(first, MEMBERS, 7):
        view = reader[str(number)]
        assert view[0] == view[-1] == number
        assert reader[str(number)] is view
    assert len(reader.files) == MEMBERS


def fork_and_check(reader: mmnpz.NpzReader, first: int) -> int:
    """Fork a child that reads, and give its number."""
    with warnings.catch_warnings():
        # Python warns of forking with threads, which is what is tried here.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process:
        return process
    # A deadlock ends with SIGALRM. Nothing of pytest may run in the child.
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)
        check(reader, first)
        check(copy.copy(reader), first)
        reader.close()
        status = 0
    finally:
        os._exit(status)


def test_children_read_while_threads_of_the_parent_read_publish_and_close(path: Path) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def load() -> None:
        # Each round is a new reader: views are published, handed out and freed all the time.
        try:
            while not stop.is_set():
                with mmnpz.load(path) as reader:
                    check(reader, 0)
                    check(shared, 1)
        except BaseException as error:
            failures.append(error)

    shared = mmnpz.load(path)
    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(FORKS):
            shared = mmnpz.load(path) if number % 10 == 0 else shared
            process = fork_and_check(shared, number % 7)
            deadline = time.monotonic() + 60
            while (waited := os.waitpid(process, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
                time.sleep(0.0005)
            assert waited == (process, 0), f"fork {number} ended with {waited}"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_children_read_what_threads_of_the_parent_have_read(path: Path) -> None:
    reader = mmnpz.load(path)
    threads = [threading.Thread(target=check, args=(reader, number)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(7):
        process = fork_and_check(reader, number)
        assert os.waitpid(process, 0) == (process, 0)


def test_a_child_leaves_the_file_of_an_inherited_writer_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer.write("before", np.arange(3))
        size = path.stat().st_size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            process = os.fork()
        if not process:
            code_of_child = 1
            try:
                try:
                    writer.write("in the child", 1)
                except RuntimeError as error:
                    code_of_child = 0 if "fork" in str(error) else 2
                writer.close()
                del writer
            finally:
                os._exit(code_of_child)
        assert os.waitpid(process, 0) == (process, 0)
        assert path.stat().st_size == size
        writer.write("after", np.arange(4))
    assert mmnpz.load(path).files == ["before", "after"]
