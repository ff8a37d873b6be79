"""For a damaged or forged archive, mmnpz raises a documented exception, or reads what NumPy reads."""

import ast
import io
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import mmnpz
from tests.archives import Entry, build_zip, give_names, npy, npy_with_header, parts, put, same
from tests.test_growth import write_seal
from tests.test_index import write

DOCUMENTED = (zipfile.BadZipFile, ValueError, KeyError, OSError, NotImplementedError)
ARCHIVES = [
    build_zip(Entry("a.npy", npy(np.arange(3, dtype="<i2")))),
    build_zip(
        Entry("ä/x.npy", npy(np.ones((2, 2))), zip64=True),
        Entry(b"\x84.npy", npy(np.bool_(1)), descriptor=True),
        zip64_end=True,
        comment=b"comment",
    ),
    build_zip(
        Entry("a.npy", npy(np.zeros(2, [("f", "<f4"), ("g", "S3", (2,))]))),
        Entry("n.txt", b"text"),
        Entry("a.npy", npy(np.asfortranarray(np.eye(2, 3))), local_extra=b"\1\2\2\0ab"),
        junk=b"front",
    ),
    build_zip(
        Entry("a.npy", npy(np.arange(40)), method=8),
        Entry("b.npy", npy(np.zeros((3, 2), "S5")), method=8, descriptor=True),
    ),
]


def read_by_mmnpz(path: Path) -> dict[str, Any]:
    """Return the arrays that mmnpz reads, by name. Catch only documented exceptions."""
    try:
        data = mmnpz.load(path)
        names = list(data)
        assert len(names) == len(data) == len(set(names))
    except DOCUMENTED:
        return {}
    found: dict[str, Any] = {}
    for name in names:
        try:
            assert name in data
            found[name] = data[name]
            found[name].tobytes()  # touch every byte
        except DOCUMENTED:
            pass
    return found


def read_by_numpy(path: Path) -> dict[str, Any]:
    """Return the members that NumPy and zipfile read, with None for those that they refuse."""
    found: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as file:
            for info in {info.filename: info for info in file.infolist()}.values():
                if info.filename.endswith(".npy"):
                    try:
                        found[info.filename[:-4]] = np.load(io.BytesIO(file.read(info)), allow_pickle=False)
                    except Exception:  # NumPy and zipfile raise all kinds of exceptions for damaged members
                        found[info.filename[:-4]] = None
    except Exception:
        return {}
    return found


def check(path: Path, raw: bytes) -> None:
    put(path, raw)
    mine, numpys = read_by_mmnpz(path), read_by_numpy(path)
    for name, array in numpys.items():
        # If zipfile finds the checksum right, mmnpz must read what NumPy reads.
        if array is not None and name in mine:
            assert same(mine[name], array), name
    for view in mine.values():
        start = view.__array_interface__["data"][0]
        base = view.base.__array_interface__["data"][0]
        assert base <= start
        assert view.size == 0 or start + view.nbytes <= base + view.base.nbytes


@pytest.mark.parametrize("number", range(len(ARCHIVES)))
def test_undamaged(new_path: Callable[[], Path], number: int) -> None:
    path = put(new_path(), ARCHIVES[number])
    mine, numpys = read_by_mmnpz(path), read_by_numpy(path)
    assert mine.keys() == numpys.keys()
    assert len(mine) >= 1
    check(path, ARCHIVES[number])


