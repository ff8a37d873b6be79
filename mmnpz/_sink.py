"""Where an archive is written: to the file at a path, to an open file, or to a stream, once it is whole."""

import io
import os
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from mmnpz._source import name_of, regular_file

if TYPE_CHECKING:
    from typing import Protocol

    class Writable(Protocol):
        """A binary file."""

        def write(self, data: Any, /) -> object:
            """Write bytes."""

    Target = str | bytes | os.PathLike[str] | os.PathLike[bytes] | Writable

__all__ = ["Sink", "sink_of"]

_DESCRIPTORS = "/proc/self/fd"
"""Where Linux has a path for each open file, be it that no other path leads there."""

_PIECE = 1 << 20
"""A stream gets so many bytes at a time."""


class Sink(NamedTuple):
    """
    Where an archive is written.

    Attributes
    ----------
    path : str
        The file to which the writer writes.
    mode : str
        How it opens that file.
    name : str
        What messages call it.
    finish : callable or None
        To be called once the writer is closed.
    spool : binary file or None
        The file at `path`, if it is one from which a stream gets the archive once that is whole.
    """

    path: str
    mode: str
    name: str
    finish: Callable[[], object] | None = None
    spool: IO[bytes] | None = None


def sink_of(fn: Any, mode: str, sync: bool) -> Sink:
    """
    Tell where an archive is written.

    Raises
    ------
    TypeError
        If `fn` is neither a path nor a binary file.
    OSError, ValueError
        If an archive cannot be written to the file in this mode.
    """
    if isinstance(fn, (str, bytes, os.PathLike)):
        path = str(os.fsdecode(fn))
        return Sink(path, mode, path)
    if not hasattr(fn, "write"):
        raise TypeError(f"expected a path or a binary file, got {type(fn).__name__}")
    name = name_of(fn)
    if isinstance(fn, io.TextIOBase):
        raise TypeError(f"{name}: the file was opened in text mode: open it in mode 'wb'")
    if hasattr(fn, "writable") and not fn.writable():
        raise io.UnsupportedOperation(f"{name}: the file is not open for writing")
    return _to_file(fn, mode, name) or _to_stream(fn, mode, sync, name)


def _to_file(file: Any, mode: str, name: str) -> Sink | None:
    """Return how a file of the system is written to in place, for it is that file that the caller has."""
    found = regular_file(file)
    if found is None:
        return None
    descriptor, path = found
    if path is None:
        path = f"{_DESCRIPTORS}/{descriptor}"
        if not os.path.exists(path):
            return None
    size = os.fstat(descriptor).st_size
    if mode == "a" or size == 0:
        return Sink(path, "a", name, finish=lambda: file.closed or file.seek(0, os.SEEK_END))
    if file.tell() == size:
        return None
    raise ValueError(f"{name}: the file is not empty: open it in mode 'wb', or pass its path")


def _to_stream(file: Any, mode: str, sync: bool, name: str) -> Sink:
    """Return how an archive gets to a stream: by another file, as its bytes are not written in order."""
    if mode == "a":
        raise io.UnsupportedOperation(f"{name}: mode 'a' needs a file that the system can read and lock")
    if sync:
        raise io.UnsupportedOperation(f"{name}: sync=True needs a file of the system")
    import tempfile  # imported here: `import mmnpz` should not load tempfile

    has_paths = os.path.exists(_DESCRIPTORS)
    spool: IO[bytes] = (tempfile.TemporaryFile if has_paths else tempfile.NamedTemporaryFile)()
    path = f"{_DESCRIPTORS}/{spool.fileno()}" if has_paths else spool.name
    owner = os.getpid()

    def finish() -> None:
        if os.getpid() != owner:  # a forked child has a copy of the writer, which writes nothing
            return
        with spool:
            while piece := spool.read(_PIECE):
                left = memoryview(piece)
                while left:
                    count = file.write(left)  # a file without a buffer may take a part
                    left = left[count if isinstance(count, int) else len(left) :]
        if hasattr(file, "flush"):
            file.flush()

    return Sink(path, "a", name, finish, spool)
