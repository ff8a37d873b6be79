"""`mmnpz.torch.NpzDataset` gives the right tensors, in all the ways in which PyTorch uses a dataset."""

import copy
import multiprocessing
import os
import pickle
import sys
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import npy, own_copy
from tests.processes import run_python, run_script

if "CI" not in os.environ:
    pytest.importorskip("torch")
    pytest.importorskip("torchdata")

import torch
from torch.utils.data import ConcatDataset, DataLoader, RandomSampler, Subset
from torchdata import nodes

from mmnpz.torch import NpzDataset

GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
METHODS = multiprocessing.get_all_start_methods()
NAMES = ["c", "a", "folder/d", "täxt", "b"]
ARRAYS = {name: np.arange(7 * n, 8 * n + 20, dtype=np.float32) for n, name in enumerate(NAMES)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of an archive of ARRAYS that NumPy wrote."""
    path = tmp_path / "archive.npz"
    np.savez(path, **ARRAYS)  # type: ignore[arg-type]
    return path


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """The path of an archive of 300 arrays, each filled with its number."""
    path = tmp_path / "numbered.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(300):
            writer.write(str(number), np.full(50, number))
    return path


def write(path: Path, array: Any) -> Path:
    """Write an archive of one array, with the .npy header and the items that NumPy writes."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", npy(array))
    return path


def assert_same(tensor: torch.Tensor, array: Any) -> None:
    """Compare items, shape and dtype. The byte order of a tensor is always native."""
    found, expected = tensor.numpy(), np.asarray(array)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype.newbyteorder("="))
    np.testing.assert_array_equal(found, expected)


def assert_samples(samples: Any, names: list[str]) -> None:
    """Compare samples, one by one, with the arrays of these names."""
    samples = list(samples)
    assert len(samples) == len(names)
    for sample, name in zip(samples, names, strict=True):
        assert_same(sample, ARRAYS[name])


# The samples and batches of a dataset


@pytest.mark.parametrize("kind", [str, Path])
def test_all_arrays_in_archive_order(path: Path, kind: Callable[[Path], Any]) -> None:
    dataset = NpzDataset(kind(path))
    assert isinstance(dataset, torch.utils.data.Dataset)
    assert len(dataset) == 5
    assert_samples([dataset[index] for index in range(5)], NAMES)
    assert [dataset.name(index) for index in range(5)] == NAMES


def test_names_in_the_order_given(path: Path) -> None:
    names = ["b", "c", "b", "täxt"]
    for given in (names, tuple(names), iter(names)):
        dataset = NpzDataset(path, given)
        assert len(dataset) == 4
        assert_samples([dataset[index] for index in range(4)], names)
        assert [dataset.name(index) for index in range(4)] == names


def test_no_names_are_no_samples(path: Path) -> None:
    dataset: Any = NpzDataset(path, [])
    assert (len(dataset), list(dataset)) == (0, [])
    with pytest.raises(IndexError):
        dataset[0]


def test_iteration_ends(path: Path) -> None:
    # Python iterates by calling __getitem__ until it raises IndexError; type checkers do not know that.
    assert_samples(NpzDataset(path), NAMES)
    assert_samples(NpzDataset(path, ["b", "a"]), ["b", "a"])


def test_indices_are_those_of_a_list(path: Path) -> None:
    for dataset, names in [(NpzDataset(path), NAMES), (NpzDataset(path, ["b", "a"]), ["b", "a"])]:
        indices: list[Any] = [-len(names), -1, np.int64(1), np.uint8(0), torch.tensor(1), True]
        for index in indices:
            assert_samples([dataset[index]], [names[int(index)]])
            assert dataset.name(index) == names[int(index)]
        for index in [len(names), -len(names) - 1, 10**30, -(10**30)]:
            for look in (
                dataset.__getitem__,
                dataset.name,
                lambda index, get=dataset: get.__getitems__([index]),
            ):
                with pytest.raises(IndexError, match=f"{index} is out of range for {len(names)} samples"):
                    look(index)
        for wrong in ["a", 1.0, None, slice(1)]:
            with pytest.raises(TypeError):
                dataset[wrong]  # type: ignore[index]


