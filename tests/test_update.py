"""`NpzWriter.update` writes many arrays as `write` writes each, in their order, and few system calls."""

import io
import os
import sys
import threading
import types
import warnings
import zipfile
from collections import UserDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmnpz
from tests import sequential, written
from tests.archives import same
from tests.processes import fork, run_python

MIXED: dict[str, Any] = {
    "a": np.arange(6.0).reshape(2, 3),
    "b/c": np.asfortranarray(np.arange(12, dtype=">i2").reshape(3, 4)),
    "ä": [[1, 2], [3, 4]],
    "empty": np.zeros((0, 3)),
    "0-d": 3.5,
    "text": "a text",
    "large": np.arange(30_000.0),
    "larger": np.arange(200_000.0),
    "strided": np.arange(100)[::3],
    "Z": np.float32(1),
    "fields": np.zeros(3, [("x", "u1"), ("y", "<f4")]),
}


def check(path: Path, arrays: dict[str, Any]) -> None:
    """Check that a file has these arrays, in their order, aligned, as NumPy would have written them."""
    written.check(path, arrays)
    data = mmnpz.load(path)
    assert data.files == list(arrays)
    assert all(data[name].ctypes.data % 64 == 0 for name in arrays)


class Keyed:
    """What `dict.update` takes for a mapping."""

    def keys(self) -> Iterator[str]:
        return iter(MIXED)

    def __getitem__(self, name: str) -> Any:
        return MIXED[name]


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: MIXED,
        lambda: UserDict(MIXED),
        Keyed,
        lambda: list(MIXED.items()),
        lambda: [list(pair) for pair in MIXED.items()],
        lambda: iter(MIXED.items()),
        lambda: (pair for pair in MIXED.items()),
    ],
    ids=["dict", "mapping", "keys", "pairs", "lists", "iterator", "generator"],
)
def test_all_kinds_of_arrays_from_all_kinds_of_sources(tmp_path: Path, make: Any, sync: bool) -> None:
    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path, sync=sync) as writer:
        writer.update(make())
        assert writer.files == list(MIXED)
    check(path, MIXED)


def test_keywords_come_last_and_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer.update({"progress": 1}, self=2, other=3)
        writer.update(name=4, array=5)
        writer.update()
        writer.update({})
    check(path, {"progress": 1, "self": 2, "other": 3, "name": 4, "array": 5})


def test_an_open_archive_is_a_source(tmp_path: Path) -> None:
    np.savez(tmp_path / "old.npz", **MIXED)
    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer.update(mmnpz.load(tmp_path / "old.npz"))
    check(path, MIXED)


@pytest.mark.thread_unsafe(reason="changes the filters of warnings")
@given(
    st.lists(
        st.tuples(
            st.text("ab/", min_size=1, max_size=4), st.sampled_from([0, 1, 100, 8000, 8180, 65_000, 150_000])
        ),
        max_size=12,
    ),
    st.sampled_from([1, 64, 4096]),
    st.booleans(),
)
def test_the_file_is_that_of_single_writes(sizes: list[tuple[str, int]], align: int, sync: bool) -> None:
    arrays = [(name, np.arange(size, dtype="u8")) for name, size in sizes]
    archives = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for together in (True, False):
            archive = io.BytesIO()
            with mmnpz.NpzWriter(archive, align=align) as writer:
                if together:
                    writer.update(arrays)
                else:
                    for name, array in arrays:
                        writer.write(name, array)
            archives.append(archive.getvalue())
    with zipfile.ZipFile(io.BytesIO(archives[0])) as one, zipfile.ZipFile(io.BytesIO(archives[1])) as other:
        assert [info.filename for info in one.infolist()] == [info.filename for info in other.infolist()]
        assert [info.CRC for info in one.infolist()] == [info.CRC for info in other.infolist()]
    # They differ at most by what the marks of members say of those before them.
    assert len(archives[0]) - len(archives[1]) in range(-align * len(arrays), align * len(arrays) + 1)


@pytest.mark.thread_unsafe(reason="changes the filters of warnings")
@pytest.mark.parametrize("sync", [False, True])
def test_names_that_are_there_twice(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path, sync=sync) as writer:
        writer.write("old", 0)
        arrays = [
            ("b", 1),
            ("a", 2),
            ("old", 3),
            ("c", 4),
            ("b", 5),
            ("b", 6),
            ("a", np.zeros(10_000)),
            ("d", 7),
        ]
        with pytest.warns(UserWarning, match="Duplicate name") as warned:
            writer.update(arrays)
        names = [str(warning.message) for warning in warned]
        assert names == [f"Duplicate name: '{name}.npy'" for name in ("old", "b", "b", "a")]
    data = mmnpz.load(path)
    assert {name: int(np.ravel(data[name])[0]) for name in data.files} == {
        "old": 3, "b": 6, "a": 0, "c": 4, "d": 7,
    }  # fmt: skip
    assert data.verify() == []


