"""A process that forks writers, which the tests kill. Runs as a script, and imports no module of the tests.

For each writer it reads a line of JSON, forks the writer, and answers with its process id. After another line
it waits for the writer, and answers with its exit status. The array of a member follows from its name, so the
test can compute the expected array.
"""

import json
import os
import random
import sys
import threading
import traceback
import warnings
import zlib
from typing import Any

import numpy as np

import mmnpz

MEMBERS = 60
SIZES = (0, 1, 50, 3000, 40_000, 400_000, 3_000_000)


def array_of(name: str) -> Any:
    """Return the array that belongs to a member's name."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    size = int(generator.integers(SIZES[generator.integers(len(SIZES))] + 1))
    values = generator.integers(0, 256, size, np.uint8)
    return values[: size - size % 3].reshape(-1, 3).T if size % 5 == 0 else values


def create(writer: mmnpz.NpzWriter, name: str, give_up: bool) -> None:
    """Create an array and fill it; or give it up, and write it."""
    array = array_of(name)
    try:
        with writer.create(name, array.shape, array.dtype, fortran_order=np.isfortran(array)) as out:
            if give_up:
                out[...] = 1
                raise ZeroDivisionError
            out[...] = array
    except ZeroDivisionError:
        writer.write(name, array)


def stream(writer: mmnpz.NpzWriter, name: str, chance: random.Random) -> None:
    """Stream an array, with a smaller one written in the middle of it."""
    array = array_of(name)
    with writer.stream(name, array.dtype, array.shape[1:]) as rows:
        size = max(1, len(array) // chance.choice([1, 20, 100]))
        for start in range(0, len(array), size):
            rows.append(array[start : start + size])
            if chance.random() < 0.5:
                rows.flush()


def write(request: dict[str, Any]) -> None:
    """Write at most `MEMBERS` members in each thread, unless killed before."""
    chance = random.Random(request["seed"])
    report = os.open(request["report"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    warnings.simplefilter("ignore")
    writer = mmnpz.NpzWriter(request["path"], request["mode"], sync=chance.random() < 0.1)
    missing = [name for name in request["names"] if name not in writer]
    if missing or not set(request["names"]) <= set(writer.files):
        raise SystemExit(f"a resumed writer misses {missing}")
    # An empty line tells the test that the writer is open: the time until the kill starts here.
    os.write(report, b"\n")

    def work(thread: int) -> None:
        own = random.Random(f"{request['seed']} {thread}")
        for number in range(MEMBERS):
            name = f"{request['seed']}/{thread}/{number}"
            names = [name]
            if own.random() < 0.2 and array_of(name).flags.c_contiguous:
                stream(writer, name, own)
            elif own.random() < 0.2:
                create(writer, name, give_up=own.random() < 0.2)
            elif own.random() < 0.2:
                names = [f"{name}/{part}" for part in range(own.choice([1, 5, 20]))]
                writer.update((part, array_of(part)) for part in names)
            else:
                writer.write(name, array_of(name))
            # One system call for the whole line: a kill cannot leave a part of it in the report.
            os.write(report, "".join(f"{name}\n" for name in names).encode())
            if own.random() < 0.1:
                writer.flush(sync=own.random() < 0.1)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(chance.choice([1, 1, 2, 4]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()


def main() -> None:
    """Serve requests until the standard input ends."""
    while line := sys.stdin.readline():
        process = os.fork()
        if process == 0:
            status = 1
            try:
                write(json.loads(line))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        answer(process)
        sys.stdin.readline()  # wait only after the kill: until then the system does not reuse the process id
        answer(os.waitpid(process, 0)[1])


def answer(number: int) -> None:
    """Send a number to the test."""
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
