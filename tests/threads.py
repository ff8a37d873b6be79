"""Run a function in threads that start together, for tests of what the threads share."""

import threading
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
