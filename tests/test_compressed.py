"""Compressed members are read as NumPy reads them; Zstandard, which NumPy reads from Python 3.14 on, too."""

import copy
import io
import os
import pickle
import signal
import struct
import sys
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

import mmnpz
from tests.archives import Entry, build_zip, npy, npy_with_header, put, same
from tests.processes import fork, run_python
from tests.threads import others_run_during

ARRAYS: dict[str, Any] = {
    "integers": np.arange(1000),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "empty": np.zeros((0, 3), "<f4"),
    "scalar": np.array(3.5),
    "text": np.array(["a", "longer"]),
    "no text": np.zeros(4, "S0"),
    "nothing": np.zeros(2, "V0"),
    "fields": np.array([(1, 2.0), (3, 4.0)], [("a", "<i2"), ("b", ">f8")]),
    "big-endian": np.arange(5, dtype=">u2"),
    "time": np.array(["2020-01-01", "NaT"], "<M8[D]"),
    "large": np.random.default_rng(0).integers(0, 9, 300_000),
    "zeros": np.zeros(2_000_000),
}
DEFLATED, ZSTANDARD = 8, 93


def compressed(data: bytes, method: int) -> bytes:
    if method == ZSTANDARD:
        return zstd.compress(data)
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(data) + deflate.flush()


def archive(method: int, **arrays: Any) -> bytes:
    """Return an archive of these arrays, whose order is that of the members."""
    files = {f"{name}.npy": npy(array) for name, array in arrays.items()}
    return build_zip(
        *(Entry(name, raw, method=method, stored=compressed(raw, method)) for name, raw in files.items())
    )


def forged(method: int, data: bytes, stored: bytes | None = None, file_size: int | None = None) -> bytes:
    """Return an archive whose member `a` has the CRC-32 of `data`, and other stored bytes or sizes."""
    stored = compressed(data, method) if stored is None else stored
    entry = Entry("a.npy", data, method=method, stored=stored, file_size=file_size)
    return build_zip(entry, Entry("b.npy", npy(np.arange(3))))


METHODS = pytest.mark.parametrize("method", [DEFLATED, ZSTANDARD])


@METHODS
@pytest.mark.parametrize("options", [{}, {"cache": False}, {"preload": True}, {"subok": False}])
def test_arrays_of_every_kind(tmp_path: Path, method: int, options: dict[str, Any]) -> None:
    path = put(tmp_path / "a.npz", archive(method, **ARRAYS))
    data = mmnpz.load(path, **options)
    assert data.files == list(ARRAYS)
    for name, array in ARRAYS.items():
        read = data[name]
        assert same(read, array)
        assert type(read) is np.ndarray
        assert not read.flags.writeable
        assert read.flags.aligned
        assert (data[name] is read) == options.get("cache", True)
    assert [same(array, ARRAYS[name]) for name, array in data.items()] == [True] * len(ARRAYS)
    if options.get("cache", True):
        assert list(data.arrays) == list(ARRAYS)


def test_savez_compressed_is_read_as_numpy_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, np.arange(5), **ARRAYS)
    data = mmnpz.load(path)
    with np.load(path) as theirs:
        assert data.files == theirs.files
        for name in theirs.files:
            assert same(data[name], theirs[name])


@METHODS
def test_every_length_at_which_another_way_is_taken(tmp_path: Path, method: int) -> None:
    rng = np.random.default_rng(1)
    sizes = [
        0,
        1,
        800,
        900,
        1 << 14,
        (1 << 14) - 129,
        (1 << 14) - 128,
        (1 << 14) - 127,
        1 << 17,
        (1 << 22) + 1,
    ]
    arrays = {f"n{size}": rng.integers(0, 4, size, np.uint8) for size in sizes}
    data = mmnpz.load(put(tmp_path / "a.npz", archive(method, **arrays)))
    assert all(same(data[name], array) for name, array in arrays.items())


