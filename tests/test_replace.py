"""Mode "w" replaces an existing file: readers keep their data; symbolic links, owner and permissions stay."""

import os
import stat
import struct
import subprocess
import textwrap
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
    assert data["x"].sum() == 1_000_000  # SIGBUS if the writer had truncated the file


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


root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")


@root
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o4755])
def test_the_owner_stays(archive: Path, mode: int, tmp_path: Path) -> None:
    archive = own_copy(archive, tmp_path)
    os.chown(archive, 1234, 2345)
    archive.chmod(mode)
    with mmnpz.NpzWriter(archive, "w") as writer:
        writer.write("x", 1)
    found = archive.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 2345, mode)


def as_nobody(script: str, folder: Path) -> None:
    """Run a script in a folder, as a user who owns no files and is in no group."""
    # Import the packages as root: the user may not be allowed to read them.
    run_python(
        "import os, numpy as np, mmnpz\nos.setgroups([])\nos.setegid(65534)\nos.seteuid(65534)\n"
        + textwrap.dedent(script),
        cwd=folder,
    )


@root
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_a_file_whose_owner_cannot_stay_gets_no_more_rights(archive: Path, tmp_path: Path) -> None:
    archive = own_copy(archive, tmp_path)
    tmp_path.chmod(0o777)
    os.chown(archive, 1234, 2345)
    archive.chmod(0o4666 | 0o070)
    as_nobody(f"mmnpz.NpzWriter({archive.name!r}, 'w').close()", tmp_path)
    found = archive.stat()
    assert (found.st_uid, found.st_gid) == (65534, 65534)
    # The file has no set-user-ID bit, and its new group has only the rights of others.
    assert stat.S_IMODE(found.st_mode) == 0o666


@posix
def test_attributes_stay(archive: Path, tmp_path: Path) -> None:
    archive = own_copy(archive, tmp_path)
    # An access control list of version 2: the owner, user 1234 and the mask may read and write, the group may
    # read, others nothing.
    entries = [(1, 6, -1), (2, 6, 1234), (4, 4, -1), (16, 6, -1), (32, 0, -1)]
    listed = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    attributes = {"user.source": b"sensor 7", "system.posix_acl_access": listed}
    try:
        for name, value in attributes.items():
            os.setxattr(archive, name, value)
    except (AttributeError, OSError) as error:
        pytest.skip(f"no attributes here: {error}")
    mode = archive.stat().st_mode
    mmnpz.NpzWriter(archive, "w").close()
    assert {name: os.getxattr(archive, name) for name in attributes} == attributes
    assert archive.stat().st_mode == mode


SCRIPT = """
    data = mmnpz.load("archive.npz")
    old = data["old"]
    number = os.stat("archive.npz").st_ino
    with mmnpz.NpzWriter("archive.npz", "w") as writer:
        assert not old.any()  # the reader sees zeros: neither the old values, nor SIGBUS
        for name in ("x", "y"):
            writer.write(name, np.arange(1000))
    assert os.stat("archive.npz").st_ino == number
"""


def check_in_place(path: Path) -> None:
    """Check the file that `SCRIPT` has overwritten."""
    with np.load(path) as found:
        assert sorted(found.files) == ["x", "y"]
        assert all(np.array_equal(found[name], np.arange(1000)) for name in found.files)
    assert [*path.parent.iterdir()] == [path]
    assert not mmnpz.repair(path).changed
    # Without a directory, the recovery finds no member of the old file.
    raw = path.read_bytes()
    path.write_bytes(raw[: raw.rindex(b"PK\5\6")])
    with pytest.warns(UserWarning, match="no complete directory"):
        assert sorted(mmnpz.load(path).files) == ["x", "y"]


@root
@pytest.mark.thread_unsafe(reason="works in a process of its own")
@pytest.mark.parametrize("folder_mode", [0o755, 0o1777], ids=["folder of another", "sticky folder"])
def test_a_file_that_cannot_be_replaced_is_overwritten(folder_mode: int, tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer.write("old", np.ones(300_000))
        writer.write("small", np.ones(3))
    path.chmod(0o666)
    tmp_path.chmod(folder_mode)
    as_nobody(SCRIPT, tmp_path)
    check_in_place(path)


@root
@pytest.mark.thread_unsafe(reason="mounts a file")
@pytest.mark.parametrize("size", [3, 300_000])
def test_a_file_that_is_a_mount_point_is_overwritten(size: int, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    source, path = tmp_path / "source.npz", folder / "archive.npz"
    with mmnpz.NpzWriter(source) as writer:
        writer.write("old", np.ones(size))
    path.touch()
    if subprocess.run(["mount", "--bind", source, path], check=False, capture_output=True).returncode:
        pytest.skip("this process may not mount")
    try:
        run_python("import os, numpy as np, mmnpz\n" + textwrap.dedent(SCRIPT), cwd=folder)
    finally:
        subprocess.run(["umount", path], check=True)
    path.unlink()
    source.rename(path)
    check_in_place(path)


@posix
def test_hard_links_keep_the_old_file(archive: Path, tmp_path: Path) -> None:
    archive = own_copy(archive, tmp_path)
    before = archive.read_bytes()
    os.link(archive, tmp_path / "link.npz")
    mmnpz.NpzWriter(archive, "w").close()
    assert (tmp_path / "link.npz").read_bytes() == before
    assert np.load(archive).files == []


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
    """A writer refuses a file that it may not write, even if it may replace files in the folder."""
    before = archive.read_bytes()
    archive.chmod(0o444)
    archive.parent.chmod(0o777)
    run_python(
        """
        import os
        import mmnpz
        if os.geteuid() == 0:  # root may write everything
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


@root
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_the_default_access_control_list_of_the_folder_does_not_apply(archive: Path, tmp_path: Path) -> None:
    archive = own_copy(archive, tmp_path)
    archive.chmod(0o640)
    entries = [(1, 7, -1), (2, 7, 1234), (4, 7, -1), (16, 7, -1), (32, 0, -1)]
    listed = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(tmp_path, "system.posix_acl_default", listed)
    except (AttributeError, OSError) as error:
        pytest.skip(f"no access control lists here: {error}")
    mmnpz.NpzWriter(archive, "w").close()
    assert "system.posix_acl_access" not in os.listxattr(archive)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o640


@posix
def test_a_file_without_a_name_begins_anew(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files have no paths here")
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for name in ("old1", "old2"):
            writer.write(name, np.ones(1000))
    with path.open("r+b") as file:
        path.unlink()
        name = f"/proc/self/fd/{file.fileno()}"
        with mmnpz.NpzWriter(name, "w") as writer:
            writer.write("new", 1)
        raw = file.read()
    assert b"old" not in raw
    path.write_bytes(raw)
    assert np.load(path).files == ["new"]
