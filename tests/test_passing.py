"""What `mmnpz.torch.NpzDataset` hands to processes that are started: its pickle must fit into a pipe."""

import gc
import multiprocessing
import multiprocessing.context
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.processes import run_script

if "CI" not in os.environ:
    pytest.importorskip("torch")
if not hasattr(os, "memfd_create"):
    pytest.skip("the system has no files in memory", allow_module_level=True)

from multiprocessing import popen_spawn_posix

from mmnpz.torch import NpzDataset

PIPE = 1 << 16

METHODS = sorted(set(multiprocessing.get_all_start_methods()) - {"fork"})


class Starting(popen_spawn_posix.Popen):
    """A process that is being started, and never is."""

    def __init__(self) -> None:
        self._fds: list[int] = []


@contextmanager
def starting() -> Iterator[Starting]:
    process = Starting()
    set_spawning: Any = multiprocessing.context.set_spawning_popen  # its types say that there is always one
    set_spawning(process)
    try:
        yield process
    finally:
        set_spawning(None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(100):
            writer.write(f"{number}", np.arange(number + 10) + 1000 * number)
    return path


NAMES = [f"{number % 100}" for number in range(20_000)]


@pytest.mark.parametrize(
    "labels",
    [None, np.arange(20_000), [f"{'x' * (number % 7 * 40)}{number}" for number in range(20_000)]],
    ids=["none", "numbers", "texts"],
)
@pytest.mark.parametrize("stride", [None, 5])
def test_pickles_for_a_process_fit_into_a_pipe(path: Path, labels: Any, stride: Any) -> None:
    dataset = NpzDataset(
        path, NAMES, length=10, start=0 if stride is None else None, stride=stride, labels=labels
    )
    with starting() as process:
        pickled = [bytes(ForkingPickler.dumps(dataset)) for _ in range(2)]
        # Twice in one pickle: both may get the same descriptor.
        both = bytes(ForkingPickler.dumps((dataset, NpzDataset(path), dataset)))
    assert all(len(each) < PIPE // 8 for each in (*pickled, both))
    assert process._fds
    copies = [pickle.loads(each) for each in pickled]
    copies += pickle.loads(both)[::2]
    del dataset
    gc.collect()
    for other in copies:
        assert len(other) == 20_000 if stride is None else len(other) > 20_000
        samples: Any = other[[7, 19_999, 0]]
        excerpts, found = (samples, []) if labels is None else samples
        if stride is None:
            assert [int(excerpt[0]) for excerpt in excerpts] == [7000, 99_000, 0]
            if labels is not None:
                assert list(found) == [labels[7], labels[19_999], labels[0]]


@pytest.mark.parametrize(
    "labels", [[object()] * 20_000, [None] * 5, np.arange(5)], ids=["objects", "few", "few numbers"]
)
def test_what_is_small_or_may_have_its_own_way_stays_in_the_pickle(path: Path, labels: Any) -> None:
    dataset = NpzDataset(path, NAMES[: len(labels)], labels=labels)
    with starting() as process:
        ForkingPickler.dumps(dataset)
    assert len(process._fds) == (len(labels) > 5)  # the numbers of the names


@pytest.mark.thread_unsafe(reason="changes what the system offers")
def test_where_no_descriptor_is_left_the_pickle_holds_all(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    dataset = NpzDataset(path, NAMES)
    monkeypatch.setattr(os, "memfd_create", refuse)
    with starting() as process:
        pickled = bytes(ForkingPickler.dumps(dataset))
    assert not process._fds
    assert len(pickled) > PIPE
    assert np.array_equal(pickle.loads(pickled)[3], dataset[3])


def test_other_pickles_hold_all(path: Path) -> None:
    dataset = NpzDataset(path, NAMES, length=5, labels=np.arange(20_000))
    assert len(ForkingPickler.dumps(dataset)) > PIPE


@pytest.mark.parametrize("method", METHODS)
def test_processes_get_all_of_it(path: Path, tmp_path: Path, method: str) -> None:
    script = """
    import multiprocessing, sys
    import numpy as np
    from mmnpz.torch import NpzDataset

    def work(dataset, results):
        excerpts, labels, numbers = dataset[[3, 19_950]]
        results.put((excerpts[:, 0].tolist(), labels, numbers.tolist(), len(dataset)))

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[2])
        names = [str(number % 100) for number in range(20_000)]
        labels = [str(number) * (number % 9) for number in range(20_000)]
        dataset = NpzDataset(sys.argv[1], names, length=4, start=1, labels=labels, index=True)
        results = context.SimpleQueue()
        processes = [context.Process(target=work, args=(dataset, results)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            print(results.get())
            process.join()
    """
    label = "19950" * (19_950 % 9)
    expected = ([3001, 50_001], ["333", label], [3, 19_950], 20_000)
    assert run_script(script, tmp_path, path, method) == f"{expected}\n" * 2