@METHODS
@pytest.mark.parametrize("size", [100, 20_000])
def test_a_header_of_any_length_is_read_first(tmp_path: Path, method: int, size: int) -> None:
    values = np.arange(size, dtype="u1")
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},), }}"
    for spaces in (0, 900, 1000, 2000, 9000):
        raw = npy_with_header(header + " " * spaces, values.tobytes())
        path = put(tmp_path / f"{spaces}.npz", forged(method, raw))
        assert same(mmnpz.load(path)["a"], values)
        assert mmnpz.load(path)["a"].flags.aligned
    path = put(
        tmp_path / "long.npz", forged(method, npy_with_header(header + " " * 20_000, values.tobytes()))
    )
    with pytest.raises(ValueError, match=r'long.npz: member "a".*max_header_size'):
        mmnpz.load(path)["a"]
    assert same(mmnpz.load(path, max_header_size=30_000)["a"], values)


@METHODS
def test_what_is_wrong_with_a_member(tmp_path: Path, method: int) -> None:
    for number, size in enumerate((100, 100_000)):
        whole = npy(np.random.default_rng(2).integers(0, 99, size, np.uint8)) + b"behind"
        stored = compressed(whole, method)
        wrong = {
            "fewer bytes than": forged(method, whole, stored, file_size=len(whole) + 1),
            "more bytes than": forged(method, whole, stored, file_size=len(whole) - 1),
            "CRC-32": forged(method, whole, compressed(whole[:-1] + b"D", method)),
            "compressed bytes": forged(method, whole, stored[:-5]),
            "decompressed": forged(method, whole, b"\7" * 4 + stored[4:]),
            "is said to have": forged(method, whole, stored, file_size=min(len(stored) << 16, 2**32 - 2)),
        }
        for what, raw in wrong.items():
            path = put(tmp_path / f"{number} {what}.npz", raw)
            data = mmnpz.load(path)
            assert data.files == ["a", "b"]
            with pytest.raises(zipfile.BadZipFile, match=rf'{what}.npz: member "a": .*{what}'):
                data["a"]
            assert same(data["b"], np.arange(3))
            with pytest.warns(UserWarning, match="left out 1 member from which no array can be read: 'a'"):
                assert mmnpz.load(path, on_error="skip").files == ["b"]
            assert [damage.name for damage in data.verify()] == ["a"]


@METHODS
def test_a_bomb_takes_no_memory(tmp_path: Path, method: int) -> None:
    """What the archive says of the size counts only if the `.npy` header fits it."""
    size = 1 << 30
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size * 9},), }}"
    start = npy_with_header(header, b"")
    stored = compressed(start + bytes(1 << 24), method)
    size = min(size, len(stored) * 1000)
    data = mmnpz.load(put(tmp_path / "a.npz", forged(method, start, stored, file_size=size)))
    with pytest.raises(ValueError, match="does not fit"):
        data["a"]


@METHODS
@pytest.mark.parametrize("size", [3, 300_000])
def test_what_follows_an_array_takes_no_memory(tmp_path: Path, method: int, size: int) -> None:
    raw = npy(np.arange(size)) + bytes(90 << 20)
    path = put(tmp_path / "a.npz", forged(method, raw))
    array: Any = mmnpz.load(path)["a"]
    assert same(array, np.arange(size))
    assert array.base.nbytes < array.nbytes + 1000
    bad = Entry("a.npy", raw, method=method, stored=compressed(raw, method), crc=1)
    with pytest.raises(zipfile.BadZipFile, match="CRC-32"):
        mmnpz.load(put(tmp_path / "b.npz", build_zip(bad)))["a"]


def test_nobody_can_make_what_is_kept_writable(tmp_path: Path) -> None:
    array = mmnpz.load(put(tmp_path / "a.npz", archive(DEFLATED, a=np.arange(3))))["a"]
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


