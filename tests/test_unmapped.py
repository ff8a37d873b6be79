"""With ``mmap_mode=None``, a file is not mapped: what is needed of it is read when it is needed."""

import copy
import gc
import io
import os
import subprocess
import sys
import tempfile
import textwrap
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from mmnpz.torch import NpzDataset
from tests.archives import npy, same
from tests.processes import run_python
from tests.threads import in_threads, others_run_during

COUNT = 1500
"""So many members have a directory of more than the 64 KiB that are read at a time."""


def array_of(number: int) -> Any:
    """Small and large ones, in both orders, so that headers and items lie apart and side by side."""
    rows = 5 + number % 40 + (number % 100 == 7) * 20_000
    array = np.arange(number, number + 3 * rows, dtype=np.int32).reshape(rows, 3)
    return np.asfortranarray(array) if number % 9 == 4 else array


def write_ours(path: Path) -> None:
    with mmnpz.NpzWriter(path, mode="w") as writer:
        for number in range(COUNT):
            writer.write(f"a/{number}", array_of(number))


def write_numpy(path: Path) -> None:
    np.savez(path, **{f"a/{number}": array_of(number) for number in range(COUNT)})


def write_mixed(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for number in range(COUNT):
            method = zipfile.ZIP_DEFLATED if number % 5 == 2 else zipfile.ZIP_STORED
            file.writestr(f"a/{number}.npy", npy(array_of(number)), compress_type=method)


def write_behind_a_prefix(path: Path) -> None:
    write_numpy(path)
    path.write_bytes(b"#" * 300_000 + path.read_bytes())


def write_lost(path: Path) -> None:
    """Leave what a killed writer leaves."""
    code = """
        import os, sys
        import mmnpz
        from tests.test_unmapped import COUNT, array_of
        writer = mmnpz.NpzWriter(sys.argv[1], mode="w")
        for number in range(COUNT):
            writer.write(f"a/{number}", array_of(number))
        os._exit(0)
    """
    run_python(code, path, cwd=Path(__file__).parent.parent)


WRITERS = {
    "ours": write_ours,
    "numpy": write_numpy,
    "mixed": write_mixed,
    "behind a prefix": write_behind_a_prefix,
    "lost": write_lost,
}


@pytest.fixture(scope="module", params=WRITERS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("unmapped") / "a.npz"
    WRITERS[request.param](path)
    return path


pytestmark = [
    pytest.mark.thread_unsafe(reason="counts what the process reads"),
    pytest.mark.filterwarnings("ignore:.*no complete directory|.*has no directory:UserWarning"),
]

counts_reads = pytest.mark.skipif(
    not os.path.exists("/proc/self/io"), reason="the system does not tell what a process reads"
)


def bytes_read(call: Callable[[], object]) -> int:
    """Return how many bytes the process reads in a call."""

    def count() -> int:
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(fields["rchar"])

    before = count()
    count()
    own = count() - before
    before = count()
    call()
    return count() - before - own // 2


def test_all_is_as_in_a_map(path: Path) -> None:
    mapped, data = mmnpz.load(path), mmnpz.load(path, None)
    assert data.files == mapped.files
    for number, (name, array) in enumerate(data.items()):
        assert same(array, array_of(number))
        assert array.flags.writeable
        assert array.ctypes.data % 64 == 0
        assert data.info(name) == mapped.info(name)
    for mine, theirs in zip(data.layout().__dict__.items(), mapped.layout().__dict__.items(), strict=True):
        assert mine[0] == theirs[0]
        if isinstance(mine[1], np.ndarray):
            assert mine[1].tolist() == theirs[1].tolist()
    assert data.verify() == []
    assert data.verify(names=data.files[:7]) == []
    assert "nothing" not in data
    with pytest.raises(KeyError):
        data["a/1501"]
    assert NpzDataset(data)[3].tolist() == array_of(3).tolist()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": np.float32},
        {"length": 30, "pad": -1},
        {"length": 3, "out": np.empty((4, 40, 3), "i4")[:, ::2]},
    ],
    ids=["plain", "converted", "padded", "strided"],
)
def test_batches(path: Path, options: dict[str, Any], threads: int) -> None:
    mapped, data = mmnpz.load(path), mmnpz.load(path, None)
    options = {"length": 5, **options}
    if "out" in options:
        options["length"] = 20
    for numbers in ([7, 107, 1407, 207], [4, 13, 39, 22], [2, 39, 1407, 31]):
        names = [f"a/{number}" for number in numbers]
        starts = [
            len(array_of(number)) - 20 if "pad" in options or "out" in options else 3 for number in numbers
        ]
        starts = [max(start, 0) for start in starts]
        batches: list[Any] = []
        for reader in (data, mapped):
            reader.prefetch(names, starts, length=5)
            try:
                batches.append(reader.gather(names, starts, threads=threads, **options).copy())
            except (IndexError, ValueError) as error:
                batches.append(str(error))
        assert type(batches[0]) is type(batches[1])
        assert same(*batches) if isinstance(batches[0], np.ndarray) else batches[0] == batches[1]


