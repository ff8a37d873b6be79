"""`gather` returns what numpy.stack makes of slices of the views, and raises errors before it writes."""

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmnpz
from tests.archives import Entry, build_zip, npy, npy_with_header, put, same_items
from tests.test_dtypes import DTYPES, IDS, filled

RECORDINGS = 12
ROWS = [30 + 7 * number % 40 for number in range(RECORDINGS)]


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """The path of an archive of recordings of different lengths: `r0`, `r1`, …"""
    path = tmp_path / "recordings.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number, rows in enumerate(ROWS):
            writer[f"r{number}"] = recording(number, rows)
    return path


def recording(number: int, rows: int) -> Any:
    return (np.arange(rows * 6, dtype=np.float32) + np.float32(1000 * number)).reshape(rows, 3, 2)


NAMES = [f"r{number}" for number in range(RECORDINGS)]


def stacked(data: Any, names: Any, starts: Any, length: int) -> Any:
    return stack([data[name][start : start + length] for name, start in zip(names, starts, strict=True)])


def stack(arrays: Any) -> Any:
    """Stack arrays with numpy.stack, in their own dtype.

    Without `out`, numpy.stack returns native byte order, and structured dtypes without padding.
    """
    dtype = arrays[0].dtype
    if dtype.itemsize == 0 and dtype.kind in "SU":
        dtype = np.empty(0, dtype).dtype  # NumPy makes an empty string dtype one character long
    out = np.empty((len(arrays), *arrays[0].shape), dtype)
    return np.stack(arrays, out=out)


def equal(ours: Any, theirs: Any) -> bool:
    """Return whether two arrays have the same shape, dtype, byte order and items."""
    return bool(
        ours.dtype == theirs.dtype
        and ours.dtype.byteorder == theirs.dtype.byteorder
        and ours.shape == theirs.shape
        and ours.tobytes() == theirs.tobytes()
    )


def test_excerpts_are_stacked(recordings: Path) -> None:
    data = mmnpz.load(recordings)
    generator = np.random.default_rng(1)
    for length in (0, 1, 7, 30):
        starts = generator.integers(0, np.array(ROWS) - length + 1)
        batch = data.gather(NAMES, starts, length=length)
        assert type(batch) is np.ndarray
        assert equal(batch, stacked(data, NAMES, starts, length))
        assert batch.flags.writeable
        assert batch.flags.owndata
        assert batch.flags.c_contiguous
        assert equal(data.gather(NAMES, starts, starts + length), batch)
        assert equal(data.gather(NAMES, starts, stops=list(starts + length), length=length), batch)


def test_members_are_stacked_whole(archive: Path, arrays: dict[str, Any], recordings: Path) -> None:
    data = mmnpz.load(archive)
    for name in arrays:
        assert equal(data.gather([name, name]), stack([data[name], data[name]])), name
    data = mmnpz.load(recordings)
    same = [name for name, rows in zip(NAMES, ROWS, strict=True) if rows == ROWS[0]]
    assert equal(data.gather(same), stack([data[name] for name in same]))


def test_rows_from_the_start_and_to_the_end(recordings: Path) -> None:
    data = mmnpz.load(recordings)
    assert equal(data.gather(NAMES, length=5), stacked(data, NAMES, [0] * RECORDINGS, 5))
    assert equal(data.gather(NAMES, None, 5), stacked(data, NAMES, [0] * RECORDINGS, 5))
    starts = [rows - 4 for rows in ROWS]
    assert equal(data.gather(NAMES, starts), stacked(data, NAMES, starts, 4))
    assert equal(data.gather(NAMES, 3, length=2), stacked(data, NAMES, [3] * RECORDINGS, 2))


