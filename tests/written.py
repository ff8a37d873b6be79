"""What a writer has written, as all kinds of readers see it."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests import sequential
from tests.archives import npy, same


def is_npy(raw: bytes, array: Any) -> bool:
    """Return whether these are the bytes that NumPy writes; NumPy before 1.24 may leave less padding."""
    expected = npy(array)
    if np.lib.NumpyVersion(np.__version__) >= "1.24.0":
        return raw == expected
    ours, theirs = (np.load(io.BytesIO(data)) for data in (raw, expected))
    return len(raw) - len(expected) in {0, 64} and same(ours, theirs)


def check(path: Path, arrays: dict[str, Any]) -> None:
    """Check that a file has these arrays, and no others, as NumPy would have written them."""
    data = mmnpz.load(path)
    assert sorted(data.files) == sorted(arrays)
    assert data.verify() == []
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        for name, array in arrays.items():
            assert is_npy(file.read(f"{name}.npy"), np.asanyarray(array)), name
    assert list(sequential.walk(path)[0]) == data.files
    assert all(same(data[name], np.array(array)) for name, array in arrays.items())


@contextmanager
def fails() -> Iterator[None]:
    """Swallow the exception that a test raises in a block."""
    with pytest.raises(ZeroDivisionError):
        yield
