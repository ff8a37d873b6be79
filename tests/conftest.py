"""Fixtures for all tests, and the Hypothesis profile."""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tests.archives import npy
from tests.faults import promise
from tests.faults.recorder import Recorder, compile_shim

settings.register_profile(
    "mmnpz",
    max_examples=int(os.environ.get("MMNPZ_EXAMPLES", "100")),
    deadline=None,
    derandomize="CI" in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.load_profile("mmnpz")


@pytest.fixture(scope="module")
def new_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A function that returns another unused path at each call, also inside a Hypothesis test."""
    folder = tmp_path_factory.mktemp("new")
    numbers = itertools.count()
    return lambda: folder / f"{next(numbers)}.npz"


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    """A process that runs scenarios, and records what they do with files."""
    folder = tmp_path_factory.mktemp("shim")
    recorder = Recorder(compile_shim(folder), folder)
    yield recorder
    recorder.stop()


@pytest.fixture
def arrays() -> dict[str, Any]:
    """Arrays that differ in dtype, number of axes and memory order, by name."""
    return {
        "matrix": np.arange(12, dtype="<f8").reshape(3, 4),
        "fortran": np.asfortranarray(np.arange(12, dtype="<i4").reshape(3, 4)),
        "scalar": np.array(2.5, dtype="<f4"),
        "empty": np.zeros((0, 5), dtype="<c16"),
        "folder/big": np.arange(5, dtype=">i8"),
        "täxt": np.array(["äö", "x"]),
        "": np.array([True, False]),
        "table": np.array([(1, 2.5), (3, -1.0)], dtype=[("a", "<i2"), ("b", "<f8")]),
    }


@pytest.fixture
def archive(tmp_path: Path, arrays: dict[str, Any]) -> Path:
    """An archive of `arrays` that zipfile wrote."""
    path = tmp_path / "archive.npz"
    with zipfile.ZipFile(path, "w") as file:
        for name, array in arrays.items():
            file.writestr(name + ".npy", npy(array))
    return path


@pytest.fixture
def memory() -> Iterator[Path]:
    """The root of a file system in memory that holds two megabytes."""
    folder = Path(tempfile.mkdtemp())
    problem = "there is no mount"
    if shutil.which("mount"):
        command = ["mount", "-t", "tmpfs", "-o", "size=2m", "mmnpz-test", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        problem = done.stderr if done.returncode else ""
    if problem:
        folder.rmdir()
        if sys.platform == "linux" and os.environ.get("CI") == "true" and os.geteuid() == 0:
            pytest.fail(f"a small file system cannot be mounted: {problem}")
        pytest.skip(f"a small file system cannot be mounted: {problem}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
    folder.rmdir()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts of the durability tests."""
    if promise.TRIED:
        terminalreporter.section("what was killed and torn")
        for line in promise.summary():
            terminalreporter.write_line(line)