def test_a_batch_at_once(path: Path) -> None:
    samples = NpzDataset(path).__getitems__([4, 0, -1, 4])
    assert type(samples) is list
    assert_samples(samples, ["b", "c", "b", "b"])
    assert samples[0].data_ptr() != samples[3].data_ptr()
    dataset = NpzDataset(path, ["b", "a"], excerpt=lambda view: view[:3], transform=torch.Tensor.tolist)
    assert dataset.__getitems__([1, 0]) == [ARRAYS["a"][:3].tolist(), ARRAYS["b"][:3].tolist()]
    assert dataset.__getitems__([]) == []


class Labelled(NpzDataset):
    """Samples with labels."""

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(index), f"label of {self.name(index)}"


class LabelledBatches(Labelled):
    """Samples with labels, and a method for batches."""

    def __getitems__(self, indices: Any) -> list[Any]:
        indices = list(indices)
        samples = super().__getitems__(indices)
        return [(sample, self.name(index)) for sample, index in zip(samples, indices, strict=True)]


class Plain(NpzDataset):
    """A subclass that overrides neither `__getitem__` nor `__getitems__`."""


@pytest.mark.parametrize("part", [None, [0, 2, 4]])
def test_a_batch_of_a_subclass_has_the_samples_of_its_own_method(path: Path, part: list[int] | None) -> None:
    dataset: Any = Labelled(path, excerpt=head)
    names = NAMES if part is None else [NAMES[index] for index in part]
    if part is not None:
        dataset = Subset(dataset, part)
    loader: Any = DataLoader(dataset, batch_size=2, collate_fn=list)
    found = [sample for batch in loader for sample in batch]
    assert [label for _, label in found] == [f"label of {name}" for name in names]
    for (sample, _), name in zip(found, names, strict=True):
        assert_same(sample, ARRAYS[name][:3])
    # Indices may come from an iterator, which can be read only once.
    assert len(dataset.__getitems__(iter([1, 0, 1]))) == 3


def test_a_subclass_can_have_a_method_for_batches(path: Path) -> None:
    loader: Any = DataLoader(LabelledBatches(path), batch_size=5, collate_fn=list)
    (batch,) = loader
    assert_samples([sample for sample, _ in batch], NAMES)
    assert [label for _, label in batch] == NAMES


def test_a_subclass_that_changes_no_sample_reads_batches_as_a_whole(path: Path) -> None:
    calls: list[str] = []

    def excerpt(view: Any) -> Any:
        calls.append("excerpt")
        return view

    for kind in [Plain, NpzDataset]:
        dataset = kind(path, excerpt=excerpt)
        dataset._finish = lambda *_: calls.append("finish")  # type: ignore[method-assign]
        dataset.__getitems__([0, 1])
        assert calls == ["excerpt", "excerpt", "finish", "finish"]
        calls.clear()


def test_excerpt_takes_the_read_only_view(path: Path) -> None:
    views: list[Any] = []

    def excerpt(view: Any) -> Any:
        views.append(view)
        return view[5:2:-1]

    dataset = NpzDataset(path, excerpt=excerpt)
    assert_same(dataset[1], ARRAYS["a"][5:2:-1])
    assert type(views[0]) is np.ndarray
    assert not views[0].flags.writeable
    dataset.__getitem__(1)
    assert views[1] is not views[0]  # the dataset opens the path with cache=False
    np.testing.assert_array_equal(views[0], ARRAYS["a"])


def test_excerpts_may_be_anything_that_is_an_array(path: Path) -> None:
    excerpts: list[Callable[[Any], Any]] = [
        lambda view: view[3],
        lambda view: view[[1, 3]],
        lambda view: view[2:4].tolist(),
    ]
    for excerpt in excerpts:
        expected = np.asarray(excerpt(ARRAYS["a"]))
        assert_same(NpzDataset(path, ["a"], excerpt=excerpt)[0], expected)


def test_an_excerpt_that_is_kept_is_copied(path: Path) -> None:
    buffer = np.zeros(3)
    dataset = NpzDataset(path, excerpt=lambda view: buffer)
    dataset[0][0] = 1
    assert buffer[0] == 0


