"""mmnpz writes every dtype and memory order as numpy.save does, and reads it as numpy.load does."""

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import mmnpz
from tests.archives import Entry, build_zip, npy, put, same, same_items

SCALARS = [
    "?", "i1", "u1", "<i2", ">i2", "<u2", ">u2", "<i4", ">i4", "<u4", ">u4", "<i8", ">i8", "<u8", ">u8",
    "<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "<g", ">g", "<c8", ">c8", "<c16", ">c16", "<G", ">G",
    "S0", "S1", "S5", "<U0", "<U1", ">U3", "V0", "V1", "V7",
    "<M8", "<M8[Y]", "<M8[M]", "<M8[W]", "<M8[D]", ">M8[h]", "<M8[25m]", "<M8[s]", "<M8[ms]", ">M8[us]",
    "<M8[ns]", "<M8[ps]", "<M8[fs]", "<M8[as]", "<m8", "<m8[Y]", ">m8[3D]", "<m8[ns]", "<m8[100as]",
]  # fmt: skip
STRUCTURED: dict[str, Any] = {
    "flat": [("a", "<i4"), ("b", ">f8")],
    "nested": [("a", [("b", [("c", "?"), ("d", "<c8")]), ("e", "S2")])],
    "sub-arrays": [("a", "<i2", (2, 3)), ("b", "<f4", 5), ("c", "<f4", (1,))],
    "sub-array of records": [("a", [("x", "<i2"), ("y", ">i2", (2,))], (2, 2))],
    "titles": [(("a title", "a"), "<i4"), (("another", "b"), "<f8")],
    "titles in nested": [("a", [(("title", "b"), "<i4")])],
    "aligned": np.dtype([("a", "i1"), ("b", "f8"), ("c", "i2")], align=True),
    "aligned sub-array": np.dtype([("a", "i1"), ("b", "f8", (2,))], align=True),
    "gaps": np.dtype({"names": ["a", "b"], "formats": ["<i4", "i1"], "offsets": [4, 12], "itemsize": 20}),
    "only a gap at the end": np.dtype({"names": ["a"], "formats": ["<i4"], "itemsize": 32}),
    "no fields": np.dtype([]),
    "empty names": [("", "<i4"), ("f1", "<i4")],
    "unicode names": [("é", "<i4"), ("b", "<f8")],
    "names beyond latin-1": [("日本", "<i4"), ("Ω", "<f8")],
    "quotes and backslashes": [("it's", "<i4"), ('"', "<i4"), ("a\\n\n\t", "<i4"), ("both'\"", "i1")],
    "zero-size fields": [("a", "S0"), ("b", "V0"), ("c", "<i4"), ("d", "<i4", (0,))],
    "dates": [("a", "<M8[ns]"), ("b", ">m8[3D]")],
    "everything": [
        (name.strip("<>|[]") or "x", name) for name in ("?", "i1", "<f2", "<g", "S3", "<U2", "V4")
    ],
}
DTYPES = [np.dtype(name) for name in SCALARS] + [np.dtype(dtype) for dtype in STRUCTURED.values()]
IDS = SCALARS + list(STRUCTURED)
VERSION_3 = "names beyond latin-1"


def filled(dtype: np.dtype[Any], shape: tuple[int, ...], seed: int = 0) -> Any:
    """Return an array of random items: random bytes, for dtypes that accept any bytes."""
    array = np.zeros(shape, dtype)
    if dtype.itemsize and array.size:
        rng = np.random.default_rng(seed)
        if dtype.kind == "U":
            array[...] = np.asarray(rng.choice(["", "a", "äöü", "日本語", "\U0001f600"], shape), dtype)
        elif dtype.kind == "b":
            array[...] = rng.integers(0, 2, shape)
        elif dtype.names is None or dtype.fields is None:
            raw = rng.integers(0, 256, array.nbytes, dtype=np.uint8)
            array = np.frombuffer(raw.tobytes(), dtype).reshape(shape).copy()
        else:
            fields: Any = array  # mypy accepts only literal field names
            for name in dtype.names:
                field = dtype[name]
                fields[name] = filled(field.base, shape + field.shape, seed + 1)
    return array


def written(path: Path, array: Any) -> bytes:
    """Return the bytes of the .npy file that mmnpz writes for an array."""
    with mmnpz.NpzWriter(path) as writer:
        writer.write("x", array)
    with zipfile.ZipFile(path) as file:
        return file.read("x.npy")