@pytest.mark.parametrize(
    "sequence", [list, tuple, np.array, iter, dict.fromkeys, lambda names: np.array(names, object)]
)
def test_names_in_any_sequence(recordings: Path, sequence: Any) -> None:
    data = mmnpz.load(recordings)
    expected = stacked(data, NAMES, [0] * RECORDINGS, 3)
    assert equal(data.gather(sequence(NAMES), length=3), expected)
    data = mmnpz.load(recordings)
    assert equal(data.gather([np.str_(name) for name in NAMES], length=3), expected)
    assert {type(name) for name in data.arrays} == {str}


@pytest.mark.parametrize("dtype", ["i1", "<i8", ">i8", "u1", "u8", ">i2", object])
def test_starts_of_any_integers(recordings: Path, dtype: Any) -> None:
    data = mmnpz.load(recordings)
    starts = np.arange(RECORDINGS, dtype=dtype)
    expected = stacked(data, NAMES, range(RECORDINGS), 3)
    for given_starts in (starts, starts.tolist(), tuple(starts), range(RECORDINGS), iter(starts)):
        assert equal(data.gather(NAMES, given_starts, length=3), expected)
    twice = np.repeat(starts, 2)
    assert equal(data.gather(NAMES, twice[::2], length=3), expected)
    assert equal(data.gather(NAMES, starts[3], length=3), stacked(data, NAMES, [3] * RECORDINGS, 3))


@pytest.mark.parametrize(
    "starts", [[1.0] * RECORDINGS, ["1"] * RECORDINGS, 1.5, np.zeros(RECORDINGS), "1", [None]]
)
def test_starts_that_are_no_integers(recordings: Path, starts: Any) -> None:
    data = mmnpz.load(recordings)
    with pytest.raises(TypeError, match="starts must be integers"):
        data.gather(NAMES, starts, length=3)
    with pytest.raises(TypeError, match="stops must be integers"):
        data.gather(NAMES, None, starts)


def test_numbers_of_names_and_rows_must_agree(recordings: Path) -> None:
    data = mmnpz.load(recordings)
    with pytest.raises(ValueError, match="got 12 names and 11 starts"):
        data.gather(NAMES, range(11), length=3)
    with pytest.raises(ValueError, match="got 12 names and 13 stops"):
        data.gather(NAMES, 0, np.arange(13))


@pytest.mark.parametrize("name", ["nothing", "r1.npz", "\ud800", 3.0, None, b"r1"])
def test_unknown_names(recordings: Path, name: Any) -> None:
    data = mmnpz.load(recordings)
    out = np.full((3, 2, 3, 2), 7, np.float32)
    for _ in range(2):
        with pytest.raises(KeyError) as info:
            data.gather(["r1", name, "r2"], length=2, out=out)
        assert info.value.args == (name,)
    with pytest.raises(TypeError, match="hash"):
        data.gather(["r1", ["r2"]], length=2)  # type: ignore[arg-type]
    assert (out == 7).all()


@pytest.mark.parametrize("names", ["r1", b"r1", 3, None])
def test_what_is_no_sequence_of_names(recordings: Path, names: Any) -> None:
    data = mmnpz.load(recordings)
    with pytest.raises(TypeError):
        data.gather(names, length=1)
    with pytest.raises(TypeError):
        data.prefetch(names, length=1)


# `out`, and errors that leave it unchanged


def test_out_is_filled_and_given_back(recordings: Path) -> None:
    data = mmnpz.load(recordings)
    expected = stacked(data, NAMES, range(RECORDINGS), 4)
    room = np.full((3 * RECORDINGS, 8, 6, 4), 7, np.float32)
    outs = {
        "in order": np.empty_like(expected),
        "Fortran": np.asfortranarray(np.empty_like(expected)),
        "every third": room[1::3, 2:6, ::2, 1:3],
        "backwards": np.empty_like(expected)[::-1],
        "part": room[:RECORDINGS, :4, :3, :2],
        "subclass": np.empty_like(expected).view(type("Sub", (np.ndarray,), {})),
    }
    for case, out in outs.items():
        out[...] = -1
        assert data.gather(NAMES, range(RECORDINGS), length=4, out=out) is out, case
        assert np.array_equal(out, expected), case
    untouched = np.ones(room.shape, bool)
    untouched[1::3, 2:6, ::2, 1:3] = False
    untouched[:RECORDINGS, :4, :3, :2] = False
    assert (room[untouched] == 7).all()