def test_an_excerpt_of_a_batch_that_is_overwritten_by_the_next(path: Path) -> None:
    buffer: Any = np.zeros(3, np.float32)
    read_only = buffer.view()
    read_only.flags.writeable = False

    def excerpt(view: Any) -> Any:
        buffer[:] = view[2:5]
        return buffer if len(view) % 2 else read_only

    samples = NpzDataset(path, excerpt=excerpt).__getitems__([0, 1, 2, 3, 4])
    for sample, name in zip(samples, NAMES, strict=True):
        assert_same(sample, ARRAYS[name][2:5])


def test_calls_alternate_where_both_may_draw_random_numbers(path: Path) -> None:
    calls: list[str] = []

    def excerpt(view: Any) -> Any:
        calls.append("excerpt")
        return view

    def transform(tensor: torch.Tensor) -> torch.Tensor:
        calls.append("transform")
        return tensor

    NpzDataset(path, excerpt=excerpt, transform=transform).__getitems__([0, 1, 2])
    assert calls == ["excerpt", "transform"] * 3


@pytest.mark.parametrize("source", ["path", "reader"])
def test_a_batch_of_any_excerpts_is_that_of_single_samples(numbered: Path, source: str) -> None:
    excerpts: list[Any] = [
        None,
        lambda view: view[5:20],
        lambda view: view[::-3],
        lambda view: view[:0],
        lambda view: view[3],
        lambda view: view[[1, 3]],
        lambda view: view.reshape(5, 10).T[::2, ::-1],
        lambda view: np.broadcast_to(view[:3], (2, 3)),
        lambda view: view[:4].tolist(),
        lambda view: torch.arange(int(view[0])),
    ]
    for excerpt in excerpts:
        given: Any = numbered if source == "path" else mmnpz.load(numbered)
        dataset = NpzDataset(given, excerpt=excerpt)
        for indices in ([5, -1, 5, 120], iter(range(300))):
            indices = list(indices)
            for sample, index in zip(dataset.__getitems__(iter(indices)), indices, strict=True):
                assert torch.equal(sample, dataset[index])


def test_transform_makes_the_sample(path: Path) -> None:
    tensors: list[Any] = []

    def transform(tensor: torch.Tensor) -> str:
        tensors.append(tensor)
        return "sample"

    assert NpzDataset(path, excerpt=lambda view: view[:2], transform=transform)[0] == "sample"
    assert type(tensors[0]) is torch.Tensor
    assert_same(tensors[0], ARRAYS["c"][:2])


def test_callables_raise_through(path: Path) -> None:
    for error in (TypeError("mine"), KeyError("mine")):

        def fail(value: Any, error: Exception = error) -> Any:
            raise error

        for dataset in (NpzDataset(path, excerpt=fail), NpzDataset(path, transform=fail)):
            with pytest.raises(type(error)) as caught:
                dataset[0]
            assert caught.value is error


# Memory and types


def test_tensors_own_their_memory(path: Path) -> None:
    before = path.read_bytes()
    for dataset in (
        NpzDataset(path),
        NpzDataset(mmnpz.load(path)),
        NpzDataset(path, excerpt=lambda a: a[1:]),
    ):
        first, second = dataset[0], dataset[0]
        expected = first.clone()
        # SIGSEGV if the tensor shared the memory of the map.
        first.fill_(-1)
        assert torch.equal(second, expected)
        assert torch.equal(dataset[0], expected)
    assert path.read_bytes() == before


@pytest.mark.thread_unsafe(reason="looks at what the whole process has open")
def test_tensors_outlive_the_dataset(path: Path) -> None:
    tensor = NpzDataset(path)[0]
    assert str(path) not in Path("/proc/self/maps").read_text()
    assert_same(tensor, ARRAYS["c"])


