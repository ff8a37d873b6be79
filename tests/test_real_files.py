"""mmnpz reads and rewrites the archives that real packages ship."""

import importlib.util
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import npy, same


def shipped() -> list[Path]:
    found: list[Path] = []
    for package in ("numpy", "scipy", "matplotlib", "sklearn", "skimage", "statsmodels"):
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or []:
            found += sorted(Path(folder).rglob("*.npz"))
    return found


FILES = shipped()
PARAMETERS = pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])


def numpy_reads(path: Path) -> dict[str, Any]:
    """Return all arrays of an archive that need no pickling, compressed ones included."""
    arrays: dict[str, Any] = {}
    with np.load(path) as data:
        for name in data.files:
            try:
                arrays[name] = data[name]
            except ValueError:  # an array of objects
                arrays[name] = None
    return arrays


def test_there_are_some() -> None:
    """There are archives to read: NumPy's own tests ship some, unless a distributor removes them."""
    if importlib.util.find_spec("scipy") is None:
        pytest.skip("without SciPy there may be none")
    assert len(FILES) > 10


@PARAMETERS
def test_members_are_those_of_numpy(path: Path) -> None:
    data = mmnpz.load(path)
    expected = numpy_reads(path)
    assert data.files == list(expected)
    for name, array in expected.items():
        if array is None:
            with pytest.raises(ValueError, match="object"):
                data[name]
        else:
            assert same(data[name], array)


@PARAMETERS
def test_compressed_they_hold_the_same(path: Path, tmp_path: Path) -> None:
    expected = {name: array for name, array in numpy_reads(path).items() if array is not None}
    target = tmp_path / "compressed.npz"
    np.savez_compressed(target, **expected)
    data = mmnpz.load(target)
    assert data.files == list(expected)
    assert all(same(data[name], array) for name, array in expected.items())
    assert data.verify() == []


@PARAMETERS
def test_rewritten_they_hold_the_same(path: Path, tmp_path: Path) -> None:
    expected = {name: array for name, array in numpy_reads(path).items() if array is not None}
    target = tmp_path / "rewritten.npz"
    with mmnpz.NpzWriter(target) as writer:
        for name, array in expected.items():
            writer.write(name, array)
    data = mmnpz.load(target)
    with np.load(target) as theirs, zipfile.ZipFile(target) as file:
        assert file.testzip() is None
        assert data.files == theirs.files == list(expected)
        for name, array in expected.items():
            assert same(data[name], array)
            assert same(theirs[name], array)
            assert file.read(f"{name}.npy") == npy(array)
