"""NumPy's own tests of `numpy.load` pass where mmnpz reads the ``.npz`` files."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import NumpyVersion

MODULES = ("numpy.lib.tests.test_io", "numpy.lib.tests.test_format")

CANNOT_APPLY = {
    "test_closing_zipfile_after_load": "looks at `zip` and `fid`, which a reader does not have",
    "test_repr_lists_keys": "the repr has the name of NumPy's class",
    "test_pickle_python2_python3": "unpickles objects",
    "test_huge_header_npz": "the error is a ValueError, too, in other words: it names file and member",
}

# It takes half a minute, and reads no file.
ONLY_WRITES = "test_large_zip"


@pytest.mark.skipif(
    NumpyVersion(np.__version__) < "2.0.0", reason="NumPy 1's own tests do not run with today's Hypothesis"
)
@pytest.mark.thread_unsafe(reason="runs a process for a minute")
@pytest.mark.parametrize("mode", [{"MMNPZ_MODE": "r"}, {}], ids=["r", "None"])
@pytest.mark.timeout(600)
def test_what_numpy_asks_of_its_reader(mode: dict[str, str]) -> None:
    root = Path(__file__).parent.parent
    # Not by the options of this project: NumPy's tests have their own.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.numpy_load", "-p", "no:cacheprovider"]
    chosen = ["--pyargs", *MODULES, "-k", f"not {ONLY_WRITES}"]
    done = subprocess.run(
        [*command, "--rootdir", str(Path(__file__).parent / "data"), "-o", "addopts=", *chosen],
        cwd=Path(__file__).parent / "data",
        env={**os.environ, "PYTHONPATH": str(root), **mode},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    failed = set(re.findall(r"^(?:FAILED|ERROR) .*?::(test_\w+)", done.stdout, re.MULTILINE))
    assert failed <= set(CANNOT_APPLY), done.stdout[-5000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout + done.stderr
    assert int(passed[1]) > 200
    read = re.search(r"mmnpz read (\d+) files", done.stdout)
    assert read is not None
    assert int(read[1]) > 20