@pytest.mark.parametrize("size", [100, 100_000, 9_000_000])
def test_odd_frames_of_zstandard(tmp_path: Path, size: int) -> None:
    array = np.arange(size)
    raw = npy(array)
    whole = zstd.compress(raw)
    skipped = struct.pack("<2L", 0x184D2A50, 4) + b"skip"

    def streamed(window: int) -> bytes:
        parameter = zstd.CompressionParameter
        options: dict[int, int] = {parameter.window_log: window, parameter.content_size_flag: 0}
        stream = zstd.ZstdCompressor(options=options)
        return stream.compress(raw) + stream.flush()

    good = {
        "nothing odd": whole,
        "a frame to be skipped in front": skipped + whole,
        "a frame to be skipped behind": whole + skipped,
        "bytes behind": whole + b"junk",
        "zeros behind": whole + bytes(20),
        "an empty frame behind": whole + zstd.compress(b""),
        "two frames, bytes behind": zstd.compress(raw[:100]) + zstd.compress(raw[100:]) + b"junk",
        "a large window": streamed(28),
        "the largest window": streamed(31),
    }
    for what, stored in good.items():
        data = mmnpz.load(put(tmp_path / f"{what}.npz", forged(ZSTANDARD, raw, stored)))
        assert same(data["a"], array), what
        assert data.verify() == [], what
        assert data.layout().length.tolist() == [size, 3]
    words = zstd.train_dict([b"abc%d" % number * 50 for number in range(1000)], 2000)
    stored = zstd.compress(raw, zstd_dict=words)
    data = mmnpz.load(put(tmp_path / "dictionary.npz", forged(ZSTANDARD, raw, stored)))
    with pytest.raises(zipfile.BadZipFile, match=r'member "a": .* need a dictionary'):
        data["a"]
    for what, stored in {"cut": whole[:-3], "twice": whole * 2 + b"x"}.items():
        size_of = len(raw) + (what == "twice")
        path = put(tmp_path / f"{what}.npz", forged(ZSTANDARD, raw, stored, file_size=size_of))
        with pytest.raises(zipfile.BadZipFile, match='member "a"'):
            mmnpz.load(path)["a"]
        assert [damage.name for damage in mmnpz.load(path).verify()] == ["a"]


@METHODS
def test_bytes_behind_the_array_and_behind_the_data(tmp_path: Path, method: int) -> None:
    raw = npy(np.arange(5000)) + b"behind" * 1000
    assert same(mmnpz.load(put(tmp_path / "a.npz", forged(method, raw)))["a"], np.arange(5000))
    short = npy(np.arange(50))
    if method == DEFLATED:
        stored = compressed(short, method) + b"behind"
        assert same(mmnpz.load(put(tmp_path / "b.npz", forged(method, short, stored)))["a"], np.arange(50))


def test_zstandard_in_several_frames(tmp_path: Path) -> None:
    raw = npy(np.arange(100_000))
    stored = (
        zstd.compress(raw[:1000]) + struct.pack("<2L", 0x184D2A50, 4) + b"skip" + zstd.compress(raw[1000:])
    )
    path = put(tmp_path / "a.npz", forged(ZSTANDARD, raw, stored))
    assert same(mmnpz.load(path)["a"], np.arange(100_000))
    assert mmnpz.load(path).verify() == []


@pytest.mark.parametrize(
    ("method", "name"),
    [(1, "Shrink"), (9, "Deflate64"), (12, "bzip2"), (14, "LZMA"), (98, "PPMd"), (20, "method 20")],
)
def test_other_methods_are_listed_and_named(tmp_path: Path, method: int, name: str) -> None:
    path = put(tmp_path / "a.npz", forged(method, npy(np.arange(3)), b"\0" * 200))
    data = mmnpz.load(path)
    assert data.files == ["a", "b"]
    assert "a" in data
    with pytest.raises(NotImplementedError, match=rf'a.npz: member "a": .*compressed by {name}'):
        data["a"]
    with pytest.raises(NotImplementedError, match=name):
        mmnpz.load(path, preload=True)
    with pytest.warns(UserWarning, match="left out 1 member"):
        assert mmnpz.load(path, on_error="skip").files == ["b"]


