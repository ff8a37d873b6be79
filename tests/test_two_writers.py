"""A file has at most one writer, and a reader keeps right data whatever writers do."""

import os
import signal
import subprocess
import sys
import textwrap
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pytest

import mmnpz
from tests.faults.recorder import compile_shim, why_not
from tests.processes import run_python

pytestmark = pytest.mark.thread_unsafe(reason="has processes of its own, and forks")

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


@pytest.mark.parametrize("first", ["x", "w", "a"])
@pytest.mark.parametrize("second", ["w", "a", "repair"])
def test_a_second_writer_is_refused(tmp_path: Path, first: Any, second: Any) -> None:
    path = tmp_path / "a.npz"
    if first != "x":
        mmnpz.NpzWriter(path).close()
    with mmnpz.NpzWriter(path, first) as writer:
        writer.write("a", 1)
        for _ in range(2):
            with pytest.raises(BlockingIOError) as raised:
                mmnpz.repair(path) if second == "repair" else mmnpz.NpzWriter(path, second)
            assert raised.value.filename == str(path)
        writer.write("b", 2)
    assert mmnpz.load(path).files == ["a", "b"]
    assert list(tmp_path.iterdir()) == [path]
    with mmnpz.NpzWriter(path, "a") as writer:
        assert writer.files == ["a", "b"]


def test_by_another_path(tmp_path: Path) -> None:
    path, link = tmp_path / "a.npz", tmp_path / "link.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer.write("a", 1)
        link.symlink_to(path)
        hard = tmp_path / "hard.npz"
        os.link(path, hard)
        for other in (link, hard):
            with pytest.raises(BlockingIOError):
                mmnpz.NpzWriter(other, "a")


def test_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    code = """
import sys, mmnpz
try:
    mmnpz.NpzWriter(sys.argv[1], sys.argv[2])
except BlockingIOError as error:
    print(error.filename)
"""
    with mmnpz.NpzWriter(path) as writer:
        writer.write("a", 1)
        for mode in "wa":
            assert run_python(code, path, mode).strip() == str(path)
    assert mmnpz.load(path).files == ["a"]
    assert run_python(code, path, "a").strip() == ""


HOLDING = """
import os, sys, time, mmnpz
writer = mmnpz.NpzWriter(sys.argv[1], "a")
writer.write("a", 1)
runs, tell = os.pipe()
child = os.fork() if sys.argv[2] == "fork" else 1
if child == 0:
    # It has given the lock up before it runs this, however late that is on a busy machine.
    os.write(tell, b"!")
    os.close(1)
    time.sleep(60)
    os._exit(0)
if child > 1:
    os.read(runs, 1)
print(child, flush=True)
time.sleep(60)
"""


@needs_fork
@pytest.mark.parametrize("forks", ["fork", "no"])
def test_the_lock_goes_with_the_process(tmp_path: Path, forks: str) -> None:
    path = tmp_path / "a.npz"
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(HOLDING), str(path), forks]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            with pytest.raises(BlockingIOError):
                mmnpz.NpzWriter(path, "a")
            process.kill()
            process.wait()
            # A forked child of the process lives on, and does not hold the lock.
            with mmnpz.NpzWriter(path, "a") as writer:
                assert writer.files == ["a"]
        finally:
            process.kill()
            if child > 1:
                os.kill(child, signal.SIGKILL)
    assert mmnpz.load(path).files == ["a"]


@needs_fork
def test_a_forked_child_is_a_second_writer(tmp_path: Path) -> None:
    code = """
import os, sys, mmnpz
path = sys.argv[1]
writer = mmnpz.NpzWriter(path)
writer.write("a", 1)
child = os.fork()
if child == 0:
    status = 1
    try:
        for mode in "wa":
            try:
                mmnpz.NpzWriter(path, mode)
            except BlockingIOError as error:
                assert error.filename == path
            else:
                raise SystemExit("not refused")
        for call in (lambda: writer.write("b", 1), writer.flush, lambda: writer.files, lambda: "a" in writer):
            try:
                call()
            except RuntimeError:
                pass
            else:
                raise SystemExit("not refused")
        writer.close()
        status = 0
    finally:
        os._exit(status)
assert os.waitpid(child, 0)[1] == 0
writer.write("c", 1)
writer.close()
assert mmnpz.load(path).files == ["a", "c"]
"""
    run_python(code, tmp_path / "a.npz")


