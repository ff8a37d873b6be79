"""Other programs read mmnpz files without a warning."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz
from tests.archives import npy, same

pytestmark = pytest.mark.thread_unsafe(reason="works in processes of their own")

PLAIN = {
    name: np.arange(number * 7, dtype="<i4")
    for number, name in enumerate(["a", "folder/b", "c" * 100, "d d"])
}


def tool(*names: str) -> str:
    """Return the path of the first program that is installed. If none is, skip the test, or fail in CI."""
    for name in names:
        if found := shutil.which(name):
            return found
    if os.environ.get("CI") == "true":
        pytest.fail(f"{names[0]} is not installed")
    pytest.skip(f"{names[0]} is not installed")


@pytest.fixture(params=[1, 64, 4096, 32768])
def mmnpz_file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "ours.npz"
    with mmnpz.NpzWriter(path, align=request.param) as writer:
        for name, array in PLAIN.items():
            writer.write(name, array)
    with mmnpz.NpzWriter(path, "a", align=request.param) as writer:
        writer.write("ünï", np.ones((300, 400)))
    return path


def run(*command: Any) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower(), done.stdout + done.stderr
    return done.stdout


def test_numpy(mmnpz_file: Path) -> None:
    with np.load(mmnpz_file) as data:
        assert data.files == [*PLAIN, "ünï"]
        for name, array in PLAIN.items():
            assert same(data[name], array)
        assert data["ünï"].sum() == 120_000


def test_zipfile(mmnpz_file: Path) -> None:
    with zipfile.ZipFile(mmnpz_file) as file:
        assert file.testzip() is None
        for name, array in PLAIN.items():
            with file.open(f"{name}.npy") as member:
                assert member.read() == npy(array)


def test_python_m_zipfile(mmnpz_file: Path) -> None:
    run(sys.executable, "-m", "zipfile", "-t", mmnpz_file)


def test_info_zip(mmnpz_file: Path, tmp_path: Path) -> None:
    unzip = tool("unzip")
    assert "No errors detected" in run(unzip, "-t", mmnpz_file)
    run(unzip, "-q", mmnpz_file, "-d", tmp_path / "out")
    for name, array in PLAIN.items():
        assert (tmp_path / "out" / f"{name}.npy").read_bytes() == npy(array)


def test_zip_tests_and_adds(mmnpz_file: Path, tmp_path: Path) -> None:
    program = tool("zip")
    run(program, "-T", mmnpz_file)
    np.save(tmp_path / "new.npy", np.arange(5))
    subprocess.run([program, "-q", "-0", mmnpz_file, "new.npy"], cwd=tmp_path, check=True, timeout=60)
    data = mmnpz.load(mmnpz_file)
    assert data["new"].tolist() == [0, 1, 2, 3, 4]
    assert all(same(data[name], array) for name, array in PLAIN.items())


def test_7_zip(mmnpz_file: Path) -> None:
    assert "Everything is Ok" in run(tool("7z", "7zz", "7za"), "t", mmnpz_file)


def test_libarchive(mmnpz_file: Path) -> None:
    assert len(run(tool("bsdtar"), "-tf", mmnpz_file).splitlines()) == 5


def test_info_zip_of_more_members_than_16_bits_count(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        for number in range(66_000):
            writer.write(f"{number}", np.uint8(1))
    assert "No errors detected" in run(tool("unzip"), "-tq", path)


@pytest.mark.parametrize("options", [(), ("-9",), ("-0", "-fz"), ("-0", "-j")], ids=str)
def test_archives_of_info_zip(tmp_path: Path, options: tuple[str, ...]) -> None:
    program = tool("zip")
    stored = np.random.default_rng(0).integers(0, 255, 1000).astype("u1")
    (tmp_path / "sub").mkdir()
    np.save(tmp_path / "sub" / "noise.npy", stored)
    (tmp_path / "sub" / "text.txt").write_text("hello " * 100)
    subprocess.run([program, "-q", "-r", *options, "a.npz", "sub"], cwd=tmp_path, check=True, timeout=60)
    data = mmnpz.load(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "a.npz") as file:
        assert data.files == [name[:-4] for name in file.namelist() if name.endswith(".npy")]
        assert all(
            data[name] == file.read(name)
            for name in file.namelist()
            if name not in {"sub/noise.npy", "noise.npy"}
        )
    assert all(same(view, stored) for view in data.values())


def test_a_streamed_archive_of_info_zip(tmp_path: Path) -> None:
    program = tool("zip")
    np.save(tmp_path / "x.npy", np.arange(50))
    with (tmp_path / "a.npz").open("wb") as out:
        done = subprocess.run(
            [program, "-q", "-0", "-", "x.npy"], cwd=tmp_path, stdout=subprocess.PIPE, check=True, timeout=60
        )
        out.write(done.stdout)  # zip writes data descriptors to a pipe
    assert mmnpz.load(tmp_path / "a.npz")["x"].tolist() == list(range(50))
