"""`NpzWriter.create` gives an array in the file, which becomes a member when its block ends, or never is."""

import io
import os
import sys
import textwrap
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmnpz
from mmnpz._mmnpz import _create
from tests import sequential
from tests.archives import npy, same
from tests.faults.recorder import compile_shim
from tests.processes import fork, run_python, wait_for
from tests.written import check, fails

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="preloads a library")

dtypes = st.sampled_from(
    ["<f8", ">i2", "?", "S3", "U2", "S", "M8[ns]", "V5", "c16", "(2,3)f4", [("a", "u1"), ("b", "<f4", (2,))]]
)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@given(dtypes, shapes, st.booleans(), st.sampled_from([1, 64, 4096]), st.randoms(use_true_random=False))
def test_any_array_is_what_numpy_makes_of_the_same(
    dtype: Any, shape: tuple[int, ...], fortran_order: bool, align: int, chance: Any
) -> None:
    out = io.BytesIO()
    with mmnpz.NpzWriter(out, align=align) as writer:
        expected = np.zeros(shape, dtype, order="F" if fortran_order else "C")
        with writer.create("x", shape, dtype, fortran_order=fortran_order) as array:
            assert type(array) is np.ndarray
            assert array.flags.writeable
            assert array.flags.aligned or align == 1
            assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
            assert array.strides == expected.strides or not array.size
            assert array.tobytes() == bytes(array.nbytes), "the array must begin with zeros"
            assert array.nbytes == 0 or array.ctypes.data % align == 0 or align > 64
            items = np.frombuffer(chance.randbytes(array.nbytes), np.uint8)
            for one in (array, expected):
                if array.nbytes and array.dtype.kind != "U":
                    one.reshape(-1, order="A").view(np.uint8)[...] = (
                        items if array.dtype != bool else items % 2
                    )
    with zipfile.ZipFile(out) as file:
        assert file.read("x.npy") == npy(expected)
    assert same(mmnpz.load(out)["x"], expected)


def test_filled_in_any_order_beside_other_writes(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    large = np.arange(3_000_000.0).reshape(1000, 3000)
    with mmnpz.NpzWriter(path) as writer:
        writer.write("before", [1])
        with writer.create("large", large.shape, float) as array, writer.create("other", 10, "u1") as other:
            for row in range(999, -1, -1):
                array[row] = large[row]
                if row % 100 == 0:
                    writer.write(f"beside/{row}", np.arange(row))
            writer.flush()
            # What others find meanwhile.
            assert set(np.load(path).files) == {"before", *(f"beside/{row}" for row in range(0, 1000, 100))}
            assert "large" not in mmnpz.load(path)
            assert "large" not in writer.files
            other[3] = 7
        assert writer.files[-2:] == ["other", "large"]
        writer.write("behind", [2])
    arrays = {f"beside/{row}": np.arange(row) for row in range(0, 1000, 100)}
    check(
        path, {"before": [1], "large": large, "other": np.eye(1, 10, 3, "u1")[0] * 7, **arrays, "behind": [2]}
    )


def test_zeros_where_the_file_had_other_bytes(tmp_path: Path) -> None:
    """The range of an array can have been that of a directory, or of a member that was given up."""
    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(2000):
            writer.write(f"n{number}", [number])
    for size in (100, 2_000_000):
        with mmnpz.NpzWriter(path, "a") as writer:
            with fails(), writer.create("given up", size, "u1") as array:
                array[...] = 255
                raise ZeroDivisionError
            with writer.create(f"zeros/{size}", size, "u1") as array:
                pass
    check(
        path,
        {f"n{n}": [n] for n in range(2000)} | {f"zeros/{n}": np.zeros(n, "u1") for n in (100, 2_000_000)},
    )


@pytest.mark.parametrize("size", [10, 2_000_000])
def test_an_exception_in_the_block_leaves_no_member(tmp_path: Path, size: int) -> None:
    path = tmp_path / "archive.npz"
    arrays = {"before": np.arange(5), "x": np.arange(7.0), "behind": np.arange(3)}
    with mmnpz.NpzWriter(path) as writer:
        writer.write("before", arrays["before"])
        end = path.stat().st_size
        with fails(), writer.create("x", size, float) as array:
            array[...] = 3
            raise ZeroDivisionError
        # Its space is used again.
        writer.write("x", arrays["x"])
        assert path.read_bytes().index(b"x.npy") < end + 100
        assert not array.any(), "the array has nothing to do with the file any more"
        with fails(), writer.create("y", size, float) as array:
            array[...] = 3
            # What is behind it stays where it is.
            writer.write("behind", arrays["behind"])
            raise ZeroDivisionError
    assert array.flags.writeable is False
    check(path, arrays)


def test_views_that_outlive_the_block_do_not_reach_the_file(tmp_path: Path) -> None:
    """A thread that goes on filling while the block ends must not spoil the checksum."""
    path = tmp_path / "archive.npz"
    stop, is_filling = threading.Event(), threading.Event()
    with mmnpz.NpzWriter(path) as writer:
        with writer.create("x", 3_000_000, "u4") as array:
            view = array[:]

            def fill() -> None:
                number = 0
                while not stop.is_set():
                    number += 1
                    view[...] = number
                    is_filling.set()

            thread = threading.Thread(target=fill)
            thread.start()
            is_filling.wait()
        stop.set()
        thread.join()
        found = view.copy()
        assert len(set(found.tolist())) <= 2
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        view[...] = 0
        writer.write("y", [1])
    data = mmnpz.load(path)
    assert data.verify() == []
    assert not view.any()
    assert data["x"].any()


def test_views_that_outlive_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path) as writer, writer.create("x", 1000, "u4") as array:
        array[...] = range(1000)
        view = array[10:20]
    del array, writer
    path.unlink()
    assert view.tolist() == list(range(10, 20))
    view += 1
    assert view.tolist() == list(range(11, 21))