def test_threads(path: Path) -> None:
    data = mmnpz.load(path, None)

    def read(thread: int) -> None:
        for number in range(thread, COUNT, 7):
            assert same(data[f"a/{number}"], array_of(number))

    in_threads(read, 4)


def test_a_string_of_no_length(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.zeros((4, 3), "S0"), b=np.zeros((4, 3), "U0"))
    for name in "ab":
        expected = mmnpz.load(path).gather([name, name], [0, 1], length=2)
        assert same(mmnpz.load(path, None).gather([name, name], [0, 1], length=2), expected)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="the system does not list descriptors")
def test_no_map_and_one_descriptor(path: Path) -> None:
    def count() -> int:
        links = (f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd"))
        return sum(os.path.lexists(link) and os.readlink(link) == str(path) for link in links)

    gc.collect()
    assert count() == 0
    data = mmnpz.load(path, None)
    assert str(path) not in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert count() == 1
    handle = copy.copy(data)
    data.close()
    assert count() == 1
    assert same(handle["a/7"], array_of(7))
    handle.close()
    assert count() == 0


def test_what_a_map_would_have(path: Path) -> None:
    data = mmnpz.load(path, None)
    with pytest.raises(AttributeError, match="not mapped"):
        data.mmap  # noqa: B018
    assert (data.cache, mmnpz.load(path, None, preload=True).cache) == (False, True)


@pytest.mark.parametrize("write", [write_ours, write_numpy], ids=["ours", "numpy"])
def test_a_file_that_is_cut_short_while_it_is_read(write: Callable[[Path], None], tmp_path: Path) -> None:
    """With a map, this would end the process."""
    path = tmp_path / "a.npz"
    write(path)
    data = mmnpz.load(path, None)
    end = data.info("a/900").offset
    assert end is not None
    os.truncate(path, end + 8)
    assert same(data["a/899"], array_of(899))
    for name in ("a/900", "a/901", "a/1499"):
        for read in (data.load, lambda name: data.gather([name])):
            with pytest.raises(OSError, match=r"a.npz: .*cut short since it was opened") as caught:
                read(name)
            assert caught.value.__notes__ == [f'while the member "{name}" was read']
    with pytest.raises(OSError, match="cut short"):
        data.verify()
    with pytest.raises(OSError, match="cut short"):
        data.gather(["a/5", "a/901"], 0, length=3, dtype="f8")
    if write is write_numpy:
        with pytest.raises(OSError, match="cut short"):
            data.layout()


@pytest.mark.parametrize("count", [12, COUNT])
@pytest.mark.parametrize("end", ["closed", "flushed", "killed"])
def test_what_others_append_hides_nothing(tmp_path: Path, count: int, end: str) -> None:
    """They write over the directory that the reader has read."""
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(count):
            writer.write(f"a{number}", np.full(100, number))
    data = mmnpz.load(path, None)
    code = f"""
        import os, sys
        import numpy as np, mmnpz
        writer = mmnpz.NpzWriter(sys.argv[1], mode="a")
        for number in range(3000):
            writer.write(f"new{{number}}", np.ones(100, "i1"))
        if {end == "flushed"}:
            writer.flush()
        if {end == "closed"}:
            writer.close()
        os._exit(0)
    """
    run_python(code, path)
    assert len(data.files) == count
    for number in range(count):
        assert same(data[f"a{number}"], np.full(100, number))
        assert same(data.gather([f"a{number}"], 3, length=2), np.full((1, 2), number))
        assert data.info(f"a{number}").shape == (100,)
    assert data.verify() == []
    assert "new7" not in data
    assert "new7" in mmnpz.load(path, None)


def test_opening_beside_a_writer(tmp_path: Path) -> None:
    """The file grows all the time, which is no reason to open it again and again."""
    path, counter = tmp_path / "a.npz", tmp_path / "count"
    np.zeros(1, "i8").tofile(counter)
    code = """
        import sys, time
        import numpy as np, mmnpz
        count = np.memmap(sys.argv[2], "i8", "r+")
        with mmnpz.NpzWriter(sys.argv[1]) as writer:
            for number in range(200_000):
                writer.write(f"a{number}", np.full(50, number))
                count[0] = number + 1
                if number % 300 == 299:
                    writer.flush()
                    time.sleep(0.001)
                if number == 1000:
                    print("begun", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path), str(counter)]
    count = np.memmap(counter, "i8", "r")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            for _ in range(40):
                written = int(count[0])
                data = mmnpz.load(path, None)
                assert len(data) >= written
                for number in {*range(0, written, max(1, written // 20)), written - 1}:
                    assert same(data[f"a{number}"], np.full(50, number))
        finally:
            writer.kill()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("end", ["close", "kill"])
def test_readers_stay_whole_beside_writers_that_come_and_go(tmp_path: Path, end: str) -> None:
    """Whatever state of the file a reader was opened in, it keeps what it lists."""
    path = tmp_path / "a.npz"
    arrays: dict[str, Any] = {f"0_{number}": np.full(50, number) for number in range(3)}
    np.savez(path, **arrays)
    code = f"""
        import os, random, sys
        import numpy as np, mmnpz
        for session in range(1, 100):
            if os.fork() == 0:
                choose = random.Random(session)
                writer = mmnpz.NpzWriter(sys.argv[1], mode="a")
                for number in range(400):
                    writer.write(f"{{session}}_{{number}}", np.full(choose.choice([1, 100, 3000]), number))
                    if {end == "close"} and choose.random() < 0.3:
                        writer.close()
                        writer = mmnpz.NpzWriter(sys.argv[1], mode="a")
                    elif choose.random() < 0.1:
                        writer.flush()
                os._exit(0)
            os.wait()
    """
    readers: list[Any] = []
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(path)]) as writers:
        try:
            while writers.poll() is None and len(readers) < 120:
                readers.append(mmnpz.load(path, None))
                time.sleep(0.01)
        finally:
            writers.kill()
    for data in readers:
        names = data.files
        assert "0_2" in names
        for name in (*names[:3], *names[:: len(names) // 20 + 1], names[-1]):
            assert (data[name] == int(name.partition("_")[2])).all()
            assert (data.gather([name]) == int(name.partition("_")[2])).all()


@pytest.mark.parametrize("write", [write_ours, write_numpy], ids=["ours", "numpy"])
@pytest.mark.parametrize("rewrite", [write_ours, write_numpy], ids=["by ours", "by numpy"])
@pytest.mark.parametrize("count", [3, 40])
def test_a_file_that_is_written_anew_in_place(
    tmp_path: Path, count: int, write: Any, rewrite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never taken for what it was, however small it is, and however much of it was read before."""
    path, other = tmp_path / "a.npz", tmp_path / "b.npz"
    monkeypatch.setattr("tests.test_unmapped.COUNT", count)
    write(path)
    data = mmnpz.load(path, None)
    monkeypatch.setattr(
        "tests.test_unmapped.array_of", lambda number: np.full((9 + number, 2), -number - 1.0)
    )
    rewrite(other)
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(other.read_bytes())
        file.write(bytes(1_000_000))
    for name in data.files:
        for read in (data.load, lambda name: data.gather([name], 0, length=2)):
            with pytest.raises(zipfile.BadZipFile, match=rf'a.npz: member "{name}": .*was changed since'):
                read(name)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="the system cannot open a file once more")
