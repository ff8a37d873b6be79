"""Where an archive is written: to the file at a path, to an open file, or to a stream, once it is whole."""

import contextlib
import io
import os
from _thread import allocate_lock, get_ident
from collections.abc import Callable
from operator import index
from typing import IO, TYPE_CHECKING, Any

from mmnpz._source import is_refused, is_text, name_of, regular_file

if TYPE_CHECKING:
    from typing import Protocol
    from weakref import ReferenceType

    class Writable(Protocol):
        """A binary file."""

        def write(self, data: Any, /) -> object: ...

    Target = str | bytes | os.PathLike[str] | os.PathLike[bytes] | Writable

__all__ = ["Sink", "sink_of"]

_DESCRIPTORS = "/proc/self/fd"
"""Where Linux has a path for each open file, be it that no other path leads there."""

_PIECE = 1 << 20
"""How many bytes a stream gets at a time."""


class Sink:
    """
    Where an archive is written: the file at a path.

    Attributes
    ----------
    path : str
        The file to which the writer writes.
    mode : str
        How it opens that file.
    name : str
        What messages call it.
    is_stream : bool
        Whether the caller's file gets the archive when this is finished.
    """

    is_stream = False

    def __init__(self, path: str, mode: str, name: str) -> None:
        self.path = path
        self.mode = mode
        self.name = name
        self._owner = os.getpid()

    # The function is bound here: a writer that lives until the interpreter ends is closed without modules.
    def is_of_this_process(self, getpid: Callable[[], int] = os.getpid) -> bool:
        """Tell whether this process opened the writer, rather than one from which it was forked."""
        return self._owner == getpid()

    def close_at_exit(self, writer: Any) -> None:
        """Close the writer before the interpreter ends, if afterwards nothing could finish this."""

    def finish(self) -> None:
        """Do what is to be done when the writer is closed, in the process that opened it."""

    def give_up(self) -> None:
        """Free what is held, whether or not it is finished."""


class _File(Sink):
    """A regular file that is open, to which the archive is written in place."""

    def __init__(self, path: str, name: str, file: Any) -> None:
        super().__init__(path, "a", name)
        self._file = file

    def finish(self) -> None:
        """Let the file be at the end of the archive."""
        file, self._file = self._file, None
        if file is not None and not file.closed:
            file.seek(0, 2)  # SEEK_END: `os` may be gone as the interpreter ends


class _Stream(Sink):
    """A stream, which gets the archive from a temporary file: the bytes are not written in order."""

    is_stream = True

    def __init__(self, name: str, file: Any) -> None:
        import tempfile  # imported here: `import mmnpz` should not load tempfile

        self._spool: IO[bytes] | None = None
        if os.path.exists(_DESCRIPTORS):
            # Open until the stream has the archive: no `with` statement spans that.
            self._spool = tempfile.TemporaryFile()  # noqa: SIM115
            path = f"{_DESCRIPTORS}/{self._spool.fileno()}"
        else:
            # Closed, as the writer opens it, and Windows lets nobody else write to it then.
            descriptor, path = tempfile.mkstemp(suffix=".npz")
            os.close(descriptor)
        super().__init__(path, "a", name)
        self._file = file
        self._is_done = False
        # Where the archive starts in the stream, as far as that tells: [None] if it does not.
        self._start: list[int | None] = []
        # Who closes the writer while another thread does waits until the stream has the archive. The stream's
        # own code runs meanwhile, as under the lock of a buffer of `io`: it may close the writer, too.
        self._lock = allocate_lock()
        self._sender: int | None = None

    def close_at_exit(self, writer: Any) -> None:
        import weakref  # imported here: `import mmnpz` should not load weakref

        weakref.finalize(writer, _close, weakref.ref(writer))

    def finish(self) -> None:
        """Write the archive to the stream. If that fails, try again if the stream can go back."""
        if self._is_done:
            return
        if self._sender == get_ident():  # in the middle of it: a signal handler, or the stream itself
            return
        with self._lock:
            self._sender = get_ident()
            try:
                if not self._is_done:
                    self._go_to_start()
                    self._send()
                    self.give_up()
            finally:
                self._sender = None

    def give_up(self) -> None:
        if self._is_done:
            return
        self._is_done = True
        if self._spool is not None:
            self._spool.close()
        elif self.is_of_this_process():
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.path)

    def _go_to_start(self) -> None:
        if not self._start:
            try:
                self._start.append(index(self._file.tell()))
            except (AttributeError, TypeError, ValueError, OSError):  # no position
                self._start.append(None)
            return
        start = self._start[0]
        if start is None:
            raise OSError(f"{self.name}: the stream may have a part of the archive, as it failed before")
        self._file.seek(start)
        self._file.truncate(start)  # a file that is open for appending is written to at its end

    def _send(self) -> None:
        with contextlib.ExitStack() as stack:
            spool = self._spool or stack.enter_context(open(self.path, "rb"))
            spool.seek(0)
            while piece := spool.read(_PIECE):
                left = memoryview(piece)
                while left:
                    left = left[self._count(self._file.write(left), len(left)) :]
            if hasattr(self._file, "flush"):
                self._file.flush()

    def _count(self, written: Any, most: int) -> int:
        """Return how many of so many bytes a stream has taken, by what its `write` has returned."""
        if written is None:
            if isinstance(self._file, io.RawIOBase):
                raise BlockingIOError(f"{self.name}: the stream takes no bytes now")
            return most
        count = index(written)
        if not 0 < count <= most:
            raise OSError(f"{self.name}: the stream says that it has taken {count} of {most} bytes")
        return count


def _close(ref: "ReferenceType[Any]") -> None:
    """Close a writer if there is one still."""
    writer = ref()
    if writer is not None:
        writer.close()


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
    if is_text(fn):
        raise TypeError(f"{name}: the file was opened in text mode: open it in mode 'wb'")
    if is_refused(fn, "writable"):
        raise io.UnsupportedOperation(f"{name}: the file is not open for writing")
    in_place = _path_for(fn, mode, name)
    if in_place is not None:
        return _File(in_place, name, fn)
    if mode == "a":
        raise io.UnsupportedOperation(f"{name}: mode 'a' needs a path or a regular file")
    if sync:
        raise io.UnsupportedOperation(f"{name}: sync=True needs a path or an empty regular file")
    return _Stream(name, fn)


def _path_for(file: Any, mode: str, name: str) -> str | None:
    """
    Return a path by which an open file can be written to in place.

    None for a stream, for a file that is at its end, behind which the archive goes, and for one that this
    process may not open once more.
    """
    found = regular_file(file)
    if found is None:
        return None
    descriptor, path = found
    # By its descriptor if that is possible: a path may lead to another file in the next moment.
    by_descriptor = f"{_DESCRIPTORS}/{descriptor}"
    if os.path.exists(by_descriptor):
        path = by_descriptor
    if path is None:
        return None
    size = os.fstat(descriptor).st_size
    if mode != "a" and size > 0:
        if file.tell() == size:
            return None
        raise ValueError(f"{name}: the file is not empty: open it in mode 'wb', or pass its path")
    by_effective_ids = os.access in os.supports_effective_ids
    if mode != "a" and not os.access(path, os.R_OK | os.W_OK, effective_ids=by_effective_ids):
        return None
    return path
