"""A writer that is really killed at a random moment loses no array whose `write` has returned.

Other writers append to the same file, and are killed too. `MMNPZ_KILLS` is the number of kills.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pytest

import mmnpz
from tests import sequential
from tests.archives import npy, same
from tests.faults import promise
from tests.faults.victim import array_of
from tests.processes import fork

KILLS = int(os.environ.get("MMNPZ_KILLS", "100"))
# The number of kills of one file. Each check reads the whole file, so the files must not get long.
LIVES = 12

pytestmark = [
    pytest.mark.thread_unsafe(reason="has processes of its own, and records what they do"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
    pytest.mark.timeout(120 + KILLS),
]


class Victims:
    """Starts writer processes and kills them."""

    def __init__(self) -> None:
        script = Path(promise.__file__).with_name("victim.py")
        self.process = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.stdin = cast("IO[str]", self.process.stdin)
        self.stdout = cast("IO[str]", self.process.stdout)

    def run(self, path: Path, report: Path, mode: str, names: list[str], seed: int, delay: float) -> int:
        """Kill a writer `delay` seconds after it has opened its file, and return its exit status."""
        report.write_text("")
        request = {"path": str(path), "report": str(report), "mode": mode, "names": names, "seed": seed}
        self.stdin.write(json.dumps(request) + "\n")
        self.stdin.flush()
        process = int(self.stdout.readline())
        give_up = time.monotonic() + 60
        while not report.stat().st_size and time.monotonic() < give_up:
            time.sleep(0.0005)
            if delay < 0.001:
                break  # with a very short delay, kill the writer while it opens the file
        time.sleep(delay)
        os.kill(process, signal.SIGKILL)
        self.stdin.write("\n")
        self.stdin.flush()
        return int(self.stdout.readline())

    def stop(self) -> None:
        self.stdin.close()
        self.process.wait()
        self.stdout.close()


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    victims = Victims()
    yield victims
    victims.stop()


def check_at_once(path: Path, names: list[str]) -> None:
    """Check that `load` finds the members before any repair."""
    if not names:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = mmnpz.load(path)
    for name in names:
        promise.TRIED["members looked for"] += 1
        assert name in data, f"{name} is lost"
        assert same(data[name], array_of(name)), f"{name} is wrong"
    for name in data.files:
        assert same(data[name], array_of(name)), f"{name} was not finished and is wrong"


def check_whole(path: Path, names: list[str]) -> None:
    """Check that zipfile, a reader without directory, and mmnpz find the members after a repair."""
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        there = file.namelist()
        for name in names:
            assert file.read(f"{name}.npy") == npy(array_of(name)), f"{name} is wrong"
    # A program that goes from local header to local header finds the same members.
    assert {f"{name}.npy" for name in sequential.walk(path)[0]} == set(there)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sorted(f"{name}.npy" for name in mmnpz.load(path).files) == sorted(there)


def check_partial(path: Path, names: list[str]) -> None:
    """Check a repair of a copy that keeps the rows of streams."""
    copy = path.with_suffix(".copy.npz")
    shutil.copyfile(path, copy)
    report = mmnpz.repair(copy, keep_partial=True)
    for array in report.partial:
        promise.TRIED["streams that were kept"] += 1
        assert same(mmnpz.load(copy)[array.name], array_of(array.stream)[: array.rows]), array
    data = mmnpz.load(copy)
    assert data.verify() == []
    for name in names:
        assert same(data[name], array_of(name)), f"{name} is wrong"
    copy.unlink()


def test_killed_again_and_again(victims: Victims, tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("MMNPZ_SEED", "1")))
    report = tmp_path / "report"
    path, names = tmp_path / "0.npz", list[str]()
    for number in range(KILLS):
        if number % LIVES == 0:
            path.unlink(missing_ok=True)
            path, names = tmp_path / f"{number}.npz", []
        mode = "a" if path.exists() else chance.choice("xwa")
        # Short delays, because most writes take less than a millisecond.
        delay = chance.choice([0, chance.uniform(0, 0.003), chance.uniform(0, 0.02), chance.uniform(0, 0.06)])
        status = victims.run(path, report, mode, names, number, delay)
        assert status in {0, int(signal.SIGKILL)}, f"the writer ended with {status}, see its standard error"
        promise.TRIED["writers killed"] += status != 0
        names += report.read_text().split()
        if not path.exists():
            assert not names
            continue
        check_at_once(path, names)
        if chance.random() < 0.5:
            check_partial(path, names)
        if chance.random() < 0.3:
            mmnpz.repair(path)
            check_whole(path, names)


def test_three_kills_of_one_numpy_file(tmp_path: Path) -> None:
    """Three kills lose no array that NumPy wrote.

    The first kill can come while mmnpz copies NumPy's directory. The others come while members overwrite the
    directory of mmnpz, and after that.
    """
    chance = random.Random(int(os.environ.get("MMNPZ_SEED", "1")))
    old: dict[str, Any] = {f"old{number}": np.arange(number % 50) for number in range(100)}
    path = tmp_path / "a.npz"

    def append(name: str, size: int, seconds: float | None) -> None:
        def work() -> None:
            warnings.simplefilter("ignore")
            writer = mmnpz.NpzWriter(path, "a")
            writer.write(name, np.arange(size))
            writer.close()

        process = fork(work)
        if seconds is not None:
            time.sleep(chance.random() * seconds)
            os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        assert status in {0, int(signal.SIGKILL)}, f"the writer ended with {status}, see its standard error"
        promise.TRIED["writers killed"] += status != 0

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(KILLS):
            np.savez(path, **old)
            append("first", 3, 0.02)
            append("second", 3, None)
            append("third", 5000, 0.01)
            mmnpz.repair(path)
            append("fourth", 5000, 0.01)
            data = mmnpz.load(path)
            lost = {name for name in old if name not in data or not same(data[name], old[name])}
            assert not lost, sorted(lost)[:5]
            data.close()
