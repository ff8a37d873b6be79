"""`gather` beside other threads, in forked children, and beside signals and closing."""

import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.processes import fork, run_python, wait_for
from tests.test_gather import NAMES, RECORDINGS, ROWS, equal, recording, recordings, stacked
from tests.threads import in_threads, others_run_during

__all__ = ["recordings"]


def test_a_closed_reader(recordings: Path) -> None:
    data = mmnpz.load(recordings)
    data.close()
    for call in (
        lambda: data.gather(NAMES, length=2),
        lambda: data.prefetch(NAMES),
        lambda: data.advise("normal"),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_a_batch_outlives_its_reader(recordings: Path) -> None:
    data = mmnpz.load(recordings)
    expected = stacked(data, NAMES, range(RECORDINGS), 3)
    batch = data.gather(NAMES, range(RECORDINGS), length=3)
    data.close()
    del data
    assert equal(batch, expected)


def test_closing_while_batches_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(16):
            writer[str(number)] = np.full(200_000, number)
    names = [str(number) for number in range(16)]

    def work(data: Any, number: int) -> bool:
        if number == 0:
            data.close()
            return True
        out = np.empty((16, 200_000), int)
        for _ in range(100):
            try:
                data.gather(names, out=out, threads=1 + number % 2)
            except ValueError as error:
                return "closed" in str(error)
            assert (out == np.arange(16)[:, None]).all()
        return False

    for cache in (True, False):
        for _ in range(5):
            assert all(in_threads(partial(work, mmnpz.load(path, cache=cache)), 4))


@pytest.mark.parametrize("cache", [True, False])
def test_threads_share_a_reader(recordings: Path, cache: bool) -> None:
    data = mmnpz.load(recordings, cache=cache)

    def work(number: int) -> None:
        generator = np.random.default_rng(number)
        out = np.empty((64, 20, 3, 2), np.float32)
        for _ in range(100):
            numbers = generator.integers(RECORDINGS, size=64)
            starts = generator.integers(11, size=64)
            names = [NAMES[number] for number in numbers]
            data.gather(names, starts, length=20, out=out, threads=1 + number % 2)
            for place, number_, start in zip(out, numbers, starts, strict=True):
                assert np.array_equal(place, recording(number_, ROWS[number_])[start : start + 20])

    in_threads(work)
    if cache:
        assert data["r0"] is data["r0"] is data.arrays["r0"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.thread_unsafe(reason="forks")
def test_a_forked_child_gathers(recordings: Path) -> None:
    data = mmnpz.load(recordings)
    expected = stacked(data, NAMES, range(RECORDINGS), 3)
    stop = threading.Event()

    def work() -> None:
        out = np.empty((RECORDINGS, 3, 3, 2), np.float32)
        while not stop.is_set():
            data.gather(NAMES, range(RECORDINGS), length=3, out=out, threads=2)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(10):

            def child() -> None:
                for threads in (1, 2):
                    batch = data.gather(NAMES * 500, list(range(RECORDINGS)) * 500, length=3, threads=threads)
                    assert equal(batch, np.concatenate([expected] * 500))

            wait_for(fork(child))
    finally:
        stop.set()
        thread.join()


@pytest.mark.thread_unsafe(reason="works in a process of its own")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no interval timers")
@pytest.mark.parametrize("arguments", ["", "threads=3", "dtype='f4'"])
def test_a_long_gather_can_be_interrupted(tmp_path: Path, arguments: str) -> None:
    code = f"""
    import signal, sys
    import numpy as np, mmnpz

    class Stopped(Exception):
        pass

    def stop(number, frame):
        raise Stopped

    path = sys.argv[1]
    with mmnpz.NpzWriter(path) as writer:
        writer["a"] = np.zeros(1 << 22)
    data = mmnpz.load(path)
    names = ["a"] * 20
    # 640 MB, which take 50 ms or more
    out = np.ones((20, 1 << 22), {"'f4'" if "dtype" in arguments else "'f8'"})
    signal.signal(signal.SIGALRM, stop)
    for attempt in range(50):
        out[:] = 1
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            data.gather(names, out=out, {arguments})
            signal.pause()  # it was faster
        except Stopped:
            # Each thread has a part of its own, and the last one may be done.
            if out[:, -1].any():
                break
    else:
        sys.exit("not interrupted")
    # The reader can make a batch after the interruption.
    assert not data.gather(["a"], length=5).any()
    """
    run_python(code, tmp_path / "a.npz")


@pytest.mark.thread_unsafe(reason="measures what else runs")
def test_other_threads_run_during_a_gather(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer["a"] = np.zeros(1 << 22)
    data = mmnpz.load(path)
    out = np.empty((8, 1 << 22))
    assert others_run_during(lambda: data.gather(["a"] * 8, out=out))