DTYPES = {
    "?": torch.bool,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "u2": torch.uint16,
    "u4": torch.uint32,
    "u8": torch.uint64,
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "c8": torch.complex64,
    "c16": torch.complex128,
}
LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "c": lambda array: array,
    "fortran": np.asfortranarray,
    "scalar": lambda array: array[1, 2].reshape(()),
    "empty": lambda array: array[:, :0],
    "empty, fortran": lambda array: np.asfortranarray(array[:0]),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(tmp_path: Path, dtype: str, layout: str, order: str) -> None:
    array = LAYOUTS[layout]((np.arange(12).reshape(3, 4) * 0.75).astype(np.dtype(order + dtype)))
    tensor = NpzDataset(write(tmp_path / "a.npz", array))[0]
    assert tensor.dtype is DTYPES[dtype]
    assert tensor.shape == array.shape
    assert tensor.is_contiguous()
    assert_same(tensor, array)


def test_excerpts_of_any_strides_become_contiguous(path: Path) -> None:
    for excerpt in (
        lambda view: view[::-2],
        lambda view: view.reshape(2, -1).T,
        lambda view: np.broadcast_to(view[:3], (2, 3)),
        lambda view: view[1:9].view(">i2")[1::3],
    ):
        array = ARRAYS["c"]
        expected = excerpt(array)
        tensor = NpzDataset(path, ["c"], excerpt=excerpt)[0]
        assert tensor.is_contiguous()
        assert_same(tensor, expected)
        tensor[0] = 0  # no two items share memory


@pytest.mark.parametrize(
    "dtype",
    ["U3", ">U3", "S2", "V3", "M8[s]", "m8[s]", [("a", "i4"), ("b", "f8")]]
    # On systems where long double is double, torch has the dtype.
    + [name for name, double in (("g", "d"), ("G", "D")) if np.dtype(name) != np.dtype(double)],
    ids=str,
)
def test_a_dtype_that_torch_has_not(tmp_path: Path, dtype: Any) -> None:
    array = np.zeros(3, dtype=dtype)
    path = write(tmp_path / "a.npz", array)
    for source in (path, str(path), mmnpz.load(path)):
        with pytest.raises(TypeError) as caught:
            NpzDataset(source)[0]
        message = str(caught.value)
        assert message.startswith(f'{path}: member "x": ')
        assert str(array.dtype) in message
    # The dtype of the excerpt counts, not that of the array.
    assert NpzDataset(path, excerpt=lambda view: [len(view)])[0].tolist() == [3]


# Files and readers


def test_gather_says_how_to_pass_a_tensor(path: Path) -> None:
    data = mmnpz.load(path)
    name = data.files[0]
    tensor = torch.zeros((1, *data[name].shape), dtype=torch.from_numpy(np.array(data[name])).dtype)
    with pytest.raises(TypeError, match=r"out must be an array, .*: pass out\.numpy\(\)"):
        data.gather([name], out=tensor)  # type: ignore[arg-type]
    data.gather([name], out=tensor.numpy())
    np.testing.assert_array_equal(tensor[0], data[name])


