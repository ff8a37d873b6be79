"""What is promised of an archive whose writer died, and whether a file keeps it."""

import shutil
import subprocess
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import mmnpz
from tests.archives import same
from tests.faults.recorder import Event, Operation

# What was tried, for the summary.
TRIED: Counter[str] = Counter()

UNZIP = shutil.which("unzip")
EVERY_UNZIP = 40


class BrokenPromiseError(AssertionError):
    """A state that does not hold what was promised."""


def demand(holds: object, text: str) -> None:
    """Assert, in words of the promise."""
    if not holds:
        raise BrokenPromiseError(text)


@dataclass
class Knowledge:
    """What a writer had been told and had said when its process died.

    `order` has the values of each name in the order in which they were written; `done` tells how many of them
    were said to be written, `durable` how many to be safe from power failures.
    """

    values: dict[tuple[str, int], Any] = field(default_factory=dict)
    order: dict[str, list[int]] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    flushing: dict[int, dict[str, int]] = field(default_factory=dict)

    def copy(self) -> "Knowledge":
        """An own copy of all but the arrays."""
        order = {name: list(values) for name, values in self.order.items()}
        return Knowledge(self.values, order, dict(self.done), dict(self.durable), dict(self.flushing))

    def has(self, name: str, array: Any) -> None:
        """Tell of a member that is in the file from the start."""
        self.values[name, -1] = array
        self.order[name] = [-1]
        self.done[name] = self.durable[name] = 1

    def hear(self, event: Event) -> None:
        """Take note of what is logged."""
        if event.operation is not Operation.NOTE:
            return
        match event.words:
            case ["opening", "w"]:
                # What was there is going to be replaced; until it is, it is all there.
                self.done.clear()
                self.durable.clear()
            case ["begin", name, value]:
                self.order.setdefault(name, []).append(value)
            case ["done", name, value, sync]:
                self.done[name] = self.order[name].index(value) + 1
                if sync:
                    self.durable[name] = self.done[name]
            case ["flush", number]:
                self.flushing[number] = dict(self.done)
            case ["flushed", number, True]:
                for name, count in self.flushing[number].items():
                    self.durable[name] = max(count, self.durable.get(name, 0))
            case ["closed", True]:
                self.durable = dict(self.done)
            case _:
                pass

    def required(self, power: bool) -> dict[str, list[Any]]:
        """The names that must be there, each with the arrays that it may have."""
        counts = self.durable if power else self.done
        return {
            name: [self.values[name, value] for value in self.order[name][count - 1 :]]
            for name, count in counts.items()
            if count
        }

    def possible(self) -> dict[str, list[Any]]:
        """All names that may be there, each with the arrays that it may have."""
        return {name: [self.values[name, value] for value in values] for name, values in self.order.items()}


@dataclass(frozen=True)
class Base:
    """The archive that was there before, as zip tools see it."""

    raw: bytes = b""
    infos: tuple[tuple[Any, ...], ...] = ()
    comment: bytes = b""
    unzip: int = 0

    @classmethod
    def of(cls, raw: bytes, work: Path) -> "Base":
        """Look at an archive."""
        if not raw:
            return cls()
        path = fresh(work, raw)
        with zipfile.ZipFile(path) as file:
            return cls(raw, tuple(facts(path)), file.comment, unzip_status(path))


def facts(path: Path) -> Iterable[tuple[Any, ...]]:
    """What zip tools can tell of each member, and where it is."""
    with zipfile.ZipFile(path) as file:
        for info in file.infolist():
            yield (info.filename, info.CRC, info.file_size, info.compress_size, info.compress_type,
                   info.header_offset, info.date_time, info.comment)  # fmt: skip