@pytest.mark.filterwarnings("ignore")  # NumPy warns about damaged headers
@pytest.mark.parametrize("number", range(len(ARCHIVES)))
def test_every_single_byte(new_path: Callable[[], Path], number: int) -> None:
    raw = ARCHIVES[number]
    path = new_path()
    for at in range(len(raw)):
        for value in {0, 0xFF, raw[at] ^ 1, raw[at] ^ 0x80, (raw[at] + 1) % 256} - {raw[at]}:
            check(path, raw[:at] + bytes([value]) + raw[at + 1 :])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    raw = bytearray(draw(st.sampled_from(ARCHIVES)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        piece = draw(
            st.binary(max_size=8)
            | st.sampled_from(
                [b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"\xff" * 4, bytes(8), b"\x93NUMPY"]
            )
        )
        kind = draw(st.sampled_from(["overwrite", "insert", "delete", "cut", "copy"]))
        if kind == "overwrite":
            raw[at : at + len(piece)] = piece
        elif kind == "insert":
            raw[at:at] = piece
        elif kind == "delete":
            del raw[at : at + draw(st.integers(1, 40))]
        elif kind == "cut":
            del raw[at:]
        else:
            end = draw(st.integers(at, len(raw)))
            raw[at:at] = raw[at:end]
    return bytes(raw)


@pytest.mark.filterwarnings("ignore")
@given(raw=damaged())
def test_any_damage(new_path: Callable[[], Path], raw: bytes) -> None:
    check(new_path(), raw)


@pytest.mark.filterwarnings("ignore")
@given(raw=damaged())
def test_appending_to_damaged_archives(new_path: Callable[[], Path], raw: bytes) -> None:
    """Mode "a" refuses a damaged archive and does not change it, or keeps every array that was readable."""
    path = put(new_path(), raw)
    before = {name: np.array(view) for name, view in read_by_mmnpz(path).items()}
    try:
        writer = mmnpz.NpzWriter(path, "a")
    except DOCUMENTED:
        assert path.read_bytes() == raw
        return
    with writer:
        writer.write("new one", np.arange(5))
    after = read_by_mmnpz(path)
    assert after["new one"].tolist() == [0, 1, 2, 3, 4]
    assert all(name in after and np.array_equal(after[name], array) for name, array in before.items())


@given(raw=st.binary(max_size=300))
def test_any_bytes(new_path: Callable[[], Path], raw: bytes) -> None:
    check(new_path(), raw)
    check(new_path(), build_zip(Entry("a.npy", raw)))
    check(new_path(), build_zip(Entry("a.npy", b"\x93NUMPY\1\0" + raw)))


DESCRS = [
    "'<f4'",
    "'>i2'",
    "'|b1'",
    "'<U2'",
    "'|S0'",
    "'|V0'",
    "'|V3'",
    "'<M8[3D]'",
    "'f4'",
    "'float32'",
    "'i'",
    "'=f8'",
    "'?'",
    "'|O'",
    "'O'",
    "'<g'",
    "'T'",
    "'(2,)f4'",
    "'f4,i2'",
    "'2f4'",
    "('<f4', (1,))",
    "('<f4', (2,))",
    "('<f4', ())",
    "('<f4', {})",
    "[('a', '<f4')]",
    "[('a', '<f4'), ('', '|V4'), ('b', '<i2')]",
    "[('', '<f4')]",
    "[]",
    "[(('t', 'a'), '<f4')]",
    "[('a', '<f4', (2,))]",
    "[('a', '<f4', 2)]",
    "[('a', [('b', '<i2')])]",
    "[['a', '<f4']]",
    "[('a', '<f4', [2])]",
    "[('a', ('<f4', (2,)))]",
    "[('a', '<f4', ())]",
    "{'a': ('<f4', 0)}",
    "{'names': ['a'], 'formats': ['<f4']}",
    "None",
    "1",
    "True",
    "b'<f4'",
    "'<f' '4'",
    "u'<f4'",
    "r'<f4'",
    "'\\x3cf4'",
    "[('a', 'O')]",
    "[('a\\u00e9', '<f4')]",
    "('<f4',)",
    "()",
    "'datetime64'",
    "'m8[7us/3]'",
    "''",
    "' <f4'",
    "'<f4 '",
]
SHAPES = [
    "()",
    "(3,)",
    "(2, 2)",
    "(0,)",
    "(0, 5)",
    "(3)",
    "3",
    "[3]",
    "(3,2,)",
    "(1_0,)",
    "(0x2,)",
    "(True,)",
    "(False,)",
    "(-1,)",
    "(-0,)",
    "(+2,)",
    "(2L,)",
    "(3.0,)",
    "(1e0,)",
    "('3',)",
    "(None,)",
    "((3,),)",
    "(2**2,)",
    "(1+1,)",
    f"({2**31},)",
    f"({2**63},)",
    f"({2**63 - 1},)",
    f"(0, {2**63})",
    f"(0, {2**62}, 4)",
    "(00,)",
    "(01,)",
    "(,)",
    "(1j,)",
    "(2,) + (3,)",
    "{2}",
    "(*(2,),)",
    "(1,)*2",
    "(1, " * 70 + ")" * 70,
    "(" + "1, " * 64 + ")",
    "(" + "1, " * 33 + ")",
    "(" + "1, " * 65 + ")",
]
ORDERS = ["False", "True", "0", "1", "None", "'False'", "not 1", "(True)", "(False,)", "false"]


@st.composite
def header_texts(draw: st.DrawFn) -> str:
    items = [
        f"'descr': {draw(st.sampled_from(DESCRS))}",
        f"'fortran_order': {draw(st.sampled_from(ORDERS[:2]) | st.sampled_from(ORDERS))}",
        f"'shape': {draw(st.sampled_from(SHAPES[:6]) | st.sampled_from(SHAPES))}",
    ]
    items = draw(st.permutations(items))
    if draw(st.integers(0, 9)) == 0:
        items = [*items, draw(st.sampled_from(["'x': 1", "'shape': (1,)", "'descr': '<i4'", "**{}", "1: 2"]))]
    if draw(st.integers(0, 9)) == 0:
        items = items[1:]
    text = (
        "{"
        + draw(st.sampled_from([", ", ",", " , \n"])).join(items)
        + draw(st.sampled_from(["", ", ", ","]))
        + "}"
    )
    if draw(st.booleans()):
        at = draw(st.integers(0, len(text)))
        until = draw(st.integers(at, min(len(text), at + 3)))
        text = text[:at] + draw(st.text(" \n\t#\\'\"(){}[],:;-+_.0L\0éa", max_size=3)) + text[until:]
    return (
        draw(st.sampled_from(["", " "])) + text + draw(st.sampled_from(["\n", "", "   \n", " # comment\n"]))
    )


def check_header(path: Path, raw: bytes) -> None:
    try:
        expected: Any = np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
    except Exception:  # ValueError, TypeError, SyntaxError, MemoryError, TokenError, ...
        expected = None
    data = mmnpz.load(put(path, build_zip(Entry("a.npy", raw))))
    try:
        view = data["a"]
    except ValueError:
        view = None
    if expected is None:
        assert view is None, "mmnpz reads a header that NumPy refuses"
    elif view is None:
        assert stricter(raw), "mmnpz refuses a header that NumPy reads"
    else:
        assert same(view, expected)


def stricter(raw: bytes) -> bool:
    """Return whether mmnpz refuses this header on purpose, although NumPy may read it.

    The documentation says that mmnpz refuses boolean and negative dimensions. mmnpz also refuses redundant
    parentheses and repeated keys, which no program writes.
    """
    if re.search(rb"\(\s*(True|False|-?\d+L?|'[^']*')\s*\)", raw):
        return True
    if any(
        len(re.findall(rb"""['"]%s['"]\s*:""" % key, raw)) > 1
        for key in (b"descr", b"fortran_order", b"shape")
    ):
        return True
    text = raw[raw.index(b"{") :].decode("latin-1")
    try:
        shape = ast.literal_eval(text[: text.rindex("}") + 1].strip())["shape"]
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError):
        return False
    return any(isinstance(number, bool) or number < 0 for number in shape)


@pytest.mark.filterwarnings("ignore")
@given(text=header_texts(), version=st.sampled_from([1, 2, 3]), length=st.sampled_from([0, 4, 48, 200]))
@example(text="{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}", version=1, length=4)
@example(text="{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", version=1, length=4)
def test_headers_are_read_as_numpy_reads_them(
    new_path: Callable[[], Path], text: str, version: int, length: int
) -> None:
    check_header(new_path(), npy_with_header(text, bytes(range(length)), version))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("descr", DESCRS)
def test_every_dtype_text(new_path: Callable[[], Path], descr: str) -> None:
    for shape in ("()", "(2,)", "(0, 2)", "(2, 2)"):
        for order in ("False", "True"):
            text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"
            check_header(new_path(), npy_with_header(text, bytes(64)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", SHAPES, ids=range(len(SHAPES)))
def test_every_shape_text(new_path: Callable[[], Path], shape: str) -> None:
    for descr in ("'<i2'", "'|V0'", "'<U0'", "'|S0'"):
        text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"
        check_header(new_path(), npy_with_header(text, bytes(64)))


@pytest.mark.thread_unsafe(reason="changes a file in place, which others would have mapped")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("checked", [True, False])
def test_a_sound_index_that_leads_to_other_members(tmp_path: Path, checked: bool) -> None:
    """mmnpz notices that the index has other names than the directory, although all checksums are right."""
    path = write(tmp_path / "a.npz", 1500)
    old = parts(path)
    give_names(path, {"n7": "n8", "n8": "n7", "n9": "xx"})
    write_seal(path, old, crc=zlib.crc32(parts(path).directory))
    data = mmnpz.load(path)
    assert data._index_memory == 0
    if checked:
        assert "nothing" not in data
        assert data._index_memory == 0
    with np.load(path) as theirs:
        for name in ("n7", "n8", "xx", "n2"):
            assert same(data[name], theirs[name])
    assert "n9" not in data
