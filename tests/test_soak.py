"""Threads and forked children use readers and writers in all ways at once, for MMNPZ_SOAK_SECONDS seconds.

Run it for longer with `MMNPZ_SOAK_SECONDS=300 pytest tests/test_soak.py`.
"""

import gc
import os
import pickle
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.processes import copied, fork, wait_for

NAMES = tuple(str(number) for number in range(120))
SECONDS = float(os.environ.get("MMNPZ_SOAK_SECONDS", "3"))
THREADS = 4

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
    pytest.mark.thread_unsafe(reason="has threads of its own, and forks"),
    pytest.mark.timeout(SECONDS + 300),
]


def content(salt: int) -> dict[str, Any]:
    """Return arrays of many dtypes, shapes and memory orders, for one archive."""
    generator = np.random.default_rng(salt)
    arrays: dict[str, Any] = {}
    for number, name in enumerate(NAMES):
        shape = tuple(generator.integers(0 if number % 17 == 0 else 1, 9, size=number % 4))
        if number % 40 == 0:
            shape = (5000,)
        dtypes: list[Any] = ["<f8", ">i4", "|u1", "<c8", "<M8[s]", "<U3", [("a", "<i2"), ("b", ">f4")]]
        dtype = dtypes[number % 7]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if dtype == "<U3":
            array = generator.integers(0, 999, size=shape).astype(dtype)
        else:
            array = np.frombuffer(generator.bytes(size), dtype).reshape(shape)
        arrays[name] = np.asfortranarray(array) if number % 3 == 0 else array
    return arrays


def check(array: Any, expected: Any) -> None:
    """Compare two arrays by their bytes, because some numbers are NaN."""
    assert array.dtype == expected.dtype
    assert array.shape == expected.shape
    assert array.tobytes() == expected.tobytes()


