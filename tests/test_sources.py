"""An archive is read alike wherever its bytes come from: every way to pass one, in every mode."""

import contextlib
import copy
import gc
import gzip
import io
import mmap
import os
import pickle
import subprocess
import sys
import tempfile
import textwrap
import weakref
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import mmnpz
from tests.archives import npy, same
from tests.faults.recorder import compile_shim, why_not
from tests.processes import fork, wait_for
from tests.threads import in_threads

ARRAYS: dict[str, Any] = {
    **{f"r{number}": np.arange(number, number + 40, dtype=np.float32).reshape(20, 2) for number in range(30)},
    "fortran": np.asfortranarray(np.arange(12, dtype="<i4").reshape(3, 4)),
    "big": np.arange(5, dtype=">i8"),
    "text": np.array(["äö", "x"]),
    "scalar": np.array(2.5),
    "empty": np.zeros((0, 5), dtype="<c16"),
    "table": np.array([(1, 2.5), (3, -1.0)], dtype=[("a", "<i2"), ("b", "<f8")]),
}


def write_ours(path: Path) -> None:
    with mmnpz.NpzWriter(path, mode="w") as writer:
        for name, array in ARRAYS.items():
            writer.write(name, array)


def write_numpy(path: Path) -> None:
    np.savez(path, **ARRAYS)


def write_mixed(path: Path) -> None:
    """Write stored and deflated members, and one that is no array."""
    with zipfile.ZipFile(path, "w") as file:
        for number, (name, array) in enumerate(ARRAYS.items()):
            method = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            file.writestr(f"{name}.npy", npy(array), compress_type=method)
        file.writestr("readme.txt", "text", compress_type=zipfile.ZIP_DEFLATED)


