"""What mmnpz promises of an archive whose writer died, and the checks whether a file keeps the promise."""

import os
import random
import shutil
import struct
import subprocess
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Sized
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import mmnpz
from tests import sequential
from tests.archives import same, same_items
from tests.faults.recorder import Event, Operation

# Counts for the summary, by what was tried.
TRIED: Counter[str] = Counter()

# A name that no scenario writes.
ABSENT = "not in any archive"

# Of an archive with more than FEW members, each state is checked with all new members and SAMPLE old ones.
# zipfile and NumPy check every EVERY_ORACLE-th of these states.
FEW = 100
SAMPLE = 12
EVERY_ORACLE = 12

UNZIP = shutil.which("unzip")
EVERY_UNZIP = 40


class BrokenPromiseError(AssertionError):
    """A state breaks a promise."""


def demand(holds: object, text: str) -> None:
    """Raise BrokenPromiseError with `text` unless the promise `holds`."""
    if not holds:
        raise BrokenPromiseError(text)


@dataclass
class Knowledge:
    """What the program had asked of a writer, and what calls had returned, when the process died.

    A name may be written several times. `values` has the array of each name and number, and `order` the
    numbers of a name in the order of the calls. `done` counts the calls of `write` that had returned, for
    each name. `durable` counts those whose array must survive a power failure. `flushing` keeps `done` as it
    was at the start of each flush. `streams` has, for each stream that is open, the number of its array, and
    how many rows must survive a kill, and a power failure. A repair `keeps` them.
    """

    values: dict[tuple[str, int], Any] = field(default_factory=dict)
    order: dict[str, list[int]] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    flushing: dict[int, dict[str, int]] = field(default_factory=dict)
    streams: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    keeps: bool = False

    def copy(self) -> "Knowledge":
        """Copy everything but the arrays."""
        order = {name: list(values) for name, values in self.order.items()}
        return Knowledge(
            self.values,
            order,
            dict(self.done),
            dict(self.durable),
            dict(self.flushing),
            dict(self.streams),
            self.keeps,
        )

    def has(self, name: str, array: Any) -> None:
        """Add a member that is in the file from the start."""
        self.values[name, -1] = array
        self.order[name] = [-1]
        self.done[name] = self.durable[name] = 1

    def hear(self, event: Event) -> None:
        """Update the knowledge from a note in the log."""
        if event.operation is not Operation.NOTE:
            return
        match event.words:
            case ["opening", _] | ["repairing", False]:
                # This drops the rows of streams.
                self.streams.clear()
            case ["repairing", True]:
                self.keeps = True
            case _:
                pass
        match event.words:
            case ["opening", "w"]:
                # The writer may already have replaced the old file, so none of the old members is required.
                self.done.clear()
                self.durable.clear()
            case ["begin", name, value]:
                self.order.setdefault(name, []).append(value)
            case ["done", name, value, sync]:
                self.done[name] = self.order[name].index(value) + 1
                if sync:
                    self.durable[name] = self.done[name]
                self.streams.pop(name, None)
            case ["streaming", name, value]:
                self.streams[name] = (value, 0, 0)
            case ["rows", name, rows, sync]:
                value, _, durable = self.streams[name]
                self.streams[name] = (value, rows, rows if sync else durable)
            case ["given up", name]:
                self.streams.pop(name, None)
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
        """Return the names that the file must have, each with the arrays that it may have."""
        counts = self.durable if power else self.done
        return {
            name: [self.values[name, value] for value in self.order[name][count - 1 :]]
            for name, count in counts.items()
            if count
        }

    def key(self, power: bool) -> frozenset[Any]:
        """Return the promise as a key: the same bytes are checked again only if the promise differs."""
        counts = self.durable if power else self.done
        names = frozenset((name, counts.get(name, 0), len(values)) for name, values in self.order.items())
        return names | frozenset(self.streams.items())

    def possible(self) -> dict[str, list[Any]]:
        """Return all names that the file may have, each with the arrays that it may have."""
        found = {name: [self.values[name, value] for value in values] for name, values in self.order.items()}
        for name, (value, _, _) in self.streams.items() if self.keeps else ():
            rows = Rows(self.values[name, value])
            found[name] = [*found[name], rows]
            found[f"{name}.partial"] = [rows]
        return found


