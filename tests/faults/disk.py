"""The states in which a kill or a power failure can leave the disk, at each moment of a recording."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.recorder import Event, Operation

PAGE = 4096


@dataclass(frozen=True)
class State:
    """The bytes of the archive, or None if there is no file, and the number of events logged by then."""

    content: bytes | None
    events: int
    label: str


class Files:
    """The files of a folder: inodes by name, and contents by inode."""

    def __init__(self, names: dict[str, int], contents: dict[int, bytearray]) -> None:
        self.names = names
        self.contents = contents

    @classmethod
    def of_folder(cls, folder: Path) -> "Files":
        """Read the files of a folder."""
        paths = [path for path in folder.iterdir() if path.is_file()]
        names = {str(path): path.stat().st_ino for path in paths}
        return cls(names, {path.stat().st_ino: bytearray(path.read_bytes()) for path in paths})

    def apply(self, operation: Event, end: Event, size: int | None = None) -> None:
        """Apply a recorded operation; of a write, only the first `size` bytes if that is given."""
        match operation.operation:
            case Operation.WRITE:
                data = operation.data[: end.result if size is None else size]
                put(self.contents[operation.inode], operation.offset, data)
            case Operation.TRUNCATE:
                resize(self.contents[operation.inode], operation.offset)
            case Operation.CREATE:
                self.names[operation.path] = end.inode
                self.contents[end.inode] = bytearray()
            case Operation.RENAME:
                self.names[operation.data.decode()] = self.names.pop(operation.path)
            case Operation.UNLINK:
                del self.names[operation.path]
            case _:
                pass

    def content(self, path: Path) -> bytes | None:
        """Return the content of a file, or None if it does not exist."""
        inode = self.names.get(str(path))
        return None if inode is None else bytes(self.contents[inode])


def put(content: bytearray, offset: int, data: bytes) -> None:
    """Write as pwrite does: bytes between the old end and the offset become zeros."""
    if not data:
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def resize(content: bytearray, size: int) -> None:
    """Resize as ftruncate does."""
    del content[size:]
    content.extend(bytes(size - len(content)))


def cuts(write: Event, most: int, chance: random.Random) -> list[int]:
    """Return how many bytes of a write can be in the file when a kill interrupts it.

    The kernel writes whole pages of the file. Return at most `most` such sizes.
    """
    first = PAGE - write.offset % PAGE
    all_of_them = range(first, len(write.data), PAGE)
    if len(all_of_them) <= most:
        return list(all_of_them)
    chosen = {all_of_them[0], all_of_them[1], all_of_them[-2], all_of_them[-1]}
    chosen.update(chance.sample(all_of_them, max(0, most - len(chosen))))
    return sorted(chosen)


def states_after_kill(
    files: Files, events: Sequence[Event], path: Path, most_cuts: int, seed: int = 1
) -> Iterator[State]:
    """Yield the states in which a kill can leave the archive.

    Each state is a prefix of the operations, plus whole pages of the writes that are in the kernel.
    """
    chance = random.Random(seed)
    in_flight: dict[int, Event] = {}
    last: State | None = State(files.content(path), 0, "at the start")
    for count, event in enumerate(events, 1):
        if event.operation is Operation.NOTE:
            # The bytes are the same, and the writer has promised more: check the later moment only.
            if last is not None:
                last = State(last.content, count, last.label)
            else:
                last = State(files.content(path), count, "after a note")
            continue
        if last is not None:
            yield last
            last = None
        if not event.is_end:
            in_flight[event.number] = event
            if event.operation is Operation.WRITE:
                for size in cuts(event, most_cuts, chance):
                    yield partly(files, path, {event: size}, count)
                if len(in_flight) == 1:
                    continue
        else:
            start = in_flight.pop(event.number)
            if event.result >= 0:
                files.apply(start, event)
                if start.operation in {
                    Operation.WRITE,
                    Operation.TRUNCATE,
                    Operation.CREATE,
                    Operation.RENAME,
                }:
                    what = f"{start.operation.name} {start.number}, {len(start.data)} B at {start.offset}"
                    last = State(files.content(path), count, "after " + what)
        writes = [other for other in in_flight.values() if other.operation is Operation.WRITE]
        if len(writes) >= (1 if event.is_end else 2):
            for _ in range(2):
                parts = {}
                for other in writes:
                    parts[other] = chance.choice([0, len(other.data), *cuts(other, 2, chance)])
                yield partly(files, path, parts, count)
    if last is not None:
        yield last


def partly(files: Files, path: Path, parts: dict[Event, int], count: int) -> State:
    """Return the archive with the first bytes of some writes that have not ended."""
    copies = {inode: bytearray(files.contents[inode]) for inode in {write.inode for write in parts}}
    for write, size in parts.items():
        put(copies[write.inode], write.offset, write.data[:size])
    inode = files.names.get(str(path), -1)
    content = bytes(copies[inode]) if inode in copies else files.content(path)
    sizes = ", ".join(f"{size} of {len(write.data)} B of {write.number}" for write, size in parts.items())
    return State(content, count, "with " + sizes)


@dataclass
class Pending:
    """A write or a truncation that no sync has made durable yet."""

    start: Event
    is_done: bool = False


@dataclass
class Inode:
    """The durable content of a file, and the operations since its last sync."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Pending] = field(default_factory=list)