def as_numpy_saves(raw: bytes, array: Any) -> bool:
    """Return whether these are the bytes that numpy.save writes, except for padding.

    numpy.save writes undefined padding bytes for structured arrays that are not contiguous.
    """
    expected = npy(array)
    contiguous = array.flags.c_contiguous or array.flags.f_contiguous
    if contiguous or array.dtype.names is None or array.dtype.itemsize == 0:
        return raw == expected
    start = len(expected) - array.nbytes
    if raw[:start] != expected[:start] or len(raw) != len(expected):
        return False
    return same_items(*(np.frombuffer(data[start:], array.dtype) for data in (raw, expected)))


def memory_orders() -> dict[str, Callable[[Any], Any]]:
    return {
        "C": lambda x: x,
        "F": lambda x: np.asfortranarray(x),
        "strided": lambda x: x[::2, :, 1:],
        "reversed": lambda x: x[::-1, :, ::-1],
        "transposed": lambda x: x.transpose(1, 2, 0),
        "0-d": lambda x: x[1, 1, 1, ...],
        "1-d": lambda x: x[:, 1, 2],
        "one long axis": lambda x: x[1:2, :, 2:3],
        "empty": lambda x: x[:, :0],
        "empty F": lambda x: np.asfortranarray(x[:, :0]),
        "broadcast": lambda x: np.broadcast_to(x, (2, *x.shape)),
        "broadcast inside": lambda x: np.broadcast_to(x[:, :1], x.shape),
        "overlapping": lambda x: np.lib.stride_tricks.sliding_window_view(x[0, 0], 2),
    }


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0", "ignore:the header needs .npy format")
@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_members_are_what_numpy_save_writes(new_path: Callable[[], Path], dtype: np.dtype[Any]) -> None:
    array = filled(dtype, (3, 4, 5))
    path = new_path()
    views = {name: view(array) for name, view in memory_orders().items()}
    with mmnpz.NpzWriter(path) as writer:
        for name, view in views.items():
            writer.write(name, view)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        for name, view in views.items():
            assert as_numpy_saves(file.read(name + ".npy"), view), name
    data = mmnpz.load(path)
    with np.load(path) as theirs:
        for name in views:
            assert same(data[name], theirs[name]), name


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_what_numpy_writes_is_read_as_numpy_reads_it(
    new_path: Callable[[], Path], dtype: np.dtype[Any]
) -> None:
    array = filled(dtype, (3, 4, 5))
    path = new_path()
    np.savez(path, **{name: view(array) for name, view in memory_orders().items()})
    data = mmnpz.load(path)
    with np.load(path) as theirs:
        for name in theirs.files:
            assert same(data[name], theirs[name]), name


def test_an_empty_void_array_stays_void(new_path: Callable[[], Path]) -> None:
    path = new_path()
    np.savez(path, x=np.zeros((3, 2), "V0"))
    assert mmnpz.load(path)["x"].dtype == np.dtype("V0")
    assert mmnpz.load(path)["x"].shape == (3, 2)


def test_dtypes_with_overlapping_fields_are_refused_as_by_numpy(new_path: Callable[[], Path]) -> None:
    for offsets in ([0, 2], [4, 0]):
        dtype = np.dtype({"names": ["a", "b"], "formats": ["<i4", "<i4"], "offsets": offsets})
        with pytest.raises(ValueError, match="overlapping or out-of-order"):
            npy(np.zeros(3, dtype))
        path = new_path()
        with mmnpz.NpzWriter(path) as writer, pytest.raises(ValueError, match="overlapping or out-of-order"):
            writer.write("x", np.zeros(3, dtype))
        assert mmnpz.load(path).files == []


def test_metadata_of_a_dtype_is_dropped_with_a_warning(new_path: Callable[[], Path]) -> None:
    dtype = np.dtype("<f4", metadata={"unit": "m"})
    array = np.arange(3).astype(dtype)
    with pytest.warns(UserWarning, match="metadata"):
        expected = npy(array)
    for _ in range(2):
        with pytest.warns(UserWarning, match="metadata"):
            raw = written(new_path(), array)
        assert raw == expected


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.mark.parametrize(
    "dtype",
    [
        BFLOAT16,
        ml_dtypes.int4,
        ml_dtypes.float8_e4m3fn,
        [("a", BFLOAT16), ("b", "<f4")],
        [("a", [("b", "<i2"), ("c", BFLOAT16, (2, 3))])],
    ],
    ids=str,
)
def test_types_of_other_packages_are_stored_as_raw_bytes(new_path: Callable[[], Path], dtype: Any) -> None:
    array = np.zeros((2, 3), dtype)
    array.view("u1")[...] = np.arange(array.nbytes).reshape(2, -1) % 8
    path = new_path()
    with mmnpz.NpzWriter(path) as writer:
        for name in ("a", "b"):  # each time, as NumPy warns of lost metadata
            with pytest.warns(UserWarning, match=r"raw bytes.*\.view\("):
                writer.write(name, array)
    expected = io.BytesIO()
    np.save(expected, array)
    with zipfile.ZipFile(path) as file:
        assert file.read("b.npy") == expected.getvalue()
    back = mmnpz.load(path)["a"]
    assert back.dtype != array.dtype
    assert same(back.view(array.dtype), array)


