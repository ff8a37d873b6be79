"""`info` and `layout` tell what views, NumPy and `zipfile` tell, and touch no member."""

import copy
import io
import pickle
import signal
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import Entry, build_zip, npy, npy_with_header, put
from tests.test_compressed import ARRAYS, StoppedError, alarm, archive, compressed, forged, stop


def check(path: Path, names: list[str] | None = None, **options: Any) -> None:
    """Compare all facts with those of `zipfile` and NumPy."""
    data = mmnpz.load(path, **options)
    layout = data.layout()
    names = data.files if names is None else names
    assert layout.names.tolist() == names
    assert len(layout) == len(names)
    with zipfile.ZipFile(path) as file:
        for number, name in enumerate(names):
            entry = file.getinfo(f"{name}.npy")
            expected = np.load(io.BytesIO(file.read(entry)))
            info = data.info(name)
            facts = mmnpz.MemberInfo(
                name,
                expected.dtype,
                expected.shape,
                info.fortran_order,
                expected.nbytes,
                info.offset,
                entry.compress_type,
                entry.compress_size,
                entry.CRC,
            )
            assert info == facts
            if expected.ndim > 1 and expected.size > 1 and 1 not in expected.shape:
                assert info.fortran_order == (not expected.flags.c_contiguous)
            if entry.compress_type:
                assert info.offset is None
            elif expected.nbytes:
                assert info.offset is not None
                raw = path.read_bytes()[info.offset : info.offset + info.nbytes]
                assert raw == expected.tobytes("A")
            assert layout.dtypes[layout.dtype[number]] == expected.dtype
            assert layout.ndim[number] == expected.ndim
            assert layout.length[number] == (expected.shape[0] if expected.ndim else -1)
            assert layout.nbytes[number] == expected.nbytes
            assert layout.offset[number] == (-1 if info.offset is None else info.offset)
            assert layout.compress_type[number] == entry.compress_type
            assert layout.compress_size[number] == entry.compress_size
            assert layout.crc[number] == entry.CRC
    assert len(layout.dtypes) == len(set(layout.dtype.tolist()))


PLAIN = {name: array for name, array in ARRAYS.items() if name != "no text"}


@pytest.mark.parametrize("way", ["ours", "savez", "deflated", "appended", "mixed"])
def test_facts_are_those_of_numpy_and_zipfile(tmp_path: Path, way: str) -> None:
    path = tmp_path / "a.npz"
    if way == "ours":
        with mmnpz.NpzWriter(path) as writer:
            writer.write("fields with names of more than a record", np.zeros(3, [("x" * 300, "f4")]))
            for name, array in PLAIN.items():
                writer.write(name, array)
    elif way in ("savez", "appended"):
        np.savez(path, **PLAIN)
        if way == "appended":
            with mmnpz.NpzWriter(path, "a") as writer:
                writer.write("new", np.zeros((3, 5), "f4", order="F"))
    elif way == "deflated":
        np.savez_compressed(path, **PLAIN)
    else:
        put(
            path,
            build_zip(*(Entry(f"{name}.npy", npy(array)) for name, array in PLAIN.items()), junk=b"x" * 99),
        )
    check(path)
    check(path, max_header_size=3000)


def test_a_large_archive_of_ours(tmp_path: Path) -> None:
    """Of which the directory is read in another way, and is believed only once it was checked."""
    path = tmp_path / "a.npz"
    shapes = [(number % 5, 3) if number % 3 else () for number in range(3000)]
    with mmnpz.NpzWriter(path) as writer:
        for number, shape in enumerate(shapes):
            writer.write(f"n{number}", np.zeros(shape, ["f4", "i8"][number % 2]))
    data = mmnpz.load(path)
    layout = data.layout()
    views: list[Any] = list(data.values())
    assert layout.names.tolist() == data.files
    assert layout.length.tolist() == [shape[0] if shape else -1 for shape in shapes]
    assert layout.ndim.tolist() == [len(shape) for shape in shapes]
    assert layout.offset.tolist() == [view.offset for view in views]
    assert layout.nbytes.tolist() == [view.nbytes for view in views]
    assert [layout.dtypes[code] for code in layout.dtype] == [view.dtype for view in views]
    with zipfile.ZipFile(path) as file:
        assert layout.crc.tolist() == [entry.CRC for entry in file.infolist()]
    assert repr(layout) == "<Layout of 3,000 members, 2 dtypes>"


