"""`savez` and `savez_compressed`: what NumPy's write, and what becomes of the file that was there."""

import io
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import same

BOTH = pytest.mark.parametrize(
    ("save", "theirs"), [(mmnpz.savez, np.savez), (mmnpz.savez_compressed, np.savez_compressed)]
)
SAVE = pytest.mark.parametrize("save", [mmnpz.savez, mmnpz.savez_compressed])

Save = Callable[..., None]


class Made:
    """An array that is made when it is saved."""

    def __init__(self, make: Callable[[], Any], dtype: str = "i8") -> None:
        self.make = make
        self.dtype = np.dtype(dtype)

    def __array__(self, *_: object, **__: object) -> Any:
        return self.make()


def saved(path: Any) -> dict[str, Any]:
    with np.load(path) as data:
        return dict(data)


@BOTH
def test_the_arrays_are_those_of_numpy(tmp_path: Path, save: Save, theirs: Save) -> None:
    args = (np.arange(12).reshape(3, 4).T, 5, [1.5, 2.5])
    kwds = {"b": "text", "a/c": np.zeros((0, 3), ">i2"), "Größe": np.datetime64("2020-01-01")}
    for file in (tmp_path / "ours", str(tmp_path / "ours.npz"), os.fsencode(tmp_path / "ours")):
        save(file, *args, **kwds)
        theirs(tmp_path / "theirs", *args, **kwds)
        ours, numpys = saved(tmp_path / "ours.npz"), saved(tmp_path / "theirs.npz")
        assert list(ours) == list(numpys)
        for name, array in numpys.items():
            assert same(ours[name], array)
        os.unlink(tmp_path / "ours.npz")


@BOTH
def test_a_file_object(save: Save, theirs: Save) -> None:
    ours, numpys = io.BytesIO(), io.BytesIO()
    save(ours, 1, b=[2, 3])
    theirs(numpys, 1, b=[2, 3])
    for file in (ours, numpys):
        file.seek(0)
    assert list(saved(ours)) == list(saved(numpys)) == ["b", "arr_0"]
    with pytest.raises(ValueError, match='member "a": object arrays'):
        save(io.BytesIO(), a=np.array([None]))


@SAVE
def test_the_arrays_may_be_views_of_the_file(tmp_path: Path, save: Save) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(300_000), b=[1, 2])
    data = mmnpz.load(path)
    arrays = dict(data)
    arrays["b"] = arrays["b"] * 2
    save(path, **arrays, new=np.ones(3))
    assert [array.tolist() for array in list(saved(path).values())[1:]] == [[2, 4], [1, 1, 1]]
    assert np.array_equal(saved(path)["a"], np.arange(300_000))
    # The reader has the old file.
    assert data["b"].tolist() == [1, 2]
    assert np.array_equal(data["a"], np.arange(300_000))
    assert os.listdir(tmp_path) == ["a.npz"]


@SAVE
@pytest.mark.parametrize("wrong", [np.array([None]), np.array(["a", None], object)])
def test_nothing_is_written_if_an_array_cannot_be(tmp_path: Path, save: Save, wrong: Any) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=1)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r'a.npz: member "wrong": .*object') as info:
        save(path, first=np.zeros(1000), wrong=wrong)
    assert "tmp" not in str(info.value).replace(str(tmp_path), "")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.npz"]
    with pytest.raises(ValueError, match="'arr_1'"):
        save(path, 1, 2, arr_1=3)
    assert path.read_bytes() == before