def unzip_status(path: Path) -> int:
    """Test an archive with Info-ZIP; 0 if all is well."""
    if UNZIP is None:
        return 0
    done = subprocess.run([UNZIP, "-tqq", path], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    TRIED["unzip -t"] += 1
    return done.returncode


def summary() -> list[str]:
    """What was tried, and how much of it broke the promise."""
    order = (
        "states after kills", "states after power failures", "writers killed", "unzip -t",
        "members looked for", "states that break the promise",
    )  # fmt: skip
    return [f"{TRIED[what]:>9,}  {what}" for what in order]


def fresh(work: Path, content: bytes) -> Path:
    """Put a state into a file of its own: older ones may still be mapped."""
    path = work / "state.npz"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return path


def loaded(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Names and views, and the warnings that loading gave. A member that cannot be read has None."""
    found: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = mmnpz.load(path)
    for name in data.files:
        try:
            found[name] = data[name]
        except (ValueError, zipfile.BadZipFile):
            found[name] = None
    return found, [str(warning.message) for warning in caught]


def by_numpy(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """Arrays as NumPy reads them, of those names that it knows."""
    if path.read_bytes()[:2] == b"PK":
        with np.load(path) as data:
            return {name: data[name] for name in names if name in data.files}
    # It takes a file with something in front for a pickle; so as it reads the members of others.
    found = {}
    with zipfile.ZipFile(path) as file:
        for name in set(names) & {name.removesuffix(".npy") for name in file.namelist()}:
            with file.open(name + ".npy") as member:
                found[name] = np.lib.format.read_array(member)
    return found


def is_one_of(array: Any, allowed: list[Any]) -> bool:
    """Whether an array is there and right."""
    return array is not None and any(same(array, other) for other in allowed)


def corrupt(file: zipfile.ZipFile, names: Iterable[str]) -> str | None:
    """Give the first of these arrays whose bytes do not have their checksum."""
    for name in names:
        try:
            file.read(f"{name}.npy")
        except zipfile.BadZipFile:
            return name
    return None


class Judge:
    """Checks states, and counts."""

    def __init__(self, work: Path, base: Base, power: bool = False, sync: bool = False) -> None:
        self.work = work
        self.base = base
        self.power = power
        # After a power failure, what was not synced may be listed and not be there.
        self.lax = power and not sync
        self.count = 0
        self.failures: list[str] = []

    def check(self, content: bytes | None, knowledge: Knowledge, label: str) -> None:
        """Check one state, and keep what is wrong with it."""
        self.count += 1
        TRIED["states after power failures" if self.power else "states after kills"] += 1
        try:
            self.check_state(content, knowledge)
        except (BrokenPromiseError, OSError, ValueError, zipfile.BadZipFile) as error:
            text = str(error) if isinstance(error, BrokenPromiseError) else repr(error)
            TRIED["states that break the promise"] += 1
            self.failures.append(f"{label}: {text}".replace(str(self.work), ""))
            if content is not None:
                (self.work / f"failed-{len(self.failures)}.npz").write_bytes(content)

    def conclude(self) -> None:
        """Fail if any state was wrong."""
        shown = "\n".join(self.failures[:5])
        text = f"{len(self.failures)} of {self.count} states, kept in {self.work}:\n{shown}"
        assert not self.failures, text

    def check_state(self, content: bytes | None, knowledge: Knowledge) -> None:
        """Check all that is promised of a file in one state."""
        required, possible = knowledge.required(self.power), knowledge.possible()
        TRIED["members looked for"] += len(required)
        if content is None:
            demand(not required, "the file is gone")
            return
        before = self.check_before(fresh(self.work, content), required, possible)
        path = fresh(self.work, content)
        try:
            report = mmnpz.repair(path)
        except zipfile.BadZipFile as error:
            demand(self.power and not required, f"repair: {error}")
            return
        with zipfile.ZipFile(path) as file:
            demand(report.members == len(file.infolist()), f"repair miscounts: {report}")
        self.check_whole(path, content, required, possible, before, "repaired")
        raw = path.read_bytes()
        demand(report.changed == (raw != content), f"repair says changed: {report.changed}")
        again = mmnpz.repair(path)
        demand(not again.changed and path.read_bytes() == raw, "repair is not idempotent")
        demand(not again.recovered, f"repaired again: {again.recovered}")
        try:
            self.check_append(content, required, possible, before)
        except zipfile.BadZipFile as error:
            demand(self.power and not required, f"appending: {error}")

    def check_before(
        self, path: Path, required: dict[str, list[Any]], possible: dict[str, list[Any]]
    ) -> dict[str, Any]:
        """Check what can be read at once."""
        try:
            found, warned = loaded(path)
        except zipfile.BadZipFile as error:
            demand(not required, f"load: {error}")
            return {}
        for name, allowed in required.items():
            demand(name in found, f"load does not find {name!r}")
            demand(is_one_of(found[name], allowed), f"load reads {name!r} wrongly")
        if not self.power:
            for name, array in found.items():
                demand(is_one_of(array, possible.get(name, [])), f"load shows {name!r} wrongly")
        if not warned:
            # Then the directory is good, and everybody sees what we see.
            try:
                missing = set(required) - set(by_numpy(path, required))
            except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
                raise BrokenPromiseError(f"no warning, and NumPy says {error!r}") from error
            demand(not missing, f"no warning, and NumPy does not see {sorted(missing)}")
        return found

    def check_append(
        self,
        content: bytes,
        required: dict[str, list[Any]],
        possible: dict[str, list[Any]],
        before: dict[str, Any],
    ) -> None:
        """Check that opening with mode "a" mends as well."""
        path = fresh(self.work, content)
        writer = mmnpz.NpzWriter(path, "a")
        files = set(writer.files)
        demand(files >= set(required), f"a resumed writer misses {sorted(set(required) - files)}")
        demand(all(name in writer for name in required), "a resumed writer denies what it lists")
        demand(len(writer) == len(files), "a resumed writer miscounts")
        if self.count % 2:
            extra = np.arange(self.count % 5000)
            writer.write("resumed", extra)
            required, possible = required | {"resumed": [extra]}, possible | {"resumed": [extra]}
        writer.close()
        self.check_whole(path, content, required, possible, before, "resumed")

    def check_whole(
        self,
        path: Path,
        content: bytes,
        required: dict[str, list[Any]],
        possible: dict[str, list[Any]],
        before: dict[str, Any],
        how: str,
    ) -> None:
        """Check an archive that is said to be whole."""
        # A file in which nothing was ever finished begins anew.
        nothing = not before or (self.power and not required.keys() - {"resumed"})
        demand(path.stat().st_size >= len(content) or nothing, f"{how}: the file became shorter")
        try:
            with zipfile.ZipFile(path) as file:
                bad = corrupt(file, required) if self.lax else file.testzip()
                comment = file.comment
        except zipfile.BadZipFile as error:
            raise BrokenPromiseError(f"{how}: zipfile says {error}") from error
        demand(bad is None, f"{how}: {bad!r} is corrupt")
        demand(comment == self.base.comment or not required, f"{how}: the comment is {comment[:20]!r}")
        found, warned = loaded(path)
        demand(not warned, f"{how}: still {warned}")
        if self.lax and not required.keys() - {"resumed"}:
            return
        if self.lax:
            found = {name: array for name, array in found.items() if name in required}
        theirs = by_numpy(path, {*required, *found})
        demand(set(theirs) >= set(found), f"{how}: NumPy misses {set(found) - set(theirs)}")
        for name, allowed in required.items():
            demand(name in theirs, f"{how}: {name!r} is gone")
            demand(is_one_of(found.get(name), allowed), f"{how}: {name!r} is wrong")
            demand(is_one_of(theirs[name], allowed), f"{how}: NumPy reads {name!r} wrongly")
        for name, array in found.items():
            demand(is_one_of(array, possible.get(name, [])), f"{how}: {name!r} is wrong")
        if not self.power:
            gone = set(before) - set(found)
            demand(not gone, f"{how}: load had shown {sorted(gone)}")
        # NumPy knows an archive by its first bytes: not one with something in front, nor, where nothing was
        # synced, one whose first block is lost and whose directory is not.
        has_start = not self.base.raw or self.base.raw.startswith(b"PK")
        if found and has_start and not self.lax:
            with np.load(path) as data:
                demand(set(data.files) >= set(found), f"{how}: numpy.load misses members")
        if self.base.infos and required:
            now = set(facts(path))
            raw = path.read_bytes()
            for info in self.base.infos:
                demand(info in now, f"{how}: {info[0]!r} of the old archive is gone or moved")
            end = max(info[5] + info[3] for info in self.base.infos)
            demand(raw[:end] == self.base.raw[:end], f"{how}: bytes of the old archive were changed")
        if self.count % EVERY_UNZIP == 0:
            # An archive without members makes unzip complain.
            status = unzip_status(path) if found else 0
            demand(status <= self.base.unzip, f"{how}: unzip -t gives {status}")
