"""Save arrays in one call, as `numpy.savez` does, without harm to a file that is open."""

import contextlib
import os
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from mmnpz._mmnpz import Replacement
from mmnpz.writing import NpzWriter, warn_without_lock

__all__ = ["savez", "savez_compressed"]


def savez(
    file: str | bytes | os.PathLike[str] | os.PathLike[bytes] | IO[bytes],
    *args: Any,
    allow_pickle: bool = True,  # noqa: ARG001
    **kwds: Any,
) -> None:
    """
    Save arrays to an uncompressed ``.npz`` file, all of them or none.

    A stand-in for `numpy.savez` that a reader of the same file survives: the arrays go to a new file, which
    takes the place of the old one when it is whole. So the arrays may be views of the file itself, and if
    anything goes wrong, the old file is still there.

    Parameters
    ----------
    file : str, bytes, os.PathLike or file object
        The file to write. Without the extension ``.npz``, that is appended. NumPy writes to a file object, to
        which the above does not apply.
    *args : array_like
        Arrays that get the names ``arr_0``, ``arr_1``, and so on.
    allow_pickle : bool, optional
        For compatibility with `numpy.savez`: no array is pickled.
    **kwds : array_like
        Arrays with their names.

    Raises
    ------
    ValueError
        If an array of `args` would get a name that is in `kwds`, or an array has a dtype with Python objects,
        or one that NumPy could not read back.
    BlockingIOError
        If a writer has the file open, or another call saves to it.
    OSError
        If the file cannot be written or replaced.

    See Also
    --------
    NpzWriter : Writes arrays one by one, and appends to a file.
    savez_compressed : The same with compression.

    Notes
    -----
    `numpy.savez` cuts the file to zero bytes before it writes. If the arrays are views of that file, their
    bytes are gone, and the process dies of SIGBUS.

    The new file has the name ``.mmnpz-N-N.tmp`` until it is whole. A killed process leaves it behind. No
    writer can open the file meanwhile. Where a file is replaced, the new one is on the disk first: a power
    failure leaves one of the two.

    Examples
    --------
    >>> import mmnpz
    >>> mmnpz.savez("example.npz", a=[1, 2, 3])
    >>> arrays = dict(mmnpz.load("example.npz"))
    >>> arrays["b"] = arrays["a"] * 2
    >>> mmnpz.savez("example.npz", **arrays)
    >>> mmnpz.load("example.npz").files
    ['a', 'b']
    """
    _save(file, _named(args, kwds), np.savez, _write)


def savez_compressed(
    file: str | bytes | os.PathLike[str] | os.PathLike[bytes] | IO[bytes],
    *args: Any,
    allow_pickle: bool = True,  # noqa: ARG001
    **kwds: Any,
) -> None:
    """
    Save arrays to a compressed ``.npz`` file, all of them or none.

    A stand-in for `numpy.savez_compressed`, which writes the file, as `savez` is one for `numpy.savez`.

    Parameters
    ----------
    file : str, bytes, os.PathLike or file object
        The file to write. Without the extension ``.npz``, that is appended.
    *args : array_like
        Arrays that get the names ``arr_0``, ``arr_1``, and so on.
    allow_pickle : bool, optional
        For compatibility with `numpy.savez_compressed`: no array is pickled.
    **kwds : array_like
        Arrays with their names.

    Raises
    ------
    ValueError
        If an array of `args` would get a name that is in `kwds`, or an array has a dtype with Python objects.
    BlockingIOError
        If a writer has the file open, or another call saves to it.
    OSError
        If the file cannot be written or replaced.

    See Also
    --------
    savez : The same without compression.

    Examples
    --------
    >>> import numpy as np
    >>> import mmnpz
    >>> mmnpz.savez_compressed("small.npz", a=np.zeros(1000))
    >>> np.load("small.npz")["a"].shape
    (1000,)
    """
    _save(file, _named(args, kwds), np.savez_compressed, _compress)


def _named(args: tuple[Any, ...], kwds: dict[str, Any]) -> dict[str, Any]:
    """Return all arrays with their names, in the order of NumPy."""
    arrays = dict(kwds)
    for number, array in enumerate(args):
        name = f"arr_{number}"
        if name in kwds:
            raise ValueError(f"the name {name!r} is that of an array without a name, and of a keyword")
        arrays[name] = array
    return arrays


def _save(
    file: Any,
    arrays: dict[str, Any],
    into: Callable[..., None],
    write: Callable[[str, dict[str, Any]], None],
) -> None:
    if hasattr(file, "write"):
        into(file, **_without_objects(file, arrays))
        return
    path = os.fsdecode(file)
    if not path.endswith(".npz"):
        path += ".npz"
    replacement = Replacement(path)
    new = os.fspath(replacement.temporary)
    try:
        if not replacement.excludes_others:
            warn_without_lock(path, stacklevel=4)
        write(new, arrays)
        replacement.finish()
        os.replace(new, replacement.target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(new)
        _rename_in(error, new, path)
        raise
    finally:
        # Only now: a writer that opened the old file before the rename would write to a file without a name.
        replacement.release()


def _without_objects(file: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays, if none has Python objects. What has a dtype becomes an array when it is saved."""
    checked = {
        name: array if isinstance(getattr(array, "dtype", None), np.dtype) else np.asanyarray(array)
        for name, array in arrays.items()
    }
    for name, array in checked.items():
        if array.dtype.hasobject:
            where = f'{file}: member "{name}"'
            raise ValueError(f"{where}: object arrays cannot be saved, as mmnpz pickles nothing")
    return checked


class _TemporaryWriter(NpzWriter):
    """A writer of a file of which nobody else knows."""

    def __init__(self, path: str) -> None:
        self._open(path, "a", 64, False, path)


def _write(path: str, arrays: dict[str, Any]) -> None:
    with _TemporaryWriter(path) as writer:
        for name, array in arrays.items():
            writer.write(name, array)


def _compress(path: str, arrays: dict[str, Any]) -> None:
    checked = _without_objects(path, arrays)
    with open(path, "wb") as file:
        np.savez_compressed(file, **checked)


def _rename_in(error: BaseException, new: str, path: str) -> None:
    """Let an error and its notes name the file that the caller knows."""
    error.args = tuple(arg.replace(new, path) if isinstance(arg, str) else arg for arg in error.args)
    notes = getattr(error, "__notes__", [])
    notes[:] = [note.replace(new, path) for note in notes]
    if isinstance(error, OSError) and (error.filename is not None or error.errno is not None):
        error.filename = path
        error.filename2 = None
