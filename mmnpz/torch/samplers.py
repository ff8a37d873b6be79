"""Samplers of batches, which can be resumed in the middle of an epoch."""

from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Sampler

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_MASK = (1 << 64) - 1


class IndexBatch(list[int]):
    """The indices of the samples of a batch, and a seed for the random numbers of that batch."""

    seed: int | None = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _index_batch, (list(self), self.seed)


def _index_batch(indices: Iterable[int], seed: int | None) -> IndexBatch:
    batch = IndexBatch(indices)
    batch.seed = seed
    return batch


def mixed(*numbers: int) -> int:
    """Return 63 bits in which all numbers have a part (the finalizer of SplitMix64)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


class BatchSampler(Sampler[list[int]]):
    """What samplers of batches have in common: epochs, ranks, and states."""

    def __init__(
        self, shuffle: bool, drop_last: bool, seed: int | None, rank: int | None, world_size: int | None
    ) -> None:
        if (rank is None) != (world_size is None):
            raise TypeError("rank and world_size must be given together")
        if rank is None or world_size is None:
            rank, world_size = _rank_and_world_size()
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be one of 0 to {world_size - 1}, got {rank}")
        if seed is None:
            # All ranks must have the same one.
            seed = (
                0
                if world_size > 1
                else int(torch.empty((), dtype=torch.int64, device="cpu").random_().item())
            )
        self.shuffle = bool(shuffle)
        self.drop_last = bool(drop_last)
        self.seed = int(seed)
        self.rank, self.world_size = rank, world_size
        self._epoch, self._done = 0, 0
        # Whether batches of the epoch were asked for here, not only loaded with a state; and by whom.
        self._is_begun = False
        self._current: object = None

    def __iter__(self) -> Iterator[list[int]]:
        """Give the batches of the next epoch, or those that are left where the state says that was loaded."""
        return (batch for _, batch in self.numbered())

    def numbered(self) -> Iterator[tuple[int, IndexBatch]]:
        """Give each batch with its number in the epoch."""
        # A loader may make iterators that it does not use: an epoch begins with its first batch.
        current = self._current = object()
        if self._is_begun:
            self._epoch, self._done = self._epoch + 1, 0
        self._is_begun = True
        epoch, done = self._epoch, self._done
        for number, indices in enumerate(self._index_arrays(epoch)):
            if number < done:
                continue
            if self._current is current:
                self._done = number + 1
            yield number, _index_batch(indices.tolist(), mixed(self.seed, epoch, self.rank, number))
        if self._current is current:
            self._go_to(epoch + 1, 0)

    def _go_to(self, epoch: int, done: int) -> None:
        self._epoch, self._done, self._is_begun, self._current = epoch, done, False, None

    def _index_arrays(self, epoch: int) -> "Iterable[NDArray[np.int64]]":
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def _generator(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng(mixed(self.seed, epoch))

    def set_epoch(self, epoch: int) -> None:
        """
        Set the number of the epoch that begins next, on which its order depends.

        Without it, each epoch has the next number, from 0 on.

        Parameters
        ----------
        epoch : int
            The number.
        """
        if self._is_begun or self._epoch != epoch:
            self._go_to(int(epoch), 0)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_current": None}

    def state_dict(self) -> dict[str, int]:
        """
        Return where the sampler is.

        Returns
        -------
        dict
            The seed, the number of the epoch, and how many batches of it were given.
        """
        return {"seed": self.seed, "epoch": self._epoch, "batches": self._done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """
        Go on where another sampler was: the next iteration gives the batches that are left of its epoch.

        Parameters
        ----------
        state_dict : dict
            What `state_dict` of a sampler with the same options returned.
        """
        self.seed = state_dict["seed"]
        self._go_to(state_dict["epoch"], state_dict["batches"])


def _rank_and_world_size() -> tuple[int, int]:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _positive(name: str, number: int) -> int:
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return int(number)


class Batches(BatchSampler):
    """
    Batches of samples: in order, shuffled, or shuffled so that what lies together in the file stays near.

    For the ``batch_sampler`` of a `torch.utils.data.DataLoader`, or, with ``batch_size=None``, for its
    ``sampler``: then a data set makes each batch as one.

    Parameters
    ----------
    source : Sized
        The data set, or anything that has as many items.
    batch_size : int
        How many samples a batch has. The last one of an epoch may have fewer.
    shuffle : bool, optional
        Whether each epoch has an order of its own.
    block : int, optional
        How many samples in succession form a block. Then the blocks are shuffled, and the samples of `window`
        blocks among each other. By default, all samples are shuffled.
    window : int, optional
        How many blocks are mixed.
    drop_last : bool, optional
        Whether batches that have fewer samples are left out. With several ranks, also the samples that are
        too many for ranks of the same length; without it, some samples come twice.
    seed : int, optional
        From which the orders are made. By default 0 if there are several ranks, and a number of PyTorch's
        generator otherwise.
    rank, world_size : int, optional
        The number of this process, and of how many. By default those of `torch.distributed`, if it is
        initialized. Each rank has as many batches as the others, of other samples.

    See Also
    --------
    BucketBatches : Batches of samples that are about as long.

    Notes
    -----
    An epoch depends on the seed and on its number alone. With the state of a sampler, another one goes on in
    the middle of an epoch. Each batch of indices carries a seed, from which `NpzDataset` draws where its
    excerpts start: they are the same after a break, and with any number of workers. A wrapper that passes on
    other indices (`torch.utils.data.Subset`, `torch.utils.data.ConcatDataset`) loses that seed, and so does a
    subclass that makes its samples one by one: to split a dataset, use its `names`.

    Where a disk or a network reads ahead, a block is read in one go, and serves several batches. A window
    should have many more samples than a batch.

    Examples
    --------
    >>> from mmnpz.torch import Batches
    >>> batches = Batches(range(7), 3, shuffle=True, seed=1)
    >>> epoch = iter(batches)
    >>> first = next(epoch)
    >>> state = batches.state_dict()
    >>> rest = list(epoch)
    >>> again = Batches(range(7), 3, shuffle=True)
    >>> again.load_state_dict(state)
    >>> list(again) == rest
    True
    """

    def __init__(
        self,
        source: Sized,
        batch_size: int,
        *,
        shuffle: bool = False,
        block: int | None = None,
        window: int = 16,
        drop_last: bool = False,
        seed: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__(shuffle, drop_last, seed, rank, world_size)
        self.source = source
        self.batch_size = _positive("batch_size", batch_size)
        self.block = None if block is None else _positive("block", block)
        self.window = _positive("window", window)

    def __len__(self) -> int:
        count = self._count()
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def _count(self) -> int:
        """How many samples a rank has."""
        count = len(self.source)
        return count // self.world_size if self.drop_last else -(-count // self.world_size)

    def _index_arrays(self, epoch: int) -> "Iterable[NDArray[np.int64]]":
        count = self._count()
        # A rank has a part of the order, not every nth sample, so that it has whole blocks.
        order = np.resize(self._order(epoch), count * self.world_size) if count else np.empty(0, np.int64)
        order = order[self.rank * count : (self.rank + 1) * count]
        for number in range(len(self)):
            yield order[number * self.batch_size : (number + 1) * self.batch_size]

    def _order(self, epoch: int) -> "NDArray[np.int64]":
        count = len(self.source)
        if not self.shuffle:
            return np.arange(count)
        generator = self._generator(epoch)
        if self.block is None:
            return generator.permutation(count)
        starts = generator.permutation(-(-count // self.block)) * self.block
        order = (starts[:, np.newaxis] + np.arange(self.block)).reshape(-1)
        order = order[order < count]
        mixed = self.block * self.window
        for start in range(0, count, mixed):
            generator.shuffle(order[start : start + mixed])
        return order


class BucketBatches(BatchSampler):
    """
    Batches of samples that are about as long, which padding makes no larger than a bound.

    Parameters
    ----------
    lengths : array_like or NpzDataset
        How many rows each sample has, or a dataset of whole arrays, for its `lengths`.
    max_rows : int
        How many rows a batch has at most, padding included: the number of its samples times the length of the
        longest.
    batch_size : int, optional
        How many samples a batch has at most.
    shuffle : bool, optional
        Whether each epoch has batches and an order of its own.
    pool : int, optional
        How many samples, taken at random, are sorted by their lengths at a time. More make batches that are
        padded less, fewer make batches that differ more.
    drop_last : bool, optional
        With several ranks: whether batches are left out, so that all have as many. Without it, some batches
        come twice.
    seed, rank, world_size : int, optional
        As for `Batches`.

    Raises
    ------
    ValueError
        If a sample is longer than `max_rows`, or is no array of rows.

    See Also
    --------
    Batches : Batches of as many samples each.

    Notes
    -----
    How many batches there are differs from epoch to epoch: ``len`` is that of the epoch that begins next, or
    has begun.

    Examples
    --------
    >>> from mmnpz.torch import BucketBatches
    >>> list(BucketBatches([9, 2, 8, 3, 2], max_rows=18))
    [[1, 4, 3], [2, 0]]
    """

    def __init__(
        self,
        lengths: "ArrayLike | Any",
        max_rows: int,
        *,
        batch_size: int | None = None,
        shuffle: bool = False,
        pool: int = 8192,
        drop_last: bool = False,
        seed: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__(shuffle, drop_last, seed, rank, world_size)
        self.lengths = np.asarray(getattr(lengths, "lengths", lengths))
        if self.lengths.ndim != 1 or (self.lengths.dtype.kind not in "iu" and self.lengths.size):
            raise TypeError(f"lengths must be a sequence of integers, or have `lengths`: got {lengths!r}")
        self.max_rows = _positive("max_rows", max_rows)
        self.batch_size = None if batch_size is None else _positive("batch_size", batch_size)
        self.pool = _positive("pool", pool)
        for wrong, what in (
            (self.lengths < 0, "is no array of rows"),
            (self.lengths > max_rows, "is longer"),
        ):
            if wrong.any():
                index = int(np.argmax(wrong))
                raise ValueError(f"sample {index} {what}: its length is {self.lengths[index]}, {max_rows=}")
        self._made: tuple[tuple[int, int], list[NDArray[np.int64]]] | None = None

    def __len__(self) -> int:
        return len(self._all(self._epoch)[self.rank :: self.world_size])

    def _index_arrays(self, epoch: int) -> "Iterable[NDArray[np.int64]]":
        return self._all(epoch)[self.rank :: self.world_size]

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_made": None}

    def _all(self, epoch: int) -> "list[NDArray[np.int64]]":
        """Return the batches of all ranks, each of which has as many."""
        key = (self.seed, epoch if self.shuffle else 0)
        if self._made is None or self._made[0] != key:
            self._made = key, self._make(epoch)
        return self._made[1]

    def _make(self, epoch: int) -> "list[NDArray[np.int64]]":
        count = len(self.lengths)
        generator = self._generator(epoch)
        order = generator.permutation(count) if self.shuffle else np.arange(count)
        batches = []
        for start in range(0, count, self.pool):
            part = order[start : start + self.pool]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += self._cut(part, self.lengths[part].astype(np.int64))
        if self.shuffle:
            batches = [batches[number] for number in generator.permutation(len(batches))]
        rest = len(batches) % self.world_size
        if rest and self.drop_last:
            return batches[:-rest]
        while len(batches) % self.world_size:
            batches += batches[: self.world_size - len(batches) % self.world_size]
        return batches

    def _cut(self, part: "NDArray[np.int64]", lengths: "NDArray[np.int64]") -> "list[NDArray[np.int64]]":
        """Cut samples, the shortest first, into batches that are as large as they may be."""
        batches, start = [], 0
        counts = np.arange(1, len(part) + 1)
        while start < len(part):
            most = self.max_rows // max(int(lengths[start]), 1)
            some = lengths[start : start + min(most, self.batch_size or most)]
            # How many rows a batch has that ends with each sample: never fewer than the one before.
            count = int(np.searchsorted(some * counts[: len(some)], self.max_rows, "right"))
            batches.append(part[start : start + count])
            start += count
        return batches