def write_lost(path: Path) -> None:
    """Write what a killed writer leaves: no directory."""
    write_ours(path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        start = file.start_dir
    path.write_bytes(content[:start])


WRITERS = {"ours": write_ours, "numpy": write_numpy, "mixed": write_mixed, "lost": write_lost}


def unlinked(path: Path, stack: contextlib.ExitStack) -> Any:
    """Return a file to which no path leads."""
    file = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115
    stack.callback(file.close)
    file.write(path.read_bytes())
    return file


def of_a_pipe(path: Path, stack: contextlib.ExitStack) -> Any:
    process = stack.enter_context(subprocess.Popen(["cat", path], stdout=subprocess.PIPE))
    return process.stdout


def in_an_archive(path: Path, stack: contextlib.ExitStack) -> Any:
    outer = path.with_name("outer.zip")
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as file:
        file.write(path, "inner.npz")
    return stack.enter_context(stack.enter_context(zipfile.ZipFile(outer)).open("inner.npz"))


def compressed(path: Path, stack: contextlib.ExitStack) -> Any:
    """Return a file whose descriptor reads other bytes than the file gives."""
    with gzip.open(f"{path}.gz", "wb") as file:
        file.write(path.read_bytes())
    return stack.enter_context(gzip.open(f"{path}.gz"))


def of_fsspec(path: Path, stack: contextlib.ExitStack) -> Any:
    fsspec = pytest.importorskip("fsspec")
    remote = fsspec.filesystem("memory")
    remote.pipe(f"/{path.name}", path.read_bytes())
    return stack.enter_context(remote.open(f"/{path.name}", "rb"))


def mapped(path: Path, stack: contextlib.ExitStack) -> Any:
    with path.open("rb") as file:
        # Not closed: views keep it open.
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


Source = Callable[[Path, contextlib.ExitStack], Any]
SOURCES: dict[str, Source] = {
    "path": lambda path, _: path,
    "str": lambda path, _: str(path),
    "path in bytes": lambda path, _: os.fsencode(path),
    "file": lambda path, stack: stack.enter_context(path.open("rb")),
    "file for both": lambda path, stack: stack.enter_context(path.open("r+b")),
    "file without a buffer": lambda path, stack: stack.enter_context(path.open("rb", buffering=0)),
    "file without a path": unlinked,
    "bytes": lambda path, _: path.read_bytes(),
    "bytearray": lambda path, _: bytearray(path.read_bytes()),
    "memoryview": lambda path, _: memoryview(b"-" + path.read_bytes())[1:],
    "array": lambda path, _: np.fromfile(path, dtype="i1"),
    "mmap": mapped,
    "BytesIO": lambda path, _: io.BytesIO(path.read_bytes()),
    "gzip": compressed,
    "member of a zip": in_an_archive,
    "pipe": of_a_pipe,
    "fsspec": of_fsspec,
}
FILES = {"path", "str", "path in bytes", "file", "file for both", "file without a buffer"}
"""Those of a file that can be opened again."""

Opening = Callable[..., Any]


@pytest.fixture(params=["r", "c", None])
def mode(request: pytest.FixtureRequest) -> str | None:
    found: str | None = request.param
    return found


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WRITERS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "a.npz"
    WRITERS[request.param](path)
    return path


@pytest.fixture
def opened(path: Path, source: str, mode: str | None) -> Iterator[Opening]:
    """A function that opens the archive."""
    with contextlib.ExitStack() as stack:

        def opened(**options: Any) -> Any:
            return mmnpz.load(SOURCES[source](path, stack), mode, **options)  # type: ignore[arg-type]

        yield opened


pytestmark = [
    pytest.mark.thread_unsafe(reason="shares a fixture's file and its position"),
    pytest.mark.filterwarnings("ignore:.*no complete directory|.*has no directory:UserWarning"),
]


def check(data: Any, mode: str | None) -> None:
    assert sorted(data.files) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        view = data[name]
        assert same(view, array)
        assert view.flags.writeable == (mode != "r")
        assert mode is not None or (data[name] is not view and view.ctypes.data % 64 == 0)


def test_all_are_read_by_all_ways(opened: Opening, mode: str | None) -> None:
    data = opened()
    check(data, mode)
    assert all(
        data[name] is array or (mode is None and same(data[name], array)) for name, array in data.items()
    )
    assert list(data) == data.files
    assert "r0" in data
    assert "nothing" not in data
    with pytest.raises(KeyError):
        data["nothing"]
    assert data.verify() == []
    names = data.files
    info = [data.info(name) for name in names]
    layout = data.layout()
    assert layout.names.tolist() == names
    assert layout.offset.tolist() == [-1 if each.offset is None else each.offset for each in info]
    check(opened(cache=False, subok=False), mode)
    loaded = opened(preload=True)
    assert sorted(loaded.arrays) == sorted(ARRAYS)
    assert all(
        same(loaded[name], array) and loaded[name] is loaded.arrays[name] for name, array in ARRAYS.items()
    )


def test_batches(opened: Opening) -> None:
    data = opened()
    names = ["r3", "r20", "r3", "r7"]
    starts = np.array([0, 5, 17, 4])
    expected = np.stack([ARRAYS[name][start : start + 3] for name, start in zip(names, starts, strict=True)])
    for threads in (1, 3):
        assert same(data.gather(names, starts, length=3, threads=threads), expected)
    out = np.empty((4, 3, 2), dtype=np.float64)
    assert data.gather(names, starts, length=3, out=out, dtype=np.float64) is out
    assert (out == expected).all()
    data.prefetch(names, starts, length=3)
    for advice in ("normal", "random", "sequential", "willneed", "dontneed"):
        data.advise(advice)
    assert same(data.gather(names), np.stack([ARRAYS[name] for name in names]))


def test_handles_and_pickles(opened: Opening, source: str, mode: str | None) -> None:
    data = opened()
    for other in (copy.copy(data), copy.deepcopy(data)):
        check(other, mode)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        if source == "file without a path":
            with pytest.raises(TypeError, match="no path leads to the file"):
                pickle.dumps(data, protocol)
            continue
        other = pickle.loads(pickle.dumps(data, protocol))
        check(other, mode)
        check(pickle.loads(pickle.dumps(other, protocol)), mode)
    view = data["r5"]
    del data, other
    gc.collect()
    assert same(view, ARRAYS["r5"])
    assert same(pickle.loads(pickle.dumps(view)), ARRAYS["r5"])


def test_threads_share_a_reader(opened: Opening, mode: str | None) -> None:
    data = opened()
    in_threads(lambda _: check(data, mode))
    views = in_threads(lambda _: [data[name] for name in ARRAYS])
    if mode is not None:
        assert all(one is two for others in views for one, two in zip(views[0], others, strict=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_reads_too(opened: Opening, mode: str | None) -> None:
    data = opened()
    first = data["r1"]

    def child() -> None:
        assert mode is None or data["r1"] is first
        check(data, mode)
        if mode != "r":
            first[:] = 0

    wait_for(fork(child))
    check(data, mode)


def test_what_is_written_to_memory(opened: Opening, path: Path, mode: str | None) -> None:
    """In mode "c", the reader has what was written, and the file does not."""
    before = path.read_bytes()
    data = opened()
    if mode == "r":
        with pytest.raises(ValueError, match="read-only"):
            data["r2"][0] = 7
        return
    if mode is None:
        for preload in (False, True):
            reader = opened(preload=preload)
            reader["r2"][0] = 7
            assert (reader["r2"][0] == (7 if preload else ARRAYS["r2"][0])).all()
            # A batch is read from the file.
            assert same(reader.gather(["r2"], [0], length=1)[0], ARRAYS["r2"][:1])
        assert path.read_bytes() == before
        return
    for name in ("r2", "r3"):
        data[name][0] = 7
        assert (data[name][0] == 7).all()
        assert (data.gather([name], [0], length=1) == 7).all()
    data.advise("dontneed")
    assert (data["r2"][0] == 7).all()
    assert same(data["r2"][1:], ARRAYS["r2"][1:])
    assert same(data["r4"], ARRAYS["r4"])
    assert path.read_bytes() == before
    check(opened(), mode)
    assert (copy.deepcopy(data)["r2"][0] == 7).all()  # the handles share the map, and r2 is stored


def test_what_a_view_says(opened: Opening, source: str, path: Path, mode: str | None) -> None:
    view: Any = opened()["fortran"]
    if view.base is None or not isinstance(view, np.memmap):
        return  # a compressed member
    filename = getattr(view, "filename", None)
    assert view.mode == mode
    assert (filename is not None) == (source in FILES)
    if filename is not None:
        assert os.path.samefile(filename, path)
        order: Any = "F"
        again = np.memmap(filename, view.dtype, "r", view.offset, view.shape, order)
        assert same(again, view)


@pytest.mark.parametrize("source", ["file", "BytesIO", "gzip", "file without a path", "fsspec"])
def test_the_position_of_a_file_stays(path: Path, source: str) -> None:
    with contextlib.ExitStack() as stack:
        file = SOURCES[source](path, stack)
        for position in (0, 3, 10_000_000):
            file.seek(position)
            position = file.tell()
            check(mmnpz.load(file), "r")
            assert file.tell() == position


def test_the_position_stays_where_there_are_holes(tmp_path: Path) -> None:
    """To look for holes moves the position of a descriptor, and of all copies of it."""
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(2000):
            writer.write(f"{number:0>200}", [number])
        writer.flush()
    with path.open("r+b") as file:
        file.truncate(1 << 30)
        np.savez(end := io.BytesIO(), a=1)
        file.seek(1 << 30)
        file.write(end.getvalue())
        for position in (0, 7):
            file.seek(position)
            before = file.read(10)
            file.seek(position)
            mmnpz.load(file)
            assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == file.tell() == position
            assert file.read(10) == before


class Delegating:
    """A file that has another content than the one that it wraps, as a file that decrypts."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        return bytes(byte ^ 1 for byte in self._file.read(size))


class Inverting(io.FileIO):
    """The same as a subclass."""

    def read(self, size: int | None = -1) -> bytes:
        return bytes(byte ^ 1 for byte in super().read(size) or b"")


@pytest.mark.parametrize("wrap", [Delegating, lambda file: Inverting(file.name)])
def test_what_a_wrapper_reads_counts(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    write_numpy(tmp_path / "a.npz")
    path = tmp_path / "b.npz"
    path.write_bytes(bytes(byte ^ 1 for byte in (tmp_path / "a.npz").read_bytes()))
    with path.open("rb") as file:
        wrapped = wrap(file)
        check(mmnpz.load(wrapped), "r")
        wrapped.close()


class Parts:
    """A stream that gives some bytes at a time."""

    def __init__(self, content: bytes) -> None:
        self._parts = [content[at : at + 1000] for at in range(0, len(content), 1000)]

    def read(self) -> bytes:
        return self._parts.pop(0) if self._parts else b""


def test_a_stream_that_gives_its_bytes_in_parts(tmp_path: Path) -> None:
    write_ours(tmp_path / "a.npz")
    check(mmnpz.load(Parts((tmp_path / "a.npz").read_bytes())), "r")


def test_a_pipe_that_is_not_there_yet() -> None:
    """Not a part of an archive, as if a writer had been killed."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.write(writing, b"PK\x03\x04")
    with (
        open(reading, "rb", buffering=0) as file,
        pytest.raises(BlockingIOError, match="no more to read yet"),
    ):
        mmnpz.load(file)
    os.close(writing)


def test_a_file_may_be_closed(mode: str | None, path: Path) -> None:
    with path.open("rb") as file:
        data = mmnpz.load(file, mode)  # type: ignore[arg-type]
    check(data, mode)
    assert data.verify() == []


def test_what_was_written_to_a_file_is_there(tmp_path: Path) -> None:
    """It may still be in the buffer of the file object."""
    content = io.BytesIO()
    np.savez(content, a=np.arange(10))
    with (tmp_path / "a.npz").open("w+b") as file:
        file.write(content.getvalue())
        assert mmnpz.load(file)["a"].tolist() == list(range(10))
    with tempfile.NamedTemporaryFile(dir=tmp_path) as named:
        with mmnpz.NpzWriter(named.name, mode="w") as writer:
            writer.write("a", [1, 2])
        assert mmnpz.load(named.name)["a"].tolist() == [1, 2]


def test_a_file_that_has_another_path_now(tmp_path: Path) -> None:
    """The file that is open counts, not what has its path."""
    path = tmp_path / "a.npz"
    np.savez(path, a=1)
    with path.open("rb") as file:
        os.rename(path, tmp_path / "b.npz")
        np.savez(path, a=2)
        data: Any = mmnpz.load(file)
    assert data["a"] == 1
    assert data["a"].filename is None
    assert data.verify() == []


def test_members_that_are_appended_to_an_open_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_ours(path)
    with path.open("rb") as file:
        data = mmnpz.load(file)
    with mmnpz.NpzWriter(path, mode="a") as writer:
        for number in range(100):
            writer.write(f"new{number}", np.arange(1000))
    check(data, "r")
    assert "new1" not in data


@pytest.mark.parametrize("kind", [bytearray, np.frombuffer, lambda content: memoryview(bytearray(content))])
def test_views_share_the_memory_of_a_buffer_and_keep_it(kind: Callable[[bytes], Any], tmp_path: Path) -> None:
    write_ours(tmp_path / "a.npz")
    content = (tmp_path / "a.npz").read_bytes()
    memory: Any = kind(content) if kind is not np.frombuffer else np.frombuffer(bytearray(content), np.uint8)
    data: Any = mmnpz.load(memory)
    view = data["r1"]
    assert np.shares_memory(view, np.asarray(memoryview(memory)))
    memory[view.offset : view.offset + 4] = b"\0\0\x80\x3f" if kind is not np.frombuffer else [0, 0, 128, 63]
    assert view[0, 0] == 1
    if isinstance(memory, bytearray):
        with pytest.raises(BufferError):
            memory.append(0)
        del data, view
        gc.collect()
        memory.append(0)
    else:
        reference = weakref.ref(memory)
        del memory, data
        gc.collect()
        assert same(view, view.copy())
        del view
        gc.collect()
        assert reference() is None


def test_a_pickle_can_leave_the_bytes_of_a_buffer_out(tmp_path: Path) -> None:
    write_ours(tmp_path / "a.npz")
    content = (tmp_path / "a.npz").read_bytes()
    buffers: list[Any] = []
    pickled = pickle.dumps(mmnpz.load(content), protocol=5, buffer_callback=buffers.append)
    assert len(pickled) < 1500
    assert [bytes(buffer) for buffer in buffers] == [content]
    other = pickle.loads(pickled, buffers=buffers)
    check(other, "r")
    assert np.shares_memory(other.mmap, np.frombuffer(content, np.uint8))
    with pytest.raises(ValueError, match=str(len(content))):
        pickle.loads(pickled, buffers=[content + b"\0"])


def test_bytes_are_a_path_unless_there_is_a_zero(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        mmnpz.load(b"PK.npz")
    assert missing.value.filename == "PK.npz"
    with pytest.raises(zipfile.BadZipFile, match="<bytes>: not a zip archive"):
        mmnpz.load(b"not\0an archive")
    with pytest.raises(zipfile.BadZipFile, match="<bytes>: not a zip archive"):
        mmnpz.load(b"x" * 100_000)


@pytest.mark.parametrize(
    ("fn", "error", "message"),
    [
        (3, TypeError, "got int"),
        (None, TypeError, "got NoneType"),
        (["a.npz"], TypeError, "got list"),
        (io.StringIO("PK"), TypeError, "<StringIO>: .*text mode"),
        (np.arange(20)[::2], ValueError, "one behind the other"),
        (bytearray(), zipfile.BadZipFile, "<bytearray>: not a zip archive"),
        (np.zeros(3, "M8[s]"), ValueError, "<ndarray>: .*dtype"),
        (io.BytesIO(), zipfile.BadZipFile, "<BytesIO>: not a zip archive"),
        (io.BytesIO(npy([1])), zipfile.BadZipFile, "<BytesIO>: .*np.load"),
    ],
)
def test_what_is_no_archive(fn: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mmnpz.load(fn)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=1)
    with path.open(encoding="latin-1") as file, pytest.raises(TypeError, match=r"a.npz: .*text mode"):
        mmnpz.load(file)  # type: ignore[arg-type]
    with (
        path.open("ab") as other,
        pytest.raises(io.UnsupportedOperation, match=r"a.npz: .*not open for read"),
    ):
        mmnpz.load(other)
    with tempfile.NamedTemporaryFile("w+") as named, pytest.raises(TypeError, match="text mode"):
        mmnpz.load(cast(Any, named))
    closed = path.open("rb")
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        mmnpz.load(closed)

    class Broken(io.RawIOBase):
        name = "broken"

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> Any:
            return "text"

    with pytest.raises(TypeError, match=r"broken: .*gives str, not bytes"):
        mmnpz.load(Broken())


def test_a_batch_is_not_copied_to_the_archive_itself(tmp_path: Path) -> None:
    """`out` must not overlap with what is copied."""
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer.write("a", np.zeros((2, 3)))
        writer.write("b", np.ones(3))
    memory = np.fromfile(path, np.uint8)
    copied, lent = mmnpz.load(path, "c"), mmnpz.load(memory)
    offset: Any = lent.info("a").offset
    mine = np.ndarray((2, 3), np.float64, memory, offset)
    for data, out in ((copied, copied["a"]), (lent, mine)):
        with pytest.raises(ValueError, match="out lies in the memory of the archive"):
            data.gather(["b", "b"], out=out)
        with pytest.raises(ValueError, match="out lies in the memory of the archive"):
            data.gather(["b", "b"], out=out[::-1])
    np.savez_compressed(path, a=np.arange(6).reshape(2, 3))
    data = mmnpz.load(path, "c")
    with pytest.raises(ValueError, match="out lies in the memory of the archive"):
        data.gather(["a", "a"], [1, 0], length=1, out=data["a"].reshape(2, 1, 3))


def test_a_map_of_a_copy_costs_no_memory_until_it_is_written_to(tmp_path: Path) -> None:
    """Else a file could not be larger than memory and swap space."""
    path = tmp_path / "a.npz"
    content = io.BytesIO()
    np.savez(content, b=[2.0])
    with path.open("wb") as file:
        file.seek(1 << 42)
        file.write(content.getvalue())
    data = mmnpz.load(path, "c")
    data["b"][0] = 3
    assert mmnpz.load(path)["b"][0] == 2


NO_SHARED_MAPS = """
    import sys, warnings
    import numpy as np
    import mmnpz
    path, numpys = sys.argv[1:]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = mmnpz.load(path)
    assert [str(one.message).split(": ")[0] for one in caught] == [path], caught
    assert "shares no pages" in str(caught[0].message)
    assert caught[0].filename.endswith("<string>")
    assert data["a"].tolist() == [1, 2] and not data["a"].flags.writeable and data["a"].mode == "r"
    assert data.gather(["a"]).tolist() == [[1, 2]] and data.verify() == []
    data.advise("dontneed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copied = mmnpz.load(path, "c")
        copied["a"][0] = 5
        for each in (path, numpys):
            with mmnpz.NpzWriter(each, "a") as writer:
                writer.write("b", [3])
                assert writer.files == ["a", "b"]
            mmnpz.repair(each)
    assert data["a"].tolist() == [1, 2]
    assert np.load(path)["b"].tolist() == np.load(numpys)["b"].tolist() == [3]
"""


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_file_system_without_shared_maps(tmp_path: Path) -> None:
    """As FUSE with direct I/O, and gluster: `ENODEV`."""
    ours, numpys = tmp_path / "a.npz", tmp_path / "b.npz"
    with mmnpz.NpzWriter(ours) as writer:
        writer.write("a", [1, 2])
    np.savez(numpys, a=[1, 2])
    environment = {**os.environ, "LD_PRELOAD": str(compile_shim(tmp_path, "flaky")), "NO_SHARED_MAPS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(NO_SHARED_MAPS), str(ours), str(numpys)]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
