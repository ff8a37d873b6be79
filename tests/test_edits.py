"""mmnpz and other programs edit one file by turns; after each session, all programs read the same arrays.

NumPy and zipfile are the oracles. Readers that opened an earlier version of the file keep giving the right
arrays, or raise an error. `MMNPZ_EDITS` is the number of sessions in each test.
"""

import os
import random
import shutil
import signal
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import give_names, npy, same
from tests.faults.promise import TRIED
from tests.faults.scenarios import MANY
from tests.processes import fork, wait_for
from tests.test_interop import tool

EDITS = int(os.environ.get("MMNPZ_EDITS", "40"))
# The number of old readers that are kept.
READERS = 5
# If a small archive has more members than this, the next edit deletes some.
MOST = 40
# At most twice this many arrays are compared after each session.
SAMPLE = 25

pytestmark = [
    pytest.mark.thread_unsafe(reason="has processes of its own, and kills them"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
    pytest.mark.timeout(120 + 3 * EDITS),
]


class RefusedError(Exception):
    """Another program refuses to edit the file, or spoils it."""


class Reader:
    """A reader, and the arrays that the file had when the reader opened it."""

    def __init__(self, path: Path, arrays: dict[str, Any], chance: random.Random, how: str) -> None:
        self.data = mmnpz.load(path, cache=chance.random() < 0.5)
        self.arrays = arrays
        self.how = how
        self.files = list(self.data.files) if chance.random() < 0.5 else None
        some = chance.sample(list(arrays), min(len(arrays), 4)) if chance.random() < 0.7 else []
        self.views = {name: self.data[name] for name in some}

    def check(self, chance: random.Random, renamed: set[str]) -> None:
        """Compare the views of the reader with the arrays that the file had when the reader opened it."""
        for name, view in self.views.items():
            assert same(view, self.arrays[name]), f"the view of {name!r} has changed ({self.how})"
        if self.files is not None:
            assert self.data.files == self.files, f"the list of names has changed ({self.how})"
        for name in chance.sample(list(self.arrays), min(len(self.arrays), 4)):
            self.compare(partial(self.one, name), renamed)
        self.compare(self.all_of_them, renamed)

    def one(self, name: str) -> dict[str, Any]:
        return {name: self.data[name]}

    def all_of_them(self) -> dict[str, Any]:
        return dict(zip(self.data.files, self.data.values(), strict=True))

    def compare(self, ask: Callable[[], dict[str, Any]], renamed: set[str]) -> None:
        """Compare the arrays that `ask` returns, unless it raises an error about the file."""
        try:
            found = ask()
        except KeyError as error:
            if error.args[0] not in renamed:
                raise AssertionError(f"the reader does not find {error} any more ({self.how})") from error
            # Another program has renamed the member, so the reader may miss it.
        except (zipfile.BadZipFile, ValueError):
            TRIED["old readers that said so"] += 1
        else:
            for name in [name for name in found if name in self.arrays][:: max(1, len(found) // SAMPLE)]:
                assert same(found[name], self.arrays[name]), f"{name!r} is wrong ({self.how})"


class Editing:
    """A file, the arrays that it must have, and the ways to edit it."""

    def __init__(self, folder: Path, seed: int, count: int) -> None:
        self.folder = folder
        self.path = folder / "a.npz"
        self.chance = random.Random(seed)
        self.arrays: dict[str, Any] = {}
        self.number = 0
        self.count = count
        self.readers: list[Reader] = []
        self.history: list[str] = []
        self.renamed: set[str] = set()
        # Whether bytes are in front of or behind the archive. Some programs refuse to edit such a file.
        self.has_prefix = self.has_suffix = False
        with mmnpz.NpzWriter(self.path) as writer:
            for _ in range(count):
                name, array = self.new()
                writer.write(name, array)
                self.arrays[name] = array

    def new(self) -> tuple[str, Any]:
        """Return a new name, and an array with items that no other array has."""
        self.number += 1
        size = self.chance.choice([0, 1, 10, 10, 300]) if self.count < MOST else self.number % 7
        if self.chance.random() < 0.02:
            size = 20_000
        array = np.full(size, self.number, np.int64) + np.arange(size)
        return f"n{self.number:06}", array.reshape(-1, 2, order="F") if size % 2 == 0 else array

    def some(self, most: int = 3) -> dict[str, Any]:
        return dict(self.new() for _ in range(self.chance.randint(1, most)))

    def pick(self, most: int = 3) -> list[str]:
        """Return some names of the file, but never all of them."""
        count = min(self.chance.randint(1, most), len(self.arrays) - 1)
        return self.chance.sample(list(self.arrays), max(count, 0))

    # Sessions of mmnpz.

    def append(self) -> None:
        with mmnpz.NpzWriter(self.path, "a") as writer:
            missing = set(self.arrays) - set(writer.files)
            assert not missing, f"the writer misses {sorted(missing)[:5]}"
            for name, array in self.some(self.chance.choice([1, 4, 40])).items():
                writer.write(name, array)
                self.arrays[name] = array
                if self.chance.random() < 0.2:
                    writer.flush()

    def append_nothing(self) -> None:
        mmnpz.NpzWriter(self.path, "a").close()

    def die(self) -> None:
        """Kill a writer. `load` must find each array whose `write` returned, before and after a repair."""
        arrays = self.some(5)
        flushes = self.chance.random() < 0.5

        def work() -> None:
            writer = mmnpz.NpzWriter(self.path, "a")
            for name, array in arrays.items():
                writer.write(name, array)
                if flushes:
                    writer.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        assert os.waitpid(fork(work), 0)[1] == signal.SIGKILL
        self.arrays.update(arrays)
        missing = set(self.arrays) - set(mmnpz.load(self.path).files)
        assert not missing, f"load misses {sorted(missing)[:5]} of a killed writer"
        if self.chance.random() < 0.5:
            mmnpz.repair(self.path)
        else:
            self.append()

    def repair(self) -> None:
        mmnpz.repair(self.path)

    # Edits by other programs.

    def tool(self, program: str, *arguments: Any, **options: Any) -> None:
        """Let a program edit the file. It may refuse or spoil a file with bytes in front of or behind it."""
        command = [tool(program), *map(str, arguments)]
        before = self.path.read_bytes()
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False, **options
        )
        odd = self.has_prefix or self.has_suffix
        if done.returncode or self.seen() is None or (odd and not self.is_readable()):
            assert odd, f"{command} gives {done.returncode}: {done.stdout}{done.stderr}"
            # Replace the file: readers may have the old one mapped.
            self.replace(before)
            raise RefusedError(program)

    def seen(self) -> list[str] | None:
        """Return the names that zipfile finds, or None if it finds no archive."""
        try:
            with zipfile.ZipFile(self.path) as file:
                return [name.removesuffix(".npy") for name in file.namelist()]
        except zipfile.BadZipFile:
            return None

    def is_readable(self) -> bool:
        with zipfile.ZipFile(self.path) as file:
            try:
                return file.testzip() is None
            except zipfile.BadZipFile:
                return False

    def replace(self, content: bytes) -> None:
        """Put a new file in place of the old one."""
        new = self.folder / "new"
        new.write_bytes(content)
        new.replace(self.path)

    def by_files(self, arrays: dict[str, Any], edit: Callable[..., None], *arguments: Any) -> None:
        """Save arrays as .npy files, which a program then adds to the archive."""
        for name, array in arrays.items():
            (self.folder / f"{name}.npy").write_bytes(npy(array))
        try:
            edit(*arguments, *(f"{name}.npy" for name in arrays))
            self.arrays.update(arrays)
        finally:
            for name in arrays:
                (self.folder / f"{name}.npy").unlink()

    def zipfile_appends(self) -> None:
        with zipfile.ZipFile(self.path, "a") as file:
            for name, array in self.some().items():
                file.writestr(f"{name}.npy", npy(array))
                self.arrays[name] = array
        self.has_suffix = False

    def zip_adds(self) -> None:
        self.by_files(self.some(), self.tool, "zip", "-q", "-0", self.path)

    def zip_grows(self) -> None:
        """Let zip append in place, over the directory."""
        self.by_files(self.some(), self.tool, "zip", "-q", "-0", "-g", self.path)

    def zip_replaces(self) -> None:
        arrays = {name: self.new()[1] for name in self.pick()}
        if arrays:
            self.by_files(arrays, self.tool, "zip", "-q", "-0", self.path)

    def zip_deletes(self) -> None:
        names = self.pick(max(3, len(self.arrays) - MOST if self.count < MOST else 3))
        if names:
            self.tool("zip", "-q", "-d", self.path, *(f"{name}.npy" for name in names))
            for name in names:
                del self.arrays[name]

    def zip_copies(self) -> None:
        """Copy some of the members into a new archive."""
        names = self.pick(2)
        copy = self.folder / "copy.zip"
        copy.unlink(missing_ok=True)
        excluded = [argument for name in names for argument in ("-x", f"{name}.npy")]
        before = self.path.read_bytes()
        self.tool("zip", "-q", "-U", self.path, "*", *excluded, "--out", copy)
        assert self.path.read_bytes() == before
        if copy.exists():
            copy.replace(self.path)
            for name in names:
                del self.arrays[name]

    def zip_adjusts(self) -> None:
        self.tool("zip", "-q", "-A", self.path)

    def seven_zip_adds(self) -> None:
        self.by_files(self.some(), self.tool, "7z", "a", "-tzip", "-mx0", "-bd", self.path)

    def comment(self) -> None:
        comment = self.chance.choice([b"", b"short", b"PK\3\4, PK\1\2", b"long" * 15_000])
        with zipfile.ZipFile(self.path, "a") as file:
            file.comment = comment
        self.has_suffix = False

    def seen_comment(self) -> bytes | None:
        """Return the comment that zipfile finds, or None if it finds no archive."""
        try:
            with zipfile.ZipFile(self.path) as file:
                return file.comment
        except zipfile.BadZipFile:
            return None

    def add_prefix(self) -> None:
        self.replace(b"#!/bin/sh\n" * self.chance.randint(1, 300) + self.path.read_bytes())
        self.has_prefix = True
        if self.chance.random() < 0.5:
            self.zip_adjusts()

    def add_suffix(self) -> None:
        """Append bytes to the file in place."""
        size = self.chance.choice([1, 22, 500, 5000])
        with self.path.open("ab") as file:
            file.write(self.chance.choice([bytes(size), self.chance.randbytes(size)]))
        self.has_suffix = True

    def rename(self) -> None:
        """Rename a member in place, in its local header and in its entry."""
        names = {name: f"r{name[1:]}" for name in self.pick() if name.startswith("n")}
        give_names(self.path, names)
        for old, new in names.items():
            self.arrays[new] = self.arrays.pop(old)
            self.renamed.add(old)

    def savez(self) -> None:
        np.savez(self.folder / "new.npz", **self.arrays)
        (self.folder / "new.npz").replace(self.path)
        self.has_prefix = self.has_suffix = False

    def session(self, number: int) -> None:
        """Edit the file with mmnpz or another program, and check the file and the old readers."""
        ours: list[Callable[[], None]] = [
            self.append,
            self.append,
            self.append_nothing,
            self.die,
            self.repair,
        ]
        others: list[Callable[[], None]] = [
            self.zipfile_appends, self.zip_adds, self.zip_grows, self.zip_replaces, self.zip_deletes,
            self.zip_copies, self.zip_adjusts, self.seven_zip_adds, self.add_prefix, self.add_suffix,
            self.rename, self.savez, self.comment,
        ]  # fmt: skip
        edit = self.chance.choice(ours if number % 2 else others)
        if edit == self.add_suffix and self.has_suffix:
            # With a longer suffix, zip programs would not find the end record any more.
            edit = self.append
        if edit == self.savez and self.chance.random() < 0.7:
            edit = self.zipfile_appends  # seldom write a new file, so that files see many sessions
        if edit in others and self.has_prefix and self.chance.random() < 0.3:
            # Remove the prefix now and then: 7-Zip edits no file that has one.
            edit = self.savez
        if len(self.arrays) > MOST > self.count and number % 2 == 0:
            edit = self.zip_deletes
        self.history.append(edit.__name__)
        comment = self.seen_comment()
        try:
            edit()
        except RefusedError:
            self.history[-1] += " (refused)"
        if edit in ours and comment is not None:
            assert self.seen_comment() in {comment, None}, "mmnpz changed the comment"
        self.check()
        if len(self.readers) == READERS:
            self.readers.pop(self.chance.randrange(READERS))
        how = f"opened after session {number}, {self.history[-1]}"
        self.readers.append(Reader(self.path, dict(self.arrays), self.chance, how))

    def check(self) -> None:
        """Compare what NumPy, zipfile and mmnpz read with the expected arrays, and check the old readers."""
        names = self.seen()
        assert names is not None, "zipfile does not find an archive"
        assert sorted(names) == sorted(self.arrays), (
            f"zipfile: {sorted(set(self.arrays) - set(names))[:5]} missing, "
            f"{sorted(set(names) - set(self.arrays))[:5]} too many"
        )
        data = mmnpz.load(self.path)
        assert data.files == names
        assert "missing" not in data
        some = self.chance.sample(names, SAMPLE) if len(names) > 2 * SAMPLE else names
        with zipfile.ZipFile(self.path) as file:
            for name in some:
                with file.open(f"{name}.npy") as member:
                    assert same(np.lib.format.read_array(member), self.arrays[name]), f"zipfile: {name!r}"
        if self.path.read_bytes()[:2] == b"PK":
            with np.load(self.path) as theirs:
                assert theirs.files == names
                assert same(theirs[names[-1]], self.arrays[names[-1]])
        for name in some:
            assert same(data[name], self.arrays[name]), f"{name!r} is wrong"
        position = self.chance.randrange(len(names))
        batch = data.gather([position])
        assert np.array_equal(batch[0], self.arrays[names[position]])
        assert [name for name, _ in data.items()] == names
        for reader in self.readers:
            reader.check(self.chance, self.renamed)


def edit(folder: Path, seed: int, count: int) -> None:
    warnings.simplefilter("ignore")
    editing = Editing(folder, seed, count)
    editing.check()
    for number in range(EDITS):
        try:
            editing.session(number)
        except BaseException as error:
            shutil.copy(editing.path, folder / "failed.npz")
            error.add_note(f"seed {seed}, session {number}, after {editing.history[-12:]}")
            raise


@pytest.mark.parametrize("count", [5, MANY])
@pytest.mark.parametrize("seed", range(3))
def test_mmnpz_and_other_programs_edit_by_turns(tmp_path: Path, seed: int, count: int) -> None:
    for program in ("zip", "7z"):
        tool(program)
    # In a child, because a bus error would end the process.
    wait_for(fork(partial(edit, tmp_path, seed, count), seconds=100 + 3 * EDITS))
