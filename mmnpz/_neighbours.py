"""What other packages do with a view: Dask names tasks by it, and joblib sends it to its workers.

Both know `numpy.memmap`. But Dask names one by its bytes alone, so that two arrays with equal bytes and other
shapes have one name; and joblib looks for a type and for a map that a view of mmnpz does not have, and sends
all its bytes to each worker.
"""

import os
import sys
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from mmnpz._memmap import mapping_of, memmap
from mmnpz._mmnpz import Mapping, _map_again

__all__ = ["register"]

_SMALL = 1 << 16
"""A view of fewer bytes is sent by value: a worker takes as long to map the file."""


def register() -> None:
    """
    Tell the packages that are imported what a view is.

    This runs each time that a file is opened, so that the packages may be imported before mmnpz or after it;
    mmnpz imports none of them.
    """
    if sys.modules.keys().isdisjoint(_WAITING):  # this way round: it goes through the three
        return
    for name, tell in list(_WAITING.items()):
        if name in sys.modules:
            try:
                tell(sys.modules[name])
            except AttributeError:  # another thread is importing it
                continue
            _WAITING.pop(name, None)


def _tell_dask(base: Any) -> None:
    normalize = base.normalize_token

    def token(view: Any) -> Hashable:
        mapping = mapping_of(view)
        if mapping is None or (path := _path_of(mapping)) is None:
            named: Hashable = normalize(view.view(np.ndarray))
            return named
        where = (path, *mapping.identity, view.offset)
        # The text of a dtype tells those of other packages apart, which `numpy.save` does not.
        what = (type(view).__qualname__, repr(view.dtype), view.shape, view.strides)
        return ("mmnpz.memmap", *where, *what)

    normalize.register(memmap, token)


def _tell_loky(reduction: Any) -> None:
    reduction.register(memmap, _reduce)


_WAITING: dict[str, Callable[[Any], None]] = {
    "dask.base": _tell_dask,
    "joblib.externals.loky.backend.reduction": _tell_loky,
    "loky.backend.reduction": _tell_loky,
}
"""The modules that are to be told, as soon as they are imported."""


def _reduce(view: Any) -> tuple[Any, ...]:
    """Return how a worker on the same machine gets a view: from the file, if that is as it was."""
    mapping = mapping_of(view)
    if (
        mapping is None
        or view.nbytes < _SMALL
        or (path := _path_of(mapping)) is None
        or not _is_unchanged(path, mapping.identity)
    ):
        by_value: tuple[Any, ...] = view.__reduce_ex__(4)
        return by_value
    return _received, (path, mapping.identity, view.dtype, view.shape, view.offset, view.strides)


def _path_of(mapping: Mapping) -> str | None:
    """Return the path of a file by which others can get the items. None where a program may change them."""
    return os.fspath(mapping.filename) if mapping.filename is not None and mapping.mode == "r" else None


def _is_unchanged(path: str, identity: tuple[int, int, int]) -> bool:
    # Where the core has no inodes, on Windows, it never is, and all views are sent by value.
    try:
        found = os.stat(path)
    except OSError:
        return False
    return identity == (found.st_size, found.st_mtime_ns, found.st_ino)


_maps: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()
"""The files in which views lie that were sent here: each is mapped once at a time."""


def _received(
    path: str,
    identity: tuple[int, int, int],
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    offset: int,
    strides: tuple[int, ...],
) -> Any:
    whole = _maps.get((path, identity))
    if whole is None:
        _maps[path, identity] = whole = _map_again(path, identity, memmap)
    # The constructor of ndarray, as that of numpy.memmap opens a file.
    return np.ndarray.__new__(memmap, shape, dtype, whole, offset, strides)