@pytest.mark.parametrize("size", [10, 2_000_000])
def test_a_writer_that_is_closed_in_the_block_gives_the_array_up(tmp_path: Path, size: int) -> None:
    path = tmp_path / "archive.npz"
    writer = mmnpz.NpzWriter(path)
    writer.write("a", [1])
    block = writer.create("x", size, "u1")
    array = block.__enter__()
    array[...] = 1
    writer.write("b", [2])
    writer.close()
    assert not array.any()
    with mmnpz.NpzWriter(path, "a") as other:
        other.write("c", np.arange(size))
    # In whatever place that was written, this does not spoil it.
    array[...] = 255
    with pytest.raises(ValueError, match=r"archive.npz: the writer was closed before the array was finished"):
        block.__exit__(None, None, None)
    check(path, {"a": [1], "b": [2], "c": np.arange(size)})


def test_a_block_that_nobody_ends(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    writer = mmnpz.NpzWriter(path)
    block = writer.create("x", 10, "u1")
    array = block.__enter__()
    del block, array
    writer.write("b", [2])
    block = writer.create("y", 10, "u1")
    array = block.__enter__()
    writer.close()
    del block
    array[...] = 1
    del array
    check(path, {"b": [2]})


def test_closing_waits_for_a_block_that_ends(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    writer = mmnpz.NpzWriter(path)
    closing = threading.Event()

    def progress(done: int, total: int) -> None:
        if not closing.is_set():
            closing.set()
            threading.Event().wait(0.2)

    with writer.create("x", 40_000_000, "u1", progress=progress) as array:
        array[...] = 1

        def close() -> None:
            closing.wait()
            writer.close()

        thread = threading.Thread(target=close)
        thread.start()
    thread.join()
    assert writer.closed
    check(path, {"x": np.ones(40_000_000, "u1")})


@needs_fork
@pytest.mark.thread_unsafe(reason="forks")
def test_forked_processes_fill_an_array(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    expected = np.arange(400_000.0).reshape(4, -1)
    with mmnpz.NpzWriter(path) as writer, writer.create("x", expected.shape, float) as array:

        def work(part: int) -> None:
            array[part] = expected[part]
            if part == 2:
                # As a child that raises out of the block, or leaves it.
                block.__exit__(ValueError, ValueError(), None)
            with pytest.raises(RuntimeError, match="fork"), writer.create("y", 3, float):
                pass

        block = writer.create("z", 3, float)
        block.__enter__()
        for process in [fork(lambda part=part: work(part)) for part in range(4)]:  # type: ignore[misc]
            wait_for(process)
        block.__exit__(None, None, None)
    check(path, {"x": expected, "z": np.zeros(3)})


def test_bad_arguments(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path) as writer:
        bad: list[tuple[Any, Any, Any, type[Exception], str]] = [
            ("x", 3, object, ValueError, "pickling"),
            ("x", -1, float, ValueError, "negative"),
            ("x", (3, -2), float, ValueError, "negative"),
            ("x", 1.5, float, TypeError, "float"),
            ("x", 3, "no dtype", TypeError, "no dtype"),
            ("x\0", 3, float, ValueError, "NUL"),
            ("x", (2**40, 2**40), float, ValueError, r"archive.npz.*'?x'?.*"),
            ("x", 2**61, float, ValueError, r"archive.npz"),
            ("x", 2**55, float, OSError, "archive.npz"),
            (3, 3, float, TypeError, "str"),
        ]
        for name, shape, dtype, error, message in bad:
            with pytest.raises(error, match=message), writer.create(name, shape, dtype):
                pass
        block = writer.create("once", 3, float)
        with block, pytest.raises(RuntimeError, match="once"):
            block.__enter__()
        with (
            pytest.warns(UserWarning, match=r"Duplicate name: 'once.npy'"),
            writer.create("once", 2, int) as array,
        ):
            array[...] = 5
        writer.write("last", [1])
    with pytest.raises(ValueError, match="closed"), writer.create("x", 3, float):
        pass
    data = mmnpz.load(path)
    assert {name: data[name].tolist() for name in data} == {"once": [5, 5], "last": [1]}
    assert data.verify() == []


def test_the_compiled_half_makes_no_array_that_is_larger_than_its_map(tmp_path: Path) -> None:
    with mmnpz.NpzWriter(tmp_path / "archive.npz") as writer:
        for dtype in ("S0", "U0", "(2,3)f4"):
            with pytest.raises(ValueError, match="no array has dtype"):
                _create(writer, "x", [100], np.dtype(dtype), False)
        assert writer.files == []


def test_progress_tells_how_much_is_done(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with mmnpz.NpzWriter(tmp_path / "archive.npz") as writer:
        with writer.create("x", 100_000_000, "u1", progress=lambda *words: told.append(words)):
            pass
        assert told[-1] == (100_000_000, 100_000_000)
        assert told == sorted(told)

        def refuse(done: int, total: int) -> None:
            raise ZeroDivisionError

        with fails(), writer.create("y", 100_000_000, "u1", progress=refuse):
            pass
        writer.write("z", [1])
    assert mmnpz.load(tmp_path / "archive.npz").files == ["x", "z"]


ENDING = """
import os, sys, signal
import numpy as np, mmnpz
class Stopped(Exception): pass
def stop(*_): raise Stopped
signal.signal(signal.SIGALRM, stop)
with mmnpz.NpzWriter(sys.argv[1]) as writer:
    writer.write("before", [1])
    try:
        with writer.create("x", 20 << 30, "u1") as array:
            array[5] = 1
            signal.setitimer(signal.ITIMER_REAL, 0.1)
    except Stopped:
        pass
    else:
        sys.exit("not interrupted")
    writer.write("behind", [2])
"""

BEYOND_4_GIB = """
import sys
import numpy as np, mmnpz
size = (1 << 32) + 100
with mmnpz.NpzWriter(sys.argv[1]) as writer:
    with writer.create("x", size, "u1") as array:
        array[0], array[-1] = 1, 2
    writer.write("behind", [3])
data = mmnpz.load(sys.argv[1])
assert data["x"].shape == (size,) and data["x"][0] == 1 and data["x"][-1] == 2 and data["behind"] == 3
assert data.verify() == []
"""

WITHOUT_SPACE = """
import errno, sys
import numpy as np, mmnpz
with mmnpz.NpzWriter(sys.argv[1]) as writer:
    writer.write("before", [1])
    try:
        with writer.create("x", 5_000_000, "u1") as array:
            sys.exit("there was space")
    except OSError as error:
        assert error.errno == errno.ENOSPC and error.filename == sys.argv[1], error
    writer.write("behind", [2])
assert mmnpz.load(sys.argv[1]).files == ["before", "behind"]
"""

CANNOT_SET_ASIDE = """
import os, sys
import numpy as np, mmnpz
with mmnpz.NpzWriter(sys.argv[1]) as writer:
    with writer.create("x", 5_000_000, "u1") as array:
        assert os.stat(sys.argv[1]).st_blocks * 512 >= 5_000_000, "zeros must have been written"
        array[...] = 3
assert mmnpz.load(sys.argv[1])["x"].all()
"""

CANNOT_MAP = """
import errno, sys
import numpy as np, mmnpz
with mmnpz.NpzWriter(sys.argv[1]) as writer:
    writer.write("before", [1])
    try:
        with writer.create("x", 100, "u1") as array:
            sys.exit("it was mapped")
    except OSError as error:
        assert error.errno == errno.ENODEV and error.filename == sys.argv[1], error
    writer.write("behind", [2])
"""

UNREADABLE = """
import errno, sys
import numpy as np, mmnpz
with mmnpz.NpzWriter(sys.argv[1]) as writer:
    writer.write("before", [1])
    try:
        with writer.create("x", 4_000_000, "u1") as array:
            array[...] = 1
    except OSError as error:
        assert error.errno == errno.EIO and error.filename == sys.argv[1], error
        assert not array.any()
    else:
        sys.exit("it was read")
    writer.write("behind", [2])
"""


@needs_linux
@pytest.mark.thread_unsafe(reason="works in a process of its own")
@pytest.mark.parametrize(
    ("code", "environment", "names"),
    [
        (ENDING, {"SPACE": "any"}, ["before", "behind"]),
        (BEYOND_4_GIB, {"SPACE": "any"}, ["x", "behind"]),
        (WITHOUT_SPACE, {"SPACE": "full"}, ["before", "behind"]),
        # It is asked before it is filled.
        (WITHOUT_SPACE, {"SPACE": "little"}, ["before", "behind"]),
        (CANNOT_SET_ASIDE, {"SPACE": "none"}, ["x"]),
        (CANNOT_MAP, {"NO_SHARED_MAPS": "1"}, ["before", "behind"]),
        (UNREADABLE, {"UNREADABLE": "2000000"}, ["before", "behind"]),
    ],
    ids=[
        "interrupted",
        "beyond 4 GiB",
        "no space",
        "little space",
        "nothing set aside",
        "no maps",
        "unreadable",
    ],
)
def test_on_disks_of_all_kinds(
    tmp_path: Path, code: str, environment: dict[str, str], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {"LD_PRELOAD": str(compile_shim(tmp_path, "flaky")), **environment}.items():
        monkeypatch.setenv(key, value)
    path = tmp_path / "archive.npz"
    run_python(textwrap.dedent(code), path)
    with np.load(path) as data:
        assert data.files == names
    if path.stat().st_size < 1 << 30:
        assert list(sequential.walk(path)[0]) == names


KILLED = """
import os, signal, sys
import numpy as np, mmnpz
writer = mmnpz.NpzWriter(sys.argv[1])
writer.write("before", np.arange(5))
with writer.create("x", int(sys.argv[2]), "u1") as array:
    array[...] = 1
    writer.write("behind", np.arange(6))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@needs_fork
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_kill_in_the_block_leaves_no_member_and_loses_no_other(tmp_path: Path, size: int) -> None:
    path = tmp_path / "archive.npz"
    with pytest.raises(AssertionError):
        run_python(KILLED, path, size)
    with pytest.warns(UserWarning, match="not closed"):
        assert mmnpz.load(path).files == ["before", "behind"]
    report = mmnpz.repair(path)
    assert [(member.name, member.reason) for member in report.dropped] == [("x", "it was not finished")]
    with mmnpz.NpzWriter(path, "a") as writer, writer.create("x", size, "u1") as array:
        array[...] = 2
    check(path, {"before": np.arange(5), "behind": np.arange(6), "x": np.full(size, 2, "u1")})


def test_a_large_write_tells_how_much_is_done(tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    large = np.zeros(60_000_000, "u1")
    with mmnpz.NpzWriter(tmp_path / "archive.npz") as writer:
        writer.write("x", large, progress=lambda *words: told.append(words))
        assert told[-1] == (60_000_000, 60_000_000)
        assert told == sorted(told)
        told.clear()
        writer.write("small", [1.5], progress=lambda *words: told.append(words))
        assert told == [(8, 8)]
        told.clear()
        writer.update({"first": large[:1000], "y": large}, progress=lambda *words: told.append(words))
        assert told[-1] == (60_001_000, 60_001_000)
        assert told == sorted(told)
        assert len(told) >= 2

        def refuse(done: int, total: int) -> None:
            raise ZeroDivisionError

        with fails():
            writer.write("z", large, progress=refuse)
        with pytest.raises(TypeError, match="progress must be a callable or True"):
            writer.create("z", 3, float, progress=3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="progress must be a callable or True"):
            writer.write("z", large, progress=3)  # type: ignore[arg-type]
        writer.write("z", [1])
    check(tmp_path / "archive.npz", {"x": large, "small": [1.5], "first": large[:1000], "y": large, "z": [1]})