def test_a_file_without_a_path_that_is_written_anew(tmp_path: Path) -> None:
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        np.savez(file, a=np.arange(1000))
        file.flush()
        data = mmnpz.load(file, None)
        assert data.gather(["a"], 5, length=2).tolist() == [[5, 6]]
        file.seek(0)
        np.savez(file, b=np.arange(5000))
        file.flush()
        for read in (data.load, lambda name: data.gather([name], 5, length=2)):
            with pytest.raises(zipfile.BadZipFile, match='member "a": the names'):
                read("a")


LARGE = 4_000_000
"""So many bytes have the arrays of the next test."""


def write_large(path: Path) -> None:
    np.savez(path, *(np.full((LARGE // 4, 4), number, dtype="i1") for number in range(30)))


def write_large_and_be_killed(path: Path) -> None:
    code = """
        import os, sys
        import numpy as np, mmnpz
        writer = mmnpz.NpzWriter(sys.argv[1], "w")
        for number in range(30):
            writer.write(f"arr_{number}", np.full((1_000_000, 4), number, dtype="i1"))
        os._exit(0)
    """
    run_python(code, path)


def write_large_and_repair(path: Path) -> None:
    write_large_and_be_killed(path)
    mmnpz.repair(path)


@counts_reads
@pytest.mark.parametrize("write", [write_large, write_large_and_be_killed, write_large_and_repair])
def test_what_is_read_of_large_members(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """Only what is asked for, however the file was left."""
    path = tmp_path / "a.npz"
    write(path)
    names = [f"arr_{number}" for number in range(30)]
    assert bytes_read(lambda: mmnpz.load(path, None)) < LARGE
    assert bytes_read(lambda: mmnpz.load(path, None, on_error="skip")) < LARGE
    data = mmnpz.load(path, None)
    assert 0.9 * LARGE < bytes_read(lambda: data["arr_3"]) < 1.1 * LARGE
    assert bytes_read(lambda: data.info("arr_3")) < 20_000
    assert bytes_read(data.layout) < 300_000
    assert bytes_read(lambda: data.gather(names, 5, length=10)) < 600_000
    assert bytes_read(lambda: data.gather(names, 5, length=10, dtype="f4")) < 600_000
    out = np.empty((30, 20, 4), "i1")[:, ::2]
    assert bytes_read(lambda: data.gather(names, 5, length=10, out=out)) < 600_000
    assert bytes_read(lambda: data.prefetch(names, 5, length=10)) < 600_000


@counts_reads
def test_what_is_read_of_compressed_members(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    noise = np.random.default_rng(1).integers(0, 9, (LARGE // 4, 4), dtype="i1")
    np.savez_compressed(path, a=noise, b=noise)
    stored = path.stat().st_size // 2
    data = mmnpz.load(path, None)
    assert bytes_read(lambda: data.info("a")) < stored / 5
    assert bytes_read(data.layout) < stored / 2
    assert bytes_read(lambda: data["a"]) < 1.3 * stored


@counts_reads
@pytest.mark.parametrize("before", [3 << 30, 0])
def test_holes_are_not_read(tmp_path: Path, before: int) -> None:
    path = tmp_path / "a.npz"
    content = io.BytesIO()
    np.savez(content, a=np.arange(5))
    with path.open("wb") as file:
        file.seek(before)
        file.write(content.getvalue())
        file.truncate(before + len(content.getvalue()) + (3 << 30) - before)

    def read() -> None:
        if before == 0:
            with pytest.raises(zipfile.BadZipFile, match="no end-of-central"):
                mmnpz.load(path, None)
        else:
            assert mmnpz.load(path, None)["a"].tolist() == [0, 1, 2, 3, 4]

    assert bytes_read(read) < 2_000_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems limit no address space")
def test_a_file_larger_than_the_address_space(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    content = io.BytesIO()
    np.savez(content, a=np.arange(5))
    with path.open("wb") as file:
        file.seek(8 << 30)
        file.write(content.getvalue())
    code = """
        import resource, sys
        import mmnpz
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (2 << 30),) * 2)
        print(mmnpz.load(sys.argv[1], None)["a"].tolist())
        try:
            mmnpz.load(sys.argv[1])
        except OSError as error:
            print(type(error).__name__)
    """
    assert run_python(code, path).splitlines() == ["[0, 1, 2, 3, 4]", "OSError"]


@pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="there is no GIL to release")
@pytest.mark.parametrize("ask", ["lookup", "gather", "info", "bytes", "preload", "packed", "verify"])
def test_other_threads_run_while_a_file_is_read(tmp_path: Path, ask: str) -> None:
    path = tmp_path / "a.npz"
    array = np.random.default_rng(1).integers(0, 9, 8_000_000, dtype="i1")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", npy(array))
        file.writestr("text", array.tobytes())
        file.writestr("packed.npy", npy(array), compress_type=zipfile.ZIP_DEFLATED)
    data = mmnpz.load(path, None)
    calls: dict[str, Callable[[], object]] = {
        "lookup": lambda: data["a"],
        "gather": lambda: data.gather(["a"] * 3, 0, length=5),
        "info": lambda: data.info("a"),
        "bytes": lambda: data["text"],
        "preload": lambda: mmnpz.load(path, None, preload=True),
        "packed": lambda: data["packed"],
        "verify": data.verify,
    }
    assert others_run_during(calls[ask], attempts=5000)