@METHODS
def test_objects_are_refused(tmp_path: Path, method: int) -> None:
    out = io.BytesIO()
    np.save(out, np.array([None]), allow_pickle=True)
    data = mmnpz.load(put(tmp_path / "a.npz", forged(method, out.getvalue())))
    with pytest.raises(ValueError, match='member "a": object arrays'):
        data["a"]


@METHODS
@pytest.mark.parametrize("cache", [True, False])
def test_batches(tmp_path: Path, method: int, cache: bool) -> None:
    arrays = {f"x{number}": np.arange(number, number + 400).reshape(100, 4) for number in range(20)}
    mixed = build_zip(
        *(
            Entry(f"{name}.npy", npy(array), method=method, stored=compressed(npy(array), method))
            if number % 3
            else Entry(f"{name}.npy", npy(array))
            for number, (name, array) in enumerate(arrays.items())
        )
    )
    data = mmnpz.load(put(tmp_path / "a.npz", mixed), cache=cache)
    names = [*arrays, *arrays]
    expected = np.stack([arrays[name][5:15] for name in names])
    for keys in (names, [list(arrays).index(name) for name in names]):
        data.prefetch(keys, starts=5, length=10)
        assert same(data.gather(keys, starts=5, length=10), expected)
        assert same(data.gather(keys), np.stack([arrays[name] for name in names]))
        assert (data.gather(keys, starts=95, length=10, pad=7)[:, 5:] == 7).all()
    out = np.empty((40, 10, 4), "f4")
    assert same(data.gather(names, starts=5, length=10, out=out, dtype="f4"), expected.astype("f4"))
    with pytest.raises(IndexError, match="has 100 rows"):
        data.gather(names, starts=95, length=10)


@METHODS
@pytest.mark.parametrize("threads", [1, 4])
def test_each_member_of_a_batch_is_decompressed_once(tmp_path: Path, method: int, threads: int) -> None:
    """What was decompressed is not read again: here it could not be."""
    arrays = {f"x{number}": np.arange(number, number + 50_000) for number in range(10)}
    raw = bytearray(archive(method, **arrays))
    path = put(tmp_path / "a.npz", bytes(raw))
    data = mmnpz.load(path)
    names = list(arrays)
    assert same(data.gather(names, threads=threads), np.stack(list(arrays.values())))
    kept = [data[name] for name in names]
    at = raw.index(b"x3.npy") + 2000
    with path.open("rb+") as file:
        file.seek(at)
        file.write(bytes(50))
    with pytest.raises(zipfile.BadZipFile, match='member "x3"'):
        mmnpz.load(path)["x3"]
    assert same(data.gather(names[::-1], threads=threads), np.stack(list(arrays.values())[::-1]))
    aliases = [f"{name}.npy" for name in names]
    data.prefetch(aliases)
    assert same(data.gather(aliases, threads=threads), np.stack(list(arrays.values())))
    assert all(data[name] is array for name, array in zip(names, kept, strict=True))


@METHODS
@pytest.mark.parametrize("count", [3, 128, 300])
def test_preload_with_all_processors(tmp_path: Path, method: int, count: int) -> None:
    arrays = {f"x{number}": np.arange(number, number + 3000) for number in range(count)}
    entries = [
        Entry(f"{name}.npy", npy(array))
        if number % 7 == 3
        else Entry(f"{name}.npy", npy(array), method=method, stored=compressed(npy(array), method))
        for number, (name, array) in enumerate(arrays.items())
    ]
    data = mmnpz.load(put(tmp_path / "a.npz", build_zip(*entries)), preload=True)
    assert list(data.arrays) == list(arrays) == data.files
    assert all(same(data[name], array) for name, array in arrays.items())
    assert all(data.arrays[name] is data[name] for name in arrays)
    bad = count - 1
    entries[bad] = Entry(f"x{bad}.npy", npy(arrays[f"x{bad}"]), method=method, stored=b"\7" * 99)
    with pytest.raises(zipfile.BadZipFile, match=f'b.npz: member "x{bad}"'):
        mmnpz.load(put(tmp_path / "b.npz", build_zip(*entries)), preload=True)