@dataclass
class Disk:
    """The durable state of a disk, and the operations that may or may not have reached it."""

    inodes: dict[int, Inode]
    names: dict[str, int]
    pending_names: list[tuple[Event, int]]
    folder: int


def states_after_power_loss(
    files: Files, folder: Path, events: Sequence[Event], path: Path, each: int, seed: int = 1
) -> Iterator[State]:
    """Yield states in which a power failure can leave the archive: `each` random ones at each moment.

    Each block, and each new size of a file, may or may not have reached the disk since the last sync. Changes
    of names reach the disk in their order.
    """
    chance = random.Random(seed)
    inodes = {inode: Inode(bytearray(content)) for inode, content in files.contents.items()}
    disk = Disk(inodes, dict(files.names), [], folder.stat().st_ino)
    starts: dict[int, Event] = {}
    # By the number of a sync that has begun: the operations that it makes durable when it ends.
    covered: dict[int, set[int]] = {}
    for count, event in enumerate(events, 1):
        if event.operation is Operation.NOTE:
            if event.words[0] in {"done", "flushed", "closed"}:
                yield from power_states(disk, path, each, count, chance)
            continue
        if not event.is_end:
            starts[event.number] = event
            if event.operation in {Operation.WRITE, Operation.TRUNCATE}:
                disk.inodes[event.inode].pending.append(Pending(event))
                yield from power_states(disk, path, each, count, chance)
            elif event.operation is Operation.SYNC:
                covered[event.number] = done_so_far(disk, event.inode)
            continue
        start = starts.pop(event.number)
        if event.result < 0:
            continue
        if start.operation in {Operation.WRITE, Operation.TRUNCATE}:
            for pending in disk.inodes[start.inode].pending:
                pending.is_done = pending.is_done or pending.start.number == start.number
        elif start.operation in {Operation.CREATE, Operation.RENAME, Operation.UNLINK}:
            disk.pending_names.append((start, event.inode))
            if start.operation is Operation.CREATE:
                disk.inodes[event.inode] = Inode()
        elif start.operation is Operation.SYNC:
            make_durable(disk, start.inode, covered.pop(start.number))
            yield from power_states(disk, path, each, count, chance)


def done_so_far(disk: Disk, inode: int) -> set[int]:
    if inode == disk.folder:
        return {event.number for event, _ in disk.pending_names}
    return {pending.start.number for pending in disk.inodes[inode].pending if pending.is_done}


def make_durable(disk: Disk, inode: int, numbers: set[int]) -> None:
    if inode == disk.folder:
        disk.names = names_after(disk, sum(event.number in numbers for event, _ in disk.pending_names))
        disk.pending_names = [entry for entry in disk.pending_names if entry[0].number not in numbers]
        return
    file = disk.inodes[inode]
    for pending in file.pending:
        if pending.start.number in numbers:
            do(file.durable, pending.start)
    file.pending = [pending for pending in file.pending if pending.start.number not in numbers]