@pytest.mark.parametrize(
    "dtype", [ml_dtypes.float8_e5m2, [("a", "<i4"), ("b", ml_dtypes.float8_e5m2, 2)]], ids=str
)
def test_types_that_no_reader_takes_are_refused(new_path: Callable[[], Path], dtype: Any) -> None:
    path = new_path()
    with mmnpz.NpzWriter(path) as writer:
        with pytest.raises(ValueError, match=r'member "a": .*<f1.*NumPy cannot read'):
            writer.write("a", np.zeros(3, dtype))
        assert writer.files == []
    assert mmnpz.load(path).files == []


def test_warnings_that_are_errors_leave_no_member(new_path: Callable[[], Path]) -> None:
    path = new_path()
    with mmnpz.NpzWriter(path) as writer:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for array in (np.zeros(3, BFLOAT16), np.ma.masked_array([1, 2], [True, False])):
                with pytest.raises(UserWarning, match="stored"):
                    writer.write("a", array)
        writer.write("b", np.ma.masked_array([1, 2]))
        writer.write("c", np.ma.masked_array([1, 2], [False, False]))
    assert mmnpz.load(path).files == ["b", "c"]


def test_the_mask_of_a_masked_array_is_lost_with_a_warning(new_path: Callable[[], Path]) -> None:
    path = new_path()
    array = np.ma.masked_array([1.5, 2.5, 3.5], [False, True, False])
    with mmnpz.NpzWriter(path) as writer, pytest.warns(UserWarning, match="the mask"):
        writer.write("a", array)
    assert same(mmnpz.load(path)["a"], array.data)


FIELDS = [("a", "<i4"), ("b", [("c", "<f8"), ("d", "<i2", (2,))])]


def test_masks_with_fields(new_path: Callable[[], Path]) -> None:
    path = new_path()
    array: Any = np.ma.masked_array(np.zeros(3, FIELDS))
    with mmnpz.NpzWriter(path) as writer:
        writer.write("a", array)
        array["b"]["c"][1] = np.ma.masked
        with pytest.warns(UserWarning, match="the mask"):
            writer.write("b", array)
    assert same(mmnpz.load(path)["b"], array.data)


@pytest.mark.thread_unsafe(reason="replaces warnings.showwarning")
@pytest.mark.parametrize(
    ("dtype", "change"),
    [
        (BFLOAT16, {"shape": (4, 3, 2)}),
        (BFLOAT16, {"dtype": np.dtype("u1")}),
        (np.dtype([("☃", "<i4")]), {"shape": (24,)}),
        (np.dtype([("☃", "<i4")]), {"dtype": np.dtype("<i4")}),
    ],
)
def test_arrays_that_change_while_a_warning_is_shown(
    new_path: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, dtype: Any, change: dict[str, Any]
) -> None:
    array = np.zeros((2, 3, 4), dtype)
    kept: list[Any] = []

    def show(*_: object, **__: object) -> None:
        for name, value in change.items():
            setattr(array, name, value)
        # What is freed is used again.
        kept.extend(np.zeros((7, 7, 7)) for _ in range(50))

    path = new_path()
    with mmnpz.NpzWriter(path) as writer, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        monkeypatch.setattr(warnings, "showwarning", show)
        error = None
        try:
            writer.write("a", array)
        except ValueError as raised:
            error = raised
        assert error is None or "changed while it was written" in str(error)
        assert len(writer.files) == (error is None)
        assert kept
    for name, view in mmnpz.load(path).items():
        assert (name, view.shape) == ("a", array.shape)


@pytest.mark.parametrize(
    "convert", [list, tuple, memoryview, bytes, float, np.float32, np.ma.masked_array, np.asmatrix]
)
@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_anything_that_numpy_makes_an_array_of(
    new_path: Callable[[], Path], convert: Callable[[Any], Any]
) -> None:
    source: Any = 2.5 if convert in (float, np.float32) else np.arange(6, dtype="u1")
    value = convert(source)
    path = new_path()
    np.savez(path, x=value)
    with zipfile.ZipFile(path) as file:
        assert written(new_path(), value) == file.read("x.npy")


def test_a_writer_takes_views_of_a_reader(new_path: Callable[[], Path]) -> None:
    path = new_path()
    np.savez(path, x=np.asfortranarray(np.arange(12).reshape(3, 4)))
    view = mmnpz.load(path)["x"]
    for array in (view, view[1:, ::2], view[0], view[0, 0]):
        assert written(new_path(), array) == npy(array)


