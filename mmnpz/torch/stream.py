"""Batches from a dataset that PyTorch iterates, in place of one that it asks for indices."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from mmnpz.torch.dataset import NpzDataset
from mmnpz.torch.samplers import BatchSampler, BucketBatches, mixed


class BatchStream(IterableDataset[Any]):
    """
    The batches of a dataset as an iterable-style dataset for PyTorch.

    Pass it to a `torch.utils.data.DataLoader` with ``batch_size=None``. Each worker draws the indices itself,
    and makes every nth batch, so that the loader sends none.

    Parameters
    ----------
    dataset : NpzDataset
        Makes the batches.
    batches : Batches or BucketBatches
        Tells which samples a batch has.

    See Also
    --------
    Batches : As the sampler of a loader it is simpler: prefer that.

    Notes
    -----
    Workers that are new in each epoch do not know its number. So shuffled batches depend on the seed that
    the loader draws for each epoch from PyTorch's generator, too. That seed is another one in each process of
    a group: with several ranks, call `set_epoch` before each epoch instead, of which workers that stay for
    the next epoch do not hear.

    `state_dict` and `load_state_dict` are for torchdata's `StatefulDataLoader`, which goes on in the middle
    of an epoch with the same batches, if it has as many workers as before.

    Examples
    --------
    >>> import numpy as np
    >>> from torch.utils.data import DataLoader
    >>> from mmnpz.torch import Batches, BatchStream, NpzDataset
    >>> np.savez("example.npz", a=np.arange(6.0), b=np.arange(10.0, 30.0))
    >>> dataset = NpzDataset("example.npz", length=3, start=1)
    >>> list(DataLoader(BatchStream(dataset, Batches(dataset, 2)), batch_size=None))
    [tensor([[ 1.,  2.,  3.],
            [11., 12., 13.]], dtype=torch.float64)]
    """

    def __init__(self, dataset: NpzDataset, batches: BatchSampler) -> None:
        self.dataset = dataset
        self.batches = batches
        # Whether the seed is that of a worker's epoch.
        self._is_mixed = False

    def __len__(self) -> int:
        if isinstance(self.batches, BucketBatches) and self.batches.shuffle:
            raise TypeError("how many batches there are is known only when an epoch begins")
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        """Give the batches of an epoch: in a worker, those that are its own."""
        batches, worker = self.batches, get_worker_info()
        own, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if worker is not None and batches.world_size == 1 and not self._is_mixed:
            # The same number for all workers. Those that stay for the next epoch count epochs themselves.
            batches.seed = mixed(batches.seed, worker.seed - worker.id)
            self._is_mixed = True
        for number, indices in batches.numbered():
            if number % workers == own:
                yield self.dataset[indices]

    def set_epoch(self, epoch: int) -> None:
        """
        Set the number of the epoch that begins next, as for `Batches`.

        Parameters
        ----------
        epoch : int
            The number.
        """
        self.batches.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """
        Return where the batches are.

        Returns
        -------
        dict
            The state of the sampler, in this process.
        """
        return {**self.batches.state_dict(), "mixed": self._is_mixed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """
        Go on where another one was.

        Parameters
        ----------
        state_dict : dict
            What `state_dict` returned.
        """
        self.batches.load_state_dict(state_dict)
        self._is_mixed = state_dict["mixed"]