@dataclass(frozen=True)
class Base:
    """The archive from which a scenario starts, as zip tools see it."""

    raw: bytes = b""
    infos: tuple[tuple[Any, ...], ...] = ()
    comment: bytes = b""
    unzip: int = 0
    # True if a reader that goes from local header to local header finds all arrays, and the directory
    # follows.
    can_be_walked: bool = True

    @cached_property
    def names(self) -> frozenset[str]:
        """The file names of its members."""
        return frozenset(info[0] for info in self.infos)

    @classmethod
    def of(cls, raw: bytes, work: Path) -> "Base":
        """Inspect an archive with zip tools."""
        if not raw:
            return cls()
        path = fresh(work, raw)
        with zipfile.ZipFile(path) as file:
            comment, arrays = file.comment, arrays_of(file)
        try:
            found, end = sequential.walk(path)
        except AssertionError:
            can_be_walked = False
        else:
            is_all = raw[len(raw) - len(comment) - 22 :].startswith(b"PK\5\6")
            can_be_walked = is_all and set(found) == arrays and raw[end : end + 4] in {b"PK\1\2", b"PK\5\6"}
        return cls(raw, tuple(facts(path)), comment, unzip_status(path), can_be_walked)


def arrays_of(file: zipfile.ZipFile) -> set[str]:
    """Return the names of the arrays that the central directory lists."""
    return {name.removesuffix(".npy") for name in file.namelist() if name.endswith(".npy")}


def facts(path: Path) -> Iterable[tuple[Any, ...]]:
    """Yield what zip tools can tell of each member, its offset included."""
    with zipfile.ZipFile(path) as file:
        for info in file.infolist():
            yield (info.filename, info.CRC, info.file_size, info.compress_size, info.compress_type,
                   info.header_offset, info.date_time, info.comment)  # fmt: skip


def without_marks(raw: bytes, infos: Iterable[tuple[Any, ...]]) -> bytes:
    """Return the bytes of an archive with zeros for the marks in its local headers.

    A mark is wrong after another program renamed the member in place, and the next writer makes it right.
    """
    out = bytearray(raw)
    for info in infos:
        at = info[5]
        name, extra = struct.unpack("<HH", raw[at + 26 : at + 30])
        start = at + 30 + name
        mark = raw.find(b"mm", start, start + extra)
        if mark >= 0:
            out[mark + 4 : mark + 8] = bytes(4)
    return bytes(out)


