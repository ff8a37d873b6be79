"""`mmnpz.torch.NpzDataset` makes batches as one, with labels and lengths, in memory that is used again."""

import copy
import enum
import gc
import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.processes import run_script

if "CI" not in os.environ:
    pytest.importorskip("torch")
    pytest.importorskip("torchdata")

import torch
from torch.utils.data import ConcatDataset, DataLoader, StackDataset, Subset

from mmnpz.torch import Batches, NpzDataset, collate
from mmnpz.torch.memory import Pool

METHODS = multiprocessing.get_all_start_methods()
LENGTHS = [12, 5, 30, 8, 12, 7, 40, 9]
ARRAYS: dict[str, Any] = {
    f"{number}": np.arange(1000 * number, 1000 * number + 2 * length, dtype=np.float32).reshape(length, 2)
    for number, length in enumerate(LENGTHS)
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of an archive of ARRAYS."""
    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path) as writer:
        for name, array in ARRAYS.items():
            writer.write(name, array)
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """The path of an archive of recordings with what belongs to them, and of others."""
    path = tmp_path / "pairs.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer.write("about", [1, 2])
        for name, array in ARRAYS.items():
            writer.write(f"x/{name}/mel", array)
            writer.write(f"x/{name}/pitch", array[:, 0].astype("<f8"))
            writer.write(f"x/{name}/label", int(name) % 3)
            writer.write(f"x/{name}/text", f"text {name}")
    return path


def shown(batch: Any) -> Any:
    """Return a batch as lists."""
    if isinstance(batch, dict):
        return {key: shown(value) for key, value in batch.items()}
    return (
        [shown(each) for each in batch]
        if isinstance(batch, tuple)
        else getattr(batch, "tolist", lambda: batch)()
    )


# What samples and batches are


@pytest.mark.parametrize("order", ["<f4", ">f4", "<i2", ">i8"])
@pytest.mark.parametrize("start", [0, 2, "center", "callable"])
def test_excerpts_are_those_of_the_arrays(tmp_path: Path, start: Any, order: str) -> None:
    with mmnpz.NpzWriter(tmp_path / "a.npz") as writer:
        for name, array in ARRAYS.items():
            writer.write(name, array.astype(order))

    def latest(indices: Any, lengths: Any) -> Any:
        assert [LENGTHS[index] for index in indices] == lengths.tolist()
        return lengths - 3

    dataset = NpzDataset(tmp_path / "a.npz", length=3, start=latest if start == "callable" else start)
    indices = [6, 0, -1, 6, 3]
    expected = []
    for index in indices:
        array = ARRAYS[str(index % 8)]
        named: dict[Any, int] = {"center": (len(array) - 3) // 2, "callable": len(array) - 3}
        first: Any = named.get(start, start)
        expected.append(array[first : first + 3].tolist())
    for _ in range(3):  # the first batch, and those whose rows are as those before
        batch = dataset[indices]
        assert type(batch) is torch.Tensor
        assert batch.numpy().dtype == np.dtype(order).newbyteorder("=")
        assert batch.tolist() == expected
        assert torch.stack(dataset.__getitems__(iter(indices))).tolist() == expected
        assert [dataset[index].tolist() for index in indices] == expected
    for kind in (tuple, np.array, torch.tensor, lambda some: np.array(some, np.int16)):
        assert dataset[kind(indices)].tolist() == expected


@pytest.mark.thread_unsafe(reason="seeds the generator of all threads")
def test_random_starts_reach_each_row_and_no_other(path: Path) -> None:
    dataset = NpzDataset(path, ["0"], length=10)
    found = {int(row) // 2 for row in dataset[[0] * 500][:, 0, 0]}
    assert found == {0, 1, 2}
    torch.manual_seed(5)
    first = dataset[[0] * 20]
    torch.manual_seed(5)
    assert torch.equal(first, dataset[[0] * 20])


def test_the_seed_of_a_batch_decides(path: Path) -> None:
    dataset = NpzDataset(path, length=5)
    first: Any
    second: Any
    first, second = list(Batches(range(8), 4, seed=1))
    assert torch.equal(dataset[first], dataset[first])
    drawn = {tuple(dataset[list(first)].reshape(-1).tolist()) for _ in range(20)}
    assert len(drawn) > 1
    assert first.seed != second.seed
    again = pickle.loads(pickle.dumps(first))
    assert again == first
    assert torch.equal(dataset[again], dataset[first])
    assert torch.equal(collate(dataset.__getitems__(first)), dataset[first])


def test_arrays_that_are_too_short(path: Path) -> None:
    starts: list[Any] = [None, "center", 0]
    for start in starts:
        dataset = NpzDataset(path, length=8, start=start)
        with pytest.raises(IndexError, match=r'archive\.npz: member "1": rows 0:8 requested, .* has 5 rows'):
            dataset[[0, 1]]
        with pytest.raises(IndexError, match='member "1"'):
            dataset[1]
        padded = NpzDataset(path, length=8, start=start, pad=-1)
        batch, lengths = padded[[0, 1, 3]]
        assert lengths.tolist() == [8, 5, 8]
        assert batch[1].tolist() == ARRAYS["1"].tolist() + [[-1, -1]] * 3
        assert batch[2].tolist() == ARRAYS["3"].tolist()
        sample, length = padded[1]
        assert torch.equal(sample, batch[1])
        assert int(length) == 5


def test_whole_arrays_are_padded_to_the_longest(path: Path) -> None:
    dataset = NpzDataset(path, pad=[7, 8])
    for indices in ([0, 1], [6, 2, 1], [1, 1], range(8), [3]):
        batch, lengths = dataset[indices]
        assert lengths.tolist() == [LENGTHS[index] for index in indices]
        assert batch.shape == (len(indices), max(lengths), 2)
        for row, index, length in zip(batch, indices, lengths, strict=True):
            assert row[:length].tolist() == ARRAYS[str(index)].tolist()
            assert row[length:].tolist() == [[7, 8]] * (len(row) - length)


@pytest.mark.parametrize("pad", [None, 0])
@pytest.mark.parametrize("stride", [1, 3, 5, 100])
def test_all_excerpts_with_a_stride(path: Path, stride: int, pad: Any) -> None:
    names = ["6", "1", "0", "5"]
    dataset = NpzDataset(path, names, length=6, stride=stride, pad=pad)
    expected = []
    for name in names:
        rows = len(ARRAYS[name])
        starts = range(0, rows, stride)
        if pad is None:
            expected += [(name, start) for start in starts if start + 6 <= rows]
        else:  # up to the first that has the last row
            done = next(
                number for number, start in enumerate(starts, 1) if start + 6 >= rows or number == len(starts)
            )
            expected += [(name, start) for start in starts[:done]]
            if stride <= 6:
                assert starts[done - 1] + 6 >= rows
    assert len(dataset) == len(expected)
    assert [dataset.name(index) for index in range(len(dataset))] == [name for name, _ in expected]
    assert dataset.lengths.tolist() == [len(ARRAYS[name]) for name, _ in expected]
    batch = dataset[range(len(dataset))]
    found = batch if pad is None else batch[0]
    for excerpt, (name, start) in zip(found, expected, strict=True):
        rows_there = ARRAYS[name][start : start + 6]
        assert excerpt[: len(rows_there)].tolist() == rows_there.tolist()
        assert not excerpt[len(rows_there) :].any()
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_lengths(path: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "numpy.npz", **ARRAYS, scalar=np.float64(3))
    assert NpzDataset(path).lengths.tolist() == LENGTHS
    assert NpzDataset(tmp_path / "numpy.npz").lengths.tolist() == [*LENGTHS, -1]
    dataset = NpzDataset(path, ["6", "6", "0"])
    assert dataset.lengths.dtype == np.int64
    assert pickle.loads(pickle.dumps(dataset)).lengths.tolist() == [40, 40, 12]


def test_arrays_whose_rows_differ(tmp_path: Path) -> None:
    arrays = [np.zeros((4, 2), "f4"), np.ones((4, 3), "f4"), np.ones((4, 2), "f8"), np.ones(4, "f4")]
    with mmnpz.NpzWriter(tmp_path / "a.npz") as writer:
        for number, array in enumerate(arrays):
            writer.write(str(number), array)
    dataset = NpzDataset(tmp_path / "a.npz", length=2)
    for _ in range(2):
        for number, array in enumerate(arrays):  # after a batch of another kind
            batch = dataset[[number, number]]
            assert (batch.shape, batch.numpy().dtype) == ((2, 2, *array.shape[1:]), array.dtype)
            assert batch.numpy().all() == (number > 0)
    with pytest.raises(ValueError, match=r'member "1": row shape \(3,\) differs from \(2,\) of member "0"'):
        dataset[[0, 1]]
    with pytest.raises(TypeError, match=r'member "2": dtype float64 differs .* pass dtype='):
        dataset[[0, 2]]
    assert NpzDataset(tmp_path / "a.npz", length=2, dtype="f8")[[0, 2]].dtype is torch.float64
    with pytest.raises(TypeError, match="same_kind"):
        NpzDataset(tmp_path / "a.npz", length=2, dtype="i4")[[0]]


def test_a_dtype_that_torch_has_not(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(4, "M8[s]"))
    looks: list[Any] = [lambda data: data[[0]], lambda data: data[0], lambda data: data.__getitems__([0])]
    for batch in looks:
        with pytest.raises(TypeError, match=r'a\.npz: member "x": PyTorch has no dtype datetime64\[s\]'):
            batch(NpzDataset(tmp_path / "a.npz", length=2))


def test_empty_batches_and_wrong_indices(path: Path) -> None:
    dataset: Any = NpzDataset(path, length=3)
    assert dataset.__getitems__([]) == []
    for index in (8, -9, 10**30):
        for look in (dataset.__getitem__, lambda i: dataset[[0, i]], lambda i: dataset.__getitems__([i])):
            with pytest.raises(IndexError, match=f"{index} is out of range for 8 samples"):
                look(index)
    for wrong in ("a", 1.0, None, slice(1)):
        for look in (dataset.__getitem__, lambda i: dataset[[i]], lambda i: dataset.__getitems__([0, i])):
            with pytest.raises(TypeError):
                look(wrong)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"length": 0}, ValueError),
        ({"length": 3, "stride": 0}, ValueError),
        ({"length": 3, "start": "middle"}, ValueError),
        ({"start": 3}, TypeError),
        ({"stride": 3}, TypeError),
        ({"length": 3, "stride": 3, "start": 0}, TypeError),
        ({"length": 3, "excerpt": len}, TypeError),
        ({"dtype": "f4"}, TypeError),
        ({"fields": "mel"}, ValueError),
        ({"fields": "{id}{id}"}, ValueError),
        ({"fields": []}, ValueError),
        ({"fields": {"label": "{id}"}}, ValueError),
        ({"fields": {"x": "{id}"}, "along": ["y"]}, ValueError),
        ({"fields": ["{id}"], "along": [1]}, ValueError),
        ({"labels": [1, 2]}, ValueError),
        ({"labels": {"0": 1}}, KeyError),
        ({"names": ["0"], "labels": list(range(8))}, ValueError),
        ({"names": ["0"], "fields": "{id}/mel"}, KeyError),
    ],
    ids=str,
)
def test_arguments_that_do_not_go_together(path: Path, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        NpzDataset(path, **options)


# Labels and fields


LABELS: dict[str, tuple[Any, Any]] = {
    "int": (list(range(8)), torch.tensor([6, 0])),
    "float32": (np.linspace(0, 1, 8, dtype=np.float32), torch.tensor([6 / 7, 0], dtype=torch.float32)),
    "big": (np.arange(8, dtype=">i4"), torch.tensor([6, 0], dtype=torch.int32)),
    "rows": (np.arange(16).reshape(8, 2), torch.tensor([[12, 13], [0, 1]])),
    "tensor": (torch.arange(8), torch.tensor([6, 0])),
    "text": ([f"l{n}" for n in range(8)], ["l6", "l0"]),
    "mixed": ([1, "a", None, 2, 3, 4, (5, 6), 7], [(5, 6), 1]),
    "text or number": ([1, "a", 2, 3, 4, 5, "b", 7], ["b", 1]),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("options", [{"length": 5}, {"pad": 0}, {"excerpt": len}], ids=str)
def test_labels(path: Path, kind: str, options: Any) -> None:
    labels, expected = LABELS[kind]
    mapping = {str(number): labels[number] for number in range(8)}
    for given in (labels, mapping):
        dataset = NpzDataset(path, labels=given, index=True, **options)
        dataset = pickle.loads(pickle.dumps(dataset))
        samples: Any = dataset.__getitems__([6, 0])
        is_mixed = kind in ("mixed", "text or number")  # PyTorch cannot put these together
        columns: Any = zip(*samples, strict=True) if is_mixed else collate(samples)
        rest: list[Any] = list(columns)
        found: Any = rest[-2]
        indices = rest[-1]
        assert [int(index) for index in indices] == [6, 0]
        if isinstance(expected, torch.Tensor):
            assert found.dtype is expected.dtype or given is mapping
            assert torch.allclose(found.double(), expected.double())
        else:
            assert list(found) == expected
        *_, label, index = dataset[6]
        assert int(index) == 6
        if isinstance(expected, torch.Tensor):
            assert torch.allclose(label.double(), expected[0].double())
        else:
            assert label == expected[0]


def test_fields_as_tuples(pairs: Path) -> None:
    patterns = ("x/{id}/mel", "x/{id}/pitch", "x/{id}/label", "x/{id}/text")
    dataset = NpzDataset(pairs, fields=patterns, length=4, start=1, along=[1])
    assert len(dataset) == 8
    assert dataset.name(3) == "x/3/mel"
    mel: Any = None
    for _ in range(2):
        mel, pitch, label, text = dataset[[5, 2]]
        assert mel.tolist() == [ARRAYS["5"][1:5].tolist(), ARRAYS["2"][1:5].tolist()]
        assert pitch.dtype is torch.float64
        assert torch.equal(pitch, mel[:, :, 0].double())
        assert (label.tolist(), text) == ([2, 2], ["text 5", "text 2"])
    samples = dataset.__getitems__([5, 2])
    assert shown(samples[1])[2:] == [2, "text 2"]
    assert torch.equal(samples[1][0], mel[1])
    whole = NpzDataset(pairs, ["7", "1"], fields=patterns, excerpt=lambda view: view[1:5])
    assert [shown(sample) for sample in whole.__getitems__([0, 1])] == [
        [ARRAYS[name][1:5].tolist(), ARRAYS[name][:, 0].tolist(), int(name) % 3, f"text {name}"]
        for name in "71"
    ]


def test_fields_as_dicts(pairs: Path) -> None:
    fields = {"x": "x/{id}/mel", "f0": "x/{id}/pitch", "y": "x/{id}/label"}
    dataset = NpzDataset(pairs, fields=fields, along=["f0"], pad=0, labels=range(8), index=True)
    batch = dataset[[0, 1]]
    assert list(batch) == ["x", "f0", "y", "length", "label", "index"]
    assert batch["f0"].shape == (2, 12)
    assert torch.equal(batch["f0"], batch["x"][:, :, 0].double())
    assert shown({key: batch[key] for key in ("y", "length", "label", "index")}) == {
        "y": [0, 1],
        "length": [12, 5],
        "label": [0, 1],
        "index": [0, 1],
    }
    loader: Any = DataLoader(dataset, batch_size=2, collate_fn=collate)
    assert shown(next(iter(loader))) == shown(batch)
    assert list(dataset[1]) == list(batch)
    with pytest.raises(KeyError, match="x/9/mel"):
        NpzDataset(pairs, ["9"], fields=fields)


def test_transforms(path: Path) -> None:
    dataset = NpzDataset(path, length=4, start=0, transform=lambda x: x.sum(), labels=range(8))
    sums = [float(ARRAYS[name][:4].sum()) for name in ("2", "0")]
    for batch in (
        dataset[[2, 0]],
        collate(dataset.__getitems__([2, 0])),
        next(iter(DataLoader(dataset, 2, sampler=[2, 0]))),
    ):
        assert shown(batch if isinstance(batch, tuple) else tuple(batch)) == [sums, [2, 0]]
    assert float(dataset[2][0]) == sums[0]


class Doubled(NpzDataset):
    """A subclass that changes samples."""

    def __getitem__(self, index: Any) -> Any:
        return 2 * super().__getitem__(index)


def test_a_batch_of_a_subclass_is_changed_once(path: Path) -> None:
    options: list[Any] = [
        {"length": 4, "start": 0},
        {"length": 4, "start": 0, "transform": torch.Tensor.double},
        {"excerpt": lambda view: view[:4]},
    ]
    for each in options:
        expected = [(2 * ARRAYS[name][:4]).tolist() for name in "34"]
        assert Doubled(path, **each)[[3, 4]].tolist() == expected
        assert collate(Doubled(path, **each).__getitems__([3, 4])).tolist() == expected


def test_a_subclass_that_overrides_getitem(path: Path) -> None:
    plain, doubled = NpzDataset(path, length=4, start=0), Doubled(path, length=4, start=0)
    sampler: Any = [[3, 4]]
    batch: Any
    expected = (2 * plain[[3, 4]]).tolist()
    for options in list[Any](({"collate_fn": collate}, {})):
        (batch,) = DataLoader(Subset(doubled, [3, 4]), 2, **options)
        assert batch.tolist() == expected
    (batch,) = DataLoader(doubled, sampler=sampler, batch_size=None)
    assert batch.tolist() == expected


def test_with_other_datasets(path: Path) -> None:
    dataset = NpzDataset(path, length=4, start=0)
    expected = dataset[[6, 2, 3]].tolist()
    part: Any = Subset(dataset, [3, 2, 6])
    assert collate(part.__getitems__([2, 1, 0])).tolist() == expected
    stack: Any = StackDataset(dataset, NpzDataset(path, pad=0))
    assert [x.tolist() for x, _ in stack.__getitems__([6, 2, 3])] == expected
    both: Any = ConcatDataset([part, dataset])
    (batch,) = DataLoader(both, 3, sampler=[2, 1, 3 + 3])
    assert batch.tolist() == expected


@pytest.mark.parametrize("mode", ["r", "c", None])
def test_all_modes_and_sources(path: Path, tmp_path: Path, mode: Any) -> None:
    expected = NpzDataset(path, pad=0)[range(8)]
    compressed = tmp_path / "compressed.npz"
    np.savez_compressed(compressed, **ARRAYS)
    for source in (path, compressed, path.read_bytes()):
        for threads in (1, 2):
            dataset = NpzDataset(mmnpz.load(source, mmap_mode=mode), pad=0, threads=threads)
            for _ in range(2):
                assert shown(dataset[range(8)]) == shown(expected)


def test_again_by_copies(path: Path) -> None:
    dataset = NpzDataset(path, ["3", "0"], length=4, start=0, labels=[5, 6])
    expected = shown(dataset[[0, 1]])
    for again in (copy.copy(dataset), copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert shown(again[[0, 1]]) == expected


# Memory


def test_the_memory_of_a_batch_is_used_again_only_when_it_is_gone(path: Path) -> None:
    dataset = NpzDataset(path, length=4, start=0, index=True)
    keep = dataset[[0, 1]]  # the first one is not in the pool
    kept: list[Any] = []
    for part in (
        lambda x, i: x,
        lambda x, i: x[0, 0],
        lambda x, i: x.numpy()[1:],
        lambda x, i: i,
        lambda x, i: x.view(-1).detach(),
        lambda x, i: memoryview(x.numpy()),
    ):
        kept.append(part(*dataset[[2, 3]]))
        expected = kept[-1].tolist()
        kept.append(expected)
    for _ in range(40):
        dataset[[5, 6]]
    for array, expected in zip(kept[::2], kept[1::2], strict=True):
        assert array.tolist() == expected
    assert keep[0].tolist() == [ARRAYS[name][:4].tolist() for name in "01"]


@pytest.mark.thread_unsafe(reason="the memory that another thread freed comes back")
def test_the_memory_of_a_batch_is_used_again(path: Path) -> None:
    dataset = NpzDataset(path, length=4, start=0)
    dataset[[0, 1]]
    places = set()
    for _ in range(10):
        batch = dataset[[0, 1]]
        places.add(batch.data_ptr())
        del batch
        gc.collect()
    assert len(places) == 1
    assert len({batch.data_ptr() for batch in [dataset[[0, 1]] for _ in range(40)]}) == 40


def test_a_list_that_a_subclass_has_changed_is_no_longer_the_batch(path: Path) -> None:
    class Changed(NpzDataset):
        change: Any

        def __getitems__(self, indices: Any) -> list[Any]:
            samples = super().__getitems__(indices)
            self.change(samples)
            return samples

    first, second, third = (NpzDataset(path, length=4, start=0)[[index]][0].tolist() for index in (0, 2, 6))
    changes: list[Any] = [
        (lambda samples: samples.reverse(), [third, second, first]),
        (lambda samples: samples.pop(), [first, second]),
        (lambda samples: samples.append(samples[0]), [first, second, third, first]),
        (lambda samples: samples.__setitem__(1, samples[0]), [first, first, third]),
        (lambda samples: samples, [first, second, third]),
    ]
    for change, expected in changes:
        dataset = Changed(path, length=4, start=0)
        dataset.change = change
        assert collate(dataset.__getitems__([0, 2, 6])).tolist() == expected


def test_a_batch_does_not_depend_on_those_before(tmp_path: Path) -> None:
    arrays = {"big": np.arange(4, dtype=">i4"), "wide": np.arange(4, dtype="<i8") + (1 << 40)}
    with mmnpz.NpzWriter(tmp_path / "a.npz") as writer:
        for name, array in arrays.items():
            writer.write(name, array)
    dataset = NpzDataset(tmp_path / "a.npz", length=3, start=0)
    for _ in range(2):
        for index, name in ((0, "big"), (0, "big"), (1, "wide"), (0, "big")):
            assert dataset[[index]].tolist() == [arrays[name][:3].tolist()]
            with pytest.raises(TypeError, match="differs"):
                dataset[[0, 1]]


class Colour(enum.StrEnum):
    """Labels that are more than the texts that they are."""

    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    "labels",
    [
        [Colour.RED, Colour.BLUE],
        ["a\0", "b"],
        [-1, 2**63],
        [np.uint64(2**64 - 1), np.int64(-1)],
        [True, 2],
        [None, None],
        ["a", "b" * 5000],
    ],
    ids=str,
)
def test_labels_stay_what_they_are(path: Path, labels: Any) -> None:
    dataset = NpzDataset(path, ["0", "2"], length=2, labels=labels)
    found = [label for _, label in dataset.__getitems__([1, 0])]
    assert found == labels[::-1]
    assert [type(label) for label in found] == [type(label) for label in labels[::-1]]


def test_texts_of_very_different_lengths_take_little_memory(path: Path) -> None:
    labels = ["a"] * 7 + ["b" * 100_000]
    dataset = NpzDataset(path, length=2, labels=labels)
    assert len(pickle.dumps(dataset)) < 110_000
    assert dataset[[0, 7]][1] == ["a", "b" * 100_000]


def test_wrong_arguments_of_batches(path: Path, pairs: Path) -> None:
    for labels in ("abcdefgh", {1, 2, 3, 4, 5, 6, 7, 8}, b"abcdefgh"):
        with pytest.raises(TypeError, match="labels must be"):
            NpzDataset(path, labels=labels)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got booleans"):
        NpzDataset(path, length=2)[[True, False]]
    wrong: Any = 2.7
    with pytest.raises(TypeError):
        NpzDataset(path, length=2, start=wrong)
    with pytest.raises(TypeError, match="start must return integers"):
        NpzDataset(path, length=2, start=lambda indices, lengths: lengths / 3)[[0]]
    with pytest.raises(ValueError, match='"x/0/mel" and "x/0/label" must have as many rows'):
        NpzDataset(pairs, fields=["x/{id}/mel", "x/{id}/label"], along=[1], pad=0)


def test_a_default_device_that_is_not_the_processor(path: Path) -> None:
    with torch.device("meta"):
        batch, index = NpzDataset(path, length=4, index=True)[[0, 2]]
        sampler = Batches(range(8), 2, shuffle=True)
        sample = NpzDataset(path, index=True)[3]
    assert {batch.device.type, index.device.type, *(part.device.type for part in sample)} == {"cpu"}
    assert len(list(sampler)) == 4


def test_memory_does_not_stay_as_large_as_the_largest_batch() -> None:
    pool = Pool()
    with pool.begin(100_000_000) as memory:
        large = memory.array((100_000_000,), np.dtype("u1"))
    del large
    for _ in range(20):
        with pool.begin(1_000_000):
            pass
    assert sum(len(buffer.bytes) for buffer in pool._buffers) < 10_000_000


def test_an_array_that_begins_while_another_thread_looks_for_memory() -> None:
    pool, met = Pool(), threading.Barrier(2)
    with pool.begin(1000) as first:

        def look() -> None:
            met.wait()
            for _ in range(2000):
                with pool.begin(1000) as memory:
                    memory.array((10,), np.dtype("f8"))

        thread = threading.Thread(target=look)
        thread.start()
        met.wait()
        arrays = [first.array((1,), np.dtype("f8")) for _ in range(8)]
        thread.join()
    with pool.begin(1000) as other:
        assert not np.shares_memory(other.array((10,), np.dtype("f8")), arrays[0])
    places = {array.ctypes.data for array in arrays}
    assert len(places) == 8


def test_memory_is_taken_before_there_is_an_array_in_it() -> None:
    pool = Pool()
    first, second = pool.begin(1000), pool.begin(1000)
    arrays = [memory.array((10,), np.dtype("f8")) for memory in (first, second, first)]
    for number, array in enumerate(arrays):
        array[:] = number
    assert [array.tolist() for array in arrays] == [[0.0] * 10, [1.0] * 10, [2.0] * 10]
    assert all(array.ctypes.data % 64 == 0 for array in arrays)


def test_threads_get_memory_of_their_own(path: Path) -> None:
    dataset = NpzDataset(path, length=4, start=0)
    expected = {index: dataset[index].tolist() for index in range(8)}
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        barrier.wait()
        for turn in range(200):
            indices = [(number + turn) % 8, (number * turn) % 8]
            batch = dataset[indices]
            found = [row.tolist() for row in batch]
            assert found == [expected[index] for index in indices]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


WORKERS = """
import multiprocessing, os, pickle, sys, time
import numpy as np, torch, mmnpz
from torch.utils.data import DataLoader
from mmnpz.torch import Batches, NpzDataset, collate

class Changed(NpzDataset):
    '''A tensor that a worker has changed is sent as it is.'''

    def __getitem__(self, indices):
        x, lengths, label = super().__getitem__(indices)
        again = pickle.loads(pickle.dumps(x))
        assert type(again) is torch.Tensor and torch.equal(again, x)
        how = self.how
        if how == "new":
            x = x + 0
        elif how == "in place":
            x.add_(1).sub_(1)
        elif how == "part":
            x = x[:, :, :]
        elif how == "shape":
            x.unsqueeze_(0)
            x.squeeze_(0)
        elif how == "gradient":
            x.requires_grad_()
        return x, lengths, label

def head(samples):
    return collate(samples)

if __name__ == "__main__":
    path, method = sys.argv[1:]
    arrays = dict(np.load(path))
    names = list(arrays)
    common = dict(num_workers=2, multiprocessing_context=method)
    labels = np.arange(len(names)) * 10

    def check(x, lengths, label):
        assert type(x) is torch.Tensor and x.is_contiguous()
        for row, length, number in zip(x.detach(), lengths.tolist(), (label // 10).tolist()):
            array = arrays[names[number]]
            assert length == len(array), (length, number)
            np.testing.assert_array_equal(row[:length], array)
            assert not row[length:].any()

    sampler = Batches(range(len(names)), 3, shuffle=True, seed=1)
    dataset = NpzDataset(path, pad=0, labels=labels)
    loaders = [
        DataLoader(dataset, sampler=sampler, batch_size=None, persistent_workers=True, **common),
        DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, **common),
        DataLoader(dataset, batch_sampler=sampler, collate_fn=head, prefetch_factor=4, **common),
    ]
    for how in ("new", "in place", "part", "shape", "gradient"):
        changed = Changed(path, pad=0, labels=labels)
        changed.how = how
        loaders.append(DataLoader(changed, sampler=sampler, batch_size=None, **common))
    if method != "fork":  # to start workers takes seconds
        del loaders[2:]
    for loader in loaders:
        for _ in range(2):
            count, last, kept = 0, None, []
            for batch in loader:
                check(*batch)
                if last is not None:
                    check(*last)
                last, count = batch, count + len(batch[0])
                kept.append(batch[0][0])
                kept.append(kept[-1].clone())
            assert count == len(names)
            # What was kept is as it was, now that the workers have gone on, or have ended.
            for array, before in zip(kept[::2], kept[1::2]):
                assert torch.equal(array, before)
        # Left in the middle.
        next(iter(loader))
    # All batches of many at a time.
    many = Batches(range(len(names)), 2, seed=1)
    loader = DataLoader(dataset, sampler=many, batch_size=None, persistent_workers=True, **common)
    batches = [batch for _ in range(20) for batch in loader]
    assert len({batch[0].data_ptr() for batch in batches}) == len(batches) == 80
    for batch in batches:
        check(*batch)
    print("done")
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_workers_send_what_was_written(path: Path, tmp_path: Path, method: str) -> None:
    assert run_script(WORKERS, tmp_path, path, method) == "done\n"


FORKED = """
import gc, os, sys
import torch
from torch.utils.data import DataLoader
from mmnpz.torch import Batches, NpzDataset
import mmnpz.torch.memory as memory

if __name__ == "__main__":
    dataset = NpzDataset(sys.argv[1], length=4, start=0, index=True)
    options = dict(batch_size=None, num_workers=1, persistent_workers=True)
    loader = DataLoader(dataset, sampler=Batches(range(8), 2, seed=0), **options)
    list(loader)
    batches = iter(loader)
    batch, index = next(batches)
    before = batch.tolist()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        # This process has gone on, and its workers have made other batches.
        os.read(read, 1)
        same = batch.tolist() == before
        del batch, index
        os._exit(0 if same else 1)
    del batch, index
    for _ in range(5):
        for other in loader:
            pass
    os.write(write, b"x")
    assert os.waitpid(child, 0)[1] == 0, "the memory of a child's batch was used again"
    # The child that ended gave nothing back.
    other, index = next(iter(loader))
    before = other.tolist()
    child = os.fork()
    if child == 0:
        del other
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    for _ in range(5):
        list(loader)
    assert other.tolist() == before
    # Memory that forks have taken away is replaced.
    for turn in range(60):
        for number, (other, index) in enumerate(loader):
            if number == 1:
                child = os.fork()
                if child == 0:
                    os._exit(0)
                os.waitpid(child, 0)
    del other, index
    gc.collect()
    held = list(loader)
    live = [len(buffer.live) for buffer in memory._Received.all.values()]
    assert sum(live) == 2 * len(held) == 8, live  # all are in shared memory
    assert len(live) <= 8, live
    maps = open("/proc/self/maps").read().count("mmnpz-batch")
    assert maps <= 8, maps
    print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_a_batch_that_a_forked_child_has_stays(path: Path, tmp_path: Path) -> None:
    # From Python 3.12 on, to fork a process that has threads is warned of.
    quiet = "import warnings\nwarnings.simplefilter('ignore')\n"
    assert run_script(quiet + FORKED, tmp_path, path) == "done\n"


ODD = """
import multiprocessing, os, sys
import torch
from torch.utils.data import DataLoader
from mmnpz.torch import Batches, NpzDataset
import mmnpz.torch.memory as memory

class Odd(NpzDataset):
    def __getitem__(self, indices):
        x = super().__getitem__(indices)
        how = self.how
        if how == "queue":
            queue.put(x)
        elif how == "type":
            return torch.zeros(2, 3).as_subclass(type(x))
        elif how == "made":
            return type(x)(2, 3)
        return x

def refuse(*_):
    raise PermissionError(1, "not permitted")

def same_number(worker):
    # Each worker has the number of a process that is there, as if those of ended ones came again.
    real = os.getpid()
    os.getpid = lambda: 1

if __name__ == "__main__":
    queue = multiprocessing.get_context("fork").SimpleQueue()
    expected = NpzDataset(sys.argv[1], length=4, start=0)[[0, 1]].tolist()

    def batches(how, start=0, **options):
        dataset = Odd(sys.argv[1], length=4, start=start)
        dataset.how = how
        sampler = Batches(range(8), 2, seed=0)
        return DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=1, timeout=20, **options)

    for how in ("type", "made"):
        assert [tuple(batch.shape) for batch in batches(how)][-1] == (2, 3)

    # What a worker also sends to others: here, to this process by another queue.
    for batch in batches("queue"):
        assert torch.equal(queue.get(), batch)

    # Where another process maps the memory first.
    loader = batches("queue")
    other = multiprocessing.get_context("fork").Process(target=lambda: [queue.get() for _ in range(4)])
    other.start()
    # Until it has, the worker must be there.
    batches_of_it = iter(loader)
    found = [next(batches_of_it) for _ in range(4)]
    other.join()
    assert found[0].tolist() == expected and other.exitcode == 0
    del batches_of_it

    for start in (0, 1, 0):
        found = list(batches("", start, worker_init_fn=same_number))
        dataset = NpzDataset(sys.argv[1], length=4, start=start)
        assert torch.equal(torch.cat(found), dataset[range(8)]), start

    memory.os.memfd_create = refuse
    assert next(iter(batches(""))).tolist() == expected
    print("done")
"""


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no shared memory of this kind")
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_odd_workers(path: Path, tmp_path: Path) -> None:
    quiet = "import warnings\nwarnings.simplefilter('ignore')\n"
    assert run_script(quiet + ODD, tmp_path, path) == "done\n"


LEFT = """
import os, sys
import torch
from torch.utils.data import DataLoader
from mmnpz.torch import Batches, NpzDataset
import mmnpz.torch.memory as memory

def descriptors():
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sum("mmnpz-batch" in os.readlink(link) for link in links if os.path.islink(link))

if __name__ == "__main__":
    dataset = NpzDataset(sys.argv[1], length=4, start=0)
    counts = []
    for _ in range(6):
        # Workers of their own in each epoch.
        sampler = Batches(range(8), 2, seed=0)
        for batch in DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=2):
            assert batch.shape == (2, 4, 2)
        counts.append((len(memory._Received.all), descriptors()))
    assert counts[0][0] > 0, counts
    assert max(counts[2:]) <= max(counts[:2]), counts
    print("done")
"""


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no shared memory of this kind")
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_memory_of_workers_that_ended_is_given_up(path: Path, tmp_path: Path) -> None:
    assert run_script(LEFT, tmp_path, path) == "done\n"
