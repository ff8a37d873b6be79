"""The compiled half of mmnpz; use the names that the package exports."""

from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, Self, SupportsIndex, final, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from typing_extensions import disjoint_base

__all__ = ["DirectReader", "Mapping", "Reader", "Writer", "__version__", "_repair", "_walk", "memmap"]

__version__: Final[str]

def _repair(
    path: str | PathLike[str], progress: Callable[[int, int], object] | None
) -> tuple[int, list[str], list[tuple[str, int, str]], bool]: ...
@overload
def _walk(reader: Reader, pairs: Literal[False]) -> Iterator[NDArray[Any]]: ...
@overload
def _walk(reader: Reader, pairs: Literal[True]) -> Iterator[tuple[str, NDArray[Any]]]: ...

@final
class Mapping:
    """Keeps an archive mapped: the last owner in the chain of bases of every view.

    It lives as long as a view does; there is nothing to call.
    """

    @property
    def filename(self) -> str | Path:
        """The path of the mapped file, absolute, in the type it was given in."""

class memmap(np.memmap[Any, Any]):
    """An array over a memory-mapped file; `mmnpz._memmap` adds its methods."""

@disjoint_base
class Reader:
    """The compiled base of `mmnpz.NpzReader`."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def _open(
        self,
        options: tuple[tuple[str, Any], ...],
        path: str | PathLike[str],
        filename: str | Path,
        map_type: type[NDArray[Any]],
        view_type: type[NDArray[Any]],
        cache: bool,
        preload: bool,
        max_header_size: int,
        identity: tuple[int, int, int] | None = None,
    ) -> None: ...
    def _share(self, other: Reader, own_views: bool) -> None: ...
    def _name(self, number: int) -> str: ...
    def _number(self, name: str) -> int: ...
    def _holds(self, array: NDArray[Any]) -> bool: ...
    def _fetch(self, arrays: list[NDArray[Any]]) -> None: ...
    def _fetch_headers(self, names: list[str]) -> None: ...
    def __getitem__(self, key: str, /) -> NDArray[Any]: ...
    def __contains__(self, key: object, /) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[str]: ...
    def load(self, name: str) -> NDArray[Any]:
        """A new view of an array, whatever is cached."""

    def gather(
        self,
        names: Iterable[str] | Iterable[SupportsIndex],
        starts: SupportsIndex | Iterable[SupportsIndex] | None = None,
        stops: SupportsIndex | Iterable[SupportsIndex] | None = None,
        *,
        length: SupportsIndex | None = None,
        out: NDArray[Any] | None = None,
        dtype: DTypeLike | None = None,
        pad: ArrayLike | None = None,
        threads: SupportsIndex | None = None,
    ) -> NDArray[Any]:
        """A batch: excerpts of many arrays, or whole arrays, stacked along a new first axis."""

    def prefetch(
        self,
        names: Iterable[str] | Iterable[SupportsIndex],
        starts: SupportsIndex | Iterable[SupportsIndex] | None = None,
        stops: SupportsIndex | Iterable[SupportsIndex] | None = None,
        *,
        length: SupportsIndex | None = None,
    ) -> None:
        """Has the operating system read excerpts, or whole arrays, into memory."""

    def advise(self, advice: Literal["normal", "random", "sequential", "willneed", "dontneed"]) -> None:
        """Tells the operating system how the map of the file will be used, by all who share it."""

    def close(self) -> None:
        """Releases the reader's hold on the map and on the views."""

    @property
    def files(self) -> list[str]:
        """The names of all arrays, in archive order, without their ``.npy`` extension (list of str)."""

    @property
    def mmap(self) -> NDArray[np.uint8]:
        """The memory map of the whole file (memmap of uint8); gone once the reader is closed."""

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The views that were preloaded or cached so far, by name (dict)."""

    @property
    def cache(self) -> bool:
        """Whether the views that are handed out are kept, so that a name always gives the same one (bool)."""

    @property
    def preload(self) -> bool:
        """Whether all views were made while opening (bool)."""

    @property
    def _origin(self) -> tuple[tuple[tuple[str, Any], ...], tuple[int, int, int]]: ...
    @property
    def _index_memory(self) -> int: ...

class DirectReader(Reader):
    """`Reader` with a way to the views that are kept which does not lead through the binding."""

    def __getitem__(self, key: str, /) -> NDArray[Any]: ...

@disjoint_base
class Writer:
    """The compiled base of `mmnpz.NpzWriter`."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def _open(self, path: str | PathLike[str], mode: str, align: int, sync: bool) -> None: ...
    def write(self, name: str, array: ArrayLike) -> None:
        """Writes an array as a member of the archive."""

    def __setitem__(self, key: str, value: ArrayLike, /) -> None: ...
    def __contains__(self, key: object, /) -> bool: ...
    def __len__(self) -> int: ...
    def flush(self, sync: bool = False) -> None:
        """Makes all that is written so far readable by every zip reader, and goes on."""

    def close(self) -> None:
        """Writes the archive's directory and closes the file; waits for members that are being written."""

    @property
    def files(self) -> list[str]:
        """The names of all arrays in the archive, in archive order (list of str)."""

    @property
    def closed(self) -> bool:
        """Whether the writer is closed (bool)."""