def unzip_status(path: Path) -> int:
    """Return the exit status of `unzip -t` for an archive: 0 if unzip finds no problem."""
    if UNZIP is None:
        return 0
    done = subprocess.run([UNZIP, "-tqq", path], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    TRIED["unzip -t"] += 1
    return done.returncode


def summary() -> list[str]:
    """Return the lines of the summary: what was tried, and how many states broke the promise."""
    order = (
        "states after kills", "states after power failures", "writers killed", "openings beside writers",
        "unzip -t", "members looked for", "streams that were kept", "old readers that said so",
        "states that break the promise",
    )  # fmt: skip
    return [f"{TRIED[what]:>9,}  {what}" for what in order]


def fresh(work: Path, content: bytes, power: bool = False) -> Path:
    """Write a state to a new file: the file of an earlier state may still be mapped."""
    path = work / "state.npz"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    if power:
        # An old time of modification, so that mmnpz sees that the system was started since: it checks the
        # directory only then.
        os.utime(path, (0, 1_000_000_000))
    return path


def loaded(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Load an archive, and return its views by name, and the warnings. An unreadable member has None."""
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


def ask_in_other_ways(path: Path, found: dict[str, Any], look: Iterable[str]) -> None:
    """Check that new readers, which look members up in other ways, find what the first reader `found`.

    The ways are `in`, `data[name]`, `items` and `gather`. A power failure can leave members unreadable that
    were not synced (None in `found`). `items` reads all members, so it is not called then.
    """
    names = list(found)
    for name in look:
        demand(name in mmnpz.load(path), f"load denies {name!r}")
        break
    demand(ABSENT not in mmnpz.load(path), f"load has {ABSENT!r}")
    data = mmnpz.load(path)
    for name in look:
        demand(found[name] is None or same(data[name], found[name]), f"load reads {name!r} in two ways")
    if all(array is not None for array in found.values()):
        items = dict(mmnpz.load(path).items())
        demand(list(items) == names, f"items() has {len(items)} names, files has {len(names)}")
        for name in look:
            demand(same(items[name], found[name]), f"items() reads {name!r} wrongly")
    data = mmnpz.load(path)
    for position in sorted({0, len(names) // 2, len(names) - 1}) if names else []:
        array = found[names[position]]
        if array is not None:
            batch = data.gather([position])
            demand(same_items(batch[0], array), f"gather reads the array at position {position} wrongly")


def by_numpy(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """Return the arrays that NumPy reads, for those `names` that it finds."""
    if path.read_bytes()[:2] == b"PK":
        with np.load(path) as data:
            return {name: data[name] for name in names if name in data.files}
    # numpy.load takes an archive with bytes in front of it for a pickle. So open it with zipfile, and let
    # NumPy read the members.
    found = {}
    with zipfile.ZipFile(path) as file:
        for name in set(names) & {name.removesuffix(".npy") for name in file.namelist()}:
            with file.open(name + ".npy") as member:
                found[name] = np.lib.format.read_array(member)
    return found


@dataclass(frozen=True)
class Rows:
    """What an array may be: the first rows of this one."""

    whole: Any


def is_one_of(array: Any, allowed: list[Any]) -> bool:
    """Return whether an array exists and equals one of the allowed arrays."""
    if array is None:
        return False
    arrays = [other.whole[: len(array)] if isinstance(other, Rows) else other for other in allowed]
    return any(same(array, other) for other in arrays)


def corrupt(file: zipfile.ZipFile, names: Iterable[str]) -> str | None:
    """Return the first name whose member does not have the CRC-32 of its entry, or None."""
    for name in names:
        try:
            file.read(f"{name}.npy")
        except zipfile.BadZipFile:
            return name
    return None


@dataclass(frozen=True)
class Promised:
    """A state, the arrays that it must and may have, by name, and what `load` found in it before a repair."""

    content: bytes
    required: dict[str, list[Any]]
    possible: dict[str, list[Any]]
    before: dict[str, Any]

    def and_this(self, name: str, array: Any) -> "Promised":
        """Return this promise with one more array that the file must have."""
        added = {name: [array]}
        return replace(self, required=self.required | added, possible=self.possible | added)


class Judge:
    """Checks states, and collects failures."""

    def __init__(self, work: Path, base: Base, power: bool = False, sync: bool = False) -> None:
        self.work = work
        self.base = base
        self.power = power
        # After a power failure, a directory may list members whose bytes were not synced.
        self.lax = power and not sync
        self.count = 0
        self.failures: list[str] = []
        self.seen: set[Any] = set()

    def is_new(self, content: bytes | None, knowledge: Knowledge) -> bool:
        """Return whether this state was not checked before. Many moments leave the same bytes."""
        state = (hash(content), knowledge.key(self.power))
        if state in self.seen:
            return False
        self.seen.add(state)
        return True

    def check(self, content: bytes | None, knowledge: Knowledge, label: str) -> None:
        """Check one state. Record a failure, and keep the file that caused it."""
        self.count += 1
        TRIED["states after power failures" if self.power else "states after kills"] += 1
        try:
            self.check_state(content, knowledge)
        except (BrokenPromiseError, OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
            text = str(error) if isinstance(error, BrokenPromiseError) else repr(error)
            TRIED["states that break the promise"] += 1
            self.failures.append(f"{label}: {text}".replace(str(self.work), ""))
            if content is not None:
                (self.work / f"failed-{len(self.failures)}.npz").write_bytes(content)

    def conclude(self) -> None:
        """Fail if any state broke a promise."""
        shown = "\n".join(self.failures[:5])
        text = f"{len(self.failures)} of {self.count} states break a promise (kept in {self.work}):\n{shown}"
        assert not self.failures, text

    def sample(self, names: Iterable[str]) -> list[str]:
        """Return the names whose arrays this state is checked for: all, or the new and some old ones."""
        names = list(names)
        if len(names) <= FEW:
            return names
        new = [name for name in names if f"{name}.npy" not in self.base.names]
        old = [name for name in names if f"{name}.npy" in self.base.names]
        chance = random.Random(self.count)
        return [*new, *{*old[:1], *old[-1:], *chance.sample(old, min(SAMPLE, len(old)))}]

    def asks_others(self, names: Sized) -> bool:
        """Return whether NumPy and zipfile check this state too: each state of at most FEW members."""
        return len(names) <= FEW or self.count % EVERY_ORACLE == 0

    def check_state(self, content: bytes | None, knowledge: Knowledge) -> None:
        """Check the whole promise for one state: reading, repairing and appending."""
        required, possible = knowledge.required(self.power), knowledge.possible()
        TRIED["members looked for"] += len(self.sample(required))
        if content is None:
            demand(not required, "the file is gone")
            return
        before = self.check_before(fresh(self.work, content, self.power), required, possible)
        promised = Promised(content, required, possible, before)
        self.check_repair(promised)
        self.check_append(promised)
        if knowledge.streams:
            self.check_partial(promised, knowledge)

    def check_before(
        self, path: Path, required: dict[str, list[Any]], possible: dict[str, list[Any]]
    ) -> dict[str, Any]:
        """Check what `load` finds before any repair, and return it."""
        try:
            found, warned = loaded(path)
        except zipfile.BadZipFile as error:
            demand(not required, f"load: {error}")
            return {}
        missing = required.keys() - found.keys()
        demand(not missing, f"load does not find {sorted(missing)[:5]}")
        look = self.sample(required)
        for name in look:
            demand(is_one_of(found[name], required[name]), f"load reads {name!r} wrongly")
        if not self.power:
            for name in self.sample(found):
                demand(is_one_of(found[name], possible.get(name, [])), f"load shows {name!r} wrongly")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ask_in_other_ways(path, found, look)
        if not warned and self.asks_others(required):
            # Without a warning the directory is complete, so NumPy must find what mmnpz finds.
            try:
                missing = set(look) - set(by_numpy(path, look))
            except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
                raise BrokenPromiseError(f"no warning, and NumPy says {error!r}") from error
            demand(not missing, f"no warning, and NumPy does not see {sorted(missing)}")
        return found

    def check_repair(self, promised: Promised) -> None:
        """Check a repair, a second repair, and appending to the repaired file."""
        content, required = promised.content, promised.required
        path = fresh(self.work, content, self.power)
        try:
            report = mmnpz.repair(path)
        except zipfile.BadZipFile as error:
            demand(self.power and not required, f"repair: {error}")
            return
        if self.asks_others(required):
            with zipfile.ZipFile(path) as file:
                demand(report.members == len(file.infolist()), f"repair miscounts: {report}")
        self.check_whole(path, promised, "repaired")
        raw = path.read_bytes()
        demand(report.changed == (raw != content), f"repair says changed: {report.changed}")
        again = mmnpz.repair(path)
        demand(not again.changed and path.read_bytes() == raw, "repair is not idempotent")
        demand(not again.recovered, f"repaired again: {again.recovered}")
        try:
            extra = self.append(path, required, "repaired, then resumed")
        except zipfile.BadZipFile as error:
            raise BrokenPromiseError(f"appending to what was repaired: {error}") from error
        # The repaired file was just checked. The appended file must keep its arrays, and have the added one.
        found, warned = loaded(path)
        demand(not warned, f"repaired, then resumed: {warned}")
        for name in self.sample(required):
            demand(is_one_of(found.get(name), required[name]), f"repaired, then resumed: {name!r} is gone")
        gone = required.keys() - found.keys()
        demand(not gone, f"repaired, then resumed: {sorted(gone)[:5]} are gone")
        demand(is_one_of(found.get("resumed"), [extra]), "repaired, then resumed: the added array is gone")
        if self.asks_others(required) and path.read_bytes()[:2] == b"PK":
            with np.load(path) as data:
                demand(same(data["resumed"], extra), "repaired, then resumed: NumPy reads another array")

    def check_partial(self, promised: Promised, knowledge: Knowledge) -> None:
        """Check a repair that keeps the rows of streams."""
        path = fresh(self.work, promised.content, self.power)
        rows = {
            name: durable if self.power else kept for name, (_, kept, durable) in knowledge.streams.items()
        }
        try:
            report = mmnpz.repair(path, keep_partial=True)
        except zipfile.BadZipFile as error:
            demand(not promised.required and not any(rows.values()), f"keep_partial: {error}")
            return
        found, warned = loaded(path)
        demand(not warned, f"keep_partial: {warned}")
        for name, allowed in promised.required.items():
            demand(is_one_of(found.get(name), allowed), f"keep_partial: {name!r} is gone")
        arrays = {array.stream: array for array in report.partial}
        for stream, (value, _, _) in knowledge.streams.items():
            whole = knowledge.values[stream, value]
            if stream in arrays:
                array = arrays[stream]
                demand(array.name in {stream, f"{stream}.partial"}, f"keep_partial: {array}")
                is_right = is_one_of(found.get(array.name), [whole[: array.rows]])
                demand(is_right, f"keep_partial: wrong rows: {array}")
                demand(array.rows >= rows[stream], f"keep_partial: {array}, and {rows[stream]} were flushed")
            elif rows[stream]:
                # It was finished, and nobody was told; or by a repair before.
                kept = [found.get(name) for name in (stream, f"{stream}.partial")] if knowledge.keeps else []
                is_there = is_one_of(found.get(stream), [whole]) or any(
                    is_one_of(array, [Rows(whole)]) and len(array) >= rows[stream]
                    for array in kept
                    if array is not None
                )
                demand(is_there, f"keep_partial: {rows[stream]} rows of {stream!r} are lost")
        if not self.lax:
            self.check_from_header_to_header(path, "keep_partial")
        again = mmnpz.repair(path, keep_partial=True)
        demand(not again.changed, f"keep_partial: repaired again: {again}")

    def append(self, path: Path, required: dict[str, list[Any]], how: str) -> Any:
        """Append an array to a file, and return the array."""
        extra = np.arange(self.count % 5000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            writer = mmnpz.NpzWriter(path, "a")
            files = set(writer.files)
            missing = sorted(required.keys() - files)
            demand(not missing, f"{how}: the writer misses {missing[:5]}")
            demand(all(name in writer for name in required), f"{how}: the writer denies what it lists")
            demand(ABSENT not in writer, f"{how}: the writer has {ABSENT!r}")
            demand(len(writer) == len(files), f"{how}: the writer miscounts")
            writer.write("resumed", extra)
            writer.close()
        return extra

    def check_append(self, promised: Promised) -> None:
        """Check that mode "a" repairs the file, and that a repair after that loses nothing."""
        required = promised.required
        path = fresh(self.work, promised.content, self.power)
        try:
            if self.count % 4 == 0:
                # Write nothing: only opening and closing change the file.
                mmnpz.NpzWriter(path, "a").close()
            else:
                extra = self.append(path, required, "resumed")
                promised = promised.and_this("resumed", extra)
        except zipfile.BadZipFile as error:
            demand(self.power and not required, f"appending: {error}")
            return
        self.check_whole(path, promised, "resumed")
        raw = path.read_bytes()
        report = mmnpz.repair(path)
        # `repair` looks for more than mode "a" does, so it may change the file again. It must lose nothing.
        if report.changed or path.read_bytes() != raw:
            self.check_whole(path, promised, "resumed, then repaired")

    def check_whole(self, path: Path, promised: Promised, how: str) -> None:
        """Check an archive that mmnpz has repaired or closed: it must be whole for all programs."""
        required, possible, before = promised.required, promised.possible, promised.before
        # mmnpz may truncate a file in which no member was ever finished.
        nothing = not before or (self.power and not required.keys() - {"resumed"})
        demand(path.stat().st_size >= len(promised.content) or nothing, f"{how}: the file became shorter")
        found, warned = loaded(path)
        demand(not warned, f"{how}: still {warned}")
        gone = required.keys() - found.keys()
        demand(not gone, f"{how}: {sorted(gone)[:5]} are gone")
        look = self.sample(required)
        for name in look:
            demand(is_one_of(found[name], required[name]), f"{how}: {name!r} is wrong")
        if self.asks_others(required):
            self.check_by_others(path, required, found, how)
        if self.lax:
            return
        for name in self.sample(found):
            demand(is_one_of(found[name], possible.get(name, [])), f"{how}: {name!r} is wrong")
        if self.asks_others(required):
            self.check_from_header_to_header(path, how)
        if not self.power:
            lost = set(before) - set(found)
            demand(not lost, f"{how}: load had shown {sorted(lost)}")

    def check_from_header_to_header(self, path: Path, how: str) -> None:
        """Check the archive with a reader that goes from local header to local header."""
        if not self.base.can_be_walked:
            return
        try:
            names = set(sequential.walk(path)[0])
        except AssertionError as error:
            raise BrokenPromiseError(f"{how}: from header to header: {error}") from error
        with zipfile.ZipFile(path) as file:
            differ = sorted(names ^ arrays_of(file))
        demand(not differ, f"{how}: from header to header, or in the directory only: {differ[:5]}")

    def check_by_others(
        self, path: Path, required: dict[str, list[Any]], found: dict[str, Any], how: str
    ) -> None:
        """Check an archive that must be whole with zipfile, NumPy and Info-ZIP."""
        look = self.sample(required)
        try:
            with zipfile.ZipFile(path) as file:
                bad = corrupt(file, look) if self.lax else file.testzip()
                comment = file.comment
        except zipfile.BadZipFile as error:
            raise BrokenPromiseError(f"{how}: zipfile says {error}") from error
        demand(bad is None, f"{how}: {bad!r} is corrupt")
        demand(comment == self.base.comment or not required, f"{how}: the comment is {comment[:20]!r}")
        if self.lax and not required.keys() - {"resumed"}:
            return
        theirs = by_numpy(path, look if self.lax else {*look, *self.sample(found)})
        demand(self.lax or set(theirs) >= set(self.sample(found)), f"{how}: NumPy does not see all")
        for name in look:
            demand(name in theirs, f"{how}: NumPy does not see {name!r}")
            demand(is_one_of(theirs[name], required[name]), f"{how}: NumPy reads {name!r} wrongly")
        # numpy.load recognises an archive by its first bytes. So it fails for one with bytes in front of it.
        # It also fails where a power failure lost the first block, without a sync, and kept the directory.
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
            before, after = (
                without_marks(archive[:end], self.base.infos) for archive in (self.base.raw, raw)
            )
            demand(before == after, f"{how}: bytes of the old archive were changed")
        if self.count % EVERY_UNZIP == 0 and not self.lax:
            # unzip complains about an archive without members.
            status = unzip_status(path) if found else 0
            demand(status <= self.base.unzip, f"{how}: unzip -t gives {status}")