def test_columns(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    layout = mmnpz.load(tmp_path / "a.npz").layout()
    types = {"dtype": "i4", "ndim": "i4", "length": "i8", "nbytes": "i8", "offset": "i8"}
    types |= {"compress_type": "u2", "compress_size": "i8", "crc": "u4"}
    assert all(getattr(layout, name).dtype == dtype for name, dtype in types.items())
    assert layout.names.dtype == object
    assert layout.names is layout.names
    for other in (copy.copy(layout), copy.deepcopy(layout), pickle.loads(pickle.dumps(layout))):
        assert other.names.tolist() == ["a"]
        assert other.crc.tolist() == layout.crc.tolist()
    empty = put(tmp_path / "empty.npz", build_zip())
    assert len(mmnpz.load(empty).layout()) == 0
    assert mmnpz.load(empty).layout().names.tolist() == []


def test_the_names_are_there_when_the_reader_is_closed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(3), b=1)
    with mmnpz.load(tmp_path / "a.npz") as data:
        layout = data.layout()
    assert layout.names.tolist() == ["a", "b"]
    for ask in (data.layout, lambda: data.info("a")):
        with pytest.raises(ValueError, match="closed"):
            ask()


def test_members_that_cannot_be_read(tmp_path: Path) -> None:
    """One does not hide the others: its numbers are -1."""
    objects = npy_with_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"x" * 80)
    large = npy_with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (100,), }", bytes(799))
    vast = npy_with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (9223372036854775807,), }")
    none = npy_with_header("{'descr': '|V0', 'fortran_order': False, 'shape': (9223372036854775808,), }")
    wide = npy_with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 9223372036854775807), }")
    deep = npy_with_header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {(1,) * 70}, }}", bytes(8))
    sub = npy_with_header("{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': (3,), }", bytes(24))
    bad = {
        "objects": objects,
        "large": large,
        "vast": vast,
        "none": none,
        "wide": wide,
        "deep": deep,
        "sub": sub,
        "no": b"no",
    }
    raw = build_zip(
        Entry("a.npy", npy(np.arange(3))),
        *(Entry(f"{name}.npy", content) for name, content in bad.items()),
        Entry("bzip2.npy", npy(np.arange(3)), method=12, stored=b"?"),
        Entry("torn.npy", npy(np.arange(3)), method=8, stored=b"?"),
        Entry("locked.npy", npy(np.arange(3)), flags=1),
        Entry("b.npy", npy(np.arange(3.0))),
    )
    data = mmnpz.load(put(tmp_path / "a.npz", raw))
    layout = data.layout()
    known = [True, *[False] * (len(data) - 2), True]
    for column in (layout.dtype, layout.ndim, layout.length, layout.nbytes, layout.offset):
        assert (column >= 0).tolist() == known
    assert [layout.dtypes[code] for code in layout.dtype[[0, -1]]] == [np.dtype(int), np.dtype(float)]
    assert dict(zip(layout.names, layout.compress_type.tolist(), strict=True))["bzip2"] == 12
    for name in data.files[1:-1]:
        with pytest.raises((ValueError, NotImplementedError, zipfile.BadZipFile), match=f'member "{name}"'):
            data.info(name)
        with pytest.raises((ValueError, NotImplementedError, zipfile.BadZipFile)):
            data[name]
    with pytest.raises(KeyError, match="nothing"):
        data.info("nothing")
    other: Any = 5
    with pytest.raises(KeyError):
        data.info(other)


def test_items_without_bytes(tmp_path: Path) -> None:
    many = npy_with_header("{'descr': '|V0', 'fortran_order': False, 'shape': (9223372036854775807,), }")
    empty = npy_with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 1152921504606846975), }")
    sub = npy_with_header("{'descr': '2i4', 'fortran_order': False, 'shape': (0,), }")
    path = put(tmp_path / "a.npz", build_zip(Entry("many.npy", many), Entry("empty.npy", empty)))
    data = mmnpz.load(put(tmp_path / "sub.npz", build_zip(Entry("sub.npy", sub))))
    assert data.layout().ndim[0] == 1
    assert data["sub"].nbytes == data.info("sub").nbytes == data.layout().nbytes[0] == 0
    data = mmnpz.load(path)
    assert data["many"].nbytes == data["empty"].nbytes == 0
    assert data.layout().nbytes.tolist() == [0, 0]
    assert data.layout().length.tolist() == [2**63 - 1, 0]
    assert data.info("many").nbytes == data.info("empty").nbytes == 0