@pytest.mark.thread_unsafe(reason="changes the filters of warnings")
@pytest.mark.parametrize("sync", [False, True])
def test_a_warning_that_is_an_error_ends_it_there(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path, sync=sync) as writer, warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=r"Duplicate name: 'a\.npy'"):
            writer.update([("a", 1), ("b", 2), ("a", 3), ("c", 4)])
        assert writer.files == ["a", "b"]
        writer.update(c=5)
    check(path, {"a": 1, "b": 2, "c": 5})


@pytest.mark.parametrize(
    ("element", "error", "message"),
    [
        (("x", np.array([object()])), ValueError, r"archive\.npz: member \"x\".*object"),
        (("x\0", 1), ValueError, "NUL"),
        (("x" * 70_000, 1), ValueError, "70004"),
        ((1, 2), TypeError, "the name of element 2 is no str: 1"),
        (("x", 1, 2), TypeError, "element 2 is not a pair"),
        ("xy", TypeError, "element 2 is not a pair"),
        (7, TypeError, "element 2 is not a pair"),
        (("\ud800", 1), UnicodeEncodeError, "surrogates"),
    ],
)
@pytest.mark.parametrize("sync", [False, True])
def test_what_comes_before_an_error_is_written(
    tmp_path: Path, element: Any, error: type[Exception], message: str, sync: bool
) -> None:
    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path, sync=sync) as writer:
        with pytest.raises(error, match=message):
            writer.update([("a", 1), ("b", 2), element, ("c", 3)])
        assert writer.files == ["a", "b"]
        writer.write("d", 4)
    check(path, {"a": 1, "b": 2, "d": 4})


def test_sources_that_are_none(tmp_path: Path) -> None:
    with mmnpz.NpzWriter(tmp_path / "archive.npz") as writer:
        for source in (3, None):
            with pytest.raises(TypeError, match="not iterable"):
                writer.update(source)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="closed"):
        writer.update(a=1)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, RuntimeError, GeneratorExit])
def test_an_exception_of_the_source(tmp_path: Path, raised: type[BaseException]) -> None:
    path = tmp_path / "archive.npz"
    count = 5000  # some batches, the last of which is not full

    def source() -> Iterator[tuple[str, Any]]:
        for number in range(count):
            yield f"{number}", np.arange(100.0) + number
        raise raised

    with mmnpz.NpzWriter(path) as writer:
        with pytest.raises(raised):
            writer.update(source())
        assert len(writer) == count
    check(path, {f"{number}": np.arange(100.0) + number for number in range(count)})


def test_a_source_is_written_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    sizes = []

    def source() -> Iterator[tuple[str, Any]]:
        for number in range(800):
            sizes.append(path.stat().st_size)
            yield f"{number}", np.zeros(5000)

    with mmnpz.NpzWriter(path) as writer:
        writer.update(source())
    behind = [40_000 * number - size for number, size in enumerate(sizes)]
    assert max(behind) < 8 << 20


