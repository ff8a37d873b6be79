"""The scenarios that are recorded: scripts as lists of steps, and the archives from which they start."""

import io
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import mmnpz
from tests.archives import Entry, build_zip, npy, streamed
from tests.faults.recorder import Step

OLD = np.arange(300, dtype="<i4")

# Enough members for a directory of more than 64 KiB. mmnpz opens such an archive without reading the whole
# directory, leaves room in front of it, and adds entries to it in place.
MANY = 1500


@dataclass
class Script:
    """Steps for the recorded process, and the arrays that they write."""

    path: Path
    steps: list[Step] = field(default_factory=list)
    values: dict[tuple[str, int], Any] = field(default_factory=dict)

    def open(self, mode: str, **options: Any) -> "Script":
        self.steps.append(("open", str(self.path), mode, options))
        return self

    def writing(self, name: str, array: Any) -> Step:
        value = sum(other == name for other, _ in self.values)
        self.values[name, value] = np.asarray(array)
        return ("write", name, value, self.values[name, value])

    def write(self, name: str, array: Any) -> "Script":
        self.steps.append(self.writing(name, array))
        return self

    def update(self, arrays: dict[str, Any]) -> "Script":
        writes = [self.writing(name, array) for name, array in arrays.items()]
        self.steps.append(("update", [write[1:] for write in writes]))
        return self

    def create(
        self, name: str, array: Any, inner: Step = ("flush", False), give_up: bool = False
    ) -> "Script":
        self.steps.append(("create", *self.writing(name, array)[1:], inner, give_up))
        return self

    def flush(self, sync: bool = False) -> "Script":
        self.steps.append(("flush", sync))
        return self

    def close(self) -> "Script":
        self.steps.append(("close",))
        return self

    def stream(self, name: str, array: Any, parts: list[Any], end: str = "close") -> "Script":
        self.steps.append(self.streaming(name, array, parts, end))
        return self

    def streaming(self, name: str, array: Any, parts: list[Any], end: str = "close") -> Step:
        """Add rows: each part is a number of them, "flush", "sync", or another step."""
        return ("stream", *self.writing(name, array)[1:], parts, end)

    def repair(self, keep_partial: bool = False) -> "Script":
        self.steps.append(("repair", str(self.path), keep_partial))
        return self

    def threads(self, lists: Iterable[list[Step]]) -> "Script":
        self.steps.append(("threads", list(lists)))
        return self