def test_what_is_put_into_the_dict_is_not_believed(tmp_path: Path) -> None:
    data = mmnpz.load(put(tmp_path / "a.npz", archive(DEFLATED, a=np.arange(5), b=np.arange(5))))
    data.arrays["a"] = np.zeros(5, int)
    assert same(data.gather(["a", "b"]), np.stack([np.arange(5)] * 2))


@METHODS
def test_copies_and_pickles(tmp_path: Path, method: int) -> None:
    data = mmnpz.load(put(tmp_path / "a.npz", archive(method, **ARRAYS)))
    for other in (copy.copy(data), copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert same(other["large"], ARRAYS["large"])
    assert same(pickle.loads(pickle.dumps(data["fortran"])), ARRAYS["fortran"])
    kept = data["large"]
    data.close()
    del data, other
    assert same(kept, ARRAYS["large"])


@METHODS
def test_many_threads(tmp_path: Path, method: int) -> None:
    arrays = {
        f"x{number}": np.random.default_rng(number).integers(0, 9, 3000 * number) for number in range(40)
    }
    for cache in (True, False):
        data = mmnpz.load(put(tmp_path / f"{cache}.npz", archive(method, **arrays)), cache=cache)
        barrier = threading.Barrier(4)

        def read(_: int, data: Any = data, barrier: threading.Barrier = barrier) -> list[Any]:
            barrier.wait()
            return [data[name] for name in arrays]

        with ThreadPoolExecutor(4) as pool:
            each = list(pool.map(read, range(4)))
        for found in each:
            assert all(same(array, arrays[name]) for array, name in zip(found, arrays, strict=True))
        if cache:
            assert all(len({id(found[number]) for found in each}) == 1 for number in range(40))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.thread_unsafe(reason="forks")
@METHODS
def test_a_fork_while_another_thread_decompresses(tmp_path: Path, method: int) -> None:
    arrays = {f"x{number}": np.arange(number, number + 200_000) for number in range(8)}
    data = mmnpz.load(put(tmp_path / "a.npz", archive(method, **arrays)), cache=False)
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            for name in arrays:
                data[name]

    def child() -> None:
        assert all(same(data[name], array) for name, array in arrays.items())

    thread = threading.Thread(target=read)
    thread.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
            for _ in range(5):
                assert os.waitpid(fork(child), 0)[1] == 0
    finally:
        done.set()
        thread.join()


class StoppedError(Exception):
    """What a handler raises."""


@contextmanager
def alarm(handler: Callable[..., None], after: float) -> Iterator[None]:
    """Have a handler of SIGALRM run after some seconds."""
    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, after)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def stop(*_: object) -> None:
    raise StoppedError


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timers")
@pytest.mark.thread_unsafe(reason="sends signals")
@METHODS
@pytest.mark.parametrize("count", [1, 2])
def test_a_long_decompression_can_be_interrupted(tmp_path: Path, method: int, count: int) -> None:
    raw = npy(np.zeros(256 << 20, "u1"))
    stored = compressed(raw, method)
    entries = [Entry(f"x{number}.npy", raw, method=method, stored=stored) for number in range(count)]
    data = mmnpz.load(put(tmp_path / "a.npz", build_zip(*entries)))
    del raw
    with alarm(stop, 0.02), pytest.raises(StoppedError):
        data.gather(data.files, threads=count)
    # The handler did not have to wait until all was done.
    assert data.arrays == {}


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timers")
@pytest.mark.thread_unsafe(reason="sends signals")
@METHODS
@pytest.mark.parametrize("threads", [1, 2])
def test_verify_of_large_members_can_be_interrupted(tmp_path: Path, method: int, threads: int) -> None:
    raw = npy(np.tile(np.random.default_rng(0).integers(0, 255, 20_000, np.uint8), 10_000))
    stored = compressed(raw, method)
    entries = [Entry(f"x{number}.npy", raw, method=method, stored=stored) for number in range(3)]
    data = mmnpz.load(put(tmp_path / "a.npz", build_zip(*entries)))
    del raw
    told: list[int] = []
    with alarm(stop, 0.02), pytest.raises(StoppedError):
        data.verify(threads=threads, progress=lambda done, _: told.append(done))
    # In the middle, not at the end.
    assert not told or told[-1] < 2 * len(stored)
    assert data.verify(threads=threads) == []


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timers")
@pytest.mark.thread_unsafe(reason="sends signals")
def test_blocks_without_a_byte_can_be_interrupted(tmp_path: Path) -> None:
    """A small array behind a hundred megabytes of empty blocks."""
    raw = npy(np.arange(3))
    stored = bytes([0, 0, 0, 0xFF, 0xFF]) * (20 << 20) + compressed(raw, DEFLATED)
    data = mmnpz.load(put(tmp_path / "a.npz", forged(DEFLATED, raw, stored)))
    with alarm(stop, 0.02), pytest.raises(StoppedError):
        data["a"]
    assert data.arrays == {}
    assert same(data["a"], np.arange(3))


