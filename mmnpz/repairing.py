"""Bringing back what a writer left that was killed."""

import os
from collections.abc import Callable
from typing import NamedTuple

from mmnpz._mmnpz import _repair

__all__ = ["DroppedMember", "RepairReport", "repair"]


class DroppedMember(NamedTuple):
    """
    A member that was begun and is not in the archive.

    Attributes
    ----------
    name : str
        Its name without the ``.npy`` extension.
    offset : int
        Where its local header starts in the file, in bytes.
    reason : str
        Why it is not in the archive.
    """

    name: str
    offset: int
    reason: str


class RepairReport(NamedTuple):
    """
    What `repair` found and did; ``str`` gives it as text.

    Attributes
    ----------
    path : str
        The file.
    members : int
        How many members the archive has now.
    recovered : list of str
        The names of arrays that no complete directory listed, and that the archive has now.
    dropped : list of DroppedMember
        What was begun and not finished, or did not reach the disk before a power failure.
    changed : bool
        Whether anything had to be done.
    """

    path: str
    members: int
    recovered: list[str]
    dropped: list[DroppedMember]
    changed: bool

    def __str__(self) -> str:
        if not self.changed:
            return f"{self.path}: nothing to repair, {self.members} members"
        lines = [f"{self.path}: repaired, {self.members} members, {len(self.recovered)} of them recovered"]
        lines += [f"recovered {name!r}" for name in self.recovered]
        lines += [f"dropped {name!r} at byte {offset}: {reason}" for name, offset, reason in self.dropped]
        return "\n".join(lines)


def repair(
    fn: str | os.PathLike[str], *, progress: Callable[[int, int], object] | None = None
) -> RepairReport:
    """
    Write the directory of an archive whose writer was killed.

    Every array whose `NpzWriter.write` had returned is found again, and so is every member that was in the
    file before. The checksums of those that no directory lists are compared: after a power failure, arrays
    that were not synced may be incomplete, and are dropped. Of an archive that another program did not
    finish, the stored members from the start of the file are taken, as far as their checksums are right.

    Nothing is done to an archive that is whole. A process that is killed while it repairs loses nothing:
    repair again. The file does not get shorter, so that readers which have it mapped are not hurt.

    Parameters
    ----------
    fn : str or os.PathLike
        The file.
    progress : callable, optional
        Called with the number of bytes that were checked and the number that are to be.

    Returns
    -------
    RepairReport
        What was found and done.

    Raises
    ------
    OSError
        If the file cannot be opened or written.
    BlockingIOError
        If a writer has the file open.
    zipfile.BadZipFile
        If there is nothing of an archive in the file.

    See Also
    --------
    NpzWriter : In mode ``"a"`` it repairs by itself, and goes on.

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
    members, recovered, dropped, changed = _repair(path, progress)
    return RepairReport(path, members, recovered, [DroppedMember(*member) for member in dropped], changed)
