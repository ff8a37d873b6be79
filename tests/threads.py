"""Run functions in threads, for tests of what threads share, and of whether they let each other run."""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

THREADS = 8


def in_threads(function: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """Run a function in `count` threads that start together. Return all results, or raise the first error."""
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


def others_run_during(call: Callable[[], object], least: int = 1, attempts: int = 100) -> bool:
    """Tell whether another thread gets to run so often while a call lasts: the call has to give up the GIL.

    Call up to so many times: on a busy machine, the other thread need not get a processor meanwhile.
    """
    turns = 0
    done = threading.Event()

    def count() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    # From here on, a thread runs only while another one has given up the GIL.
    sys.setswitchinterval(1000)
    thread.start()
    try:
        for _ in range(attempts):
            before = turns
            call()
            if turns >= before + least:
                return True
        return False
    finally:
        done.set()
        sys.setswitchinterval(interval)
        thread.join()
