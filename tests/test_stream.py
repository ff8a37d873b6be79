"""`NpzWriter.stream` takes rows of an array whose length is not known, and makes a member of them."""

import io
import os
import signal
import subprocess
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
from tests import sequential
from tests.archives import same
from tests.faults.recorder import compile_shim
from tests.processes import fork, run_python, wait_for
from tests.written import check, fails, is_npy

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="preloads a library")


dtypes = st.sampled_from(
    ["<f8", ">i2", "?", "S3", "U2", "M8[ns]", "c16", "(2,)f4", [("a", "u1"), ("b", "<f4")]]
)
parts = st.lists(st.integers(0, 5) | st.just("row") | st.just("flush") | st.just("beside"), max_size=8)


@given(dtypes, st.lists(st.integers(0, 3), max_size=3).map(tuple), parts, st.sampled_from([1, 64, 4096]))
def test_any_rows_are_what_numpy_makes_of_the_same(
    dtype: Any, row_shape: tuple[int, ...], parts: list[Any], align: int
) -> None:
    count = sum({"row": 1}.get(part, 0) if isinstance(part, str) else part for part in parts)
    expected = np.zeros((count, *row_shape), dtype)
    if expected.dtype.kind not in "VU":
        expected[...] = np.arange(expected.size).reshape(expected.shape).astype(expected.dtype.base)
    # Rows of all memory orders.
    out, at = io.BytesIO(), 0
    with mmnpz.NpzWriter(out, align=align) as writer, writer.stream("x", dtype, row_shape) as stream:
        for number, part in enumerate(parts):
            if part == "row":
                stream.append(expected[at])
                at += 1
            elif part == "beside":
                writer.write(str(number), np.arange(number))
            elif part != "flush":
                stream.append(np.asfortranarray(expected[at : at + part]))
                at += part
            assert len(stream) == at
            assert stream.shape == (at, *expected.shape[1:])
    with zipfile.ZipFile(out) as file:
        assert is_npy(file.read("x.npy"), expected)
        assert file.testzip() is None
    assert same(mmnpz.load(out)["x"], expected)


@pytest.mark.parametrize("size", [1, 1000, 100_000, 700_000, 6_000_000])
@pytest.mark.parametrize("align", [1, 64, 32768])
def test_chunks_of_all_sizes(tmp_path: Path, size: int, align: int) -> None:
    """Chunks are collected, written some at a time, or at once."""
    path = tmp_path / "archive.npz"
    count = min(20_000_000, size * 2000)
    expected = np.random.default_rng(0).integers(0, 256, count, np.uint8)
    with mmnpz.NpzWriter(path, align=align) as writer, writer.stream("x", np.uint8) as stream:
        for start in range(0, count, size):
            stream.append(expected[start : start + size])
    check(path, {"x": expected})
    offset = mmnpz.load(path).info("x").offset
    assert offset is not None
    assert offset % align == 0


