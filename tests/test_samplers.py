"""`mmnpz.torch.Batches` and `BucketBatches` give each sample once, and go on after a break."""

import copy
import itertools
import json
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmnpz
from tests.processes import run_script

if "CI" not in os.environ:
    pytest.importorskip("torch")
    pytest.importorskip("torchdata")

import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from mmnpz.torch import Batches, BatchStream, BucketBatches, NpzDataset, collate


def flat(batches: Any) -> list[Any]:
    return [index for batch in batches for index in batch]


OPTIONS = st.fixed_dictionaries(
    {
        "shuffle": st.booleans(),
        "drop_last": st.booleans(),
        "block": st.none() | st.integers(1, 40),
        "window": st.integers(1, 5),
        "seed": st.integers(0, 2**64),
    }
)


@given(st.integers(0, 200), st.integers(1, 50), st.integers(1, 5), OPTIONS)
def test_ranks_share_all_samples(count: int, size: int, world_size: int, options: dict[str, Any]) -> None:
    ranks = [
        Batches(range(count), size, rank=rank, world_size=world_size, **options) for rank in range(world_size)
    ]
    found: list[Any] = []
    for _ in range(2):
        found = [list(sampler) for sampler in ranks]
        for sampler, batches in zip(ranks, found, strict=True):
            assert len(batches) == len(sampler) == len(found[0])
            assert [len(batch) for batch in batches] == [len(batch) for batch in found[0]]
            assert all(len(batch) == size for batch in (batches if options["drop_last"] else batches[:-1]))
        counts = Counter(flat(flat(found)))
        assert set(counts) <= set(range(count))
        if options["drop_last"]:
            assert max(counts.values(), default=1) == 1
            assert count - counts.total() < world_size * size
        else:
            assert len(counts) == count
            assert counts.total() - count < world_size
    if not options["shuffle"] and world_size == 1:
        assert flat(found[0]) == list(range(len(flat(found[0]))))


@pytest.mark.thread_unsafe(reason="seeds the generator of all threads")
def test_epochs_have_orders_of_their_own() -> None:
    sampler = Batches(range(1000), 10, shuffle=True, seed=4)
    first: list[Any] = list(sampler)
    second: list[Any] = list(sampler)
    assert sorted(flat(first)) == list(range(1000))
    assert first != second
    assert len({batch.seed for batch in first + second}) == 200
    sampler.set_epoch(0)
    assert list(sampler) == first
    again = Batches(range(1000), 10, shuffle=True, seed=4)
    again.set_epoch(1)
    assert list(again) == second
    assert list(Batches(range(1000), 10, shuffle=True, seed=5)) != first
    torch.manual_seed(1)
    drawn = [list(Batches(range(1000), 10, shuffle=True)) for _ in range(2)]
    torch.manual_seed(1)
    assert list(Batches(range(1000), 10, shuffle=True)) == drawn[0] != drawn[1]


