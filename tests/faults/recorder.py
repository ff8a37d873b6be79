"""Record the file operations of a process: compile the shim, run the process, and read the log."""

import errno
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO, cast

HERE = Path(__file__).parent
HEAD = struct.Struct("=4L2Q3q")

Step = tuple[Any, ...]


class Operation(IntEnum):
    """The kinds of records in the log, as in shim.c."""

    NOTE = 0
    CREATE = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC = 4
    RENAME = 5
    UNLINK = 6
    OPEN = 7


class Action(IntEnum):
    """What the shim does with the operations of a plan, as in shim.c."""

    PASS = 0
    FAIL = 1
    SHORT = 2
    KILL_BEFORE = 3
    KILL_WITHIN = 4
    KILL_AFTER = 5
    STOP_BEFORE = 6
    FAIL_AFTER = 7


@dataclass(frozen=True)
class Plan:
    """The operations, counted from 0, with which the shim interferes, and how."""

    first: int = 0
    last: int = 0
    action: Action = Action.PASS
    error: int = errno.EIO
    size: int = 0


@dataclass(frozen=True)
class Event:
    """A record of the log: the start or the end of an operation, or a note."""

    operation: Operation
    is_end: bool
    number: int
    inode: int
    offset: int
    result: int
    path: str
    data: bytes

    @property
    def words(self) -> list[Any]:
        """The words of a note."""
        return cast("list[Any]", json.loads(self.data))


def read_log(path: Path) -> list[Event]:
    """Read a log as a list of events."""
    raw = path.read_bytes()
    events = []
    at = 0
    while at < len(raw):
        path_length, data_length, operation, phase, number, inode, offset, result, _ = HEAD.unpack_from(
            raw, at
        )
        at += HEAD.size
        name = raw[at : at + path_length].decode()
        at += path_length
        data = raw[at : at + data_length]
        at += data_length
        events.append(Event(Operation(operation), phase == 1, number, inode, offset, result, name, data))
    assert at == len(raw)
    return events


def why_not() -> str:
    """Return why recording does not work on this system, or an empty string."""
    if sys.platform != "linux":
        return "only Linux preloads libraries in this way"
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        return "there is no C compiler"
    return ""


def compile_shim(folder: Path, name: str = "shim") -> Path:
    """Compile the shim, or another library that is preloaded."""
    library = folder / f"{name}.so"
    compiler = shutil.which("gcc") or "cc"
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", library, HERE / f"{name}.c", "-ldl", "-lpthread"], check=True)
    return library


class KilledError(Exception):
    """The recorded process died, by the plan or not."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the process ended with {status}")
        self.status = status


class Recorder:
    """Runs a process under the shim. After a kill, the next request starts a new process."""

    def __init__(self, shim: Path, folder: Path) -> None:
        self.shim = shim
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(
        self, folder: Path, steps: Sequence[Step], plan: Plan = Plan(), delay: int = 0, seed: int = 1
    ) -> None:
        """Send a request to the process: steps, and a plan of interference."""
        if self.process is None:
            environment = {**os.environ, "LD_PRELOAD": str(self.shim)}
            self.process = subprocess.Popen(
                [sys.executable, HERE / "worker.py"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
        self.log.unlink(missing_ok=True)
        request = {
            "folder": str(folder),
            "log": str(self.log),
            "plan": (plan.first, plan.last, int(plan.action), plan.error, plan.size),
            "delay": delay,
            "seed": seed,
            "steps": list(steps),
        }
        assert self.process.stdin is not None
        pickle.dump(request, cast("BinaryIO", self.process.stdin))
        self.process.stdin.flush()

    def finish(self) -> tuple[list[Any], list[Event]]:
        """Wait for the answer, and return the outcomes of the steps and the events of the log."""
        assert self.process is not None
        assert self.process.stdout is not None
        try:
            outcomes = pickle.load(cast("BinaryIO", self.process.stdout))
        except EOFError:
            status = self.process.wait()
            self.stop()
            raise KilledError(status) from None
        return outcomes, read_log(self.log)

    def run(
        self, folder: Path, steps: Sequence[Step], plan: Plan = Plan(), delay: int = 0, seed: int = 1
    ) -> tuple[list[Any], list[Event]]:
        """Record steps. Raise KilledError if the process dies before it answers."""
        self.start(folder, steps, plan, delay, seed)
        return self.finish()

    def stop(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.stdout.close()
            process.wait()


def operations(events: Sequence[Event]) -> Iterator[Event]:
    """Return the start events of all operations, in order."""
    return (event for event in events if event.operation is not Operation.NOTE and not event.is_end)