def test_dimensions_up_to_numpys_limit(new_path: Callable[[], Path]) -> None:
    for rank in (31, 32, 33, 63, 64, 65):
        shape = (1,) * (rank - 1) + (3,)
        try:
            array = np.zeros(shape, "<i2")
        except ValueError:  # NumPy 1 allows 32 axes, NumPy 2 allows 64
            raw = b"{'descr': '<i2', 'fortran_order': False, 'shape': " + str(shape).encode() + b"}\n"
            header = b"\x93NUMPY\1\0" + len(raw).to_bytes(2, "little") + raw
            path = put(new_path(), build_zip(Entry("x.npy", header + bytes(6))))
            with pytest.raises(ValueError, match="dimensions"):
                mmnpz.load(path)["x"]
        else:
            path = new_path()
            assert written(path, array) == npy(array)
            assert mmnpz.load(path)["x"].shape == shape


def test_headers_of_format_2(new_path: Callable[[], Path]) -> None:
    dtype = np.dtype([(f"field {number} of many {'x' * 60}", "<i4") for number in range(800)])
    array = np.zeros(2, dtype)
    with pytest.warns(UserWarning, match="format 2.0"):
        expected = npy(array)
    path = new_path()
    with pytest.warns(UserWarning, match=r"2\.0"):
        assert written(path, array) == expected
    with pytest.raises(ValueError, match="max_header_size"):
        mmnpz.load(path)["x"]
    assert same(mmnpz.load(path, max_header_size=1_000_000)["x"], array)


def test_headers_of_format_3_warn_as_numpy_does(new_path: Callable[[], Path]) -> None:
    array = np.zeros(2, np.dtype(STRUCTURED[VERSION_3]))
    with pytest.warns(UserWarning, match=r"format 3\.0"):
        expected = npy(array)
    with pytest.warns(UserWarning, match=r"3\.0"):
        assert written(new_path(), array) == expected


SCALAR_DTYPES: st.SearchStrategy[Any] = st.one_of(
    npst.boolean_dtypes(),
    npst.integer_dtypes(endianness="?"),
    npst.unsigned_integer_dtypes(endianness="?"),
    npst.floating_dtypes(endianness="?"),
    npst.complex_number_dtypes(endianness="?"),
    npst.datetime64_dtypes(endianness="?"),
    npst.timedelta64_dtypes(endianness="?"),
    npst.byte_string_dtypes(endianness="?"),
    npst.unicode_string_dtypes(endianness="?"),
    st.sampled_from([np.dtype("V3"), np.dtype("g"), np.dtype("G"), np.dtype("S0"), np.dtype("V0")]),
)
NAMES = st.text(st.characters(max_codepoint=255, exclude_categories=["Cs"]), max_size=6)


@st.composite
def structured_dtypes(draw: st.DrawFn, depth: int = 2) -> Any:
    """Draw structured dtypes of scalars, sub-arrays and structured dtypes, some with titles, some aligned."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    fields: list[Any] = []
    for number, name in enumerate(names):
        inner = SCALAR_DTYPES | structured_dtypes(depth - 1) if depth else SCALAR_DTYPES
        full: Any = (f"title {number} {depth}", name) if name and draw(st.booleans()) else name
        shape = draw(st.just(()) | npst.array_shapes(max_dims=2, max_side=3))
        fields.append((full, draw(inner), shape) if shape else (full, draw(inner)))
    try:
        return np.dtype(fields, align=draw(st.booleans()))
    except ValueError:  # NumPy replaces an empty name by "f1" or so, which another field may have
        return np.dtype([("a", "<f8")])


@given(data=st.data(), dtype=SCALAR_DTYPES | structured_dtypes())
def test_any_dtype_any_shape_any_order(new_path: Callable[[], Path], data: st.DataObject, dtype: Any) -> None:
    shape = data.draw(npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    array = filled(dtype, shape, data.draw(st.integers(0, 9)))
    if array.ndim:
        array = array[data.draw(npst.basic_indices(shape, allow_newaxis=True))]
        array = np.asanyarray(array)
        array = array.transpose(data.draw(st.permutations(range(array.ndim))))
    try:
        expected = npy(array)
        loaded = np.load(io.BytesIO(expected))
    except ValueError:  # NumPy writes some names that it does not read
        return
    path = new_path()
    assert as_numpy_saves(written(path, array), array)
    view = mmnpz.load(path)["x"]
    assert same(view, loaded)
    assert view.dtype.fields == loaded.dtype.fields
