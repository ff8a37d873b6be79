"""A writer writes to open files and to streams, too, as numpy.savez does."""

import gc
import io
import os
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import same
from tests.processes import fork, run_script, wait_for
from tests.threads import in_threads

ARRAYS: dict[str, Any] = {
    "a": np.arange(10),
    "big": np.arange(500_000, dtype=np.float64),
    "text": np.array(["x", "yy"]),
}


def fill(writer: mmnpz.NpzWriter) -> None:
    for name, array in ARRAYS.items():
        writer.write(name, array)


def check(content: bytes) -> None:
    """Check an archive by two readers that know nothing of mmnpz, and by mmnpz."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        assert file.testzip() is None
        assert file.namelist() == [f"{name}.npy" for name in ARRAYS]
        for name, array in ARRAYS.items():
            assert same(np.lib.format.read_array(io.BytesIO(file.read(f"{name}.npy"))), array)
    data = mmnpz.load(content)
    assert all(same(data[name], array) for name, array in ARRAYS.items())
    assert data.verify() == []


@pytest.fixture
def expected(tmp_path: Path) -> bytes:
    """What a writer writes to a path."""
    with mmnpz.NpzWriter(tmp_path / "expected.npz") as writer:
        fill(writer)
    return (tmp_path / "expected.npz").read_bytes()


class Dribbling(io.RawIOBase):
    """A stream that takes a few bytes at a time."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data[:100_000])
        self.content += part
        return len(part)


class Bare:
    """As little as numpy.savez asks of a stream."""

    def __init__(self) -> None:
        self.content = b""

    def write(self, data: Any) -> None:
        self.content += bytes(data)


@pytest.mark.parametrize("mode", ["x", "w"])
@pytest.mark.parametrize("kind", [io.BytesIO, Dribbling, Bare])
def test_streams(kind: Callable[[], Any], mode: Any, expected: bytes) -> None:
    stream = kind()
    with mmnpz.NpzWriter(stream, mode) as writer:
        fill(writer)
        assert writer.files == list(ARRAYS)
        assert "a" in writer
    content = stream.getvalue() if kind is io.BytesIO else bytes(stream.content)
    check(content)
    assert content == expected
    writer.close()
    assert writer.closed
    assert content == (stream.getvalue() if kind is io.BytesIO else bytes(stream.content))


@pytest.mark.parametrize("buffering", [0, -1])
def test_a_pipe(buffering: int) -> None:
    with (
        tempfile.TemporaryFile() as out,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=out, bufsize=buffering) as process,
    ):
        assert process.stdin is not None
        with mmnpz.NpzWriter(process.stdin) as writer:
            fill(writer)
        process.stdin.close()
        assert process.wait() == 0
        out.seek(0)
        check(out.read())


@pytest.mark.parametrize("mode", ["x", "w", "a"])
@pytest.mark.parametrize("how", ["wb", "r+b", "ab", "x+b"])
def test_open_files(how: str, mode: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    if how != "x+b":
        path.touch()
    with path.open(how) as file:
        inode = os.fstat(file.fileno()).st_ino
        with mmnpz.NpzWriter(file, mode) as writer:
            fill(writer)
            writer.flush()
            check(path.read_bytes())
        assert file.tell() == path.stat().st_size
    assert path.stat().st_ino == inode
    check(path.read_bytes())


def test_the_bytes_are_those_of_a_path(tmp_path: Path, expected: bytes) -> None:
    path = tmp_path / "a.npz"
    with path.open("wb") as file, mmnpz.NpzWriter(file) as writer:
        fill(writer)
    assert path.read_bytes() == expected


def test_a_file_may_be_closed_and_keeps_what_was_written_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        writer = mmnpz.NpzWriter(file)
    fill(writer)
    writer.close()
    check(path.read_bytes())
    with path.open("r+b") as file:
        with mmnpz.NpzWriter(file, "a") as writer:
            writer.write("more", 1)
        assert file.write(b"!") == 1
    assert path.read_bytes().endswith(b"!")


def test_a_file_without_a_path() -> None:
    with tempfile.TemporaryFile() as file:
        with mmnpz.NpzWriter(file) as writer:
            fill(writer)
        with mmnpz.NpzWriter(file, "a") as writer:
            assert writer.files == list(ARRAYS)
            writer.write("more", [1])
        data = mmnpz.load(file)
        assert data.files == [*ARRAYS, "more"]
        assert all(same(data[name], array) for name, array in ARRAYS.items())


def test_behind_what_is_there(tmp_path: Path) -> None:
    """As zipfile does it: the archive starts at the position of the file."""
    stream = io.BytesIO(b"#!/bin/sh\n")
    stream.seek(0, os.SEEK_END)
    path = tmp_path / "a.npz"
    path.write_bytes(stream.getvalue())
    with path.open("ab") as file:
        for target in (stream, file):
            with mmnpz.NpzWriter(target) as writer:
                fill(writer)
    for content in (stream.getvalue(), path.read_bytes()):
        assert content.startswith(b"#!/bin/sh\nPK")
        check(content)


def test_another_writer_of_the_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with path.open("wb") as file, mmnpz.NpzWriter(file):
        for other in (path, file):
            with pytest.raises(BlockingIOError):
                mmnpz.NpzWriter(other, "a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "a"}, "<BytesIO>: mode 'a' needs a path"),
        ({"sync": True}, "<BytesIO>: sync=True needs a path"),
    ],
)
def test_what_a_stream_cannot_do(options: Any, message: str) -> None:
    with pytest.raises(io.UnsupportedOperation, match=message):
        mmnpz.NpzWriter(io.BytesIO(), **options)