def test_bad_names(path: Path) -> None:
    with pytest.raises(KeyError, match="'nothing'"):
        NpzDataset(path, ["a", "nothing"])
    with pytest.raises(TypeError):
        NpzDataset(path, [1])  # type: ignore[list-item]
    # A string is an iterable of its letters, and a caller hardly means these as names.
    with pytest.raises(TypeError, match="'abc'"):
        NpzDataset(path, "abc")


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        NpzDataset(tmp_path / "nothing.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(zipfile.BadZipFile):
        NpzDataset(tmp_path / "text.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([None]))
    with pytest.raises(ValueError, match=r'objects\.npz: member "x"'):
        NpzDataset(tmp_path / "objects.npz")[0]


def test_a_reader_is_used_with_its_own_options(path: Path) -> None:
    views: list[Any] = []

    def excerpt(view: Any) -> Any:
        views.append(view)
        return view

    for options in ({}, {"subok": False}, {"cache": False}, {"preload": True}):
        reader = mmnpz.load(path, **options)  # type: ignore[arg-type]
        again = pickle.loads(pickle.dumps(NpzDataset(reader)))
        views.clear()
        for dataset in (NpzDataset(reader, excerpt=excerpt), again):
            dataset._excerpt = excerpt  # pickle refuses a function that is defined in a function
            assert_samples([dataset[index % 5] for index in range(6)], [*NAMES, "c"])
            assert {type(view) for view in views} == {type(reader["a"])}
            assert (views[0] is views[5]) == reader.cache
            views.clear()


@pytest.mark.skipif(not GIL, reason="threads have handles of their own")
def test_a_reader_is_shared(path: Path) -> None:
    reader = mmnpz.load(path)
    views: list[Any] = []
    NpzDataset(reader, excerpt=lambda view: views.append(view) or view)[0]  # type: ignore[func-returns-value]
    assert views[0] is reader["c"]
    assert list(reader.arrays) == ["c"]


def test_a_closed_reader(path: Path) -> None:
    reader = mmnpz.load(path)
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        NpzDataset(reader)


@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_torch_is_loaded_only_when_it_is_asked_for() -> None:
    run_python("import sys, mmnpz; assert 'torch' not in sys.modules")


@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_without_torch_the_error_says_what_to_install(tmp_path: Path) -> None:
    code = """
        import sys
        {}
        import mmnpz
        try:
            import mmnpz.torch
        except ImportError as error:
            print(type(error).__name__, error.name, error)
        """
    assert "pip install torch" in run_python(code.format("sys.modules['torch'] = None"))
    # If torch is installed, and fails to import another module, its own error is raised.
    (tmp_path / "torch.py").write_text("import surely_missing")
    broken = run_python(code.format("sys.path.insert(0, '')"), cwd=tmp_path)
    assert broken.startswith("ModuleNotFoundError surely_missing ")


# Pickles


def absolute(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.abs() + 1


def head(view: Any) -> Any:
    return view[:3]


def test_a_pickle_is_small(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(20_000):
            writer.write(f"a rather long name {number}", np.arange(3))
    names = mmnpz.load(path).files
    for protocol in range(3, pickle.HIGHEST_PROTOCOL + 1):
        for source in (path, mmnpz.load(path, preload=True)):
            dataset = NpzDataset(source, excerpt=head, transform=absolute)
            for _ in range(2):
                assert dataset[0].tolist() == [1, 2, 3]
                assert len(pickle.dumps(dataset, protocol)) <= 1536
                dataset = pickle.loads(pickle.dumps(dataset, protocol))
        given = NpzDataset(path, names, excerpt=head, transform=absolute)
        assert len(pickle.dumps(given, protocol)) <= 1536 + 4 * len(names)


@pytest.mark.parametrize("again", [lambda d: pickle.loads(pickle.dumps(d)), copy.copy, copy.deepcopy])
def test_a_dataset_comes_back(path: Path, again: Callable[[NpzDataset], NpzDataset]) -> None:
    dataset = NpzDataset(path, ["b", "a", "b"], excerpt=head, transform=absolute)
    for _ in range(2):  # the second time, copy a dataset that was never used
        dataset = again(dataset)
    assert (len(dataset), dataset.name(0)) == (3, "b")
    for index, name in enumerate(["b", "a", "b"]):
        assert_same(dataset[index], ARRAYS[name][:3] + 1)
    whole = again(NpzDataset(path))
    assert len(whole) == 5
    assert_samples(whole, NAMES)


@pytest.mark.thread_unsafe(reason="looks at what the whole process has open")
def test_unpickling_opens_nothing(path: Path) -> None:
    pickled = pickle.dumps(NpzDataset(path))

    def mapped() -> bool:
        return str(path) in Path("/proc/self/maps").read_text()

    dataset = pickle.loads(pickled)
    assert len(dataset) == 5
    again = pickle.dumps(dataset)
    assert not mapped()
    assert_samples([dataset[1]], ["a"])
    assert mapped()
    assert again == pickled


def test_a_pickle_of_a_file_that_changed_or_went(path: Path, tmp_path: Path) -> None:
    path = own_copy(path, tmp_path)
    dataset = NpzDataset(path)
    pickled = pickle.dumps(dataset)
    os.utime(path, ns=(0, 0))
    changed = pickle.loads(pickled)
    for use, argument in [(changed.__getitem__, 0), (changed.__getitems__, [0]), (changed.name, 0)]:
        with pytest.raises(ValueError, match=r"archive\.npz: the file is not the one"):
            use(argument)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"archive\.npz"):
        pickle.loads(pickled)[0]
    assert_samples(dataset, NAMES)  # this dataset has the old file mapped


@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_a_relative_path_is_found_from_another_folder(path: Path) -> None:
    code = """
        import os, pickle, sys
        from mmnpz.torch import NpzDataset
        pickled = pickle.dumps(NpzDataset(sys.argv[1]))
        os.chdir("/")
        print(pickle.loads(pickled)[1].tolist())
        """
    assert run_python(code, path.name, cwd=path.parent) == f"{ARRAYS['a'].tolist()}\n"


# Threads


@pytest.mark.parametrize("cache", [False, True])
def test_threads_that_open_an_unpickled_dataset_together(numbered: Path, cache: bool) -> None:
    pickled = pickle.dumps(NpzDataset(mmnpz.load(numbered, cache=cache), transform=absolute))
    for _ in range(30):
        dataset = pickle.loads(pickled)
        barrier = threading.Barrier(4)

        def read(
            first: int, dataset: NpzDataset = dataset, barrier: threading.Barrier = barrier
        ) -> list[tuple[str, list[int]]]:
            barrier.wait()
            indices = range(first, 300, 30)
            return [(dataset.name(index), dataset[index].unique().tolist()) for index in indices]

        with ThreadPoolExecutor(4) as pool:
            for first, found in enumerate(pool.map(read, range(4))):
                assert found == [(str(number), [number + 1]) for number in range(first, 300, 30)]


def test_each_thread_has_a_handle_of_its_own_without_the_gil(path: Path) -> None:
    local = threading.local()

    def excerpt(view: Any) -> Any:
        local.view = view
        return view

    for source in (mmnpz.load(path), pickle.dumps(NpzDataset(mmnpz.load(path)))):
        dataset = pickle.loads(source) if isinstance(source, bytes) else NpzDataset(source)
        dataset._excerpt = excerpt
        barrier = threading.Barrier(3)

        def look(
            number: int, dataset: NpzDataset = dataset, barrier: threading.Barrier = barrier
        ) -> list[Any]:
            barrier.wait()
            views = []
            for _ in range(2):
                dataset[0]
                views.append(local.view)
            return views

        look_once = dataset[0]  # an unpickled dataset opens the file here
        assert len(look_once)
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(look, range(3)))
        assert all(first is second for first, second in found)
        assert len({id(first) for first, _ in found}) == (1 if GIL else 3)


def test_threads_read_what_was_written(numbered: Path) -> None:
    dataset = NpzDataset(numbered)
    with ThreadPoolExecutor(4) as pool:
        samples = list(pool.map(dataset.__getitem__, range(300)))
        batches = list(pool.map(dataset.__getitems__, [range(n, n + 30) for n in range(0, 300, 30)]))
    for number, sample in enumerate(samples):
        assert sample.tolist() == [number] * 50
        assert torch.equal(batches[number // 30][number % 30], sample)


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.thread_unsafe(reason="counts the threads of the whole process")
def test_threads_of_torchdata(numbered: Path, in_order: bool) -> None:
    dataset = NpzDataset(numbered, [str(number) for number in range(100, 300)])
    indices: Any = nodes.SamplerWrapper(RandomSampler(dataset, generator=torch.Generator().manual_seed(0)))
    samples: Any = nodes.ParallelMapper(
        indices, dataset.__getitem__, num_workers=2, in_order=in_order, method="thread"
    )
    loader: Any = nodes.Loader(nodes.Prefetcher(nodes.Batcher(samples, 10), prefetch_factor=2))
    before = threading.active_count()
    for _ in range(2):  # epochs
        batches = list(loader)
        assert [len(batch) for batch in batches] == [10] * 20
        found = [sample for batch in batches for sample in batch]
        assert all(len(sample) == 50 and sample.unique().numel() == 1 for sample in found)
        numbers = [int(sample[0]) for sample in found]
        assert sorted(numbers) == list(range(100, 300))
        assert numbers != sorted(numbers)
    del loader, samples
    assert threading.active_count() <= before + 3


def test_map_style_wrapper_of_torchdata(path: Path) -> None:
    dataset: Any = NpzDataset(path)
    sampler: Any = [4, 0, 2]
    loader: Any = nodes.Loader(nodes.MapStyleWrapper(dataset, sampler))
    assert_samples(loader, ["b", "c", "folder/d"])


# Loaders in this process


def test_a_loader_without_workers(path: Path) -> None:
    assert_samples(DataLoader(NpzDataset(path), batch_size=None), NAMES)
    loader: Any = DataLoader(NpzDataset(path, excerpt=head), batch_size=2)
    assert [batch.tolist() for batch in loader] == [
        [ARRAYS[name][:3].tolist() for name in names] for names in (NAMES[:2], NAMES[2:4], NAMES[4:])
    ]


def test_samplers(path: Path) -> None:
    dataset = NpzDataset(path, transform=torch.Tensor.tolist)
    everything = sorted(array.tolist() for array in ARRAYS.values())
    assert sorted(DataLoader(dataset, batch_size=None, shuffle=True)) == everything
    sampler = RandomSampler(dataset, replacement=True, num_samples=50)
    drawn = list(DataLoader(dataset, batch_size=None, sampler=sampler))
    assert len(drawn) == 50
    assert all(sample in everything for sample in drawn)
    batches: Any = DataLoader(dataset, batch_sampler=[[4, 4], [1]], collate_fn=list)
    assert list(batches) == [[ARRAYS["b"].tolist()] * 2, [ARRAYS["a"].tolist()]]


def test_parts_and_sums(path: Path) -> None:
    dataset = NpzDataset(path)
    assert_samples(DataLoader(Subset(dataset, [3, 1]), batch_size=None), ["täxt", "a"])
    assert_samples(Subset(dataset, [3, 1]).__getitems__([1, 0]), ["a", "täxt"])
    both = dataset + NpzDataset(path, ["b"])
    assert isinstance(both, ConcatDataset)
    assert len(both) == 6
    assert_samples([both[index] for index in range(6)], [*NAMES, "b"])
    assert_samples([both[-1]], ["b"])
    parts: Any = torch.utils.data.random_split(dataset, [3, 2], torch.Generator().manual_seed(0))
    found = sorted(sample.tolist() for part in parts for sample in part)
    assert found == sorted(array.tolist() for array in ARRAYS.values())


# Worker processes

LOADERS = """
import multiprocessing, os, sys, time
import numpy as np, mmnpz
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from mmnpz.torch import NpzDataset

def head(view):
    return view[:20]

def with_process(tensor):
    return os.getpid(), tensor

if __name__ == "__main__":
    path, method = sys.argv[1:]
    arrays = dict(np.load(path))
    names = [*reversed(arrays)] * 3
    options = dict(num_workers=2, multiprocessing_context=method)

    # Whole arrays, one by one and in order; twice in the same workers.
    dataset = NpzDataset(path, names, transform=with_process)
    loader = DataLoader(dataset, batch_size=None, persistent_workers=True, **options)
    workers = []
    for _ in range(2):
        samples = list(loader)
        assert len(samples) == len(names)
        for (_, tensor), name in zip(samples, names):
            assert tensor.numpy().dtype == arrays[name].dtype
            np.testing.assert_array_equal(tensor.numpy(), arrays[name])
        workers.append({process for process, _ in samples})
    assert workers[0] == workers[1] and len(workers[0]) == 2 and os.getpid() not in workers[0]
    # And a third time, left in the middle.
    next(iter(loader))
    del loader

    # Batches of excerpts, at random, of a reader that is in use.
    reader = mmnpz.load(path)
    dataset = NpzDataset(reader, excerpt=head)
    dataset[0]
    batches = BatchSampler(RandomSampler(dataset), batch_size=2, drop_last=False)
    batches = list(DataLoader(dataset, batch_sampler=batches, **options))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    found = sorted(row for batch in batches for row in batch.tolist())
    assert found == sorted(array[:20].tolist() for array in arrays.values())

    # The workers are gone, whoever their parent is.
    deadline = time.monotonic() + 20
    while running := [process for process in workers[0] if os.path.exists(f"/proc/{process}")]:
        assert time.monotonic() < deadline, running
        time.sleep(0.01)
    assert multiprocessing.active_children() == []
    print("done")
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_workers_read_what_was_written(path: Path, tmp_path: Path, method: str) -> None:
    assert run_script(LOADERS, tmp_path, path, method) == "done\n"


CHANGED = """
import os, sys
from torch.utils.data import DataLoader
from mmnpz.torch import NpzDataset

if __name__ == "__main__":
    dataset = NpzDataset(sys.argv[1])
    os.utime(sys.argv[1], ns=(0, 0))
    try:
        list(DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn"))
    except ValueError as error:
        print(error)
"""


@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_a_spawned_worker_refuses_another_file(path: Path, tmp_path: Path) -> None:
    assert "archive.npz: the file is not the one" in run_script(CHANGED, tmp_path, path)


MEMORY = """
import gc, os, sys
import numpy as np, torch, mmnpz
from torch.utils.data import DataLoader, Dataset
from mmnpz.torch import NpzDataset, collate

MEMBERS = 100_000

class Fresh(Dataset):
    '''As many samples as large, without a file.'''

    def __len__(self):
        return MEMBERS

    def __getitem__(self, index):
        return torch.from_numpy(np.zeros(50, np.float32))

def unique():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_"))

# In the worker, when it has made a batch.
def report(samples):
    assert len(samples) == 500 and samples[0].shape == (50,)
    return os.getpid(), unique()

def report_batch(samples):
    x, label, index = collate(samples)
    assert x.shape == (500, 20) and bool((label == index * 2).all())
    return os.getpid(), unique()

def worker(dataset, method, report=report):
    '''KiB that a worker has for itself after its last batch.'''
    options = dict(num_workers=2, multiprocessing_context=method)
    figures = dict(DataLoader(dataset, batch_size=500, shuffle=True, collate_fn=report, **options))
    assert len(figures) == 2
    return max(figures.values())

if __name__ == "__main__":
    path, method = sys.argv[1:]
    with mmnpz.NpzWriter(path, "w") as writer:
        for number in range(MEMBERS):
            writer.write(f"member{number}", np.zeros(50, np.float32))
    reader = mmnpz.load(path)
    names = reader.files[::-1]
    # The pages of the file belong to the system, and to all processes that have them mapped. Here is another
    # such process, so that they do not count as those of a worker.
    reader.mmap[::4096].sum()
    # The collector of free-threaded Python writes to all objects that are not frozen, and so has some worker
    # copy them all.
    gc.collect()
    gc.freeze()
    print(
        worker(Fresh(), method),
        worker(NpzDataset(path), method),
        worker(NpzDataset(path, names), method),
        worker(NpzDataset(path, length=20, labels=np.arange(MEMBERS) * 2, index=True), method, report_batch),
        worker(NpzDataset(reader), method),
    )
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="the system does not tell")
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_a_worker_costs_no_memory_for_each_array(tmp_path: Path, method: str) -> None:
    base, everything, named, batches, cached = map(
        int, run_script(MEMORY, tmp_path, tmp_path / "a.npz", method).split()
    )
    assert everything - base <= 4096
    assert named - base <= 4096
    assert batches - base <= 4096
    # A reader that keeps its views exceeds the limit. This shows that the test measures memory in the
    # workers.
    assert cached - base > 4096


@pytest.mark.parametrize("mode", ["r", "c"])
def test_samples_of_an_archive_in_memory(mode: Any, tmp_path: Path) -> None:
    with mmnpz.NpzWriter(tmp_path / "a.npz") as writer:
        for number in range(20):
            writer.write(f"{number}", np.full(number + 1, number))
        writer.write("text", ["a"])
    reader = mmnpz.load((tmp_path / "a.npz").read_bytes(), mode)
    dataset = NpzDataset(reader, [f"{number}" for number in range(20)])
    for each in (dataset, pickle.loads(pickle.dumps(dataset))):
        samples = each.__getitems__(range(20))
        assert [sample.tolist() for sample in samples] == [[number] * (number + 1) for number in range(20)]
        samples[3][:] = 7  # a sample has memory of its own
        assert each[3].tolist() == [3] * 4
    with pytest.raises(TypeError, match=r'<bytes>: member "text": PyTorch has no dtype'):
        NpzDataset(reader, ["text"])[0]