def do(content: bytearray, event: Event) -> None:
    if event.operation is Operation.WRITE:
        put(content, event.offset, event.data)
    else:
        resize(content, event.offset)


def names_after(disk: Disk, count: int) -> dict[str, int]:
    names = dict(disk.names)
    for event, inode in disk.pending_names[:count]:
        if event.operation is Operation.CREATE:
            names[event.path] = inode
        elif event.operation is Operation.RENAME:
            names[event.data.decode()] = names.pop(event.path)
        else:
            del names[event.path]
    return names


EXTREMES = (
    "nothing",
    "everything",
    "all but one block",
    "one block",
    "the newest only",
    "all but the newest",
)


def power_states(disk: Disk, path: Path, each: int, count: int, chance: random.Random) -> Iterator[State]:
    moment = f"event {count}, "
    for number in range(each):
        kind = chance.choice(EXTREMES) if number == 0 else "random"
        names = names_after(disk, chance.randint(0, len(disk.pending_names)))
        inode = names.get(str(path))
        if inode is None:
            yield State(None, count, moment + "without its name")
            continue
        block = chance.choice([512, PAGE])
        yield State(
            torn(disk.inodes[inode], kind, block, chance), count, f"{moment}{kind}, blocks of {block} B"
        )
    inode = disk.names.get(str(path))
    if inode is None or disk.pending_names:
        return
    file = disk.inodes[inode]
    writes = [pending.start for pending in file.pending if pending.start.operation is Operation.WRITE]
    if len(writes) > 1:
        # A random state seldom lacks just one small write, such as an end record. So leave out the smallest
        # write, and one that is chosen at random.
        for lost in (min(writes, key=lambda write: len(write.data)), chance.choice(writes)):
            block = chance.choice([512, PAGE])
            content = torn(file, "random", block, chance, lost)
            yield State(content, count, f"{moment}without write {lost.number}, blocks of {block} B")


def torn(file: Inode, kind: str, block: int, chance: random.Random, lost: Event | None = None) -> bytes:
    """Return the content of a file with only some of the blocks that were written since the last sync.

    `kind` says which blocks. No block holds bytes of the write `lost`.
    """
    content = bytearray(file.durable)
    writes: list[Event] = []
    sizes = [len(content)]
    for pending in file.pending:
        event = pending.start
        if event.operation is Operation.WRITE:
            writes.append(event)
            sizes.append(max(sizes[-1], event.offset + len(event.data)))
        else:
            sizes.append(event.offset)
    versions: dict[int, list[Event]] = {}
    for event in writes:
        for number in range(event.offset // block, (event.offset + len(event.data) - 1) // block + 1):
            versions.setdefault(number, []).append(event)
    if not versions or kind == "nothing":
        return bytes(content)
    newest = writes[-1]
    one = chance.choice(list(versions))
    share = chance.choice([0.05, 0.3, 0.5, 0.7, 0.95])
    for number, events in versions.items():
        match kind:
            case "everything":
                keep = len(events)
            case "all but one block":
                keep = len(events) - (number == one)
            case "one block":
                keep = len(events) if number == one else 0
            case "the newest only":
                keep = len(events) if newest in events else 0
            case "all but the newest":
                keep = len(events) - (newest in events)
            case _:
                keep = len(events) if chance.random() < share else chance.randrange(len(events))
        if lost is not None and lost in events:
            # Later writes to this block are lost too: the disk gets a block as it is in memory at one moment.
            keep = min(keep, events.index(lost))
        start = number * block
        for event in events[:keep]:
            low, high = max(start, event.offset), min(start + block, event.offset + len(event.data))
            put(content, low, event.data[low - event.offset : high - event.offset])
    size = max(sizes) if chance.random() < 0.6 else chance.choice(sizes)
    resize(content, size)
    return bytes(content)
