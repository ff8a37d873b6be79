"""What a dataset takes of each array, and which arrays belong together."""

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmnpz.reading import NpzReader


class Cut:
    """Which rows of an array a sample has."""

    def __init__(self, length: int | None, start: Any, stride: int | None, pad: Any) -> None:
        if length is not None and length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        if stride is not None and stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        if length is None and (start is not None or stride is not None):
            raise TypeError("start and stride need length")
        if start is not None and stride is not None:
            raise TypeError("stride excludes start")
        if isinstance(start, str) and start not in ("random", "center"):
            raise ValueError(f'start must be "random", "center", a row or a callable, got {start!r}')
        if start is not None and not isinstance(start, str) and not callable(start):
            start = operator.index(start)
        self._length = length
        self._start = "random" if start is None else start
        self._stride = stride
        self.pad = pad

    @property
    def is_given(self) -> bool:
        """Whether numbers tell what samples are, so that a batch can be made as one."""
        return self._length is not None or self.pad is not None

    def counts(self, lengths: "NDArray[Any]") -> "NDArray[np.int64]":
        """Return how many excerpts arrays of these lengths have."""
        length, stride = self._length or 0, self._stride or 1
        rows = lengths.astype(np.int64)
        more = rows - length
        if self.pad is None:
            return np.where(more >= 0, more // stride + 1, 0)
        # Up to the first that has the last row, and none that starts behind it.
        counts: NDArray[np.int64] = -(np.maximum(more, 0) // -stride) + 1
        np.minimum(counts, -(np.maximum(rows, 0) // -stride), out=counts)
        return counts

    def places(
        self,
        indices: "NDArray[np.int64]",
        lengths: "NDArray[np.int64]",
        windows: "NDArray[np.int64] | None",
        seed: int | None,
    ) -> "tuple[NDArray[np.int64] | None, int]":
        """Return where the excerpts of a batch start, and how many rows they have."""
        if self._length is None:
            return None, int(max(lengths.max(initial=0), 0))
        if windows is not None:
            return windows * (self._stride or 1), self._length
        if callable(self._start):
            starts = np.asarray(self._start(indices, lengths))
            if starts.dtype.kind not in "iu":
                raise TypeError(f"start must return integers, got an array of {starts.dtype}")
            return starts.astype(np.int64), self._length
        room = np.maximum(lengths - self._length, 0)
        if self._start == "random":
            starts = (_random(len(lengths), seed) * (room + 1)).astype(np.int64)
        elif self._start == "center":
            starts = room // 2
        else:
            starts = np.full(len(lengths), self._start, np.int64)
        return starts, self._length


def _random(count: int, seed: int | None) -> "NDArray[np.float64]":
    """Return numbers of the half-open interval from 0 to 1."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    numbers: NDArray[np.float64] = torch.rand(
        count, dtype=torch.float64, generator=generator, device="cpu"
    ).numpy()
    return numbers


_ID = "{id}"


class Fields:
    """The patterns of the names of arrays that belong together."""

    def __init__(self, fields: str | Sequence[str] | Mapping[str, str] | None, along: Iterable[Any]) -> None:
        self.keys: list[str] | None = None
        if isinstance(fields, Mapping):
            self.keys = list(fields)
            further = {"length", "label", "index"} & set(self.keys)
            if further:
                raise ValueError(f"fields cannot have the key {further.pop()!r}")
            patterns: Iterable[str] = fields.values()
        else:
            patterns = [_ID] if fields is None else [fields] if isinstance(fields, str) else fields
        self._patterns = [self._parts(pattern) for pattern in patterns]
        if not self._patterns:
            raise ValueError("fields must have at least one pattern")
        known = range(self.count) if self.keys is None else self.keys
        along = [along] if isinstance(along, str) else list(along)
        for key in along:
            if key not in known:
                raise ValueError(f"along must have some of {list(known)}, got {key!r}")
        self._cut = {0, *(list(known).index(key) for key in along)}

    @staticmethod
    def _parts(pattern: str) -> tuple[str, str]:
        if pattern.count(_ID) != 1:
            raise ValueError(f"a pattern must have {_ID} once, got {pattern!r}")
        before, _, behind = pattern.partition(_ID)
        return before, behind

    @property
    def count(self) -> int:
        """How many arrays a sample has."""
        return len(self._patterns)

    def is_cut(self, field: int) -> bool:
        """Whether excerpts are taken of this field."""
        return field in self._cut

    def ids(self, reader: "NpzReader") -> list[str]:
        """Return all ids, in the order of the arrays of the first field."""
        before, behind = self._patterns[0]
        least = len(before) + len(behind)
        return [
            name[len(before) : len(name) - len(behind)]
            for name in reader
            if name.startswith(before) and name.endswith(behind) and len(name) >= least
        ]

    def names(self, id_: str) -> Iterator[str]:
        """Return the names of the arrays that belong to an id."""
        if not isinstance(id_, str):
            raise TypeError(f"names must be an iterable of names, got the name {id_!r}")
        return (before + id_ + behind for before, behind in self._patterns)