def test_a_source_that_uses_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"

    def source() -> Iterator[tuple[str, Any]]:
        yield "a", 1
        writer.write("between", 2)
        writer.flush()
        yield "b", 3
        writer.update(inner=4)
        yield "c", 5

    with mmnpz.NpzWriter(path) as writer:
        writer.update(source())
    data = mmnpz.load(path)
    assert {name: int(data[name]) for name in data} == {"between": 2, "inner": 4, "a": 1, "b": 3, "c": 5}

    def closing() -> Iterator[tuple[str, Any]]:
        yield "d", 6
        writer.close()
        yield "e", 7

    with mmnpz.NpzWriter(path, "a") as writer, pytest.raises(ValueError, match="closed"):
        writer.update(closing())
    assert mmnpz.load(path).files == data.files


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.thread_unsafe(reason="forks")
@pytest.mark.parametrize("sync", [False, True])
def test_a_fork_in_the_middle_writes_nothing(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "archive.npz"
    arrays = {f"{number}": np.arange(1000.0) for number in range(1000)}

    def go_on(source: Iterator[tuple[str, Any]]) -> None:
        """In the child, a source that goes on."""
        with pytest.raises(RuntimeError, match="fork"):
            writer.update(source)

    def source() -> Iterator[tuple[str, Any]]:
        for number, pair in enumerate(arrays.items()):
            if number == 500:
                child.append(fork(lambda: go_on(iter(arrays.items()))))
            yield pair

    child: list[int] = []
    with mmnpz.NpzWriter(path, sync=sync) as writer:
        writer.update(source())
    assert os.waitpid(child[0], 0)[1] == 0
    check(path, arrays)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("sync", [False, True])
def test_a_child_that_takes_the_source_over_does_not_hang(tmp_path: Path, sync: bool) -> None:
    code = """
    import os, sys
    import numpy as np, mmnpz

    def source():
        for number in range(3000):
            if number == 1500 and os.fork() == 0:
                role.append("child")
            yield f"{number}", np.arange(100.0)

    role = []
    writer = mmnpz.NpzWriter(sys.argv[1], sync=sys.argv[2] == "True")
    try:
        writer.update(source())
    except RuntimeError as error:
        os._exit(0 if role and "fork" in str(error) else 1)
    if role:
        os._exit(1)
    assert os.wait()[1] == 0
    writer.close()
    """
    path = tmp_path / "archive.npz"
    run_python(code, path, sync)
    check(path, {f"{number}": np.arange(100.0) for number in range(3000)})


def test_threads_update_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"

    def work(thread: int) -> None:
        for part in range(3):
            writer.update((f"{thread}/{part}/{number}", [thread, part, number]) for number in range(4000))
            writer.write(f"{thread}/{part}", np.zeros(200_000))

    with mmnpz.NpzWriter(path) as writer:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        writer.flush()
        for thread in threads:
            thread.join()
    data = mmnpz.load(path)
    assert len(data) == 4 * 3 * 4001
    assert data.verify() == []
    for name in list(data)[::61]:
        if name.count("/") == 2:
            assert data[name].tolist() == [int(part) for part in name.split("/")]
    assert set(sequential.walk(path)[0]) >= set(data)


def test_after_an_append_and_a_flush(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    np.savez(path, old=np.arange(5))
    parts = [{f"{part}/{number}": np.arange(number) for number in range(500)} for part in range(3)]
    with mmnpz.NpzWriter(path, "a") as writer:
        for part in parts:
            writer.update(part)
            writer.flush()
            assert np.load(path).files == writer.files
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.update(last=1)
    data = mmnpz.load(path)
    expected = {"old": np.arange(5)} | parts[0] | parts[1] | parts[2] | {"last": 1}
    assert data.files == list(expected)
    assert all(same(data[name], np.asanyarray(array)) for name, array in expected.items())
    assert data.verify() == []


def test_progress(tmp_path: Path) -> None:
    arrays = {f"{number}": np.zeros(5000) for number in range(200)}
    for source, total in ((arrays, 8_000_000), (iter(arrays.items()), None)):
        told: list[tuple[int, int | None]] = []

        def tell(done: int, total: int | None, told: Any = told) -> None:
            told.append((done, total))

        with mmnpz.NpzWriter(tmp_path / "archive.npz", "w") as writer:
            writer.update(source, progress=tell)
        assert told[-1] == (8_000_000, total)
        assert len(told) > 3
        assert sorted(told, key=lambda numbers: numbers[0]) == told
        assert {numbers[1] for numbers in told} == {total}


def test_progress_that_raises_stops(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"

    def stop(done: int, _: int | None) -> None:
        if done > 2_000_000:
            raise KeyboardInterrupt

    with mmnpz.NpzWriter(path) as writer:
        with pytest.raises(KeyboardInterrupt):
            writer.update({f"{number}": np.zeros(5000) for number in range(200)}, progress=stop)
        count = len(writer)
        assert 50 <= count < 200
    check(path, {f"{number}": np.zeros(5000) for number in range(count)})


class Bar:
    """Stands for tqdm."""

    made: ClassVar[list[Any]] = []

    def __init__(self, **options: Any) -> None:
        self.options, self.n, self.is_open = options, 0, True
        self.total: Any = None
        Bar.made.append(self)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.is_open = False

    def update(self, more: int) -> None:
        self.n += more


@pytest.mark.thread_unsafe(reason="changes sys.modules")
def test_progress_as_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Bar.made.clear()
    module: Any = types.ModuleType("tqdm")
    module.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm", module)
    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path) as writer:
        # More than one batch, each of which moves the bar.
        writer.update({f"{number}": np.zeros(5000) for number in range(200)} | {"b": [1, 2]}, progress=True)
    assert mmnpz.load(path).verify(progress=True) == []
    mmnpz.repair(path, progress=True)
    update, verify, _ = Bar.made
    assert (update.n, update.total, update.is_open) == (8_000_016, None, False)
    assert verify.n == verify.total > 8_000_000
    assert [bar.is_open for bar in Bar.made] == [False] * 3
    assert str(path) in update.options["desc"]
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with mmnpz.NpzWriter(path, "w") as writer:
        with pytest.raises(ModuleNotFoundError, match="pip install tqdm"):
            writer.update({"a": 1}, progress=True)
        with pytest.raises(TypeError, match="progress must be a callable or True, got int"):
            writer.update({"a": 1}, progress=3)  # type: ignore[arg-type]
        writer.update({"a": 1}, progress=False)
    check(path, {"a": 1})


def test_streams(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with mmnpz.NpzWriter(stream) as writer:
        writer.update(MIXED)
    (tmp_path / "archive.npz").write_bytes(stream.getvalue())
    check(tmp_path / "archive.npz", MIXED)


@pytest.mark.thread_unsafe(reason="changes a limit of the process")
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("has_large", [False, True])
@pytest.mark.parametrize("room", [1_200_000, 3_300_000])
def test_a_full_disk_ends_it_at_the_first_array_that_has_no_room(
    tmp_path: Path, room: int, has_large: bool, sync: bool
) -> None:
    import resource
    import signal

    path = tmp_path / "archive.npz"

    def source() -> Iterator[tuple[str, Any]]:
        for number in range(20_000):
            yield f"{number:05}", number
        if has_large:
            yield "large", np.zeros(3_000_000, np.uint8)

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with mmnpz.NpzWriter(path, sync=sync) as writer:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))
            try:
                with pytest.raises(OSError, match="File too large"):
                    writer.update(source())
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            count = len(writer)
            assert writer.files == [f"{number:05}" for number in range(count)]
            # What `write` writes, but for the marks of members that are written together.
            assert room / 1.1 < path.stat().st_size <= room
            assert count > 0.9 * room / 192
            # What could not be written is not found again, whatever comes in its place.
            writer.update({f"later {number}": number for number in range(300)})
            with pytest.warns(UserWarning, match="no directory"):
                assert mmnpz.load(path).files == writer.files
    finally:
        signal.signal(signal.SIGXFSZ, handler)
    data = mmnpz.load(path)
    assert data.files == [f"{number:05}" for number in range(count)] + [
        f"later {number}" for number in range(300)
    ]
    assert data.verify() == []
    assert all(int(data[f"{number:05}"]) == number for number in range(0, count, 97))


@pytest.mark.thread_unsafe(reason="changes a limit of the process")
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
@pytest.mark.parametrize("sync", [False, True])
def test_on_a_full_disk_no_smaller_array_comes_behind_one_without_room(tmp_path: Path, sync: bool) -> None:
    import resource
    import signal

    # The large ones fill a batch. When it fails, the small ones are collected, and would have room.
    arrays = [np.zeros(30_000, np.uint8)] * 70 + [np.zeros(1, np.uint8)] * 20_000
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with mmnpz.NpzWriter(tmp_path / "archive.npz", sync=sync) as writer:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, most))
            try:
                with pytest.raises(OSError, match="File too large"):
                    writer.update((f"{number:05}", array) for number, array in enumerate(arrays))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            assert writer.files == [f"{number:05}" for number in range(33)]
    finally:
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.thread_unsafe(reason="changes the filters of warnings")
def test_names_are_known_after_a_sync_in_the_middle(tmp_path: Path) -> None:
    # With 131,072 members, those before are synced, and those that are collected are not.
    twice = [500, *range(125_000, 160_000, 1000)]
    numbers = [*range(160_000), *twice]
    with (
        mmnpz.NpzWriter(tmp_path / "archive.npz", sync=True) as writer,
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        writer.update((f"{number:06}", number) for number in numbers)
    found = [str(warning.message)[-11:-1] for warning in warned]
    assert found == [f"{number:06}.npy" for number in twice]


def test_padding_counts_for_what_is_collected(tmp_path: Path) -> None:
    sizes: list[int] = []

    def source() -> Iterator[tuple[str, Any]]:
        for number in range(500):
            sizes.append(path.stat().st_size)
            yield f"{number}", number

    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path, align=32768) as writer:
        writer.update(source())
    assert max(32768 * number - size for number, size in enumerate(sizes)) < 8 << 20


def test_a_source_that_closes_the_writer_in_the_middle(tmp_path: Path) -> None:
    def source() -> Iterator[tuple[str, Any]]:
        for number in range(20_000):
            yield f"{number}", number
        writer.close()

    writer = mmnpz.NpzWriter(tmp_path / "archive.npz", sync=True)
    with pytest.raises(ValueError, match="in the middle of a write of the same thread"):
        writer.update(source())
    assert len(writer) == 20_000
    writer.close()
