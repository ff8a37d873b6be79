"""NumPy reads what mmnpz writes, mmnpz reads what NumPy writes, and both append to one archive."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import mmnpz
from tests.archives import npy, same

# Field names beyond Latin-1 need format 3.0. NumPy and mmnpz warn when they write that format.
pytestmark = pytest.mark.filterwarnings("ignore:.*format 3.0")

# numpy.load cannot tell the names "a" and "a.npy" apart, so no name ends in ".npy".
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\\"), max_size=12).filter(
    lambda name: not name.endswith(".npy")
)
DTYPES = (
    npst.boolean_dtypes()
    | npst.integer_dtypes(endianness="?")
    | npst.floating_dtypes(endianness="?")
    | npst.complex_number_dtypes(endianness="?")
    | npst.datetime64_dtypes(endianness="?")
    | npst.timedelta64_dtypes(endianness="?")
    | npst.byte_string_dtypes(max_len=5)
    | npst.unicode_string_dtypes(max_len=5)
    | npst.array_dtypes(npst.scalar_dtypes(), max_size=3)
)
ARRAYS = npst.arrays(DTYPES, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)).flatmap(
    lambda array: st.sampled_from(
        [array, np.asfortranarray(array), array.T, array[..., ::-1] if array.ndim else array]
    )
)
ARCHIVES = st.dictionaries(NAMES, ARRAYS, max_size=6)


def load_numpy(path: Path, names: Any) -> dict[str, Any]:
    """Read members with zipfile and NumPy, as numpy.load does, but by their exact names."""
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        return {name: np.load(io.BytesIO(file.read(name + ".npy"))) for name in names}


@given(arrays=ARCHIVES, align=st.sampled_from([1, 16, 64, 4096]))
def test_numpy_reads_what_mmnpz_writes(
    new_path: Callable[[], Path], arrays: dict[str, Any], align: int
) -> None:
    path = new_path()
    with mmnpz.NpzWriter(path, align=align) as writer:
        for name, array in arrays.items():
            writer.write(name, array)
    with np.load(path) as data:
        assert data.files == list(arrays)
        for name in data.files:
            assert same(data[name], load_numpy(path, [name])[name])
    for name, array in load_numpy(path, arrays).items():
        # A .npy file has no strides: NumPy and mmnpz store an array that is not contiguous in C order.
        assert same(array, np.load(io.BytesIO(npy(arrays[name]))))
        assert array.dtype == arrays[name].dtype
        assert array.shape == arrays[name].shape


@given(arrays=ARCHIVES, cache=st.booleans(), preload=st.booleans())
def test_mmnpz_reads_what_numpy_writes(
    new_path: Callable[[], Path], arrays: dict[str, Any], cache: bool, preload: bool
) -> None:
    path = new_path()
    with zipfile.ZipFile(path, "w") as file:
        for name, array in arrays.items():
            with file.open(name + ".npy", "w", force_zip64=True) as member:  # as numpy.savez does
                np.lib.format.write_array(member, array)
    data = mmnpz.load(path, cache=cache, preload=preload)
    assert data.files == list(arrays)
    expected = load_numpy(path, arrays)
    for name in arrays:
        assert same(data[name], expected[name])
        assert same(data.load(name), expected[name])
    assert dict(data).keys() == arrays.keys()


@given(
    sessions=st.lists(
        st.tuples(st.sampled_from(["zipfile", "deflated", "mmnpz"]), ARCHIVES), min_size=2, max_size=4
    )
)
def test_zipfile_and_mmnpz_append_to_one_archive(
    new_path: Callable[[], Path], sessions: list[tuple[str, dict[str, Any]]]
) -> None:
    path = new_path()
    last: dict[str, Any] = {}
    for number, (program, arrays) in enumerate(sessions):
        members = {f"{number}/{name}": array for name, array in arrays.items()}
        if program == "mmnpz":
            with mmnpz.NpzWriter(path, "a") as writer:
                for name, array in members.items():
                    writer.write(name, array)
        else:
            method = zipfile.ZIP_DEFLATED if program == "deflated" else zipfile.ZIP_STORED
            with zipfile.ZipFile(path, "a", method) as file:
                for name, array in members.items():
                    file.writestr(name + ".npy", npy(array))
        last |= members
    data = mmnpz.load(path)
    assert data.files == list(last)
    for name, array in load_numpy(path, last).items():
        assert same(array, np.load(io.BytesIO(npy(last[name]))))
        assert same(data[name], array)