def test_a_dtype_has_one_code(tmp_path: Path) -> None:
    def member(descr: str) -> bytes:
        return npy_with_header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (2,), }}", bytes(16))

    entries = [
        Entry(f"{number}.npy", member(descr)) for number, descr in enumerate(["<f4", "f4", "=f4", ">f4"])
    ]
    layout = mmnpz.load(put(tmp_path / "a.npz", build_zip(*entries))).layout()
    assert layout.dtypes == [np.dtype("<f4"), np.dtype(">f4")]
    assert layout.dtype.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("way", ["edited", "skipped"])
def test_the_directory_tells_also_if_its_index_is_not_used(tmp_path: Path, way: str) -> None:
    """As for views and `info`, the headers of the members are not looked at."""
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(2000):
            writer.write(f"n{number}", np.zeros(3))
    raw = bytearray(path.read_bytes())
    if way == "edited":
        # The time of the last member, in the directory.
        raw[raw.rindex(b"PK\1\2") + 12] ^= 1
    data = mmnpz.load(put(path, bytes(raw)), on_error="skip" if way == "skipped" else "raise")
    at = raw.index(b"\x93NUMPY")
    raw[at : at + 60] = bytes(60)
    with path.open("rb+") as file:
        file.seek(at)
        file.write(bytes(60))
    assert data.info("n0").shape == data["n0"].shape == (3,)
    assert data.layout().length.tolist() == [3] * 2000


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timers")
@pytest.mark.thread_unsafe(reason="sends signals")
@pytest.mark.parametrize("ask", ["info", "layout"])
def test_headers_behind_blocks_without_a_byte_can_be_interrupted(tmp_path: Path, ask: str) -> None:
    raw = npy(np.arange(3))
    stored = bytes([0, 0, 0, 0xFF, 0xFF]) * (20 << 20) + compressed(raw, 8)
    data = mmnpz.load(put(tmp_path / "a.npz", forged(8, raw, stored)))
    calls: dict[str, Any] = {"info": lambda: data.info("a"), "layout": data.layout}
    done = []
    with alarm(stop, 0.02), pytest.raises(StoppedError):
        done.append(calls[ask]())
    assert done == []
    assert data.info("a").shape == (3,)
    assert data.layout().length.tolist() == [3, 3]


def test_info_takes_the_names_that_lookups_take(tmp_path: Path) -> None:
    path = put(tmp_path / "a.npz", archive(8, a=np.arange(3)))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("whole", npy(np.arange(4)))
        file.writestr("text", "text")
    data = mmnpz.load(path)
    assert data.info("a.npy") == data.info("a")
    assert data.info("whole").shape == (4,)
    with pytest.raises(ValueError, match='member "text"'):
        data.info("text")
    assert len(data.layout()) == 1


def test_html(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer.write("<b>&", np.zeros((3, 400), "f4"))
        for number in range(11):
            writer.write(f"n{number}", number)
    data = mmnpz.load(path)
    html = data._repr_html_()
    assert "<td>&lt;b&gt;&amp;</td><td>(3, 400)</td><td>float32</td><td>4,800</td>" in html
    assert "… and 2 more" in html
    assert "n8" in html
    assert "n9<" not in html
    with data:
        pass
    assert data._repr_html_() == "<div><code>&lt;NpzReader: the reader is closed&gt;</code></div>"


def test_neither_repr_touches_a_member(tmp_path: Path) -> None:
    """Damage every member: in a file of ours nothing changes, in another the table has gaps."""
    for way in ("ours", "savez"):
        path = tmp_path / f"{way}.npz"
        save: Any = np.savez if way == "savez" else mmnpz.savez
        save(path, a=np.zeros(1000), b=np.zeros(1000))
        data = mmnpz.load(path)
        expected = data._repr_html_(), repr(data)
        raw = path.read_bytes()
        directory = raw.index(b"PK\1\2")
        with path.open("rb+") as file:
            file.write(bytes(min(directory, 8000)))
        other = mmnpz.load(path)
        assert (other._repr_html_(), repr(other)) == expected
        assert ("<td>(1000,)</td>" in expected[0]) == (way == "ours")