@SAVE
def test_errors_name_the_file_of_the_caller(tmp_path: Path, save: Save) -> None:
    with pytest.raises(FileNotFoundError) as info:
        save(tmp_path / "nowhere" / "a", b=1)
    assert info.value.filename == str(tmp_path / "nowhere" / "a.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(IsADirectoryError) as folder:
        save(tmp_path / "folder", b=1)
    assert folder.value.filename == str(tmp_path / "folder.npz")
    with mmnpz.NpzWriter(tmp_path / "a.npz") as writer:
        writer.write("a", 1)
        with pytest.raises(BlockingIOError) as blocked:
            save(tmp_path / "a", b=1)
        assert blocked.value.filename == str(tmp_path / "a.npz")
    assert sorted(os.listdir(tmp_path)) == ["a.npz", "folder.npz"]
    assert list(saved(tmp_path / "a.npz")) == ["a"]


@SAVE
def test_an_error_of_the_rename_names_the_file(
    tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=1)
    # As where the folder has the sticky bit, and the file is another user's.
    monkeypatch.setattr(os, "replace", lambda new, target: os.rename(new, f"{target}/below"))
    with pytest.raises(OSError, match="directory") as info:
        save(path, a=2)
    assert info.value.filename == str(path)
    assert saved(path)["a"] == 1
    assert os.listdir(tmp_path) == ["a.npz"]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions and symbolic links of POSIX")
@SAVE
def test_the_new_file_has_the_permissions_of_the_old_one(tmp_path: Path, save: Save) -> None:
    path, link = tmp_path / "a.npz", tmp_path / "link.npz"
    link.symlink_to("a.npz")
    umask = os.umask(0)
    os.umask(umask)
    save(link, a=1)  # it leads nowhere yet
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    path.chmod(0o604)
    save(link, a=2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert link.is_symlink()
    assert saved(path)["a"] == 2


KILLED = """
import os, sys
import numpy as np, mmnpz
os.replace = lambda *_: os._exit(9)
getattr(mmnpz, sys.argv[2])(sys.argv[1], a=np.zeros(100_000))
"""


@SAVE
def test_a_kill_leaves_the_old_file(tmp_path: Path, save: Save) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=1)
    before = path.read_bytes()
    child = subprocess.run([sys.executable, "-c", KILLED, str(path), save.__name__], check=False)
    assert child.returncode == 9
    assert path.read_bytes() == before
    save(path, a=2)
    assert saved(path)["a"] == 2


@SAVE
def test_no_writer_opens_a_file_that_is_going_to_be_replaced(tmp_path: Path, save: Save) -> None:
    path = tmp_path / "a.npz"
    refused = []

    def make() -> Any:
        for write in (lambda: mmnpz.NpzWriter(path, "a"), lambda: save(path, b=1)):
            try:
                write()
            except BlockingIOError as error:
                refused.append(error.filename)
        return np.arange(3)

    np.savez(path, old=1)
    save(path, a=Made(make))
    assert refused == [str(path)] * 2
    assert saved(path)["a"].tolist() == [0, 1, 2]
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("more", 1)


@SAVE
def test_a_file_that_a_writer_creates_meanwhile_is_not_replaced(tmp_path: Path, save: Save) -> None:
    path = tmp_path / "a.npz"
    writers = []

    def make() -> Any:
        writers.append(mmnpz.NpzWriter(path))
        return np.arange(3)

    with pytest.raises(BlockingIOError) as info:
        save(path, a=Made(make))
    assert info.value.filename == str(path)
    with writers[0] as writer:
        writer.write("theirs", 1)
    assert list(saved(path)) == ["theirs"]
    assert os.listdir(tmp_path) == ["a.npz"]


@SAVE
def test_arrays_are_made_one_at_a_time(tmp_path: Path, save: Save) -> None:
    alive = set[int]()
    most = 0

    class Large(np.ndarray):
        def __del__(self) -> None:
            alive.discard(id(self))

    def make() -> Any:
        nonlocal most
        array = np.zeros(1000, "u1").view(Large)
        alive.add(id(array))
        most = max(most, len(alive))
        return array

    save(tmp_path / "a", **{f"a{number}": Made(make, "u1") for number in range(20)})
    assert most <= 2
    assert len(saved(tmp_path / "a.npz")) == 20


@SAVE
def test_the_working_folder_may_change_meanwhile(
    tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> Any:
        os.chdir("/")
        return np.arange(3)

    monkeypatch.chdir(tmp_path)
    save("a.npz", a=Made(make))
    assert saved(tmp_path / "a.npz")["a"].tolist() == [0, 1, 2]
    assert os.listdir(tmp_path) == ["a.npz"]


def test_an_interrupt_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=1)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mmnpz.NpzWriter, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mmnpz.savez(path, a=2)
    assert saved(path)["a"] == 1
    assert os.listdir(tmp_path) == ["a.npz"]


def test_what_is_stored_is_aligned_and_indexed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    mmnpz.savez(path, a=np.arange(5), b=np.arange(6))
    data = mmnpz.load(path)
    assert [view.ctypes.data % 64 for view in data.values()] == [0, 0]
    assert data.verify() == []
    with mmnpz.NpzWriter(path, "a") as writer:
        writer.write("c", 1)
    assert mmnpz.load(path).files == ["a", "b", "c"]