def test_blocks_stay_together() -> None:
    for epoch in range(3):
        sampler = Batches(range(1003), 50, shuffle=True, block=10, window=5, seed=2)
        sampler.set_epoch(epoch)
        order = flat(sampler)
        assert sorted(order) == list(range(1003))
        near = 0
        for start in range(0, 1003, 50):
            part = order[start : start + 50]
            # Five whole blocks, or six in part from where the short one is.
            assert len({index // 10 for index in part}) <= 6
            near += sorted(part) == part and len(part) == 50
        assert near == 0
        assert len({order.index(index) // 50 for index in range(0, 1000, 10)}) > 10


def test_a_rank_has_whole_blocks() -> None:
    ranks = [
        Batches(range(1000), 10, shuffle=True, block=50, window=2, rank=rank, world_size=2) for rank in (0, 1)
    ]
    first, second = ({index // 50 for index in flat(sampler)} for sampler in ranks)
    assert not first & second


@given(
    st.lists(st.integers(0, 30), max_size=150),
    st.integers(30, 200),
    st.none() | st.integers(1, 20),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
    st.integers(1, 200),
)
def test_batches_of_samples_that_are_about_as_long(
    lengths: list[int],
    max_rows: int,
    size: int | None,
    world_size: int,
    shuffle: bool,
    drop_last: bool,
    pool: int,
) -> None:
    options: Any = {"batch_size": size, "shuffle": shuffle, "drop_last": drop_last, "pool": pool, "seed": 3}
    ranks = [
        BucketBatches(lengths, max_rows, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    for _ in range(2):
        found = []
        for sampler in ranks:
            count = len(sampler)
            found.append(list(sampler))
            assert len(found[-1]) == count == len(found[0])
        for batch in (batch for batches in found for batch in batches):
            assert 1 <= len(batch) <= (size or len(batch))
            assert len(batch) * max(lengths[index] for index in batch) <= max_rows
        counts = Counter(flat(flat(found)))
        if world_size == 1:
            assert counts == Counter(range(len(lengths)))
        elif drop_last:
            assert max(counts.values(), default=1) == 1
        else:
            assert set(counts) == set(range(len(lengths)))


def test_padding_is_small() -> None:
    lengths = np.random.default_rng(1).integers(10, 1000, 20_000)
    for shuffle in (False, True):
        sampler = BucketBatches(lengths, 64_000, shuffle=shuffle, seed=1)
        first, second = list(sampler), list(sampler)
        padded = sum(len(batch) * lengths[batch].max() for batch in first)
        assert padded < 1.05 * lengths.sum()
        assert len(first) < 1.1 * lengths.sum() / 64_000
        assert (first != second) == shuffle
        if shuffle:  # long and short ones by turns
            longest = [int(lengths[batch].max()) for batch in first]
            assert sum(a < b for a, b in itertools.pairwise(longest)) < 0.7 * len(first)


def test_wrong_arguments() -> None:
    for make, error in (
        (lambda: Batches(range(3), 0), ValueError),
        (lambda: Batches(range(3), 1, block=0), ValueError),
        (lambda: Batches(range(3), 1, window=0), ValueError),
        (lambda: Batches(range(3), 1, rank=1), TypeError),
        (lambda: Batches(range(3), 1, rank=2, world_size=2), ValueError),
        (lambda: BucketBatches([3], 0), ValueError),
        (lambda: BucketBatches([[3]], 9), TypeError),
        (lambda: BucketBatches([3.5], 9), TypeError),
    ):
        with pytest.raises(error):
            make()
    with pytest.raises(ValueError, match="sample 1 is longer: its length is 9, max_rows=8"):
        BucketBatches([3, 9], 8)
    with pytest.raises(ValueError, match="sample 0 is no array of rows: its length is -1"):
        BucketBatches([-1, 9], 10)


# States

# torchdata calls what PyTorch warns of.
QUIET = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

MAKERS: dict[str, Any] = {
    "in order": lambda seed: Batches(range(40), 3, seed=seed),
    "shuffled": lambda seed: Batches(range(40), 3, shuffle=True, seed=seed),
    "blocks": lambda seed: Batches(range(40), 3, shuffle=True, block=4, window=2, seed=seed),
    "rank": lambda seed: Batches(range(40), 3, shuffle=True, rank=1, world_size=2, seed=seed),
    "buckets": lambda seed: BucketBatches([n % 7 for n in range(40)], 20, shuffle=True, pool=16, seed=seed),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("epochs", [0, 1])
def test_a_sampler_goes_on_where_another_was(kind: str, epochs: int) -> None:
    make = MAKERS[kind]
    whole = make(9)
    for _ in range(epochs):
        list(whole)
    expected: list[Any] = list(whole)
    following = list(whole)
    for done in range(len(expected) + 1):
        sampler = make(9)
        for _ in range(epochs):
            list(sampler)
        batches = iter(sampler)
        given_ = [next(batches) for _ in range(done)]
        state = json.loads(json.dumps(sampler.state_dict()))
        for again in (make(7), pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler)):
            again.load_state_dict(state)
            iter(again)  # a loader makes iterators that it does not use
            rest = list(again)
            assert given_ + rest == expected
            assert [batch.seed for batch in rest] == [batch.seed for batch in expected[done:]]
            assert list(again) == following
        assert list(batches) == expected[done:]
        assert list(sampler) == following


def test_a_copy_begins_the_epoch_that_the_original_would() -> None:
    sampler = Batches(range(40), 3, shuffle=True, seed=1)
    next(iter(sampler))
    copies = [pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler), copy.copy(sampler)]
    following = list(sampler)
    assert len(flat(following)) == 40
    assert all(list(again) == following for again in copies)


def test_an_epoch_that_is_left_is_followed_by_the_next() -> None:
    sampler, other = (Batches(range(40), 3, shuffle=True, seed=1) for _ in range(2))
    first, second = list(other), list(other)
    left = iter(sampler)
    next(left)
    assert list(sampler) == second
    assert list(left) == first[1:]
    assert sampler.state_dict() == {"seed": 1, "epoch": 2, "batches": 0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of an archive of arrays of different lengths."""
    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(40):
            writer.write(
                f"{number}", np.arange(1000 * number, 1000 * number + 10 + number % 7, dtype=np.float32)
            )
    return path


def as_lists(batches: Any) -> list[Any]:
    return [[column.tolist() for column in batch] for batch in batches]


@QUIET
@pytest.mark.parametrize("way", ["sampler", "batch_sampler"])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_loader_goes_on_in_the_middle_of_an_epoch(path: Path, kind: str, way: str) -> None:
    dataset = NpzDataset(path, length=8, index=True)
    options: Any = {"batch_size": None} if way == "sampler" else {"collate_fn": collate}

    def loader() -> Any:
        return StatefulDataLoader(dataset, **{way: MAKERS[kind](5)}, **options)

    whole: Any = loader()
    expected = [as_lists(whole) for _ in range(3)]
    assert expected[0] != expected[1]
    for epoch, done in ((0, 3), (1, 5), (1, 0), (0, len(expected[0]))):
        first = loader()
        for _ in range(epoch):
            list(first)
        batches = iter(first)
        found = as_lists(next(batches) for _ in range(done))
        state = first.state_dict()
        again = loader()
        again.load_state_dict(state)
        assert found + as_lists(again) == expected[epoch]
        assert as_lists(again) == expected[epoch + 1]


RESUMED = """
import sys, warnings
warnings.filterwarnings("ignore", "'set_vital' is deprecated")
from torchdata.stateful_dataloader import StatefulDataLoader
from mmnpz.torch import Batches, BucketBatches, NpzDataset, collate

def batches_of(loader, count=None):
    found = []
    for number, batch in enumerate(loader, 1):
        found.append([column.tolist() for column in batch])
        if number == count:
            break
    return found

if __name__ == "__main__":
    path, method = sys.argv[1:]
    dataset = NpzDataset(path, length=8, index=True)
    lengths = NpzDataset(path)
    for make in (
        lambda: Batches(dataset, 3, shuffle=True, seed=5),
        lambda: BucketBatches(lengths, 60, shuffle=True, seed=5),
    ):
        def loader(workers, persistent=False):
            options = dict(num_workers=workers, persistent_workers=persistent)
            if workers:
                options["multiprocessing_context"] = method
            return StatefulDataLoader(dataset, batch_sampler=make(), collate_fn=collate, **options)

        alone = loader(0)
        expected = [batches_of(alone) for _ in range(2)]
        for persistent in (False, True):
            working = loader(2, persistent)
            assert [batches_of(working) for _ in range(2)] == expected
        for done in (1, 4):
            first = loader(2)
            iterator = iter(first)
            found = [[column.tolist() for column in next(iterator)] for _ in range(done)]
            state = first.state_dict()
            again = loader(2)
            again.load_state_dict(state)
            assert found + batches_of(again) == expected[0]
            assert batches_of(again) == expected[1]
    print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_workers_go_on_in_the_middle_of_an_epoch(path: Path, tmp_path: Path) -> None:
    assert run_script(RESUMED, tmp_path, path, "fork") == "done\n"


def test_with_a_plain_loader(path: Path) -> None:
    dataset = NpzDataset(path, pad=0)
    sampler = BucketBatches(dataset, 64, shuffle=True, seed=1)
    loader: Any = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate)
    assert len(loader) == len(sampler)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert sum(int(lengths.sum()) for _, lengths in batches) == int(dataset.lengths.sum())
    assert all(batch.shape[0] * batch.shape[1] <= 64 for batch, _ in batches)


# Streams

STREAMED = """
import sys, warnings
warnings.filterwarnings("ignore", "'set_vital' is deprecated")
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from mmnpz.torch import Batches, BatchStream, NpzDataset

def lists(batches):
    return [[column.tolist() for column in batch] for batch in batches]

if __name__ == "__main__":
    dataset = NpzDataset(sys.argv[1], length=8, index=True)

    def loader(kind, **options):
        stream = BatchStream(dataset, Batches(dataset, 3, shuffle=True, seed=5))
        return kind(stream, batch_size=None, num_workers=2, multiprocessing_context="fork", **options)

    torch.manual_seed(3)
    for persistent in (False, True):
        working = loader(DataLoader, persistent_workers=persistent)
        assert len(working) == 14
        epochs = [lists(working) for _ in range(3)]
        for batches in epochs:
            assert len(batches) == 14
            assert sorted(index for _, indices in batches for index in indices) == list(range(40))
        assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    torch.manual_seed(3)
    assert [lists(loader(DataLoader)) for _ in range(1)] != [epochs[0]]

    # Ranks have parts of the same order, where the number of the epoch is set.
    found = []
    for rank in (0, 1):
        sampler = Batches(dataset, 3, shuffle=True, seed=5, rank=rank, world_size=2)
        stream = BatchStream(dataset, sampler)
        working = DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context="fork")
        for epoch in range(2):
            stream.set_epoch(epoch)
            found.append([index for _, indices in lists(working) for index in indices])
    assert sorted(found[0] + found[2]) == sorted(found[1] + found[3]) == list(range(40))
    assert found[0] != found[1]

    for done in (1, 4, 7):
        first = loader(StatefulDataLoader)
        batches = iter(first)
        head = lists(next(batches) for _ in range(done))
        state = first.state_dict()
        rest = lists(batches)
        again = loader(StatefulDataLoader)
        again.load_state_dict(state)
        assert lists(again) == rest, done
        assert len(head + rest) == 14
    print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_workers_that_draw_their_own_batches(path: Path, tmp_path: Path) -> None:
    assert run_script(STREAMED, tmp_path, path) == "done\n"


@QUIET
def test_a_stream_without_workers_goes_on(path: Path) -> None:
    dataset = NpzDataset(path, length=8, index=True)

    def loader() -> Any:
        return StatefulDataLoader(BatchStream(dataset, MAKERS["shuffled"](5)), batch_size=None)

    whole = loader()
    expected = [as_lists(whole) for _ in range(2)]
    sampler = MAKERS["shuffled"](5)
    assert expected == [as_lists(dataset[indices] for indices in sampler) for _ in range(2)]
    for done in (0, 1, 6):
        first = loader()
        batches = iter(first)
        found = as_lists(next(batches) for _ in range(done))
        again = loader()
        again.load_state_dict(first.state_dict())
        assert found + as_lists(again) == expected[0]
