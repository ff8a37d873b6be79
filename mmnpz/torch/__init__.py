"""Arrays of ``.npz`` files as samples for PyTorch. ``import mmnpz`` does not load this module."""

try:
    from mmnpz.torch.dataset import NpzDataset, collate
    from mmnpz.torch.samplers import Batches, BucketBatches
    from mmnpz.torch.stream import BatchStream
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError(
        "mmnpz.torch needs PyTorch, which `pip install torch` installs", name="torch"
    ) from error

__all__ = ["BatchStream", "Batches", "BucketBatches", "NpzDataset", "collate"]

for _public in (NpzDataset, collate, Batches, BucketBatches, BatchStream):
    _public.__module__ = __name__
del _public