class Soak:
    """The readers that threads and forked children share, and the arrays of their files.

    The threads share no other lists or dicts that they change. On free-threaded Python, such an object may
    stay locked in a forked child. They share tuples, and dicts that they only look up.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contents: dict[Path, dict[str, Any]] = {}
        for number in range(2):
            path = folder / f"{number}.npz"
            self.contents[path] = content(number)
            with mmnpz.NpzWriter(path, align=64 if number else 1) as writer:
                for name, array in self.contents[path].items():
                    writer.write(name, array)
        self.paths = list(self.contents)
        self.shared = [mmnpz.load(self.paths[number % 2]) for number in range(4)]

    def content_of(self, reader: mmnpz.NpzReader) -> dict[str, Any]:
        mmap: Any = reader.mmap
        return self.contents[Path(mmap.filename)]

    def some(self, chance: random.Random) -> mmnpz.NpzReader:
        """Return a handle on a shared reader, because other threads may close or reopen the reader itself."""
        return copied(chance.choice(self.shared))

    def read(self, chance: random.Random) -> None:
        reader = self.some(chance)
        arrays = self.content_of(reader)
        for name in chance.sample(NAMES, 40):
            view = reader[name]
            check(view, arrays[name])
            assert reader[name] is view
            assert reader.arrays[name] is view

    def read_shared(self, chance: random.Random) -> None:
        reader = chance.choice(self.shared)
        name = chance.choice(NAMES)
        view: Any = reader[name]
        check(view, self.contents[Path(view.filename)][name])
        view.tag = chance

    def list_all(self, chance: random.Random) -> None:
        reader = self.some(chance)
        arrays = self.content_of(reader)
        assert tuple(reader.files) == tuple(reader) == NAMES
        for name, view in [*dict(reader.arrays).items(), *reader.items()]:
            check(view, arrays[name])
            assert reader[name] is view

    def copy_deeply(self, chance: random.Random) -> None:
        reader = self.some(chance)
        arrays = self.content_of(reader)
        own = copied(reader, deeply=True)
        for name in chance.sample(NAMES, 20):
            check(own[name], arrays[name])
            assert own[name] is own.arrays[name] is not reader[name]
            assert own[name].base is own.mmap
        kept = own.arrays
        reader.close()
        own.close()
        for name, view in kept.items():
            check(view, arrays[name])

    def pickle(self, chance: random.Random) -> None:
        reader = self.some(chance)
        again = pickle.loads(pickle.dumps(reader))
        arrays = self.content_of(reader)
        for name in chance.sample(NAMES, 5):
            check(again[name], arrays[name])
            # NumPy's pickles have the byte order of the machine, so compare with a pickle of the array.
            check(pickle.loads(pickle.dumps(reader[name])), pickle.loads(pickle.dumps(arrays[name])))

    def open(self, chance: random.Random) -> None:
        options: dict[str, Any] = {chance.choice(["cache", "preload", "subok"]): chance.random() < 0.5}
        path = chance.choice(self.paths)
        reader = mmnpz.load(path, **options)
        for name in NAMES:
            check(reader.load(name) if chance.random() < 0.2 else reader[name], self.contents[path][name])
        if chance.random() < 0.5:
            reader.close()

    def open_again(self, chance: random.Random) -> None:
        chance.choice(self.shared).__init__(chance.choice(self.paths))  # type: ignore[misc]

    def close(self, chance: random.Random) -> None:
        number = chance.randrange(len(self.shared))
        old, self.shared[number] = self.shared[number], mmnpz.load(chance.choice(self.paths))
        old.close()

    def collect(self, chance: random.Random) -> None:
        cycle: Any = mmnpz.load(chance.choice(self.paths))
        cycle["3"].me = cycle.me = cycle
        cycle.arrays["me"] = cycle
        del cycle
        gc.collect()

    def write(self, chance: random.Random) -> None:
        path = self.folder / f"w{threading.get_ident()}-{os.getpid()}.npz"
        names = chance.sample(NAMES, 20)
        arrays = self.contents[self.paths[0]]
        with mmnpz.NpzWriter(path, "w") as writer:
            for name in names:
                writer.write(name, arrays[name])
        with mmnpz.load(path) as data, np.load(path) as oracle:
            assert data.files == oracle.files == names
            for name in data:
                check(data[name], oracle[name])
                check(data[name], arrays[name])
        path.unlink()

    def uses(self) -> list[Callable[[random.Random], None]]:
        return [
            *[self.read, self.read_shared, self.list_all, self.copy_deeply] * 3,
            *[self.pickle, self.open, self.open_again, self.close, self.collect, self.write],
        ]

    def step(self, chance: random.Random) -> str:
        use = chance.choice(self.uses())
        try:
            use(chance)
        except ValueError as error:
            if "closed" not in str(error):
                raise
        except AttributeError as error:  # a closed reader has no `mmap`
            if "closed" not in str(error):
                raise
        return use.__name__

    def steps(self, count: int, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(count):
            self.step(chance)

    def child(self, seed: int, forks: int) -> None:
        """Run steps in threads of a forked child, and in `forks` generations of its children."""
        failures: list[BaseException] = []

        def run(number: int) -> None:
            try:
                self.steps(15, seed * 10 + number)
                if number == 0 and forks:
                    wait_for(fork(lambda: self.child(seed + 1, forks - 1)))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for failure in failures:
            raise failure


def mix(folder: Path) -> Counter[str]:
    """Run steps in threads and in forked children until the time is up, and count them by name."""
    soak = Soak(folder)
    # Use everything once, so that all modules are imported: a fork during an import leaves the module locked
    # in the child.
    for use in soak.uses():
        use(random.Random(0))
    end = time.monotonic() + SECONDS
    counts: Counter[str] = Counter()
    failures: list[BaseException] = []
    stop = threading.Event()

    def run(number: int) -> None:
        chance = random.Random(number)
        mine: Counter[str] = Counter()
        try:
            while not stop.is_set():
                mine[soak.step(chance)] += 1
        except BaseException as error:
            failures.append(error)
            stop.set()
        counts.update(mine)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        while time.monotonic() < end and not stop.is_set():
            seed = counts["forks"]
            wait_for(fork(lambda seed=seed: soak.child(seed * 100, seed % 2)))  # type: ignore[misc]
            counts["forks"] += 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for failure in failures:
        raise failure
    return counts


def test_soak(tmp_path: Path) -> None:
    counts = mix(tmp_path)
    sys.stdout.write(f"{dict(counts)}\n")
    assert counts["forks"]
    gc.collect()
    if sys.platform == "linux":  # all maps are gone
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
