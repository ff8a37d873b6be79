"""A kill or a power failure at any moment loses no array that mmnpz has promised to keep.

The tests record scenarios, and check the states in which a kill or a power failure can leave their files.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.faults.disk import State
from tests.faults.explore import LARGE_STATES, THOROUGH, Explorer
from tests.faults.promise import Base, Judge, Knowledge
from tests.faults.recorder import Operation, Recorder, why_not
from tests.faults.scenarios import (
    BASES,
    FRESH,
    LARGE,
    Script,
    append,
    append_and_flush,
    append_and_move,
    append_and_move_at_once,
    append_large,
    append_many,
    append_once,
    append_sessions,
    noise,
    replace,
)

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.thread_unsafe(reason="has processes of its own, and records what they do"),
]


@pytest.fixture
def explorer(recorder: Recorder) -> Iterator[Explorer]:
    # The tests write thousands of states: use a file system in memory if there is one.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield Explorer(recorder, folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", FRESH)
def test_killed_while_writing_a_new_file(explorer: Explorer, name: str) -> None:
    delay = 500 if "threads" in name else 0
    explorer.kill(None, FRESH[name], delay=delay).conclude()


@pytest.mark.parametrize("base", BASES)
def test_killed_while_appending(explorer: Explorer, base: str) -> None:
    explorer.kill(BASES[base](), append).conclude()


@pytest.mark.parametrize("base", ["ours", "ours, with room", "savez"])
def test_killed_while_appending_a_large_array(explorer: Explorer, base: str) -> None:
    explorer.kill(BASES[base](), append_large).conclude()


@pytest.mark.parametrize("base", ["ours", "ours, with room", "ours, with room, renamed", "streamed"])
def test_killed_while_appending_again_and_again(explorer: Explorer, base: str) -> None:
    explorer.kill(BASES[base](), append_sessions).conclude()


def test_killed_while_repairing_a_file_with_only_a_begun_member_behind_zeros(explorer: Explorer) -> None:
    """A killed repair loses nothing of a file that has zeros, and then a local header of a begun member.

    Such a file is left if one thread has begun a member, and another has not written anything in front of it.
    """
    script = Script(explorer.path).open("x").write("first", noise(2_000_000)).write("begun", noise(1_200_000))
    _, events, _ = explorer.record(None, script.close())
    writes = [event for event in events if event.operation is Operation.WRITE and not event.is_end]
    begun = next(event for event in writes if b"begun.npy" in event.data)
    state = State(bytes(begun.offset) + begun.data + b"data" * 2000, 0, "begun")
    judge = Judge(explorer.work, Base())
    for number in range(2):
        explorer.kill_again(judge, state, Knowledge(), number)
    judge.conclude()


@pytest.mark.parametrize("base", ["ours", "savez"])
def test_killed_while_replacing(explorer: Explorer, base: str) -> None:
    explorer.kill(BASES[base](), replace).conclude()


@pytest.mark.parametrize("name", FRESH)
def test_power_failures_while_writing_a_new_file(explorer: Explorer, name: str) -> None:
    # The states of a scenario with large arrays have megabytes each: check fewer of them.
    most = 60 * THOROUGH if "large" in name else None
    explorer.power(None, FRESH[name], sync=True, most=most).conclude()


@pytest.mark.parametrize(("name", "seed"), [("flushes", 1), ("stream", 3), ("streams", 1)])
def test_power_failures_after_a_sync(explorer: Explorer, name: str, seed: int) -> None:
    explorer.power(None, FRESH[name], seed=seed, most=300 if "stream" in name else None).conclude()


@pytest.mark.parametrize("base", BASES)
def test_power_failures_while_appending(explorer: Explorer, base: str) -> None:
    explorer.power(BASES[base](), append, sync=True).conclude()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("base", ["ours, with room", "ours, with room, renamed"])
def test_power_failures_while_appending_again_and_again(explorer: Explorer, base: str, seed: int) -> None:
    """The seal of a directory that stops growing in place says so before the directory is overwritten.

    One of about a thousand states tells a wrong order of these writes.
    """
    explorer.power(BASES[base](), append_sessions, sync=True, seed=seed).conclude()


@pytest.mark.parametrize("base", ["ours", "ours, with room"])
@pytest.mark.parametrize("build", [append_once, append_and_flush])
def test_power_failures_without_sync_spare_what_was_on_the_disk(
    explorer: Explorer, build: Callable[..., None], base: str
) -> None:
    explorer.power(BASES[base](), build).conclude()


@pytest.mark.parametrize("base", ["ours", "savez"])
def test_power_failures_while_replacing(explorer: Explorer, base: str) -> None:
    explorer.power(BASES[base](), replace, sync=True).conclude()


# Scripts that append to an archive with a directory of more than 64 KiB. mmnpz reads only parts of such a
# directory. It adds entries in place, or moves the directory.
INTO_LARGE = [
    append_once, append_sessions, append_and_flush, append_many, append_and_move, append_and_move_at_once,
]  # fmt: skip


@cache
def large(base: str) -> bytes:
    return LARGE[base]()


@pytest.mark.parametrize("base", LARGE)
@pytest.mark.parametrize("build", INTO_LARGE)
def test_killed_while_appending_to_a_large_archive(
    explorer: Explorer, build: Callable[..., None], base: str
) -> None:
    explorer.kill(large(base), build, second=THOROUGH > 1, most=LARGE_STATES).conclude()


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("base", LARGE)
@pytest.mark.parametrize("build", INTO_LARGE)
def test_power_failures_while_appending_to_a_large_archive(
    explorer: Explorer, build: Callable[..., None], base: str, sync: bool
) -> None:
    """A power failure loses no member that was on the disk before, and with `sync` no array at all."""
    explorer.power(large(base), build, sync=sync, most=LARGE_STATES).conclude()