def test_a_stream_cannot_be_flushed() -> None:
    stream = io.BytesIO()
    writer = mmnpz.NpzWriter(stream)
    fill(writer)
    with pytest.raises(io.UnsupportedOperation, match="when the writer is closed"):
        writer.flush()
    assert stream.getvalue() == b""
    writer.close()
    check(stream.getvalue())
    with pytest.raises(ValueError, match="closed"):
        writer.flush()


def test_files_that_cannot_be_written_to(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=1)
    before = path.read_bytes()
    with path.open("rb") as file, pytest.raises(io.UnsupportedOperation, match=r"a.npz: .*not open for writ"):
        mmnpz.NpzWriter(file)
    with path.open("r+b") as other, pytest.raises(ValueError, match=r"a.npz: the file is not empty"):
        mmnpz.NpzWriter(other)
    with path.open("r+", encoding="latin-1") as text, pytest.raises(TypeError, match=r"a.npz: .*text mode"):
        mmnpz.NpzWriter(text)
    with tempfile.NamedTemporaryFile("w+") as text, pytest.raises(TypeError, match="text mode"):
        mmnpz.NpzWriter(text)
    with pytest.raises(TypeError, match=r"<StringIO>: .*text mode"):
        mmnpz.NpzWriter(io.StringIO())
    closed = path.open("r+b")
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        mmnpz.NpzWriter(closed)
    assert path.read_bytes() == before


def test_messages_name_the_file_of_the_caller(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r'^<BytesIO>: member "o": object'),
        mmnpz.NpzWriter(io.BytesIO()) as writer,
    ):
        writer.write("o", np.array([None]))
    with (
        (tmp_path / "a.npz").open("wb") as file,
        mmnpz.NpzWriter(file) as writer,
        pytest.raises(ValueError, match=r'a.npz: member "o": object'),
    ):
        writer.write("o", np.array([None]))


class Failing(io.BytesIO):
    """A stream that has room for `room` bytes."""

    room = 1_500_000

    def write(self, data: Any) -> int:
        if self.tell() >= self.room:
            raise OSError(28, "No space left on device")
        return super().write(data[: self.room - self.tell()])


def test_a_stream_that_fails_can_be_closed_again() -> None:
    stream = Failing()
    writer = mmnpz.NpzWriter(stream)
    fill(writer)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            writer.close()
        assert writer.closed
    stream.room = 1 << 30
    writer.close()
    check(stream.getvalue())
    failing = mmnpz.NpzWriter(Failing())
    fill(failing)
    with pytest.raises(OSError, match="No space left"):
        failing.close()
    del failing  # without a word
    gc.collect()