@pytest.mark.parametrize("size", [3, 100_000])
def test_deflate_without_an_end(tmp_path: Path, size: int) -> None:
    """As programs write that flush, and do not finish: all bytes are there."""
    raw = npy(np.arange(size))
    deflate = zlib.compressobj(wbits=-15)
    stored = deflate.compress(raw) + deflate.flush(zlib.Z_SYNC_FLUSH)
    path = put(tmp_path / "a.npz", forged(DEFLATED, raw, stored))
    data = mmnpz.load(path)
    assert same(data["a"], np.load(path)["a"])
    assert data.verify() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.thread_unsafe(reason="sends signals, and forks")
@METHODS
def test_a_handler_that_forks_while_threads_decompress(tmp_path: Path, method: int) -> None:
    """The threads that help are not there in the child, which decompresses all members itself."""
    arrays = {f"x{number}": np.arange(number, number + 300_000) for number in range(40)}
    path = put(tmp_path / "a.npz", archive(method, **arrays))
    children: list[int] = []

    def fork_off(*_: object) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
            children.append(os.fork())

    parent = os.getpid()
    for _ in range(3):
        is_right = False
        try:
            with alarm(fork_off, 0.02):
                data = mmnpz.load(path, preload=True)
            is_right = all(same(data[name], array) for name, array in arrays.items())
        finally:
            if os.getpid() != parent:
                os._exit(not is_right)
        assert is_right
        assert os.waitpid(children.pop(), 0)[1] == 0


@METHODS
def test_verify_reads_compressed_members(tmp_path: Path, method: int) -> None:
    arrays = {name: array for name, array in ARRAYS.items() if array.size > 100}
    raw = bytearray(archive(method, **arrays))
    path = put(tmp_path / "a.npz", bytes(raw))
    told: list[tuple[int, int]] = []
    data = mmnpz.load(path)
    assert data.verify(progress=lambda done, total: told.append((done, total))) == []
    assert told[-1][0] == told[-1][1] > 0
    assert data.verify(["large"], threads=2) == []
    at = raw.index(b"large.npy") + 3000
    raw[at] ^= 0x10
    (damage,) = mmnpz.load(put(tmp_path / "b.npz", bytes(raw))).verify()
    assert damage.name == "large"


