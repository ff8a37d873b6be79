"""The helper threads of `gather` stay for later batches, and disturb neither signals, forks nor the exit."""

import signal
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

import mmnpz
from tests.processes import run_python

pytestmark = pytest.mark.thread_unsafe(reason="works in a process of its own")

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at the threads of a process of Linux")
signals = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no interval timers")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(16):
            writer[str(number)] = np.full(1 << 16, number)
    return path


BEGIN = """
import os
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # no threads but ours
import signal, sys, threading, time
from contextlib import suppress
import numpy as np, mmnpz

data = mmnpz.load(sys.argv[1])
NAMES = [str(number) for number in range(16)] * 2

def gather(threads, out=None):
    batch = data.gather(NAMES, out=out, threads=threads)
    assert (batch == np.tile(np.arange(16), 2)[:, None]).all()

def helpers():
    found = 0
    for task in os.listdir("/proc/self/task"):
        # Another thread can end meanwhile.
        with suppress(OSError), open(f"/proc/self/task/{task}/comm") as file:
            found += file.read() == "mmnpz\\n"
    return found

def wait_for_helpers(count):
    deadline = time.monotonic() + 30
    while helpers() != count and time.monotonic() < deadline:
        time.sleep(0.001)  # each gives itself its name
    time.sleep(0.01)
    assert helpers() == count, helpers()
"""

LONG = """
# 1.3 GB, which take 100 ms or more: signals are looked at every 20.
LONG = NAMES * 80
out = np.full((len(LONG), 1 << 16), -1)
expected = np.tile(np.arange(16), 160)[:, None]

def long(threads):
    out[:] = -1
    data.gather(LONG, out=out, threads=threads)
    assert (out == expected).all()
"""


@linux
def test_helpers_stay_and_are_not_more_than_one_call_needs(path: Path) -> None:
    code = """
    wait_for_helpers(0)
    gather(1)
    wait_for_helpers(0)
    for _ in range(100):
        gather(3)
    wait_for_helpers(2)
    gather(2)
    wait_for_helpers(2)
    gather(200)  # 16 MB are 128 units of work; 64 threads at most
    wait_for_helpers(63)
    """
    run_python(BEGIN + dedent(code), path)


@linux
def test_helpers_help_with_later_batches(path: Path) -> None:
    code = """
    gather(2)
    wait_for_helpers(1)

    def ran():
        for task in os.listdir("/proc/self/task"):
            folder = f"/proc/self/task/{task}"
            with suppress(OSError), open(f"{folder}/comm") as comm, open(f"{folder}/schedstat") as stat:
                if comm.read() == "mmnpz\\n":
                    return int(stat.read().split()[0])

    for _ in range(3):
        time.sleep(0.01)  # it sleeps
        before, deadline = ran(), time.monotonic() + 30
        while ran() == before:
            gather(2)
            assert time.monotonic() < deadline, "it has done nothing more"
    """
    run_python(BEGIN + dedent(code), path)


@linux
def test_callers_share_the_helpers(path: Path) -> None:
    code = """
    def work():
        out = np.empty((32, 1 << 16), int)
        for _ in range(50):
            gather(2, out)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= helpers() <= max(1, os.cpu_count() - 1)
    """
    run_python(BEGIN + dedent(code), path)


@linux
@pytest.mark.parametrize("warm", [True, False])
def test_a_forked_child_has_helpers_of_its_own(path: Path, warm: bool) -> None:
    code = f"""
    import warnings
    warnings.simplefilter("ignore")  # of a fork with threads
    if {warm}:
        gather(3)
    child = os.fork()
    if not child:
        signal.alarm(60)
        wait_for_helpers(0)
        gather(3)
        wait_for_helpers(2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    gather(3)
    wait_for_helpers(2)
    """
    run_python(BEGIN + dedent(code), path)


@signals
@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="forks")
def test_a_signal_handler_forks_during_a_gather(path: Path) -> None:
    """Parent and child both complete the batch, though only the parent has the helper."""
    code = """
    import warnings
    warnings.simplefilter("ignore")
    children = []

    def fork(number, frame):
        children.append(os.fork())

    for attempt in range(8):
        signal.signal(signal.SIGALRM, fork)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        done = False
        try:
            long(2)
            done = True
        finally:
            if children and not children[-1]:
                os._exit(0 if done else 1)
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert children  # it was not always faster
    for child in children:
        assert os.waitpid(child, 0)[1] == 0, "the batch of the child is not complete"
    gather(2)
    """
    run_python(BEGIN + LONG + dedent(code), path)


@signals
def test_a_signal_handler_gathers_during_a_gather(path: Path) -> None:
    code = """
    nested = 0

    def handle(number, frame):
        global nested
        gather(2)
        nested += 1

    signal.signal(signal.SIGALRM, handle)
    for attempt in range(20):
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        long(2)
        if nested:
            break
    """
    run_python(BEGIN + LONG + dedent(code), path)


@signals
def test_helpers_are_free_again_after_an_interruption(path: Path) -> None:
    """Helpers do not write to the `out` of an interrupted batch, and help with the next batch."""
    code = """
    class Stopped(Exception):
        pass

    def stop(number, frame):
        raise Stopped

    signal.signal(signal.SIGALRM, stop)
    stopped = 0
    for attempt in range(20):
        out[:] = -1
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.005)
            data.gather(LONG, out=out, threads=3)
            signal.pause()
        except Stopped:
            stopped += (out[-1, -1] == -1)
            out[:] = -2
            for _ in range(20):
                gather(3)
            assert (out == -2).all()
    assert stopped
    """
    run_python(BEGIN + LONG + dedent(code), path)


@signals
def test_helpers_take_no_signals(path: Path) -> None:
    """A helper does not take a signal that the program has blocked in all its threads to wait for it."""
    code = """
    gather(3)
    time.sleep(0.1)  # they sleep
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])
    for number in (signal.SIGUSR1, signal.SIGTERM):
        os.kill(os.getpid(), number)  # ends the process in a thread that does not block it
        assert signal.sigwait([number]) == number
    """
    run_python(BEGIN + dedent(code), path)


@pytest.mark.parametrize("way", ["pass", "sys.exit(0)", "os._exit(0)"])
def test_the_process_ends_while_helpers_copy(path: Path, way: str) -> None:
    code = f"""
    def work():
        out = np.empty((32, 1 << 16), int)
        while True:
            data.gather(NAMES, out=out, threads=2)

    for _ in range(2):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(0.05)
    {way}
    """
    for _ in range(5):
        run_python(BEGIN + dedent(code), path)
