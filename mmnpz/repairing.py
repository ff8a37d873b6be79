"""Repair archives that a killed writer left without a complete central directory."""

import os
from collections.abc import Callable
from typing import NamedTuple

from mmnpz._mmnpz import _repair
from mmnpz._progress import told

__all__ = ["DroppedMember", "PartialArray", "RepairReport", "repair"]


class DroppedMember(NamedTuple):
    """
    A member that a writer began, and that `repair` did not list in the archive.

    Attributes
    ----------
    name : str
        The member's name without the ``.npy`` extension.
    offset : int
        The offset of the member's local header in the file, in bytes.
    reason : str
        Why `repair` did not list the member.
    """

    name: str
    offset: int
    reason: str


class PartialArray(NamedTuple):
    """
    An array that `repair` made of the rows of a stream that was not finished.

    Attributes
    ----------
    name : str
        The name of the array: that of the stream, with ``.partial`` behind it if there was an array of that
        name.
    stream : str
        The name of the stream.
    rows : int
        The number of rows.
    """

    name: str
    stream: str
    rows: int


class RepairReport(NamedTuple):
    """
    What `repair` found and did. ``str`` gives the report as text.

    Attributes
    ----------
    path : str
        The path of the file.
    members : int
        The number of members in the archive after the repair.
    recovered : list of str
        The names of the arrays that the directory now lists, and that no complete directory listed before.
    dropped : list of DroppedMember
        The members that a writer did not finish, or whose bytes did not reach the disk before a power
        failure.
    changed : bool
        Whether `repair` changed the file.
    partial : tuple of PartialArray
        The arrays that `repair` made of streams, with ``keep_partial=True``. They are among `recovered`, too.
    """

    path: str
    members: int
    recovered: list[str]
    dropped: list[DroppedMember]
    changed: bool
    partial: tuple[PartialArray, ...] = ()

    def __str__(self) -> str:
        if not self.changed:
            return f"{self.path}: nothing to repair, {self.members} members"
        lines = [f"{self.path}: repaired, {self.members} members, {len(self.recovered)} of them recovered"]
        partial = {array.name: array for array in self.partial}
        lines += [f"recovered {name!r}" for name in self.recovered if name not in partial]
        lines += [
            f"recovered {name!r}: {array.rows} rows of the stream {array.stream!r}, which was not finished"
            for name, array in partial.items()
        ]
        lines += [f"dropped {name!r} at byte {offset}: {reason}" for name, offset, reason in self.dropped]
        return "\n".join(lines)


def repair(
    fn: str | os.PathLike[str],
    *,
    keep_partial: bool = False,
    progress: Callable[[int, int], object] | bool | None = None,
) -> RepairReport:
    """
    Write the central directory of an archive whose writer was killed.

    The repair finds every array whose `NpzWriter.write` had returned, and every member that was in the file
    before. It compares the checksums of the members that no directory lists. After a power failure, arrays
    that were not synced may be incomplete: the repair drops those. In an archive that another program did not
    finish, the repair takes the stored members from the start of the file, as far as their checksums are
    right.

    The repair does not look for damage inside of members that a directory lists: `NpzReader.verify` does.

    The repair does not change an archive that is whole. A repair that is killed loses nothing: repair again.
    The repair never makes the file shorter, so readers that have the file mapped are safe.

    Parameters
    ----------
    fn : str or os.PathLike
        The file to repair.
    keep_partial : bool, optional
        Whether a stream that was not finished (see `NpzWriter.stream`) becomes an array of its whole rows:
        after a kill, those that were in the file, at least all that were flushed; after a power failure,
        those that were flushed with ``sync=True``, at least. By default, `repair` drops it for good.
    progress : callable or True, optional
        Called with two numbers: how many bytes the repair has checked, and how many it has to check in all.
        True shows a bar, and needs tqdm.

    Returns
    -------
    RepairReport
        What the repair found and did.

    Raises
    ------
    OSError
        If the file cannot be opened or written.
    BlockingIOError
        If a writer has the file open.
    zipfile.BadZipFile
        If the file holds no part of an archive.

    See Also
    --------
    NpzWriter : Repairs the file by itself in mode ``"a"``, and then appends to it.

    Examples
    --------
    >>> import mmnpz
    >>> with mmnpz.NpzWriter("example.npz") as writer:
    ...     writer.write("a", [1, 2, 3])
    >>> import os
    >>> os.truncate("example.npz", os.path.getsize("example.npz") - 30)  # what a killed writer leaves
    >>> report = mmnpz.repair("example.npz")
    >>> report.recovered, report.dropped, mmnpz.load("example.npz")["a"]
    (['a'], [], memmap([1, 2, 3]))
    >>> print(mmnpz.repair("example.npz"))
    example.npz: nothing to repair, 1 members
    """
    path = os.fspath(fn)
    with told(progress, path) as tell:
        members, recovered, dropped, changed, partial = _repair(path, bool(keep_partial), tell)
    return RepairReport(
        path,
        members,
        recovered,
        [DroppedMember(*member) for member in dropped],
        changed,
        tuple(PartialArray(*array) for array in partial),
    )