@METHODS
def test_appended_to_they_stay(tmp_path: Path, method: int) -> None:
    path = put(tmp_path / "a.npz", archive(method, **ARRAYS))
    with mmnpz.NpzWriter(path, "a") as writer:
        assert writer.files == list(ARRAYS)
        writer.write("new", [1, 2])
    data = mmnpz.load(path)
    assert data.files == [*ARRAYS, "new"]
    assert all(same(data[name], array) for name, array in ARRAYS.items())
    assert same(data["new"], np.array([1, 2]))


@METHODS
@given(flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3))
def test_whatever_is_wrong_ends_in_a_documented_error(
    new_path: Callable[[], Path], method: int, flips: list[tuple[int, int]]
) -> None:
    array = np.arange(300) % 17
    raw = bytearray(compressed(npy(array), method))
    for at, value in flips:
        raw[at % len(raw)] = value
    data = mmnpz.load(put(new_path(), forged(method, npy(array), bytes(raw))))
    try:
        read = data["a"]
    except (ValueError, zipfile.BadZipFile):
        assert [damage.name for damage in data.verify()] == ["a"]
    else:
        assert same(read, array)
        assert data.verify() == []


@pytest.mark.thread_unsafe(reason="changes how all threads switch")
@pytest.mark.parametrize("ask", ["lookup", "small", "bytes", "info", "layout", "preload", "gather", "verify"])
def test_other_threads_run_while_members_are_decompressed(tmp_path: Path, ask: str) -> None:
    raw = npy(np.tile(np.arange(9_999), 300))
    # Small, behind so many blocks without a byte.
    small = npy(np.arange(3))
    blocks = bytes([0, 0, 0, 0xFF, 0xFF]) * (2 << 20) + compressed(small, DEFLATED)
    text = bytes(20 << 20)
    path = put(
        tmp_path / "a.npz",
        build_zip(
            Entry("long.npy", raw, method=DEFLATED, stored=compressed(raw, DEFLATED)),
            Entry("small.npy", small, method=DEFLATED, stored=blocks),
            Entry("text", text, method=DEFLATED, stored=compressed(text, DEFLATED)),
        ),
    )
    data = mmnpz.load(path, cache=False)
    calls: dict[str, Callable[[], object]] = {
        "lookup": lambda: data["long"],
        "small": lambda: data["small"],
        "bytes": lambda: data["text"],
        "info": lambda: data.info("small"),
        "layout": data.layout,
        "preload": lambda: mmnpz.load(path, preload=True),
        "gather": lambda: data.gather(["long"], 0, length=1),
        "verify": data.verify,
    }
    # Once while the header is decompressed, and then while the array is.
    assert others_run_during(calls[ask], least=3 if ask in {"lookup", "gather", "preload"} else 1)


@pytest.mark.thread_unsafe(reason="works in a process of its own")
@pytest.mark.skipif(sys.platform != "linux", reason="looks at the threads of a process of Linux")
@pytest.mark.parametrize("call", ["gather(data.files, threads=2)", "load(sys.argv[1], preload=True)"])
def test_helpers_decompress(tmp_path: Path, call: str) -> None:
    if "preload" in call and os.cpu_count() == 1:
        pytest.skip("there is one processor")
    arrays = {f"x{number}": np.arange(number, number + 300_000) for number in range(8)}
    path = put(tmp_path / "a.npz", archive(DEFLATED, **arrays))
    run_python(
        f"""
        import os, sys, mmnpz
        from contextlib import suppress

        def helpers():
            found = 0
            for task in os.listdir("/proc/self/task"):
                with suppress(OSError), open(f"/proc/self/task/{{task}}/comm") as file:
                    found += file.read() == "mmnpz\\n"
            return found

        data = mmnpz.load(sys.argv[1])
        assert helpers() == 0
        {"data." if call.startswith("gather") else "mmnpz."}{call}
        assert helpers() > 0
        """,
        path,
    )
