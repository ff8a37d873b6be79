"""Where the bytes of an archive come from: a path, an open file, a buffer, or all that a stream has."""

import io
import os
import stat
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Protocol

    from numpy.typing import NDArray
    from typing_extensions import Buffer

    class Readable(Protocol):
        """A binary file."""

        def read(self) -> bytes: ...

    # NumPy says only for Python 3.12 and newer that arrays have the buffer protocol.
    Openable = str | bytes | os.PathLike[str] | os.PathLike[bytes] | Buffer | NDArray[Any] | Readable

__all__ = ["is_refused", "is_text", "name_of", "regular_file", "source_of"]

_LONGEST = 4096
"""No system opens a longer path."""


def source_of(fn: Any) -> "tuple[Any, str, str | Path | None]":
    """
    Tell where the bytes of an archive come from.

    Parameters
    ----------
    fn : str, bytes, os.PathLike, binary file, or object with the buffer protocol
        What the caller passed.

    Returns
    -------
    source : int or memoryview or None
        The descriptor of an open file, or the bytes. None for the file at the path.
    name : str
        What messages call the file: its path, if it has one.
    filename : str or pathlib.Path or None
        The absolute path that leads to the file.

    Raises
    ------
    TypeError
        If `fn` is of another type, or a file that was opened in text mode.
    OSError, ValueError
        If a file cannot be read, or is closed.
    """
    if type(fn) is str:  # nearly always
        return None, fn, os.path.abspath(fn)
    if isinstance(fn, (str, os.PathLike)) or (isinstance(fn, bytes) and _is_path(fn)):
        path = str(os.fsdecode(fn))  # of numpy.str_, too
        # As numpy.memmap does it: `filename` is absolute, and a path object stays a path object.
        return None, path, _resolved(path) if isinstance(fn, os.PathLike) else os.path.abspath(path)
    kind = type(fn).__name__
    try:
        view = memoryview(fn)
    except TypeError:
        view = None
    except (ValueError, BufferError) as error:  # a dtype that has no format there
        raise ValueError(f"<{kind}>: {error}") from error
    if view is not None:
        return _bytes_of(view, f"<{kind}>"), f"<{kind}>", None
    if not hasattr(fn, "read"):
        raise TypeError(f"expected a path, a binary file or an object with the buffer protocol, got {kind}")
    if is_text(fn):
        raise TypeError(f"{name_of(fn)}: the file was opened in text mode: open it in mode 'rb'")
    if is_refused(fn, "readable"):
        raise io.UnsupportedOperation(f"{name_of(fn)}: the file is not open for reading")
    found = regular_file(fn)
    return (_all_of(fn), name_of(fn), None) if found is None else (found[0], name_of(fn), found[1])


def _is_path(text: bytes) -> bool:
    """Return true unless bytes are an archive, in which there are zeros: no path has one."""
    return b"\0" not in text and len(text) <= _LONGEST


def is_text(file: Any) -> bool:
    """Return whether a file has text, also where a class of its own wraps such a file."""
    return isinstance(file, io.TextIOBase) or getattr(file, "encoding", None) is not None


def is_refused(file: Any, question: str) -> bool:
    """Return whether a file says no when it is asked ``readable()``, ``writable()`` or ``seekable()``."""
    answer = getattr(file, question, None)
    return callable(answer) and not answer()


def _bytes_of(view: memoryview, name: str) -> memoryview:
    if not view.c_contiguous:
        raise ValueError(f"{name}: the bytes of a buffer must lie one behind the other")
    if not view.nbytes:
        return memoryview(b"")  # only what has items can be cast
    try:
        return view.cast("B")
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(f"{name}: {error}") from error


def regular_file(file: Any) -> tuple[int, str | None] | None:
    """
    Return the descriptor of a regular file that is open, and an absolute path that leads to it.

    None for an object of any other class than those of `open` and `tempfile`, which may have another content
    than what its descriptor reads, and for a pipe or a device. What the program wrote to the file is in it
    when this returns.
    """
    named = getattr(sys.modules.get("tempfile"), "_TemporaryFileWrapper", None)
    if named is not None and type(file) is named:
        file = file.file
    buffered = type(file) in (io.BufferedReader, io.BufferedWriter, io.BufferedRandom)
    raw = file.raw if buffered else file
    if os.name != "posix" or type(raw) is not io.FileIO:
        return None
    file.flush()
    descriptor = raw.fileno()
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return None
    name = raw.name
    path = os.path.abspath(os.fsdecode(name)) if isinstance(name, (str, bytes)) else ""
    try:
        leads_there = bool(path) and os.path.samestat(os.stat(path), status)
    except OSError:
        leads_there = False
    return descriptor, path if leads_there else None


def _all_of(file: Any) -> memoryview:
    """Return all that a file has, whatever its position is, which stays; or what is left of a stream."""
    position = None
    if not is_refused(file, "seekable"):
        try:
            position = file.tell()
            file.seek(0)
        except (AttributeError, NotImplementedError, OSError, ValueError):
            position = None
    parts: list[Any] = []
    try:
        # Most files give all of it at once, and then nothing.
        while not parts or len(parts[-1]):
            part = file.read()
            if part is None:
                raise BlockingIOError(f"{name_of(file)}: there is no more to read yet")
            try:
                parts.append(_bytes_of(memoryview(part), name_of(file)))
            except TypeError:
                kind = type(part).__name__
                raise TypeError(f"{name_of(file)}: a read of the file gives {kind}, not bytes") from None
    finally:
        if position is not None:
            file.seek(position)
    return parts[0] if len(parts) <= 2 else memoryview(b"".join(parts))


def name_of(file: Any) -> str:
    """Return what messages call a file."""
    for attribute in ("name", "path", "url"):
        try:
            name = str(os.fsdecode(getattr(file, attribute)))
            if name and b"\0" not in os.fsencode(name) and len(name) <= _LONGEST:
                return name
        except (AttributeError, TypeError, ValueError, OSError):  # no text, or no path
            continue
    return f"<{type(file).__name__}>"


def _resolved(path: str) -> "Path":
    from pathlib import Path  # imported here: `import mmnpz` should not load pathlib

    try:
        return Path(path).resolve()
    except (OSError, RuntimeError):  # a loop of symbolic links: opening the file raises the error
        return Path(os.path.abspath(path))