def noise(size: int, seed: int = 0) -> Any:
    """Return random bytes, which occur nowhere else in the file."""
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def inner_archive() -> Any:
    """Return the bytes of an mmnpz file as an array, whose members are not members of the outer file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "inner.npz")
        with mmnpz.NpzWriter(path) as writer:
            writer.write("inner", np.arange(1000))
            writer.write("wrong", np.arange(10))
        return np.frombuffer(path.read_bytes(), np.uint8)


def small(script: Script, **options: Any) -> None:
    script.open("x", **options).write("a", np.arange(100.0)).write("0-d", 1.5).write(
        "empty", np.zeros((0, 5))
    )
    script.write("folder/ä", noise(9000)).write("a", np.arange(50)).write("n" * 4000, noise(100)).close()


def flushes(script: Script, **options: Any) -> None:
    script.open("x", **options).flush().write("a", noise(5000)).flush().write("b", noise(3000)).write(
        "c", 3
    ).flush()
    for number in range(5):
        # More than the room of the last flush holds.
        script.write(f"d{number}", noise(30_000, number)).flush()
    script.flush().write("e", noise(300_000)).write("f", 1).flush(sync=True).write("a", noise(10)).close()


def update(script: Script, **options: Any) -> None:
    script.open("x", **options).update({f"a{number}": noise(200 * number, number) for number in range(9)})
    script.write("b", noise(50)).flush().update({"c": noise(70_000), "d": noise(40), "a3": noise(30)})
    # More than the room of the flush holds, and a large one among them.
    script.update({f"e{number}": noise(30_000, number) for number in range(6)} | {"f": noise(1_200_000)})
    script.flush(sync=True).update({"g": 1, "h": noise(10)}).close()


def create(script: Script, **options: Any) -> None:
    script.open("x", **options).create("a", noise(900), give_up=True).create("b", noise(5000))
    script.create("c", np.asfortranarray(noise(70_002).reshape(3, -1)), inner=script.writing("d", noise(10)))
    # More than the room holds, and behind it a member.
    script.create("e", noise(1_200_000), inner=script.writing("f", noise(3000)), give_up=True)
    script.create("g", noise(1_300_000)).flush(sync=True).create("empty", np.zeros((3, 0))).close()


def stream(script: Script, **options: Any) -> None:
    script.open("x", **options).stream("given up", noise(200_000), [100_000], end="raise")
    script.stream("short", noise(50).reshape(10, 5), [3, "flush", 2, "sync", 4])
    # It moves behind "b", and behind "c" and a directory, and has a gap at its end.
    parts = [70_000, "flush", script.writing("b", noise(500)), 150_000, ("flush", False), "sync"]
    parts += [script.writing("c", noise(20)), 300_000, script.writing("d", noise(30)), 5]
    script.stream("long", noise(600_003).reshape(-1, 1), parts)
    script.stream("kept", noise(80_002), [70_000, script.writing("e", noise(10))], end="keep")
    script.stream("b", noise(90_000), ["flush", 80_000, "flush"], end="writer")


def streams(script: Script, **options: Any) -> None:
    """Grow streams in threads, beside writes and flushes."""
    script.open("x", **options).threads(
        [
            [script.streaming("one", noise(500_000, 1), [90_000, "flush", 100_000, 200_000, "sync"])],
            [script.streaming("two", noise(300_000, 2), [90_000, 90_000, "flush"])],
            [script.writing(f"n{number}", noise(9000, number)) for number in range(5)] + [("flush", False)],
        ]
    ).write("end", noise(5)).close()


def moved(script: Script, **options: Any) -> None:
    # The old directory stays in the file, in front of "e". It must not hide the later members.
    script.open("x", **options).write("a", noise(500)).flush().write("b", noise(500)).write(
        "c", noise(100_000)
    )
    script.write("d", noise(30)).flush().write("e", noise(1_200_000)).close()


def large(script: Script, **options: Any) -> None:
    script.open("x", **options).write("small", noise(10)).write("large", noise(2_600_000)).flush()
    script.write("larger", np.asfortranarray(noise(3_300_000).reshape(3, -1))).write(
        "last", noise(10)
    ).close()


def inner(script: Script, **options: Any) -> None:
    archive = inner_archive()
    script.open("x", **options).write("a", archive).write("b", noise(10)).flush().write("c", archive).close()
    script.open("a", **options).write("d", archive).close()


def aligned(script: Script, **options: Any) -> None:
    script.open("x", align=4096, **options).write("a", noise(10)).write("b", noise(5000)).flush()
    script.write("c", noise(10)).close().open("a", align=32768, **options).write("d", noise(10)).close()


def aligned_widely(script: Script, **options: Any) -> None:
    script.open("x", align=32768, **options).write("a", noise(10)).write("n" * 70, noise(10)).close()


def nothing(script: Script, **options: Any) -> None:
    script.open("x", **options).close().open("a", **options).flush().close().open("w", **options).close()
    script.open("a", **options).write("a", noise(10)).close()


def threads(script: Script, **options: Any) -> None:
    script.open("x", **options).threads(
        [
            [script.writing(f"{thread}/{number}", noise(3000 * number, thread)) for number in range(5)]
            + [("flush", False), script.writing(f"{thread}/last", noise(20))]
            for thread in range(3)
        ]
    ).write("end", noise(5)).close()


def large_in_threads(script: Script, **options: Any) -> None:
    script.open("x", **options).threads(
        [
            [script.writing("large", noise(2_200_000))],
            [script.writing("small", noise(20)), ("flush", False), script.writing("other", noise(70_000))],
            [script.writing("larger", noise(1_200_000)), script.writing("after", noise(20))],
        ]
    ).close()


def append(script: Script, **options: Any) -> None:
    script.open("a", **options).write("new", noise(3000)).write("old", np.arange(7)).flush()
    script.write("newer", noise(20)).close().open("a", **options).write("newest", noise(9000)).close()


def append_large(script: Script, **options: Any) -> None:
    script.open("a", **options).write("large", noise(1_300_000)).close()


def append_once(script: Script, **options: Any) -> None:
    script.open("a", **options).write("new", noise(200)).write("newer", noise(2000)).close()


def append_and_flush(script: Script, **options: Any) -> None:
    script.open("a", **options).write("new", noise(200)).flush()


def append_sessions(script: Script, **options: Any) -> None:
    for number in range(6):
        script.open("a", **options).write(f"new{number}", noise(200, number)).close()


def append_many(script: Script, **options: Any) -> None:
    """Add enough entries that some blocks of the directory hold new entries only."""
    script.open("a", **options)
    for number in range(60):
        script.write(f"new{number}", np.arange(number % 5))
    script.close()


def append_and_move(script: Script, **options: Any) -> None:
    """Append a member that fits into the room, and then one that overwrites the directory."""
    script.open("a", **options).write("new", noise(200)).close()
    script.open("a", **options).write("large", noise(150_000)).close()


def append_and_move_at_once(script: Script, **options: Any) -> None:
    script.open("a", **options).write("new", noise(200)).write("large", noise(150_000)).close()


def replace(script: Script, **options: Any) -> None:
    script.open("w", **options).write("new", noise(3000)).flush().write("newer", noise(20)).close()


# The scripts that start without a file.
FRESH: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (
        small, flushes, update, create, stream, streams, moved, large, inner, aligned, aligned_widely,
        nothing, threads, large_in_threads,
    )
}  # fmt: skip


def ours(**options: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ours.npz")
        with mmnpz.NpzWriter(path, **options) as writer:
            writer.write("old", OLD)
            writer.write("folder/ä", OLD[:7])
            writer.write("large", noise(70_000))
        return path.read_bytes()


def with_room() -> bytes:
    """Return an mmnpz file with room: later members go into it, and the directory grows in place."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ours.npz")
        with mmnpz.NpzWriter(path) as writer:
            writer.write("old", OLD)
            writer.flush()
            writer.write("folder/ä", OLD[:7])
        return path.read_bytes()


