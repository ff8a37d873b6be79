"""Where the bytes of an archive come from: a path, an open file, a buffer, or all that a stream has."""

import io
import os
import stat
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

__all__ = ["name_of", "regular_file", "source_of"]

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
    if isinstance(fn, (str, os.PathLike)) or (isinstance(fn, bytes) and _is_path(fn)):
        path = str(os.fsdecode(fn))  # of numpy.str_, too
        # As numpy.memmap does it: `filename` is absolute, and a path object stays a path object.
        return None, path, _resolved(path) if isinstance(fn, os.PathLike) else os.path.abspath(path)
    try:
        view = memoryview(fn)
    except TypeError:
        view = None
    if view is not None:
        return _bytes_of(view), f"<{type(fn).__name__}>", None
    if not hasattr(fn, "read"):
        kind = type(fn).__name__
        raise TypeError(f"expected a path, a binary file or an object with the buffer protocol, got {kind}")
    if isinstance(fn, io.TextIOBase):
        raise TypeError(f"{name_of(fn)}: the file was opened in text mode: open it in mode 'rb'")
    is_readable = getattr(fn, "readable", None)
    if is_readable is not None and not is_readable():
        raise io.UnsupportedOperation(f"{name_of(fn)}: the file is not open for reading")
    found = regular_file(fn)
    return (_all_of(fn), name_of(fn), None) if found is None else (found[0], name_of(fn), found[1])


def _is_path(text: bytes) -> bool:
    """Return true unless bytes are an archive, in which there are zeros: no path has one."""
    return b"\0" not in text and len(text) <= _LONGEST


def _bytes_of(view: memoryview) -> memoryview:
    if not view.c_contiguous:
        raise ValueError("the bytes of a buffer must lie one behind the other")
    return view.cast("B") if view.nbytes else memoryview(b"")  # only what has items can be cast


def regular_file(file: Any) -> tuple[int, str | None] | None:
    """
    Return the descriptor of a regular file that is open, and an absolute path that leads to it.

    None for a file that has another content than what its descriptor reads, such as one that decompresses,
    and for a pipe or a device. What the program wrote to the file is in it when this returns.
    """
    raw = getattr(file, "raw", file)
    if os.name != "posix" or not isinstance(raw, io.FileIO):
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
    try:
        position = file.tell()
        file.seek(0)
    except (AttributeError, OSError):  # io.UnsupportedOperation is an OSError
        position = None
    try:
        content = file.read()
    finally:
        if position is not None:
            file.seek(position)
    try:
        return _bytes_of(memoryview(content))
    except TypeError:
        kind = type(content).__name__
        raise TypeError(f"{name_of(file)}: a read of the file gives {kind}, not bytes") from None


def name_of(file: Any) -> str:
    """Return what messages call a file."""
    names = (getattr(file, attribute, None) for attribute in ("name", "path", "url"))
    return next(
        (str(os.fsdecode(name)) for name in names if isinstance(name, (str, bytes)) and name),
        f"<{type(file).__name__}>",
    )


def _resolved(path: str) -> "Path":
    from pathlib import Path  # imported here: `import mmnpz` should not load pathlib

    try:
        return Path(path).resolve()
    except (OSError, RuntimeError):  # a loop of symbolic links: opening the file raises the error
        return Path(os.path.abspath(path))