@pytest.mark.parametrize("count", [0, -1, 1 << 40, None, np.int64(0)])
def test_a_stream_that_takes_nothing(count: Any) -> None:
    class Odd(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> Any:
            return count

    writer = mmnpz.NpzWriter(Odd())
    expected = BlockingIOError if count is None else OSError
    with pytest.raises(expected, match="<Odd>: the stream"):
        writer.close()
    with pytest.raises(OSError, match="<Odd>: the stream may have a part of the archive"):
        writer.close()


class Disk(io.RawIOBase):
    """A file that has room for a part of the archive, at first."""

    def __init__(self) -> None:
        self.content = bytearray(b"#")
        self.position = 1
        self.room = 700_000

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        count = min(len(data), self.room - self.position)
        if count <= 0:
            raise OSError(28, "No space left on device")
        self.content[self.position : self.position + count] = data[:count]
        self.position += count
        return count

    def seek(self, position: int, whence: int = 0) -> int:
        self.position = position + (self.position if whence == 1 else len(self.content) if whence == 2 else 0)
        return self.position

    def truncate(self, size: int | None = None) -> int:
        del self.content[size:]
        return len(self.content)


def test_a_buffer_that_has_taken_more_than_it_says() -> None:
    """Nobody knows how much a file has taken whose write raised an error."""
    disk = Disk()
    with io.BufferedWriter(disk) as file:
        writer = mmnpz.NpzWriter(file)
        fill(writer)
        with pytest.raises(OSError, match="No space left"):
            writer.close()
        disk.room = 1 << 30
        writer.close()
        assert disk.content[:1] == b"#"
        check(bytes(disk.content))


def test_a_pipe_that_is_full() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(reading, "rb"), open(writing, "wb", buffering=0) as file:
        writer = mmnpz.NpzWriter(file)
        fill(writer)
        with pytest.raises(BlockingIOError):
            writer.close()
        with pytest.raises(OSError, match="may have a part of the archive"):
            writer.close()


def test_a_stream_that_closes_the_writer() -> None:
    """As a signal handler may."""

    class Closing(io.BytesIO):
        def write(self, data: Any) -> int:
            writer.close()
            return super().write(data)

    stream = Closing()
    writer = mmnpz.NpzWriter(stream)
    fill(writer)
    writer.close()
    check(stream.getvalue())


def test_a_stream_that_counts_with_numpy() -> None:
    class Counting(io.BytesIO):
        def write(self, data: Any) -> Any:
            return np.int64(super().write(data[:1000]))

    stream = Counting()
    with mmnpz.NpzWriter(stream) as writer:
        fill(writer)
    check(stream.getvalue())


def test_who_closes_while_another_thread_does_waits() -> None:
    class Slow(io.BytesIO):
        def write(self, data: Any) -> int:
            time.sleep(0.01)
            return super().write(data)

    stream = Slow()
    writer = mmnpz.NpzWriter(stream)
    fill(writer)

    def close(_: int) -> bytes:
        writer.close()
        return stream.getvalue()

    for content in in_threads(close):
        check(content)


class Delegating:
    """A file that has another content than the one that it wraps, as a file that encrypts."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> int:
        return int(self._file.write(bytes(byte ^ 1 for byte in data)))


def test_what_a_wrapper_writes_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with path.open("wb") as file, mmnpz.NpzWriter(Delegating(file)) as writer:
        writer.write("a", [1, 2])
    content = bytes(byte ^ 1 for byte in path.read_bytes())
    assert mmnpz.load(content)["a"].tolist() == [1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.thread_unsafe(reason="forks")
def test_a_forked_child_leaves_the_position_alone(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("w+b") as file:
        writer = mmnpz.NpzWriter(file)
        fill(writer)
        writer.flush()
        file.seek(3)
        wait_for(fork(writer.close))
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 3
        writer.close()
    check((tmp_path / "a.npz").read_bytes())


def test_an_exception_inside_keeps_what_was_written() -> None:
    stream = io.BytesIO()
    with pytest.raises(KeyError), mmnpz.NpzWriter(stream) as writer:  # noqa: PT012
        fill(writer)
        raise KeyError
    check(stream.getvalue())


def test_a_writer_that_nobody_closes() -> None:
    stream = io.BytesIO()
    writer = mmnpz.NpzWriter(stream)
    fill(writer)
    del writer
    gc.collect()
    check(stream.getvalue())


@pytest.mark.parametrize("is_frozen", [False, True])
@pytest.mark.parametrize("kind", ["path", "file", "stream"])
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_a_writer_that_lives_until_the_interpreter_ends(tmp_path: Path, kind: str, is_frozen: bool) -> None:
    # Frozen, on a free-threaded Python, the writer lives longer than the modules.
    code = """
        import gc, sys, warnings
        import numpy as np, mmnpz
        warnings.simplefilter("ignore", ResourceWarning)  # of the open file
        path, kind, is_frozen = sys.argv[1:]
        file = open(path, "wb")
        if kind == "stream":
            file.write(b"#")
        writer = mmnpz.NpzWriter(path if kind == "path" else file, "w")
        writer.write("a", np.arange(10))
        if is_frozen == "True":
            gc.collect()
            gc.freeze()
    """
    path = tmp_path / "out"
    assert run_script(code, tmp_path, path, kind, is_frozen) == ""
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == ["a.npy"]
        assert same(np.lib.format.read_array(io.BytesIO(file.read("a.npy"))), ARRAYS["a"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.thread_unsafe(reason="forks")
def test_a_forked_child_writes_nothing_to_the_stream(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+b", buffering=0) as file:
        file.write(b"#")
        writer = mmnpz.NpzWriter(file)
        fill(writer)
        wait_for(fork(writer.close))
        assert file.seek(0, os.SEEK_END) == 1
        writer.close()
    assert (tmp_path / "out").read_bytes()[:1] == b"#"
    check((tmp_path / "out").read_bytes())


@pytest.mark.thread_unsafe(reason="counts descriptors")
@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="the system does not list descriptors")
def test_no_descriptor_and_no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with mmnpz.NpzWriter(io.BytesIO()) as writer:
            fill(writer)
        with pytest.raises(ValueError, match="align"):
            mmnpz.NpzWriter(io.BytesIO(), align=3)
        with tempfile.TemporaryFile() as file, mmnpz.NpzWriter(file) as writer:
            fill(writer)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(tmp_path) == []