def test_a_reader_of_a_file_that_is_written_does_not_keep_the_writer_out(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer.write("a", [1, 2])
    readers = [mmnpz.load(path) for _ in range(3)]
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("b", 1)
    assert all(reader["a"].tolist() == [1, 2] for reader in readers)


READING = """
import sys, warnings
import numpy as np, mmnpz
warnings.simplefilter("ignore")
readers = []
for line in sys.stdin:
    path, names = line.rstrip().split("|")
    if path:
        data = mmnpz.load(path)
        readers.append((data, {name: (data[name], np.array(data[name])) for name in data.files}))
        missing = set(names.split()) - set(data.files)
        assert not missing, missing
    for data, arrays in readers:
        data.mmap.sum()  # every byte of the file as it was when it was mapped
        for name, (view, copy) in arrays.items():
            assert view.tobytes() == copy.tobytes(), name
            assert data.load(name).tobytes() == copy.tobytes(), name
    print("good", flush=True)
"""


def test_readers_are_never_hurt(tmp_path: Path) -> None:
    """A reader that has the file mapped keeps right data. A bus error would end its process."""
    path = tmp_path / "a.npz"
    command = [sys.executable, "-W", "ignore", "-c", READING]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    written: list[str] = []
    with subprocess.Popen(command, **pipes) as process:
        stdin, stdout = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)

        def look(maps: bool = True) -> None:
            stdin.write(f"{path if maps else ''}|{' '.join(written) if maps else ''}\n")
            stdin.flush()
            assert stdout.readline() == "good\n"

        def write(writer: mmnpz.NpzWriter, size: int) -> None:
            name = f"m{len(written)}"
            writer.write(name, np.full(size, len(written), np.uint16))
            written.append(name)

        for session in range(4):
            mode: Any = "x" if not session else "w" if session == 2 else "a"
            if mode == "w":
                written.clear()
            writer = mmnpz.NpzWriter(path, mode)
            for size in (10, 50_000, 100, 150_000, 7):
                write(writer, size)
                look()
                writer.flush()
                look()
            writer.close()
            look()
            # Kill a writer, and repair the file while readers have it mapped.
            other = subprocess.run(
                [sys.executable, "-c", KILLED, str(path), f"m{len(written)}"], check=False, timeout=60
            )
            assert other.returncode == -signal.SIGKILL
            written.append(f"m{len(written)}")
            look()
            assert mmnpz.repair(path).changed
            look()
        look(maps=False)
        stdin.close()
        assert process.wait() == 0


KILLED = """
import os, signal, sys, mmnpz
writer = mmnpz.NpzWriter(sys.argv[1], "a")
writer.write(sys.argv[2], list(range(1000)))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_loading_warns_only_if_no_writer_lives(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer.write("a", 1)
        writer.flush()
        writer.write("b", 2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert set(mmnpz.load(path).files) >= {"a"}
    subprocess.run([sys.executable, "-c", KILLED, str(path), "c"], check=False, timeout=60)
    with pytest.warns(UserWarning, match="repair"):
        assert mmnpz.load(path).files == ["a", "b", "c"]


FLUSHING = """
import sys, numpy as np, mmnpz
with mmnpz.NpzWriter(sys.argv[1]) as writer:
    for number in range(int(sys.argv[2])):
        writer.write(f"{number}", np.full(30, number))
        writer.flush()
"""


def test_opening_while_directories_are_overwritten(tmp_path: Path) -> None:
    """Readers open a file while a writer overwrites its directory: a second read may return other bytes."""
    path = tmp_path / "a.npz"
    opened = 0
    with subprocess.Popen([sys.executable, "-c", FLUSHING, str(path), "3000"]) as process:
        while process.poll() is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    data = mmnpz.load(path)
                except (FileNotFoundError, zipfile.BadZipFile):
                    assert not opened
                    continue
            opened += 1
            # Every name is one that the writer wrote, and its view has the array that the writer wrote.
            for name in data.files[-20:]:
                assert data[name].tolist() == [int(name)] * 30
        assert process.returncode == 0
    assert len(mmnpz.load(path).files) == 3000


WITHOUT_LOCKS = """
import sys, warnings
import mmnpz
for write in (
    lambda: mmnpz.NpzWriter(sys.argv[1], "a").close(),
    lambda: mmnpz.savez(sys.argv[1], a=1),
    lambda: mmnpz.savez_compressed(sys.argv[1], a=1),
):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write()
    print(len(caught), caught[0].filename, caught[0].message)
"""


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_without_locks_there_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    mmnpz.NpzWriter(path).close()
    environment = {**os.environ, "LD_PRELOAD": str(compile_shim(tmp_path, "flaky")), "NO_LOCKS": "1"}
    command = [sys.executable, "-c", WITHOUT_LOCKS, str(path)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    message = "the file system has no locks: a second writer, which would spoil the file, is not noticed"
    assert done.stdout.splitlines() == [f"1 <string> {path}: {message}"] * 3