def many(*, flush: bool = False, append: bool = False) -> bytes:
    """Return an mmnpz file with a directory of more than 64 KiB. A flush leaves more room than `close`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ours.npz")
        with mmnpz.NpzWriter(path) as writer:
            for number in range(MANY):
                writer.write(f"old{number}", np.arange(number % 7, dtype=np.uint8))
            if flush:
                writer.flush()
        if append:
            place = directory_at(path)
            with mmnpz.NpzWriter(path, "a") as writer:
                writer.write("appended", np.arange(9))
            assert directory_at(path) == place, "the writer must add to this directory in place"
        return path.read_bytes()


def commented(archive: bytes) -> bytes:
    """Return the archive with a comment that another program gave it."""
    out = io.BytesIO(archive)
    with zipfile.ZipFile(out, "a") as file:
        file.comment = b"This is a comment"
    return out.getvalue()


def directory_at(path: Path) -> int:
    """Return the offset of an archive's directory."""
    with zipfile.ZipFile(path) as file:
        return file.start_dir


def renamed() -> bytes:
    """Return a file with room, after another program renamed a member in place. Its mark is then wrong."""
    return with_room().replace(b"old.npy", b"new.npy")


def savez(compressed: bool = False) -> bytes:
    out = io.BytesIO()
    members: dict[str, Any] = {"old": OLD, "folder/ä": OLD}
    (np.savez_compressed if compressed else np.savez)(out, **members)
    return out.getvalue()


def zipped(comment: bytes = b"", junk: bytes = b"") -> bytes:
    out = io.BytesIO(junk)
    with zipfile.ZipFile(out, "a") as file:
        file.writestr("old.npy", npy(OLD))
        file.writestr("readme.txt", "hello" * 100)
        file.comment = comment
    return out.getvalue()


def by_tool(*command: str) -> bytes:
    """Return the archive that an archiver makes of two .npy files."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("old", "b"):
            np.save(Path(folder, name), OLD)
        subprocess.run(
            [*command, "tool.zip", "old.npy", "b.npy"], cwd=folder, check=True, capture_output=True
        )
        return Path(folder, "tool.zip").read_bytes()


BASES: dict[str, Callable[[], bytes]] = {
    "ours": ours,
    "ours, aligned": lambda: ours(align=4096),
    "ours, with room": with_room,
    "ours, with room, renamed": renamed,
    "ours, with a comment": lambda: commented(ours()),
    "savez": savez,
    "savez_compressed": lambda: savez(compressed=True),
    "zipfile": zipped,
    "comment": lambda: zipped(comment=b"This is a comment"),
    "longest comment": lambda: zipped(comment=b"\xff" * 65535),
    "streamed": lambda: streamed(["old", "b"], OLD),
    "junk in front": lambda: zipped(junk=b"#!/bin/sh\n" * 500),
    "junk in front, not counted": lambda: build_zip(Entry("old.npy", npy(OLD)), junk=b"junk" * 100),
    "junk behind": lambda: zipped() + b"junk" * 30,
    "zip64": lambda: build_zip(Entry("old.npy", npy(OLD), zip64=True), zip64_end=True),
    "gap": lambda: build_zip(Entry("old.npy", npy(OLD)), gap=b"\0" * 300),
    "no members": build_zip,
}
# Like BASES, but each check of these archives takes long: only a few tests use them.
LARGE: dict[str, Callable[[], bytes]] = {
    "ours, large": many,
    "ours, large, with room": lambda: many(flush=True),
    "ours, large, appended once in place": lambda: many(flush=True, append=True),
    "ours, large, with a comment": lambda: commented(many(flush=True)),
}
if shutil.which("zip"):
    BASES["Info-ZIP"] = lambda: by_tool("zip", "-0")
    BASES["Info-ZIP, deflated"] = lambda: by_tool("zip", "-9")
if shutil.which("7z"):
    BASES["7z"] = lambda: by_tool("7z", "a", "-tzip", "-mx0")