def test_many_streams_and_other_writes_beside_each_other(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    arrays = {f"s{n}": np.arange(n * 40_000 + 7.0).reshape(-1, 1) for n in range(12)}
    others: dict[str, Any] = {}
    with mmnpz.NpzWriter(path) as writer:
        streams = {name: writer.stream(name, float, 1) for name in arrays}
        for start in range(0, 440_007, 4_000):
            for name, stream in streams.items():
                stream.append(arrays[name][start : start + 4_000])
            name = f"other{start}"
            others[name] = np.arange(start % 5000)
            writer.write(name, others[name])
            if start % 100_000 == 0:
                writer.flush()
                assert set(np.load(path).files) == set(others)
        for stream in streams.values():
            stream.close()
            stream.close()
            assert stream.closed
    check(path, arrays | others)
    # What the streams left behind when they moved takes no space.
    used = path.stat().st_blocks * 512
    assert used < 1.2 * sum(array.nbytes for array in arrays.values()) + 4_000_000 or sys.platform != "linux"


def test_in_the_room_of_a_file_that_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    old: dict[str, Any] = {f"n{number}": [number] for number in range(2000)}
    with mmnpz.NpzWriter(path) as writer:
        writer.update(old)
        writer.flush()
    for number, size in enumerate((10, 5000, 300_000)):
        old[f"x{number}"] = np.arange(size)
        with mmnpz.NpzWriter(path, "a") as writer, writer.stream(f"x{number}", int) as stream:
            stream.extend(np.array_split(old[f"x{number}"], 5))
    check(path, old)


def test_what_can_be_appended(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path) as writer:
        with writer.stream("i", "u1", 2) as stream:
            assert (stream.name, stream.dtype, stream.shape, stream.closed) == (
                "i",
                np.dtype("u1"),
                (0, 2),
                False,
            )
            stream.append([1, 2])
            stream.append([[3, 4], [5, 6]])
            stream.append(np.array([7, 8], "u1"))
            stream.append(np.array([[True, False]]))
            stream.append(np.empty((0, 2)))
            stream.extend([[9, 10]])
            stream.extend(np.array([[11, 12], [13, 14]], "u1"))
            chunks: list[Any] = [[15, 16], [[17, 18]]]
            stream.extend(iter(chunks))
            bad_ones: list[tuple[Any, type[Exception]]] = [
                ([1, 2, 3], ValueError),
                (1, ValueError),
                ([[[1, 2]]], ValueError),
                ([1.5, 2], TypeError),
                (np.array([1.5, 2]), TypeError),
                (np.array([1, 2]), TypeError),
                ("ab", ValueError),
            ]
            if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
                bad_ones.append(([1, 256], OverflowError))
            for bad, error in bad_ones:
                with pytest.raises(error):
                    stream.append(bad)
            assert len(stream) == 10
        with pytest.raises(ValueError, match=r"archive.npz: member \"i\": the stream is closed"):
            stream.append([1, 2])
        with writer.stream("f", "f4") as stream:
            stream.append(1)
            stream.append([2, 3.5])
            stream.append(np.arange(4)[::-2])
            stream.append(np.float64(7))
            stream.extend([8, 9])
        with writer.stream("s", [("a", "i2"), ("b", "S2")]) as stream:
            stream.append((1, b"x"))
            stream.append([(2, b"y"), (3, b"zz")])
    data = mmnpz.load(path)
    assert data["i"].tolist() == [
        [1, 2],
        [3, 4],
        [5, 6],
        [7, 8],
        [1, 0],
        *([n, n + 1] for n in range(9, 19, 2)),
    ]
    assert data["f"].tolist() == [1, 2, 3.5, 3, 1, 7, 8, 9]
    assert data["s"].tolist() == [(1, b"x"), (2, b"y"), (3, b"zz")]


def test_how_a_stream_ends(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    rows = np.arange(100_000.0)
    with mmnpz.NpzWriter(path) as writer:
        with fails(), writer.stream("given up", float) as stream:
            stream.append(rows)
            raise ZeroDivisionError
        assert stream.closed
        with fails(), writer.stream("kept", float, keep_partial=True) as stream:
            stream.append(rows)
            raise ZeroDivisionError
        with fails(), writer.stream("given up behind", float) as stream:
            stream.append(rows)
            writer.write("behind", [1])
            raise ZeroDivisionError
        by_writer = writer.stream("by the writer", float)
        by_writer.append(rows[:10])
        forgotten = writer.stream("forgotten", float)
        forgotten.append(rows)
        del forgotten
        writer.stream("empty", "i2", (2, 3)).close()
    assert by_writer.closed
    by_writer.close()
    for use in (lambda: by_writer.append(1), by_writer.flush):
        with pytest.raises(ValueError, match="the stream is closed"):
            use()
    arrays = {"kept": rows, "behind": [1], "by the writer": rows[:10], "forgotten": rows}
    check(path, arrays | {"empty": np.zeros((0, 2, 3), "i2")})


def test_names_and_dtypes(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer.write("x", [1])
        with pytest.warns(UserWarning, match="Duplicate name: 'x.npy'"):
            stream = writer.stream("x", int)
        stream.append([2, 3])
        stream.close()
        # Two of one name at once: the one counts that lies behind the other.
        first, second = writer.stream("y", int), writer.stream("y", int)
        first.append(np.arange(100_000))
        second.append(1)
        second.close()
        first.close()
        for dtype, row_shape in ((object, ()), (float, -1), ([("a", object)], ())):
            with pytest.raises(ValueError, match=r"pickling|negative"):
                writer.stream("z", dtype, row_shape)
        with pytest.raises(ValueError, match="NUL"):
            writer.stream("z\0", float)
        with pytest.raises(ValueError, match=r"dimension|too (large|big)|axes"):
            writer.stream("z", float, (1,) * 64)
        stream = writer.stream("z", "u8")
        with pytest.raises(ValueError, match="the stream is open"):
            stream.__init__(writer, "ghost", float)  # type: ignore[misc]
        stream.append([2**63, 1])
        with pytest.raises(TypeError, match="extend"):
            stream.append(number for number in range(3))  # type: ignore[arg-type]
        stream._discard()
        empty = writer.stream("no bytes", "u1", 0)
        empty.append(np.broadcast_to(np.zeros((1, 0), "u1"), (2**62, 0)))
        with pytest.raises(ValueError, match="as many rows"):
            empty.append(np.broadcast_to(np.zeros((1, 0), "u1"), (2**62, 0)))
        empty.close()
        with pytest.raises(TypeError, match="pickled"):
            __import__("pickle").dumps(writer.stream("z", float))
        long_name = "n" * 60_000
        with writer.stream(long_name, "u1") as stream:
            stream.append(np.arange(200_000, dtype="u1"))
    with pytest.raises(ValueError, match="closed"):
        writer.stream("z", float)
    data = mmnpz.load(path)
    assert data["x"].tolist() == [2, 3]
    assert len(data["y"]) in {1, 100_000}
    assert data["no bytes"].shape == (2**62, 0)
    assert "ghost" not in data
    assert len(data[long_name]) == 200_000
    assert data.verify() == []


def test_threads_share_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path) as writer, writer.stream("x", int, 2) as stream:

        def work(thread: int) -> None:
            for number in range(300):
                stream.append(np.full((number, 2), thread))
                if number % 100 == 0:
                    stream.flush()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = mmnpz.load(path)["x"]
    assert np.bincount(rows[:, 0]).tolist() == [sum(range(300))] * 4
    assert (rows[:, 0] == rows[:, 1]).all()
    assert mmnpz.load(path).verify() == []


@needs_fork
@pytest.mark.thread_unsafe(reason="forks")
def test_a_forked_child_cannot_use_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    writer = mmnpz.NpzWriter(path)
    stream = writer.stream("x", int)
    stream.append([1, 2])

    def work() -> None:
        for use in (lambda: stream.append(3), stream.flush, lambda: writer.stream("y", int)):
            with pytest.raises(RuntimeError, match="fork"):
                use()
        stream.close()
        stream.__exit__(ValueError, ValueError(), None)
        writer.close()

    wait_for(fork(work))
    stream.append(4)
    writer.close()
    check(path, {"x": [1, 2, 4]})


FLAKY = """
import errno, sys
import numpy as np, mmnpz
# Half of what is written fails now and then: all rows must be there in the end, once each.
rows, size, failed = np.arange(3_000_000), int(sys.argv[2]), 0

def tried(work, *arguments):
    for _ in range(30):
        try:
            return work(*arguments)
        except OSError as error:
            assert error.errno == errno.EIO and error.filename == sys.argv[1], error
            global failed
            failed += 1
            assert len(stream) in (at, min(at + size, len(rows))), (len(stream), at)
    sys.exit(f"it fails again and again: {work}")

writer = mmnpz.NpzWriter(sys.argv[1])
stream = writer.stream("x", int)
for at in range(0, len(rows), size):
    tried(stream.append, rows[at : at + size])
    if at % (size * 50) == 0:
        tried(writer.write, f"other{at}", [at])
    if at % (size * 150) == 0:
        tried(stream.flush)
at = len(rows)
tried(stream.close)
tried(writer.close)
assert failed, failed
data = mmnpz.load(sys.argv[1])
assert np.array_equal(data["x"], rows)
assert data.verify() == []
"""

INTERRUPTED = """
import signal, sys
import numpy as np, mmnpz
class Stopped(Exception): pass
def stop(*_): raise Stopped
signal.signal(signal.SIGALRM, stop)
huge = np.broadcast_to(np.arange(1000.0), (1_000_000, 1000))
with mmnpz.NpzWriter(sys.argv[1]) as writer, writer.stream("x", float, 1000) as stream:
    stream.append(np.ones((3, 1000)))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        stream.append(huge)
    except Stopped:
        pass
    else:
        sys.exit("not interrupted")
    assert len(stream) == 3
    stream.append(np.zeros((2, 1000)))

    def use(*_):
        for work in (lambda: stream.append(np.zeros(1000)), stream.close, writer.close):
            try:
                work()
            except ValueError as error:
                assert "interrupts" in str(error) or "same thread" in str(error), error
            else:
                sys.exit("a handler used a stream that is in use")
        raise Stopped

    signal.signal(signal.SIGALRM, use)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        stream.append(huge)
    except Stopped:
        pass
    else:
        sys.exit("not interrupted")
data = mmnpz.load(sys.argv[1])
assert data["x"].shape == (5, 1000) and data["x"][:3].all() and not data["x"][3:].any()
assert data.verify() == []
"""

MEMORY = """
import sys
import numpy as np, mmnpz
def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
chunk = np.ones(1_000_000, "u1")
with mmnpz.NpzWriter(sys.argv[1]) as writer:
    streams = [writer.stream(f"s{n}", "u1") for n in range(4)]
    before = anonymous()
    for _ in range(150):
        for stream in streams:
            stream.append(chunk)
    assert anonymous() - before < 16, anonymous() - before
    many = [writer.stream(f"m{n}", "u1") for n in range(300)]
    for stream in many:
        stream.append(chunk[:50_000])
    assert anonymous() - before < 64, anonymous() - before
"""


BEYOND_4_GIB = """
import sys
import numpy as np, mmnpz
zeros = np.zeros(1 << 28, "u1")
with mmnpz.NpzWriter(sys.argv[1]) as writer:
    with writer.stream("x", "u1") as stream:
        stream.append([1])
        stream.flush()
        for _ in range(16):
            stream.append(zeros)
        stream.append([2])
    with writer.stream("moved", "u1") as stream:
        for _ in range(3):
            stream.append(zeros)
        writer.write("between", [5])
        stream.append([3])
data = mmnpz.load(sys.argv[1])
assert data["x"].shape == ((1 << 32) + 2,) and data["x"][0] == 1 and data["x"][-1] == 2
assert data["moved"].shape == (3 * (1 << 28) + 1,) and data["moved"][-1] == 3 and data["between"] == 5
assert data.verify() == []
"""


@needs_linux
@pytest.mark.thread_unsafe(reason="works in a process of its own")
@pytest.mark.parametrize(
    ("code", "environment", "arguments"),
    [
        (FLAKY, {"FLAKY": "13"}, [5_000]),
        (FLAKY, {"FLAKY": "13"}, [100_000]),
        (FLAKY, {"FLAKY": "23"}, [1_000_000]),
        (INTERRUPTED, {}, []),
        (MEMORY, {}, []),
        (BEYOND_4_GIB, {"SPARSE": "1"}, []),
    ],
    ids=["errors", "errors, larger", "errors, at once", "interrupted", "memory", "beyond 4 GiB"],
)
def test_in_a_process_of_its_own(
    tmp_path: Path,
    code: str,
    environment: dict[str, str],
    arguments: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if environment:
        monkeypatch.setenv("LD_PRELOAD", str(compile_shim(tmp_path, "flaky")))
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    path = tmp_path / "archive.npz"
    run_python(code, path, *arguments)
    if code == FLAKY:
        assert list(sequential.walk(path)[0]) == mmnpz.load(path).files


EACH_WRITE = """
import os, sys
import numpy as np, mmnpz

rows = np.arange(1_200_000, dtype="u4").view("u1")
failed = 0

def tried(work, *arguments):
    global failed
    for _ in range(60):
        try:
            return work(*arguments)
        except OSError:
            failed += 1
    sys.exit("it fails again and again")

for often in range(7, 70):
    os.environ["FLAKY"] = str(often)
    writer = mmnpz.NpzWriter(f"{sys.argv[1]}/{often}.npz", align=1)
    stream = writer.stream("x", "u1")
    for number, at in enumerate(range(0, len(rows), 70_000)):
        tried(stream.append, rows[at : at + 70_000])
        if number % 20 == 19:
            tried(writer.write, str(number), [number])
    del os.environ["FLAKY"]
    stream.close()
    writer.close()
print(failed)
"""


@needs_linux
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_an_error_of_any_write_leaves_an_archive_without_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", str(compile_shim(tmp_path, "flaky")))
    assert int(run_python(EACH_WRITE, tmp_path)) > 50
    others = {str(number): [number] for number in (19, 39, 59)}
    for path in sorted(tmp_path.glob("*.npz")):
        check(path, {"x": np.arange(1_200_000, dtype="u4").view("u1"), **others})
        path.unlink()


def killed(path: Path, code: str) -> None:
    """Run code that kills its process."""
    code = "import os, signal, sys\nimport numpy as np, mmnpz\npath = sys.argv[1]\n" + textwrap.dedent(code)
    command = [sys.executable, "-c", code + "\nos.kill(os.getpid(), signal.SIGKILL)", str(path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


@needs_fork
@pytest.mark.parametrize("behind", [False, True])
def test_repair_keeps_the_rows_of_a_killed_stream(tmp_path: Path, behind: bool) -> None:
    path = tmp_path / "archive.npz"
    code = """
    writer = mmnpz.NpzWriter(path)
    writer.write("before", [1])
    stream = writer.stream("x", [("a", "<i4"), ("b", "u1")], 3)
    short = writer.stream("short", "f4")
    never = writer.stream("never flushed", "f4")
    for number in range(1000):
        stream.append(np.full((10, 3), np.array((number, 7), stream.dtype)))
    stream.flush()
    short.append([1.5])
    short.flush()
    never.append(1)
    stream.append(np.zeros((5, 3), stream.dtype))
    """
    killed(path, textwrap.dedent(code) + ("writer.write('behind', [2])" if behind else ""))
    names = ["before", "behind"] if behind else ["before"]
    expected = np.zeros((10_000, 3), [("a", "<i4"), ("b", "u1")])
    expected["a"], expected["b"] = np.arange(1000).repeat(10)[:, None], 7
    with pytest.warns(UserWarning, match="not closed"):
        assert mmnpz.load(path).files == names
    copy = tmp_path / "copy.npz"
    copy.write_bytes(path.read_bytes())
    report = mmnpz.repair(path, keep_partial=True)
    assert sorted(report.partial) == [("short", "short", 1), ("x", "x", 10_000)]
    assert "recovered 'x': 10000 rows of the stream 'x', which was not finished" in str(report)
    arrays = {"before": [1], "x": expected, "short": np.array([1.5], "f4")}
    check(path, arrays | ({"behind": [2]} if behind else {}))
    # By default they are dropped.
    report = mmnpz.repair(copy)
    assert report.partial == ()
    assert {member.name for member in report.dropped} == {"x", "short"}
    check(copy, {"before": [1]} | ({"behind": [2]} if behind else {}))


@needs_fork
def test_rows_that_are_kept_get_another_name_if_there_is_an_array(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    code = """
    writer = mmnpz.NpzWriter(path)
    stream = writer.stream("x", "u1")
    stream.append(np.arange(200, dtype="u1"))
    stream.flush(sync=True)
    writer.write("x", [5])
    other = writer.stream("x.partial", "u1")
    other.append(3)
    other.flush()
    """
    killed(path, code)
    report = mmnpz.repair(path, keep_partial=True)
    assert sorted(array.rows for array in report.partial) == [1, 200]
    data = mmnpz.load(path)
    assert sorted(data.files) == sorted(["x", *(array.name for array in report.partial)])
    assert data["x"].tolist() == [5]
    assert data.verify() == []


@needs_fork
def test_damaged_rows_are_not_kept(tmp_path: Path) -> None:
    """Of the checkpoints, the one with most rows counts whose checksum is right."""
    path = tmp_path / "archive.npz"
    code = """
    writer = mmnpz.NpzWriter(path)
    stream = writer.stream("x", "u1")
    stream.append(np.full(100_000, 5, "u1"))
    stream.flush(sync=True)
    stream.append(np.full(50_000, 6, "u1"))
    stream.flush()
    """
    killed(path, code)
    raw = path.read_bytes()
    for value, rows in ((6, 100_000), (5, 0)):
        at = raw.index(bytes([value]) * 100) + 40
        path.write_bytes(raw[:at] + b"!" + raw[at + 1 :])
        report = mmnpz.repair(path, keep_partial=True)
        assert [array.rows for array in report.partial] == ([rows] if rows else [])
        if rows:
            assert (mmnpz.load(path)["x"] == 5).all()


LIMITED = """
import resource

def fails(count):
    \"\"\"Append zeros, for which there is not enough space.\"\"\"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path) + count // 2, hard))
    try:
        stream.append(np.zeros(count, "u1"))
    except OSError:
        pass
    else:
        sys.exit("there was space")
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

writer = mmnpz.NpzWriter(path)
stream = writer.stream("x", "u1")
"""


@needs_linux
@pytest.mark.parametrize(
    ("code", "rows"),
    [
        # The failed append may have moved the stream, and written some of its rows.
        ("add(100_000); flush(sync=False); beside(); fails(3_000_000); add(150_000)", 100_000),
        ("add(100_000); flush(sync=True); beside(); fails(3_000_000); add(150_000)", 100_000),
        ("add(100); flush(); fails(3_500_000); flush()", 100),
        ("add(100); flush(); fails(9_500_000); flush()", 100),
        ("add(1_000_000); fails(3_500_000); add(62_882); flush()", 1_062_882),
        ("add(70_000); fails(3_000_000); add(70_000); flush(); beside(); add(500_000); flush()", 640_000),
    ],
)
def test_after_a_failed_append_a_kill_loses_no_row_that_was_flushed(
    tmp_path: Path, code: str, rows: int
) -> None:
    path = tmp_path / "archive.npz"
    defined = """
def add(count):
    stream.append(np.full(count, 7, "u1"))

def beside():
    writer.write(str(len(stream)), [1])

flush = stream.flush
"""
    killed(path, LIMITED + defined + code.replace("; ", "\n"))
    report = mmnpz.repair(path, keep_partial=True)
    found = {array.name: array.rows for array in report.partial}
    # Rows that were added later may be there, too; those of the append that failed must not.
    assert found["x"] in {rows, rows + 150_000}
    assert (mmnpz.load(path)["x"] == 7).all()
    assert mmnpz.load(path).verify() == []


@needs_fork
@pytest.mark.parametrize("size", [1000, 100_000, 5_000_000])
def test_a_stream_that_was_given_up_does_not_come_back(tmp_path: Path, size: int) -> None:
    path = tmp_path / "archive.npz"
    code = f"""
    writer = mmnpz.NpzWriter(path)
    stream = writer.stream("x", "u1")
    stream.append(np.ones({size}, "u1"))
    stream.flush(sync=True)
    stream._discard()
    """
    killed(path, code)
    report = mmnpz.repair(path, keep_partial=True)
    assert (report.members, report.partial) == (0, ())
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("y", [1])
    check(path, {"y": [1]})


@needs_fork
def test_two_streams_of_one_name_are_both_kept(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    code = """
    writer = mmnpz.NpzWriter(path)
    streams = [writer.stream("x", "u1") for _ in range(3)]
    for number, stream in enumerate(streams):
        stream.append(np.full(100 + number, number, "u1"))
        stream.flush()
    """
    killed(path, code)
    report = mmnpz.repair(path, keep_partial=True)
    assert sorted(array.rows for array in report.partial) == [100, 101, 102]
    data = mmnpz.load(path)
    assert sorted(len(data[name]) for name in data) == [100, 101, 102]
    assert data.verify() == []


def test_a_huge_append_that_fails_gives_its_space_back(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"

    code = """
    import signal, sys
    import numpy as np, mmnpz
    class Stopped(Exception): pass
    def stop(*_): raise Stopped
    signal.signal(signal.SIGALRM, stop)
    huge = np.broadcast_to(np.zeros(1, "u1"), (1 << 40,))
    with mmnpz.NpzWriter(sys.argv[1]) as writer, writer.stream("x", "u1") as stream:
        stream.append(huge[:3])
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            stream.append(huge)
        except Stopped:
            pass
        writer.write("y", [1])
    """
    run_python(code, path)
    check(path, {"x": np.zeros(3, "u1"), "y": [1]})
    offset = mmnpz.load(path).info("y").offset
    assert offset is not None
    assert offset < 5_000_000
    assert path.stat().st_blocks * 512 < 100_000_000