def test_out_can_be_the_memory_of_a_tensor(recordings: Path) -> None:
    torch = pytest.importorskip("torch")
    data = mmnpz.load(recordings)
    tensor = torch.zeros((RECORDINGS, 4, 3, 2))
    data.gather(NAMES, torch.arange(RECORDINGS), length=4, out=tensor.numpy())
    assert np.array_equal(tensor.numpy(), stacked(data, NAMES, range(RECORDINGS), 4))


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (
            np.empty((RECORDINGS, 4, 3), np.float32),
            ValueError,
            r"out has shape \(12, 4, 3\), but .* shape \(12, 4, 3, 2\)",
        ),
        (np.empty((RECORDINGS + 1, 4, 3, 2), np.float32), ValueError, "out has shape"),
        (np.empty((RECORDINGS, 5, 3, 2), np.float32), ValueError, "out has shape"),
        (np.empty((), np.float32), ValueError, "out has shape"),
        (np.empty((RECORDINGS, 4, 3, 2), np.float64), TypeError, "out has dtype float64.*float32"),
        (np.empty((RECORDINGS, 4, 3, 2), ">f4"), TypeError, "out has dtype >f4"),
        (bytearray(RECORDINGS * 4 * 3 * 2 * 4), TypeError, "out must be an array"),
        ([1], TypeError, "out must be an array"),
    ],
)
def test_an_out_that_does_not_fit(recordings: Path, out: Any, error: Any, message: str) -> None:
    data = mmnpz.load(recordings)
    with pytest.raises(error, match=message) as info:
        data.gather(NAMES, length=4, out=out)
    assert str(info.value).startswith(str(recordings))


def test_an_out_that_is_read_only(recordings: Path) -> None:
    data = mmnpz.load(recordings)
    out = np.zeros((RECORDINGS, 4, 3, 2), np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        data.gather(NAMES, length=4, out=out)
    with pytest.raises(ValueError, match="out is read-only"):
        data.gather(["r0"], out=data["r0"][None])
    assert not out.any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, r'member "r1": shape \(37, 3, 2\) differs from \(30, 3, 2\) of member "r0"'),
        (
            {"starts": [0] * 11 + [-1], "length": 2},
            IndexError,
            'member "r11": rows must not be negative, got -1:1',
        ),
        (
            {"starts": 0, "stops": [2] * 11 + [-1]},
            IndexError,
            r'member "r11": rows must not be negative, got 0:-1',
        ),
        (
            {"starts": [0] * 11 + [9], "stops": 2},
            IndexError,
            'member "r11": rows 9:2 end before they start',
        ),
        (
            {"length": 31},
            IndexError,
            'member "r0": rows 0:31 requested, but the array has 30 rows; pass pad=',
        ),
        ({"starts": [*ROWS[:-1], ROWS[-1] - 1], "length": 1}, IndexError, r'member "r0": rows 30:31'),
        (
            {"starts": [0] * 11 + [1000]},
            ValueError,
            r'member "r1": rows 0:37 are 37, but every excerpt must have 30',
        ),
        (
            {"starts": 0, "stops": [2] * 11 + [3]},
            ValueError,
            r'member "r11": rows 0:3 are 3, but every excerpt must have 2',
        ),
        (
            {"starts": 0, "stops": 3, "length": 2},
            ValueError,
            r'member "r0": rows 0:3 are 3, but every excerpt must have 2',
        ),
        (
            {"starts": 0, "stops": 3, "length": 4},
            ValueError,
            r'member "r0": rows 0:3 are 3, but every excerpt must have 4',
        ),
        ({"starts": 2**63 - 1, "length": 2}, IndexError, r'member "r0": rows 9223372036854775807:'),
        (
            {"starts": 0, "stops": 3, "length": 2, "pad": 0},
            ValueError,
            r'member "r0": rows 0:3 are 3, but every excerpt must have 2',
        ),
        ({"length": 2, "dtype": "i4"}, TypeError, r'member "r0": dtype float32 cannot be converted to int32'),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    recordings: Path, arguments: dict[str, Any], error: Any, message: str
) -> None:
    data = mmnpz.load(recordings)
    outs = [np.full((RECORDINGS, rows, 3, 2), 7, np.float32) for rows in (0, 1, 2, 3, 4, 30, 31)]
    for out in [None, *outs]:
        with pytest.raises(error, match=message) as info:
            data.gather(NAMES, out=out, **arguments)
        assert str(info.value).startswith(f"{recordings}: member ")
    assert all((out == 7).all() for out in outs)


