"""The main job on real input: write a dataset of thousands of arrays, append to it, read excerpts at random.

The arrays are those inside the ``.npz`` and ``.npy`` files that the SciPy, Matplotlib and scikit-learn wheels
carry, whole and in pieces of different lengths, and scikit-learn's bundled data sets.
"""

import importlib.util
import random
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.datasets

import mmnpz

Array = np.ndarray[Any, np.dtype[Any]]

PACKAGES = ("scipy", "matplotlib", "sklearn", "numpy")
MEMBERS = 5_000
APPENDED = 500
EXCERPTS = 20_000
EXCERPT_ROWS = 16


def real_files() -> list[Path]:
    """Return the array files that other projects wrote, found inside their installed packages."""
    files: list[Path] = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent
        files += [path for path in sorted(folder.rglob("*.np[yz]")) if "objarr" not in path.name]
    return files


def real_arrays() -> Iterator[tuple[str, Array]]:
    """Yield a name and an array for each array in these files and in scikit-learn's data sets."""
    for path in real_files():
        try:
            with warnings.catch_warnings(action="ignore"):  # NumPy warns about files that Python 2 wrote
                loaded = np.load(path)
        except ValueError:  # NumPy refuses to load pickled objects
            continue
        for key in loaded.files if path.suffix == ".npz" else ("",):
            try:
                with warnings.catch_warnings(action="ignore"):
                    array = loaded[key] if key else loaded
            except ValueError:
                continue
            yield f"{path.parent.name}/{path.stem}/{key or 'array'}", np.asarray(array)
    for name in ("digits", "diabetes", "breast_cancer", "wine", "iris", "linnerud"):
        yield f"sklearn/{name}", np.asarray(getattr(sklearn.datasets, f"load_{name}")().data)


def pieces(arrays: dict[str, Array], count: int, rng: random.Random) -> Iterator[tuple[str, Array]]:
    """Yield the arrays themselves, then parts of them with random bounds along the first axis."""
    yield from arrays.items()
    long = [(name, array) for name, array in arrays.items() if array.ndim and len(array) > EXCERPT_ROWS]
    for number in range(count - len(arrays)):
        name, array = rng.choice(long)
        start = rng.randrange(len(array) - EXCERPT_ROWS)
        stop = rng.randrange(start + EXCERPT_ROWS, len(array) + 1)
        yield f"pieces/{number:05}/{name}", array[start:stop]


def excerpt(array: Array, start: int) -> Array:
    """Copy some rows of an array, as a training step does."""
    return np.array(array[start : start + EXCERPT_ROWS])


def same(one: Array, other: Array) -> bool:
    """Return whether two arrays have the same dtype, shape and bytes."""
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def main() -> None:
    """Write, append, read and compare, and print how long each step takes."""
    rng = random.Random(0)
    arrays = dict(real_arrays())
    print(f"real input: {len(arrays)} arrays from {len(real_files())} files and 6 data sets")
    dataset = dict(pieces(arrays, MEMBERS + APPENDED, rng))
    names = list(dataset)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dataset.npz"

        start = time.perf_counter()
        with mmnpz.NpzWriter(path) as writer:
            for name in names[:MEMBERS]:
                writer.write(name, dataset[name])
        seconds = time.perf_counter() - start
        size = path.stat().st_size
        print(f"wrote    {MEMBERS} members, {size / 1e6:.1f} MB, in {seconds:.2f} s")

        start = time.perf_counter()
        with mmnpz.NpzWriter(path, mode="a") as writer:
            for name in names[MEMBERS:]:
                writer[name] = dataset[name]
        seconds = time.perf_counter() - start
        print(f"appended {APPENDED} members, now {path.stat().st_size / 1e6:.1f} MB, in {seconds:.2f} s")

        data = mmnpz.load(path)
        oracle = np.load(path)
        assert data.files == oracle.files == names
        for name in names:
            assert same(data[name], dataset[name]), name
            assert same(data[name], oracle[name]), name
        assert all(view.ctypes.data % 64 == 0 for view in data.values() if view.size)
        print(f"checked  {len(data)} members against numpy.load: same dtypes, shapes and bytes; all aligned")

        long = [name for name in names if dataset[name].ndim and len(dataset[name]) > EXCERPT_ROWS]
        wanted = [
            (name, rng.randrange(len(dataset[name]) - EXCERPT_ROWS)) for name in rng.choices(long, k=EXCERPTS)
        ]

        start = time.perf_counter()
        data = mmnpz.load(path)
        ours = [excerpt(data[name], at) for name, at in wanted]
        our_seconds = time.perf_counter() - start

        few = wanted[: EXCERPTS // 20]  # numpy.load reads and checks the whole member each time
        start = time.perf_counter()
        with np.load(path) as archive:
            theirs = [excerpt(archive[name], at) for name, at in few]
        their_seconds = time.perf_counter() - start

        assert all(same(one, other) for one, other in zip(ours, theirs, strict=False))
        our_rate, their_rate = len(wanted) / our_seconds, len(few) / their_seconds
        print(f"read     {len(wanted)} random excerpts of {EXCERPT_ROWS} rows: {our_rate:,.0f} per second")
        print(f"         numpy.load, {len(few)} of them: {their_rate:,.0f} per second")
        print(f"         {our_rate / their_rate:.0f} times as many, opening included; all the same bytes")


if __name__ == "__main__":
    main()
