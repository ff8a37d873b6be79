"""Archives of other libraries hold what was written, see tests/data/others/README.md."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

import mmnpz
from tests.archives import same

FOLDER = Path(__file__).parent / "data" / "others"
FILES = sorted(FOLDER.glob("*.npz"))

ARRAYS = {
    "a": np.arange(12, dtype="<f4").reshape(3, 4),
    "f": np.asfortranarray(np.arange(6, dtype="<i8").reshape(2, 3)),
    "c": np.arange(100, dtype="<i4"),
}
SCALARS = {"ndarray-npy": np.array(7, "u1"), "numpy-ts": np.array([1, 2, 3], "<i8")}


def test_there_are_all() -> None:
    assert len(FILES) == 8


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
@pytest.mark.parametrize("preload", [False, True])
def test_they_hold_what_was_written(path: Path, preload: bool) -> None:
    data = mmnpz.load(path, preload=preload)
    assert len(data) > 0
    with zipfile.ZipFile(path) as file:
        assert data.files == [name[:-4] for name in file.namelist() if name.endswith(".npy")]
        others = [name for name in file.namelist() if not name.endswith(".npy")]
    for name in data.files:
        library = path.stem.removesuffix("-compressed")
        expected = SCALARS[library] if name == "s" else ARRAYS.get(name, ARRAYS["a"])
        assert same(data[name], expected)
        assert data.info(name).shape == expected.shape
    for name in others:
        assert (
            data[name] == {"ä/": b"", "ä/text.txt": b"text"}[name]
            if "ä" in name
            else same(data[name], ARRAYS["a"])
        )
    assert data.verify([*data.files, *others]) == []
    assert (data.layout().nbytes > 0).all()
