"""For a position, `gather` and `prefetch` do what they do for the name `files[position]`."""

import array as arrays_of_python
import copy
import os
import pickle
import tracemalloc
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
from tests.archives import npy
from tests.processes import fork, wait_for
from tests.threads import in_threads

FOLDER = Path(__file__).parent / "data"

COUNT = 12

MANY = 1500
"""With this many members, mmnpz does not check the whole directory and index when it opens the file."""


def rows(number: int) -> Any:
    return np.full((5 + number % 3, 2), number, np.int32) + np.arange(5 + number % 3, dtype=np.int32)[:, None]


def write(path: Path, count: int, mode: Any = "x", first: int = 0) -> Path:
    with mmnpz.NpzWriter(path, mode) as writer:
        for number in range(first, first + count):
            writer.write(f"n{number}", rows(number))
    return path


@pytest.fixture(params=["ours", "NumPy's"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The path of an archive of COUNT arrays, with an index of names (mmnpz) or without one (NumPy)."""
    path = tmp_path / "a.npz"
    if request.param == "ours":
        return write(path, COUNT)
    np.savez(path, **{f"n{number}": rows(number) for number in range(COUNT)})
    return path


def expected(positions: Any, start: int = 0) -> Any:
    return np.stack([rows(int(position) % COUNT)[start : start + 3] for position in positions])


POSITIONS = [3, 0, -1, 11, -12, 3]

INTEGERS: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "iterator": iter,
    "NumPy's scalars": lambda positions: [np.int16(position) for position in positions],
    "array of Python": lambda positions: arrays_of_python.array("b", positions),
    "objects": lambda positions: np.array(positions, object),
    "every other": lambda positions: np.repeat(np.array(positions), 2)[::2],
    "backwards": lambda positions: np.array(positions[::-1])[::-1],
    "subclass": lambda positions: np.array(positions).view(type("Sub", (np.ndarray,), {})),
    **{dtype: lambda positions, dtype=dtype: np.array(positions, dtype) for dtype in ("i1", "<i4", ">i8")},  # type: ignore[misc]
    **{
        dtype: lambda positions, dtype=dtype: (np.array(positions) % COUNT).astype(dtype)  # type: ignore[misc]
        for dtype in ("u1", ">u2", "<u8", ">u8")
    },
}


@pytest.mark.parametrize("kind", INTEGERS)
def test_any_integers(path: Path, kind: str) -> None:
    data: Any = mmnpz.load(path)
    assert np.array_equal(data.gather(INTEGERS[kind](POSITIONS), length=3), expected(POSITIONS))
    data.prefetch(INTEGERS[kind](POSITIONS), length=3)


def test_ranges(path: Path) -> None:
    data = mmnpz.load(path)
    for positions in (range(COUNT), range(-1, -COUNT - 1, -1), range(2, 9, 3)):
        assert np.array_equal(data.gather(positions, 1, length=3), expected(positions, 1))


@pytest.mark.parametrize("options", [{}, {"cache": False}, {"preload": True}, {"subok": False}])
def test_a_position_gives_the_view_of_its_name(path: Path, options: dict[str, Any]) -> None:
    data: Any = mmnpz.load(path, **options)
    early = data["n4"]
    data.gather([4, 5, -1], length=3)
    if not data.cache:
        assert data.arrays == {}
        return
    assert data["n4"] is early
    views = dict(data.arrays)
    assert set(views) == set(data.files) if data.preload else list(views) == ["n4", "n5", "n11"]
    for name, view in views.items():
        assert data[name] is view
        assert np.array_equal(view, rows(int(name[1:])))
    late = data["n7"]
    data.gather([7], length=3)
    assert data["n7"] is late is data.arrays["n7"]


OUT_OF_RANGE: list[Any] = [
    [0, COUNT],
    [0, -COUNT - 1],
    [10**30],
    [-(10**30)],
    range(COUNT + 1),
    np.array([0, COUNT]),
    np.array([0, -COUNT - 1], "i1"),
    np.array([2**63 - 1]),
    np.array([-(2**63)]),
    np.array([2**64 - 1], "u8"),
    np.array([2**64 - COUNT], "u8"),
    np.array([255], "u1"),
    np.array([10**30], object),
]


@pytest.mark.parametrize("positions", OUT_OF_RANGE, ids=repr)
def test_out_of_range(path: Path, positions: Any) -> None:
    data = mmnpz.load(path)
    out = np.full((len(positions), 3, 2), 7, np.int32)
    wrong = next(int(position) for position in positions if not -COUNT <= int(position) < COUNT)
    for call in (
        lambda: data.gather(positions, length=3, out=out),
        lambda: data.prefetch(positions, length=3),
    ):
        with pytest.raises(IndexError) as caught:
            call()
        assert str(caught.value) == f"{path}: position {wrong} is out of range for {COUNT} members"
    assert (out == 7).all()


MASKS: list[Any] = [
    [True, False],
    (np.True_, np.False_),
    [0, True],
    [0, np.True_],
    ["n0", False],
    ["n0", np.False_],
    np.ones(COUNT, bool),
    np.array([True, False], object),
    np.zeros(0, bool),
]


@pytest.mark.parametrize("mask", MASKS, ids=repr)
def test_a_mask_is_refused(path: Path, mask: Any) -> None:
    data = mmnpz.load(path)
    for call in (data.gather, data.prefetch):
        with pytest.raises(TypeError, match=r"booleans; numpy\.flatnonzero"):
            call(mask, length=3)


@pytest.mark.parametrize("mixed", [["n0", 1], [1, "n0"], ["n0", np.int64(1)], np.array([1, "n0"], object)])
def test_names_and_positions_are_not_mixed(path: Path, mixed: Any) -> None:
    for cache in (True, False):
        data: Any = mmnpz.load(path, cache=cache)
        for call in (data.gather, data.prefetch):
            with pytest.raises(TypeError, match="mixed"):
                call(mixed, length=3)


@pytest.mark.parametrize("wrong", [[1, 1.0], [1, None], [1, [2]], [0, np.array([1, 2])]])
def test_what_is_no_position(path: Path, wrong: Any) -> None:
    data = mmnpz.load(path)
    with pytest.raises(TypeError, match="positions cannot be mixed with others"):
        data.gather(wrong, length=3)


@pytest.mark.parametrize("wrong", [np.array([[0, 1]]), np.array(1), np.array("n1"), np.array([["n1", "n2"]])])
def test_arrays_of_other_than_one_dimension(path: Path, wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"one-dimensional, got an array of {wrong.ndim} dim"):
        mmnpz.load(path).gather(wrong, length=3)


def test_an_index_that_raises(path: Path) -> None:
    class Broken:
        def __index__(self) -> int:
            raise ZeroDivisionError

    data: Any = mmnpz.load(path)
    with pytest.raises(ZeroDivisionError):
        data.gather([0, Broken()], length=3)


def test_errors_name_the_member(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, first=np.zeros((5, 3)), double=np.zeros((5, 4)), single=np.zeros((5, 3), "f4"))
    data = mmnpz.load(path)
    with pytest.raises(ValueError, match=rf'{path.name}: member "double": .* of member "first"'):
        data.gather([0, 1])
    with pytest.raises(TypeError, match=r'member "single": .* of member "first"'):
        data.gather(np.array([0, 2]))
    with pytest.raises(IndexError, match='member "double": rows 3:6'):
        data.gather([-2], 3, length=3)
    with pytest.raises(IndexError, match='member "double": rows must not be negative, got -1:2'):
        data.prefetch([1], -1, length=3)
    with pytest.raises(TypeError, match='member "first": dtype'):
        data.gather([0], dtype="i4")
    with pytest.raises(ValueError, match="got 2 names and 3 starts"):
        data.gather([0, 1], [1, 2, 3])


def test_no_positions(path: Path) -> None:
    data = mmnpz.load(path)
    with pytest.raises(ValueError, match="empty batch"):
        data.gather(np.array([], int), length=3)
    out = np.empty((0, 3, 2), np.int32)
    assert data.gather(np.array([], int), length=3, out=out) is out
    data.prefetch(range(0))


def test_an_empty_archive(tmp_path: Path) -> None:
    data = mmnpz.load(write(tmp_path / "a.npz", 0))
    for positions in ([0], [-1], np.array([0])):
        with pytest.raises(IndexError, match="out of range for 0 members"):
            data.gather(positions)


def test_a_closed_reader(path: Path) -> None:
    data = mmnpz.load(path)
    data.close()
    for call in (data.gather, data.prefetch):
        with pytest.raises(ValueError, match="closed"):
            call([0])


def outcome(call: Callable[[], Any]) -> Any:
    """Return a description of the array that a call returns, or of the error that it raises."""
    try:
        array = call()
    except (ValueError, zipfile.BadZipFile) as error:
        return type(error), str(error)
    return array.shape, array.dtype, array.tobytes()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.npz")), ids=lambda path: path.name)
def test_positions_are_those_of_files(path: Path) -> None:
    """A position is an index into `files`, also if a name occurs twice, is not listed, or is unreadable."""
    try:
        data = mmnpz.load(path)
    except (ValueError, zipfile.BadZipFile, UserWarning):
        return
    for number, name in enumerate(data.files):
        right = outcome(lambda name=name: data.load(name)[None])  # type: ignore[misc]
        for position in (number, number - len(data)):
            fresh = mmnpz.load(path)
            assert outcome(lambda data=fresh, at=position: data.gather([at])) == right  # type: ignore[misc]
    with pytest.raises(IndexError):
        data.gather([len(data)])


@given(data=st.data(), ours=st.booleans(), cache=st.booleans(), threads=st.integers(1, 2))
def test_any_batch(new_path: Callable[[], Path], data: Any, ours: bool, cache: bool, threads: int) -> None:
    path = new_path()
    arrays: dict[str, Any] = {}
    # A name may occur twice.
    names = data.draw(st.lists(st.sampled_from([f"m{number}" for number in range(9)]), min_size=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if ours:
            with mmnpz.NpzWriter(path) as writer:
                for number, name in enumerate(names):
                    arrays[name] = np.arange(6) + 100 * number
                    writer.write(name, arrays[name])
        else:
            with zipfile.ZipFile(path, "w") as file:
                for number, name in enumerate(names):
                    arrays[name] = np.arange(6) + 100 * number
                    file.writestr(f"{name}.npy", npy(arrays[name]))
    reader = mmnpz.load(path, cache=cache)
    # Positions count the distinct names of the archive, in the order of zipfile.
    with zipfile.ZipFile(path) as file:
        files = [name[:-4] for name in dict.fromkeys(file.namelist())]
    for _ in range(2):
        size = len(files)
        positions = data.draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=12))
        starts = [data.draw(st.integers(0, 3)) for _ in positions]
        right = np.stack([arrays[files[at]][a : a + 3] for at, a in zip(positions, starts, strict=True)])
        for given_positions in (positions, np.array(positions, data.draw(st.sampled_from(["i1", "i8"])))):
            batch = reader.gather(given_positions, starts, length=3, threads=threads)
            assert np.array_equal(batch, right)
            reader.prefetch(given_positions, starts, length=3)
    assert reader.files == files


# A position keeps its meaning while the file changes


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("members", [COUNT, MANY])
@pytest.mark.parametrize("state", ["flushed", "open", "closed"])
@pytest.mark.parametrize("asked", [True, False])
def test_another_writer_appends(tmp_path: Path, members: int, state: str, cache: bool, asked: bool) -> None:
    path = write(tmp_path / "a.npz", members)
    data = mmnpz.load(path, cache=cache)
    if asked:
        data.gather([0, 5], length=3)
    with mmnpz.NpzWriter(path, "a") as writer:
        # The new member is so large that it overwrites the whole directory and index.
        writer.write("new", np.ones(members * 300, "u1"))
        if state == "flushed":
            writer.flush()
        if state == "closed":
            writer.close()
        positions = np.arange(-members, members)
        batch = data.gather(positions, length=3)
        assert np.array_equal(
            batch, np.stack([rows(position % members)[:3] for position in positions.tolist()])
        )
        with pytest.raises(IndexError, match=f"out of range for {members} members"):
            data.gather([members])
    assert data.files == [f"n{number}" for number in range(members)]


def test_another_program_edits_in_place(tmp_path: Path) -> None:
    """Positions do not count a member that another program has renamed to a file without `.npy`."""
    path = write(tmp_path / "a.npz", MANY)
    with path.open("r+b") as file:
        at = path.read_bytes().rindex(b"n700.npy")
        file.seek(at)
        file.write(b"n700.txt")
    for first in ("position", "files"):
        data = mmnpz.load(path)
        if first == "files":
            assert len(data.files) == MANY - 1
        assert np.array_equal(data.gather([699, 700, -1], length=3)[:, 0, 0], [699, 701, MANY - 1])
        with pytest.raises(IndexError, match=f"position {MANY - 1} is out of range for {MANY - 1} members"):
            data.gather([MANY - 1])


@pytest.mark.thread_unsafe(reason="measures the memory of the process")
def test_no_list_of_names_is_made(tmp_path: Path) -> None:
    count = 20_000
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(count):
            writer.write(f"some name {number}", np.arange(3))
    data = mmnpz.load(path)
    tracemalloc.start()
    try:
        data.gather([5, -5])
        data.prefetch(np.array([7, count - 1]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    assert data._index_memory == 0


@pytest.mark.parametrize("again", [lambda data: pickle.loads(pickle.dumps(data)), copy.copy, copy.deepcopy])
def test_another_handle(path: Path, again: Callable[[Any], Any]) -> None:
    for cache in (True, False):
        data = mmnpz.load(path, cache=cache)
        other = again(data)
        assert np.array_equal(other.gather(POSITIONS, length=3), expected(POSITIONS))
        data.close()
        assert np.array_equal(other.gather(POSITIONS, length=3), expected(POSITIONS))


@pytest.mark.parametrize("cache", [True, False])
def test_threads_share_a_reader(tmp_path: Path, cache: bool) -> None:
    path = write(tmp_path / "a.npz", MANY)
    for _ in range(3):
        data = mmnpz.load(path, cache=cache)

        def work(number: int, data: Any = data) -> None:
            generator = np.random.default_rng(number)
            for turn in range(20):
                positions = generator.integers(-MANY, MANY, 64)
                names = [f"n{position % MANY}" for position in positions.tolist()]
                given_keys: Any = names if (turn + number) % 2 else positions
                batch = data.gather(given_keys, length=3)
                assert np.array_equal(batch[:, 0, 0], positions % MANY)

        in_threads(work)
        if cache:
            views = data.arrays
            assert all(data[name] is view for name, view in views.items())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.thread_unsafe(reason="forks")
def test_a_forked_child(path: Path) -> None:
    data = mmnpz.load(path)
    data.gather([3], length=3)

    def child() -> None:
        assert np.array_equal(data.gather(POSITIONS, length=3), expected(POSITIONS))

    wait_for(fork(child))
