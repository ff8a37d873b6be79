"""A plugin of pytest: `numpy.load` has mmnpz read ``.npz`` files."""

import os
from typing import Any

import numpy as np
import pytest

import mmnpz

MODE: Any = os.environ.get("MMNPZ_MODE")
"""How files are read where the test does not say."""

numpy_load = np.load
read: list[str] = []


def load(file: Any, mmap_mode: Any = None, *args: Any, **options: Any) -> Any:
    if isinstance(file, str | bytes | os.PathLike) and os.fsdecode(file).endswith(".npz"):
        read.append(os.fsdecode(file))
        return mmnpz.load(file, mmap_mode or MODE, *args, **options)
    return numpy_load(file, mmap_mode, *args, **options)


def pytest_configure() -> None:
    np.load = load


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"mmnpz read {len(read)} files")