@pytest.mark.parametrize("name", ["threads", "length"])
def test_numbers_that_are_none(recordings: Path, name: str) -> None:
    data = mmnpz.load(recordings)
    with pytest.raises(ValueError, match=name):
        data.gather(NAMES, **{"length": 3, name: -1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threads"):
        data.gather(NAMES, length=3, threads=0)


def test_the_member_that_differs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(
        path,
        first=np.zeros((5, 3), "f4"),
        double=np.zeros((5, 3), "f8"),
        wide=np.zeros((5, 4), "f4"),
        flat=np.zeros(5, "f4"),
        big=np.zeros((5, 3), ">f4"),
        scalar=np.float32(1),
    )
    data = mmnpz.load(path)
    out = np.full((2, 2, 3), 7, np.float32)
    for name, error, message in [
        ("double", TypeError, 'dtype float64 differs from float32 of member "first"; pass dtype= to convert'),
        ("big", TypeError, 'dtype >f4 differs from float32 of member "first"; pass dtype= to convert'),
        (
            "wide",
            ValueError,
            r'row shape \(4,\) differs from \(3,\) of member "first"',
        ),
        ("flat", ValueError, r"row shape \(\) differs"),
        ("scalar", ValueError, "no dimensions"),
    ]:
        with pytest.raises(error, match=f'member "{name}": .*{message}'):
            data.gather(["first", name], length=2, out=out)
    for names in (["scalar", "first"], ["first", "scalar"]):
        with pytest.raises(ValueError, match=r"shape \(.*\) differs from \(.*\) of member"):
            data.gather(names)
    assert (out == 7).all()


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(3), b=np.arange(3))
    path.write_bytes(path.read_bytes().replace(b"\x93NUMPY", b"\x93NUMPX", 1))
    out = np.full((2, 3), 7)
    with pytest.raises(ValueError, match=r'member "?.?a'):
        mmnpz.load(path).gather(["b", "a"], out=out)
    assert (out == 7).all()


# Batches without names, without rows, or without items


def test_no_names(recordings: Path) -> None:
    data = mmnpz.load(recordings)
    out: Any
    length: Any
    nothing: tuple[dict[str, Any], ...] = ({}, {"length": 3}, {"dtype": "f4"}, {"starts": []})
    for arguments in nothing:
        with pytest.raises(ValueError, match="empty batch"):
            data.gather([], **arguments)
    for out, length in ((np.empty((0, 3, 2)), None), (np.empty((0, 5, 3, 2)), 5), (np.empty(0), None)):
        assert data.gather([], out=out, length=length) is out
        assert data.gather([], [], [], out=out, length=length) is out
        assert data.gather(np.array([], str), np.array([], int), out=out, length=length) is out
    for out, length in (
        (np.empty((1, 3)), None),
        (np.empty((0, 5)), 4),
        (np.empty(0), 4),
        (np.empty(()), None),
    ):
        with pytest.raises(ValueError, match="out has shape"):
            data.gather([], out=out, length=length)
    data.prefetch([])


@pytest.mark.parametrize("shape", [(0,), (4, 0), (4, 0, 3), (0, 3), (4, 3, 0)])
def test_arrays_of_no_items(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.zeros(shape, "c8"), b=np.zeros(shape, "c8"))
    data = mmnpz.load(path)
    for length in range(shape[0] + 1):
        assert equal(data.gather(["a", "b"], length=length), stacked(data, ["a", "b"], [0, 0], length))
        if length:
            assert data.gather(["a", "b"], 1, length=length, pad=1).shape == (2, length, *shape[1:])
    assert (
        data.gather(["a", "b"], length=2**40, pad=1).shape == (2, 2**40, *shape[1:])
        if 0 in shape[1:]
        else True
    )
    assert equal(data.gather(["a", "b"]), stack([data["a"], data["b"]]))


# Padding


def padded(data: Any, names: Any, starts: Any, length: int, pad: Any) -> Any:
    excerpts = [data[name][start : start + length] for name, start in zip(names, starts, strict=True)]
    batch = np.empty((len(excerpts), length, *excerpts[0].shape[1:]), excerpts[0].dtype)
    batch[...] = pad
    for place, excerpt in zip(batch, excerpts, strict=True):
        place[: len(excerpt)] = excerpt
    return batch


@pytest.mark.parametrize("pad", [0, -1.5, np.float32(3), np.nan, [[1, 2], [3, 4], [5, 6]], [8, 9]])
def test_short_excerpts_are_padded(recordings: Path, pad: Any) -> None:
    data = mmnpz.load(recordings)
    starts = [rows - number for number, rows in enumerate(ROWS)]
    assert equal(data.gather(NAMES, starts, length=7, pad=pad), padded(data, NAMES, starts, 7, pad))
    far = [start + 10**9 for start in starts]
    assert equal(data.gather(NAMES, far, length=3, pad=pad), padded(data, NAMES, far, 3, pad))
    # Without `length`, the batch is as long as the longest excerpt.
    assert equal(data.gather(NAMES, pad=pad), padded(data, NAMES, [0] * RECORDINGS, max(ROWS), pad))
    assert equal(data.gather(NAMES, starts, pad=pad), padded(data, NAMES, starts, RECORDINGS - 1, pad))
    out = np.asfortranarray(np.empty((RECORDINGS, 7, 3, 2), np.float32))
    data.gather(NAMES, starts, length=7, pad=pad, out=out)
    assert np.array_equal(out, padded(data, NAMES, starts, 7, pad), equal_nan=True)


def test_stops_with_padding(recordings: Path) -> None:
    data = mmnpz.load(recordings)
    stops = np.arange(RECORDINGS) + 2
    batch = data.gather(NAMES, 2, stops, pad=-1, length=20)
    assert batch.shape == (RECORDINGS, 20, 3, 2)
    for number, name in enumerate(NAMES):
        assert np.array_equal(batch[number, :number], data[name][2 : stops[number]])
        assert (batch[number, number:] == -1).all()


@pytest.mark.parametrize("pad", ["x", [1, 2, 3], object(), np.zeros((5, 3, 2))])
def test_a_pad_that_does_not_fit(recordings: Path, pad: Any) -> None:
    data = mmnpz.load(recordings)
    out = np.full((RECORDINGS, 50, 3, 2), 7, np.float32)
    with pytest.raises((ValueError, TypeError)):
        data.gather(NAMES, length=50, pad=pad, out=out)
    assert (out == 7).all()


# dtypes


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("order", "CF")
def test_every_dtype(tmp_path: Path, dtype: Any, order: Any) -> None:
    path = tmp_path / "a.npz"
    arrays = {f"a{number}": np.asarray(filled(dtype, (6, 4), number), order=order) for number in range(3)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the header needs .npy format 3.0")
        with mmnpz.NpzWriter(path) as writer:
            for name, array in arrays.items():
                writer.write(name, array)
    data = mmnpz.load(path)
    names = list(arrays)
    for ours, theirs in (
        (data.gather(names, [2, 0, 1], length=3), stacked(data, names, [2, 0, 1], 3)),
        (data.gather(names), stack([data[name] for name in names])),
    ):
        if dtype.itemsize == 0 and dtype.kind in "SU":
            assert ours.shape == theirs.shape
            assert (ours == theirs).all()
            continue
        assert ours.dtype == theirs.dtype == dtype
        assert ours.dtype.byteorder == theirs.dtype.byteorder
        assert same_items(ours, theirs)


@pytest.mark.parametrize("subarray", [(1,), (1, 1)])
def test_descriptions_of_sub_arrays(tmp_path: Path, subarray: tuple[int, ...]) -> None:
    header = f"{{'descr': ('<i4', {subarray}), 'fortran_order': False, 'shape': (3,), }}\n"
    file = npy_with_header(header, np.arange(3, dtype="<i4").tobytes())
    data = mmnpz.load(put(tmp_path / "a.npz", build_zip(Entry("a.npy", file))))
    assert data.gather(["a", "a"], [0, 1], length=2).tolist() == [[0, 1], [1, 2]]


SOURCES = [
    "?",
    "i1",
    "u1",
    "<i2",
    ">i2",
    "<i4",
    "<i8",
    "<f2",
    "<f4",
    ">f4",
    "<f8",
    "<c8",
    "<c16",
    "S3",
    "<U2",
    "<M8[s]",
]


@pytest.mark.parametrize("target", [*SOURCES, "S5", "<U5", "<M8[ms]", "V4"])
def test_conversion_is_that_of_numpy(tmp_path: Path, target: str) -> None:
    path = tmp_path / "a.npz"
    arrays: dict[str, Any] = {
        f"a{number}": np.arange(8).reshape(4, 2).astype(source) for number, source in enumerate(SOURCES)
    }
    np.savez(path, **arrays)
    data = mmnpz.load(path)
    for name, array in arrays.items():
        if np.can_cast(array.dtype, target, "same_kind"):
            with np.errstate(all="ignore"):
                expected = np.stack([array[1:3], array[2:4]]).astype(target)
            assert equal(data.gather([name, name], [1, 2], length=2, dtype=target), expected)
            out = np.zeros(expected.shape, target)
            assert data.gather([name, name], [1, 2], length=2, dtype=target, out=out) is out
            assert equal(out, expected)
            assert equal(
                data.gather([name], dtype=target, pad=0 if target[0] not in "V" else b""),
                array[None].astype(target),
            )
        else:
            out = np.zeros((2, 2, 2), target)
            with pytest.raises(TypeError, match=f'member "{name}": .* cannot be converted'):
                data.gather([name, name], [1, 2], length=2, dtype=target, out=out)
    numbers = [name for name, array in arrays.items() if array.dtype.kind in "?iuf"]
    if np.dtype(target).kind == "f":
        expected = stack([arrays[name].astype(target) for name in numbers])
        assert equal(data.gather(numbers, dtype=target), expected)


@pytest.mark.parametrize("dtype", ["O", "S", "U", "(2,)f4", "nonsense"])
def test_dtypes_that_a_batch_cannot_have(recordings: Path, dtype: Any) -> None:
    with pytest.raises(TypeError):
        mmnpz.load(recordings).gather(NAMES, length=2, dtype=dtype)


@pytest.mark.parametrize("junk", range(8))
def test_foreign_archives_with_data_at_any_address(tmp_path: Path, junk: int) -> None:
    arrays = {f"a{number}": recording(number, 5).astype(">f8") for number in range(4)}
    members = [Entry(f"{name}.npy", npy(array)) for name, array in arrays.items()]
    data = mmnpz.load(put(tmp_path / "a.npz", build_zip(*members, junk=b"x" * junk)))
    names = list(arrays)
    assert equal(data.gather(names, [1, 2, 0, 3], length=2), stacked(arrays, names, [1, 2, 0, 3], 2))
    ours = data.gather(names, length=2, dtype="f4")
    assert equal(ours, stacked(arrays, names, [0] * 4, 2).astype("f4"))


def test_some_members_in_fortran_order(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    arrays: dict[str, Any] = {f"a{number}": recording(number, 9) for number in range(6)}
    for name in ("a1", "a3", "a5"):
        arrays[name] = np.asfortranarray(arrays[name])
    np.savez(path, **arrays)
    data = mmnpz.load(path)
    names = list(arrays)
    for threads in (1, 2):
        batch = data.gather(names, range(6), length=5, pad=3, threads=threads)
        assert equal(batch, padded(arrays, names, range(6), 5, 3))
        assert equal(data.gather(names, threads=threads), stack(list(arrays.values())))
    data.prefetch(names, range(6), length=2)


@given(
    data=st.data(),
    dtype=st.sampled_from(["?", "i1", "<f4", ">f4", "<f8", "<c8", "<M8[ns]", "S3", "V5"]),
    shape=st.lists(st.integers(0, 4), max_size=3).map(tuple),
    aligned=st.booleans(),
    cache=st.booleans(),
    threads=st.integers(1, 3),
)
def test_any_batch(
    new_path: Callable[[], Path],
    data: Any,
    dtype: str,
    shape: tuple[int, ...],
    aligned: bool,
    cache: bool,
    threads: int,
) -> None:
    path = new_path()
    arrays = {}
    for number in range(data.draw(st.integers(1, 6))):
        order = data.draw(st.sampled_from("CCCF"))
        rows = data.draw(st.integers(0, 9))
        arrays[f"n{number}"] = np.asarray(filled(np.dtype(dtype), (rows, *shape), number), order=order)
    if aligned:
        with mmnpz.NpzWriter(path) as writer:
            for name, array in arrays.items():
                writer.write(name, array)
    else:
        with zipfile.ZipFile(path, "w") as file:
            for name, array in arrays.items():
                file.writestr(f"{name}.npy", npy(array))
    reader = mmnpz.load(path, cache=cache, subok=data.draw(st.booleans()))
    names = data.draw(st.lists(st.sampled_from(list(arrays)), min_size=1, max_size=12))
    for _ in range(2):
        shortest = min(len(arrays[name]) for name in names)
        length = data.draw(st.integers(0, shortest))
        starts = [data.draw(st.integers(0, len(arrays[name]) - length)) for name in names]
        batch = reader.gather(names, starts, length=length, threads=threads)
        assert equal(batch, stacked(arrays, names, starts, length))
        starts = [data.draw(st.integers(0, 12)) for _ in names]
        length = data.draw(st.integers(0, 12))
        pad = np.ones((), "i1").astype(dtype)
        batch = reader.gather(names, starts, length=length, pad=pad, threads=threads)
        assert equal(batch, padded(arrays, names, starts, length, pad))
        reader.prefetch(names, starts, length=length)


@pytest.mark.parametrize("columns", [1, 7, 1000, 50_000])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_large_batches(tmp_path: Path, columns: int, threads: int) -> None:
    """Threads copy large batches correctly, whatever the excerpts have to do with the threads' units of work.

    An excerpt is several units, a part of one, or does not divide a unit.
    """
    path = tmp_path / "a.npz"
    rows = 400_000 // columns
    with mmnpz.NpzWriter(path) as writer:
        for number in range(3):
            writer[str(number)] = (np.arange(rows * columns, dtype="<i4") * (number + 1)).reshape(
                rows, columns
            )
    data = mmnpz.load(path)
    names = ["2", "0", "1", "1"]
    starts = [0, 1, rows // 2, rows - 1]
    pad = np.arange(columns) - 5  # differs within a row, because the end of a unit may split a row
    batch = data.gather(names, starts, length=rows, pad=pad, threads=threads)
    assert equal(batch, padded(data, names, starts, rows, pad))
    assert equal(data.gather(names, threads=threads), stack([data[name] for name in names]))
    one = rows // 3
    assert equal(data.gather(names, 1, length=one, threads=threads), stacked(data, names, [1] * 4, one))


# The reader: its cache, its closing, and threads and processes that share it


def test_views_are_kept_as_by_data_of_name(recordings: Path) -> None:
    data = mmnpz.load(recordings)
    data.gather(NAMES[:3], length=2)
    assert list(data.arrays) == NAMES[:3]
    assert data.arrays["r1"] is data["r1"]
    view = data["r5"]
    data.gather(NAMES, length=2)
    assert data["r5"] is view
    options: Any
    for options in ({"cache": False}, {"cache": False, "subok": False}):
        fresh = mmnpz.load(recordings, **options)
        assert equal(fresh.gather(NAMES, 1, length=2), data.gather(NAMES, 1, length=2))
        assert fresh.arrays == {}
    for options in ({"preload": True}, {"subok": False}):
        other = mmnpz.load(recordings, **options)
        assert equal(other.gather(NAMES, 1, length=2), data.gather(NAMES, 1, length=2))


@pytest.mark.parametrize("options", [{}, {"cache": False}, {"preload": True}], ids=str)
@pytest.mark.parametrize("whose", ["ours", "theirs"])
@pytest.mark.parametrize("by", ["name", "position"])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 129, 300])
def test_batches_of_any_number_of_members(
    tmp_path: Path, count: int, by: str, whose: str, options: Any
) -> None:
    path = tmp_path / "a.npz"
    arrays: dict[str, Any] = {f"r{number}": recording(number, 20) for number in range(100)}
    if whose == "theirs":
        np.savez(path, **arrays)
    else:
        with mmnpz.NpzWriter(path) as writer:
            for name, array in arrays.items():
                writer[name] = array
    data = mmnpz.load(path, **options)
    generator = np.random.default_rng(count)
    # The reader keeps some views already, and some names occur twice.
    kept = {name: data[name] for name in list(arrays)[::3]} if data.cache else {}
    numbers = generator.integers(0, 100, count)
    starts = generator.integers(0, 15, count)
    names = [f"r{number}" for number in numbers]
    batch = data.gather(numbers if by == "position" else names, starts, length=4)
    assert equal(batch, stacked(arrays, names, starts, 4))
    assert all(data[name] is view for name, view in kept.items())
    assert set(data.arrays) >= ({*kept, *names} if data.cache else set())


def test_of_several_errors_the_first_is_raised(recordings: Path) -> None:
    data = mmnpz.load(recordings)
    many: Any = NAMES * 6
    wrong: Any = [*many[:70], "nothing", [], "r1"]
    with pytest.raises(KeyError, match="nothing"):
        data.gather(wrong, 0, length=1)
    with pytest.raises(TypeError, match="unhashable"):
        data.gather([*many[:70], *wrong[:69:-1]], 0, length=1)
    with pytest.raises(IndexError, match='"r2"'):
        data.gather([*many[:64], "r2", "nothing"], [0] * 64 + [1000, 0], length=1)


def test_an_invalid_name_is_not_taken_for_the_empty_name(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer[""] = np.arange(5)
        writer["a"] = np.arange(5, 10)
    for data in (mmnpz.load(path), mmnpz.load(path, cache=False), mmnpz.load(path, preload=True)):
        assert data.gather(["", "a"], 1, length=2).tolist() == [[1, 2], [6, 7]]
        others: list[Any] = ["\ud800", b"", None, 1.5]
        for other in others:
            with pytest.raises(KeyError):
                data.gather(["a", other], 1, length=2)


def test_foreign_objects_in_the_dict_of_views_are_ignored(recordings: Path) -> None:
    data = mmnpz.load(recordings)
    arrays: dict[str, Any] = data.arrays
    arrays["r1"] = "a string"
    arrays["r2"] = np.zeros((5, 3, 2), np.float32)
    arrays["r3"] = None
    names = ["r1", "r2", "r3"]
    expected = np.stack([recording(number, ROWS[number])[1:3] for number in (1, 2, 3)])
    assert equal(data.gather(names, 1, length=2), expected)
    assert equal(data.gather(names, 1, length=2, dtype="f8"), expected.astype("f8"))
