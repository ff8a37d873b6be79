"""What Dask and joblib do with views."""

import copy
import os
import pickle
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from mmnpz import _neighbours
from mmnpz._memmap import mapping_of

needs_dask = pytest.mark.skipif(
    sysconfig.get_config_var("Py_GIL_DISABLED") == 1,
    reason="Dask needs PyYAML, which has no wheel for this Python",
)

changes_the_file = pytest.mark.thread_unsafe(reason="it changes the file")

BIG = 20_000
"""As many float64 take more bytes than a view that is sent by value."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.npz"
    rows = np.arange(2 * BIG, dtype=np.float64).reshape(2, BIG)
    np.savez(
        path,
        rows=rows,
        columns=np.asfortranarray(rows),
        same=rows.astype(np.int64).reshape(BIG, 2),
        equal=rows,
        small=np.arange(3),
        records=np.zeros(BIG, [("x", "<f8"), ("y", "S3")]),
        zeros=np.zeros(8, np.float64),
        zeros_i8=np.zeros(8, np.int64),
        zeros_2=np.zeros((2, 4), np.float64),
    )
    return path


def dumps(view: object) -> bytes:
    """Pickle for a worker of joblib."""
    import joblib.executor  # noqa: F401  # this registers what pickles for the workers
    from joblib._memmapping_reducer import get_memmapping_reducers
    from joblib.externals.loky.backend import reduction

    _neighbours.register()
    reducers, _ = get_memmapping_reducers(max_nbytes=1e6, temp_folder_resolver=None)
    return bytes(reduction.dumps(view, reducers=reducers))


def views(path: Path) -> dict[str, Any]:
    """Views of all kinds that are sent as a range of the file."""
    data = mmnpz.load(path)
    rows, columns = data["rows"], data["columns"]
    return {
        "rows": rows,
        "columns": columns,
        "a slice": rows[1, 100:],
        "steps": rows[:, ::2],
        "backwards": rows[::-1, ::-1],
        "transposed": rows.T,
        "records": data["records"],
        "a field": data["records"]["x"],
        "reshaped": rows.reshape(-1, 4),
        "another dtype": rows.view(np.int64),
        "repeated": np.broadcast_to(data["small"][0:1], (BIG, 1), subok=True),
    }


KINDS = (
    "rows",
    "columns",
    "a slice",
    "steps",
    "backwards",
    "transposed",
    "records",
    "a field",
    "reshaped",
    "another dtype",
    "repeated",
)


@pytest.mark.parametrize("kind", KINDS)
def test_joblib_sends_a_range_of_the_file(path: Path, kind: str) -> None:
    view = views(path)[kind]
    pickled = dumps(view)
    assert len(pickled) < 1000 < view.nbytes
    found = pickle.loads(pickled)
    assert type(found) is type(view) is mmnpz.memmap
    assert (found.dtype, found.shape, found.strides) == (view.dtype, view.shape, view.strides)
    assert (found.filename, found.offset, found.flags.writeable) == (str(path), view.offset, False)
    np.testing.assert_array_equal(found, view)


@pytest.mark.thread_unsafe(reason="another thread would map the file, too")
def test_what_is_sent_shares_one_map(path: Path) -> None:
    data = mmnpz.load(path)
    first, second = [pickle.loads(dumps(data[name])) for name in ("rows", "equal")]
    assert mapping_of(first) is mapping_of(second)
    assert mapping_of(first) is not mapping_of(data["rows"])


@changes_the_file
def test_a_file_without_a_directory_is_mapped_without_a_word(tmp_path: Path) -> None:
    # What is in it, the other process has found out.
    path = tmp_path / "killed.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer.write("rows", np.arange(BIG, dtype=np.float64))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.warns(UserWarning, match="directory"):
        data = mmnpz.load(path)
    pickled, shown = dumps(data["rows"]), np.array(data["rows"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(pickle.loads(pickled), shown)


@changes_the_file
def test_joblib_sends_by_value_what_the_file_no_longer_has(path: Path) -> None:
    data = mmnpz.load(path)
    small, view = data["small"], data["rows"]
    for sent in (small, view.copy(), view + 1):
        assert type(pickle.loads(dumps(sent))) is np.ndarray
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("more", np.arange(3))
    found = pickle.loads(dumps(view))
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, view)
    path.unlink()
    np.testing.assert_array_equal(pickle.loads(dumps(view)), view)


@changes_the_file
def test_a_file_that_was_replaced_on_the_way_is_not_read(path: Path) -> None:
    pickled = dumps(mmnpz.load(path)["rows"])
    os.utime(path, ns=(1, 1))
    with pytest.raises(ValueError, match=r"a\.npz: .* changed since"):
        pickle.loads(pickled)


@pytest.mark.thread_unsafe(reason="joblib starts processes")
def test_workers_of_joblib_read_the_file(path: Path) -> None:
    # In a process of its own, as joblib keeps its workers.
    code = f"""
