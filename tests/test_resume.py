"""The job in examples/resume.py writes the same data set whether it is killed and started again or not."""

import random
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import pytest

import mmnpz
from tests.archives import same

EXAMPLE = Path(__file__).parents[1] / "examples" / "resume.py"
ITEMS = 3000
KILLS = 10

pytestmark = [
    pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples are not here"),
    pytest.mark.thread_unsafe(reason="has processes of its own, and records what they do"),
]


def start(path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, str(EXAMPLE), str(path), str(ITEMS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def items(path: Path) -> set[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return set(mmnpz.load(path).files)
        except (FileNotFoundError, zipfile.BadZipFile):
            return set()


def test_killed_ten_times(tmp_path: Path) -> None:
    chance = random.Random(3)
    path = tmp_path / "killed.npz"
    seen: set[str] = set()
    for number in range(KILLS):
        with start(path) as process:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said.startswith(f"{len(seen)} of {ITEMS}")
            # Kill the job when its file has `goal` items. On a busy machine the job may run far beyond that.
            goal = (number + 1) * ITEMS // (2 * KILLS)
            while process.poll() is None and len(items(path)) < goal:
                time.sleep(chance.uniform(0, 0.002))
            process.kill()
        now = items(path)
        assert now >= seen
        seen = now
    assert seen
    for target in (path, tmp_path / "other.npz"):
        with start(target) as process:
            assert process.wait() == 0
    killed, other = mmnpz.load(path), mmnpz.load(tmp_path / "other.npz")
    assert set(killed.files) == set(other.files) == {f"item/{number}" for number in range(ITEMS)}
    assert all(same(killed[name], other[name]) for name in other.files)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert len(file.namelist()) == ITEMS
