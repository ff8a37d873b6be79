"""The recorded process: it carries out the steps of a scenario while the shim logs its file operations.

Runs as a script. It reads requests from its standard input and writes answers to its standard output, both
pickled, so one process serves many recordings. It imports only the package under test.
"""

import ctypes
import json
import os
import pickle
import sys
import threading
import warnings
from typing import Any

import numpy as np

import mmnpz


class Player:
    """Carries out steps, and writes notes about its progress to the log."""

    def __init__(self, shim: ctypes.CDLL) -> None:
        self.shim = shim
        self.writer: Any = None
        self.sync = False
        self.flushes = 0

    def note(self, *words: object) -> None:
        self.shim.faults_note(json.dumps(words).encode())

    def play(self, step: tuple[Any, ...]) -> Any:
        """Carry out one step, and return a description of the exception that it raised, if any."""
        try:
            return getattr(self, "step_" + step[0])(*step[1:])
        except Exception as error:
            known = {
                "type": type(error).__name__,
                "is_os_error": isinstance(error, OSError),
                "errno": getattr(error, "errno", None),
                "filename": getattr(error, "filename", None),
                "text": str(error),
            }
            self.note("failed", step[0], known["text"])
            return known

    def step_open(self, path: str, mode: str, options: dict[str, Any]) -> None:
        self.sync = options.get("sync", False)
        self.note("opening", mode)
        self.writer = mmnpz.NpzWriter(path, mode, **options)  # type: ignore[arg-type]
        self.note("opened", mode, self.sync)

    def step_write(self, name: str, value: int, array: Any) -> None:
        self.note("begin", name, value)
        self.writer.write(name, array)
        self.note("done", name, value, self.sync)

    def step_update(self, arrays: list[tuple[str, int, Any]]) -> None:
        for name, value, _ in arrays:
            self.note("begin", name, value)
        self.writer.update([(name, array) for name, _, array in arrays])
        for name, value, _ in arrays:
            self.note("done", name, value, self.sync)

    def step_create(self, name: str, value: int, array: Any, inner: tuple[Any, ...], give_up: bool) -> None:
        """Create an array and fill it, with another step in the middle of it."""
        self.note("begin", name, value)
        block = self.writer.create(name, array.shape, array.dtype, fortran_order=np.isfortran(array))
        out = block.__enter__()
        data = array.tobytes(order="F" if np.isfortran(array) else "C")
        half = len(data) // 2
        put(out, data[:half], 0)
        self.play(inner)
        put(out, data[half:], half)
        if give_up:
            block.__exit__(ValueError, ValueError(), None)
        else:
            block.__exit__(None, None, None)
            self.note("done", name, value, self.sync)

    def step_stream(self, name: str, value: int, array: Any, parts: list[Any], end: str) -> None:
        """Add the rows of an array to a stream, with other steps in the middle of it, and end the stream."""
        self.note("begin", name, value)
        self.note("streaming", name, value)
        stream = self.writer.stream(name, array.dtype, array.shape[1:], keep_partial=end == "keep")
        stream.__enter__()
        at = 0
        for part in parts:
            if isinstance(part, tuple):
                self.play(part)
            elif isinstance(part, int):
                stream.append(array[at : at + part])
                at += part
            else:
                stream.flush(sync=part == "sync")
                self.note("rows", name, at, part == "sync" or self.sync)
        if end == "raise":
            self.note("given up", name)
            stream.__exit__(ValueError, ValueError(), None)
        else:
            stream.append(array[at:])
            if end == "close":
                stream.close()
            elif end == "keep":
                stream.__exit__(ValueError, ValueError(), None)
            else:
                self.writer.close()
            self.note("done", name, value, self.sync)

    def step_flush(self, sync: bool) -> None:
        self.flushes += 1
        number = self.flushes
        self.note("flush", number)
        self.writer.flush(sync=sync)
        self.note("flushed", number, sync or self.sync)

    def step_close(self) -> None:
        self.note("closing")
        self.writer.close()
        self.note("closed", self.sync)

    def step_close_descriptors(self) -> None:
        """Close every descriptor of the archive while the writer uses it."""
        for number in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{number}")
            except OSError:
                continue
            if target.endswith(".npz"):
                os.close(int(number))

    def step_threads(self, lists: list[list[tuple[Any, ...]]]) -> list[Any]:
        results: list[Any] = []

        def run(steps: list[tuple[Any, ...]]) -> None:
            results.extend(result for result in map(self.play, steps) if result)

        threads = [threading.Thread(target=run, args=(steps,)) for steps in lists]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def step_repair(self, path: str, keep_partial: bool) -> None:
        self.note("repairing", keep_partial)
        mmnpz.repair(path, keep_partial=keep_partial)
        self.note("repaired")


def put(out: Any, data: bytes, at: int) -> None:
    """Write bytes into an array in a file, so that the shim sees it."""
    if not data:
        return
    address = out.__array_interface__["data"][0] + at
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, rights, offset, _, _, *path = line.split(maxsplit=5)
            start, end = (int(number, 16) for number in span.split("-"))
            if start <= address < end and rights == "rw-s":
                with open(path[0].strip(), "r+b", buffering=0) as file:
                    os.pwrite(file.fileno(), data, int(offset, 16) + address - start)
                return
    raise AssertionError("the array is in no shared map")


def main() -> None:
    """Serve requests until the standard input ends."""
    warnings.simplefilter("ignore")
    shim = ctypes.CDLL(None)
    shim.faults_start.argtypes = (
        [ctypes.c_char_p, ctypes.c_char_p]
        + 2 * [ctypes.c_uint64]
        + [
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_uint64,
            ctypes.c_uint,
            ctypes.c_uint,
        ]
    )
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        player = Player(shim)
        shim.faults_start(
            request["folder"].encode(),
            request["log"].encode(),
            *request["plan"],
            request["delay"],
            request["seed"],
        )
        outcomes = [player.play(step) for step in request["steps"]]
        del player.writer  # the finalizer of a writer closes it
        shim.faults_stop()
        pickle.dump(outcomes, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