import numpy as np, mmnpz, joblib
view = mmnpz.load({str(path)!r})["rows"]
def look(part):
    return type(part).__module__, part.filename, float(part.sum())
found = joblib.Parallel(n_jobs=2)(joblib.delayed(look)(row) for row in view)
assert found == [("mmnpz", {str(path)!r}, float(row.sum())) for row in view], found
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def token(view: object) -> str:
    import dask.base

    _neighbours.register()
    name: str = dask.base.tokenize(view)
    return name


class Labelled(mmnpz.memmap):
    """A view of another class, on which a function may do something else."""


@needs_dask
def test_dask_names_a_view_by_its_place_in_the_file(path: Path) -> None:
    data = mmnpz.load(path)
    rows = data["rows"]
    different = [
        *(data[name] for name in data),
        *(rows[0], rows[1], rows[0, 1:], rows[0, ::2], rows[0, ::-1], rows.T, rows.view(np.int64)),
        *(rows[0, :10], rows[0, :20:2], rows[0, :10].view(Labelled)),
    ]
    assert len({token(view) for view in different}) == len(different)
    assert token(mmnpz.load(path)["rows"][1, 3:]) == token(rows[1, 3:])


@needs_dask
def test_dask_tells_dtypes_of_other_packages_apart(path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    eights = mmnpz.load(path)["zeros"].view(np.uint8)
    records = mmnpz.load(path)["records"]
    different = [
        *(
            eights.view(getattr(ml_dtypes, name))
            for name in ("int4", "uint4", "float8_e4m3fn", "float8_e4m3fnuz")
        ),
        *(records, records.view(np.dtype((np.record, records.dtype))), records[["y", "x"]], records[["x"]]),
        *(
            records.view(np.dtype("V11")),
            records.view(np.dtype("S11")),
            eights.view("<M8[s]"),
            eights.view("<M8[ms]"),
        ),
        *(eights.view("<i8"), eights.view(">i8"), eights.view(np.bool_), eights.view(np.int8)),
    ]
    assert len({token(view) for view in different}) == len(different)


@needs_dask
def test_dask_reads_no_byte_of_a_view(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = mmnpz.load(path)["rows"]
    read: list[object] = []
    import dask.hashing

    monkeypatch.setattr(dask.hashing, "hash_buffer_hex", read.append)
    monkeypatch.setattr(np, "ascontiguousarray", read.append)
    token(view)
    assert not read


@needs_dask
@changes_the_file
def test_dask_names_another_state_of_a_file_otherwise(path: Path) -> None:
    before = token(mmnpz.load(path)["rows"])
    os.utime(path, ns=(1, 1))
    assert token(mmnpz.load(path)["rows"]) != before


@needs_dask
def test_dask_names_what_is_in_memory_by_its_items(path: Path) -> None:
    data = mmnpz.load(path)
    copied = copy.deepcopy(data["rows"])
    assert token(copied) == token(copy.deepcopy(data["equal"])) == token(np.array(copied))
    assert token(copied) != token(data["rows"])


def of_memory(path: Path) -> list[Any]:
    """Views of what no other process can find: in a buffer, and where a program may change them."""
    return [data["rows"] for data in (mmnpz.load(path.read_bytes()), mmnpz.load(path, "c"))]


@needs_dask
def test_dask_names_what_only_this_process_has_by_its_items(path: Path) -> None:
    for view in of_memory(path):
        before = token(view)
        assert before == token(np.array(view))
        if view.flags.writeable:
            view[0, 0] = 7
            assert token(view) == token(np.array(view)) != before


def test_joblib_sends_what_only_this_process_has_by_value(path: Path) -> None:
    for view in of_memory(path):
        if view.flags.writeable:
            view[0, 0] = 7
        received = pickle.loads(dumps(view))
        assert mapping_of(received) is None
        assert np.array_equal(received, view)


@needs_dask
@pytest.mark.parametrize("order", ["import dask.base, mmnpz", "import mmnpz, dask.base"])
def test_either_package_may_be_imported_first(path: Path, order: str) -> None:
    code = f"""
{order}
data = mmnpz.load({str(path)!r})
assert dask.base.tokenize(data["zeros"]) != dask.base.tokenize(data["zeros_i8"])
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_importing_mmnpz_imports_neither() -> None:
    code = "import mmnpz, sys; assert not {'dask', 'joblib', 'loky'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_a_package_that_is_being_imported_is_told_later(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(_neighbours, "_WAITING", {"neighbour": lambda module: told.append(module.ready)})
    monkeypatch.setitem(sys.modules, "neighbour", type(sys)("neighbour"))
    _neighbours.register()
    assert not told
    sys.modules["neighbour"].ready = True  # type: ignore[attr-defined]
    _neighbours.register()
    _neighbours.register()
    assert told == [True]
