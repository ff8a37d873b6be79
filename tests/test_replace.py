"""Mode "w" on a file that is there: readers keep their data, links and permissions stay."""

import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import own_copy, same
from tests.processes import run_python

posix = pytest.mark.skipif(os.name != "posix", reason="links, permissions and FIFOs of POSIX")


def test_readers_keep_their_data(archive: Path, arrays: dict[str, Any], tmp_path: Path) -> None:
    archive = own_copy(archive, tmp_path)
    data = mmnpz.load(archive)
    data["matrix"]
    with mmnpz.NpzWriter(archive, "w") as writer:
        for name in ("matrix", "a", "b"):
            writer.write(name, np.zeros(100_000))
        for name, array in arrays.items():
            assert same(data[name], array)
    assert data.files == list(arrays)
    assert mmnpz.load(archive).files == ["matrix", "a", "b"]


def test_readers_keep_their_data_when_less_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.ones(1_000_000))
    data = mmnpz.load(path)
    mmnpz.NpzWriter(path, "w").close()
    assert data["x"].sum() == 1_000_000  # a truncated file would end the process here


def test_an_archive_can_be_rewritten_from_itself(
    archive: Path, arrays: dict[str, Any], tmp_path: Path
) -> None:
    archive = own_copy(archive, tmp_path)
    data = mmnpz.load(archive)
    with mmnpz.NpzWriter(archive, "w") as writer:
        for name, array in data.items():
            writer.write(name, array)
    again = mmnpz.load(archive)
    for name, array in arrays.items():
        assert same(again[name], array)


def test_nothing_is_left_beside_the_file(tmp_path: Path) -> None:
    archive = tmp_path / "archive.npz"
    for number in range(3):
        with mmnpz.NpzWriter(archive, "w") as writer:
            writer.write("x", number)
            assert [path.name for path in archive.parent.iterdir()] == [archive.name]
    assert np.load(archive)["x"] == 2


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755, 0o200])
def test_permission_bits_stay(archive: Path, mode: int, tmp_path: Path) -> None:
    archive = own_copy(archive, tmp_path)
    archive.chmod(mode)
    with mmnpz.NpzWriter(archive, "w") as writer:
        writer.write("x", 1)
    assert stat.S_IMODE(archive.stat().st_mode) == mode


@posix
def test_new_files_get_the_permissions_that_open_gives(tmp_path: Path) -> None:
    (tmp_path / "plain").open("w").close()
    modes: list[Any] = ["x", "w", "a"]
    for mode in modes:
        mmnpz.NpzWriter(tmp_path / mode, mode).close()
        assert (tmp_path / mode).stat().st_mode == (tmp_path / "plain").stat().st_mode


@posix
@pytest.mark.parametrize("mode", ["w", "a"])
@pytest.mark.parametrize("relative", [False, True])
def test_symbolic_links_are_followed(tmp_path: Path, archive: Path, mode: Any, relative: bool) -> None:
    archive = own_copy(archive, tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    link = folder / "link.npz"
    link.symlink_to(Path("..") / archive.name if relative else archive)
    second = tmp_path / "second.npz"
    second.symlink_to(link)
    with mmnpz.NpzWriter(second, mode) as writer:
        writer.write("new", 1)
    assert link.is_symlink()
    assert second.is_symlink()
    assert not archive.is_symlink()
    assert mmnpz.load(archive)["new"] == 1
    assert mmnpz.load(second)["new"] == 1
    assert [path.name for path in folder.iterdir()] == ["link.npz"]


@posix
@pytest.mark.parametrize("mode", ["w", "a"])
def test_a_dangling_link_creates_its_target(tmp_path: Path, mode: Any) -> None:
    link = tmp_path / "link.npz"
    link.symlink_to("target.npz")
    with mmnpz.NpzWriter(link, mode) as writer:
        writer.write("new", 1)
    assert link.is_symlink()
    assert np.load(tmp_path / "target.npz")["new"] == 1


@posix
def test_x_does_not_follow_a_dangling_link(tmp_path: Path) -> None:
    link = tmp_path / "link.npz"
    link.symlink_to("target.npz")
    with pytest.raises(FileExistsError):
        mmnpz.NpzWriter(link)
    assert not (tmp_path / "target.npz").exists()


@posix
@pytest.mark.parametrize("mode", ["w", "a", "x"])
def test_special_files_are_refused_and_stay(tmp_path: Path, mode: Any) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises((OSError, ValueError, zipfile.BadZipFile), match="fifo"):
        mmnpz.NpzWriter(fifo, mode)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert list(tmp_path.iterdir()) == [fifo]


@posix
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_what_may_not_be_written_is_not_replaced(archive: Path) -> None:
    """Not even where the folder would allow it."""
    before = archive.read_bytes()
    archive.chmod(0o444)
    archive.parent.chmod(0o777)
    run_python(
        """
        import os
        import mmnpz
        if os.geteuid() == 0:  # who may write everything
            os.setegid(65534)
            os.seteuid(65534)
        for mode in ("w", "a"):
            try:
                mmnpz.NpzWriter("archive.npz", mode)
            except PermissionError as error:
                assert "archive.npz" in str(error)
            else:
                raise AssertionError(mode)
        """,
        cwd=archive.parent,
    )
    assert archive.read_bytes() == before
    assert len(list(archive.parent.iterdir())) == 1
