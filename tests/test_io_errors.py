"""An error at any operation, a full disk or a limit loses no array whose `write` has returned."""

import errno
import os
import shutil
import subprocess
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mmnpz
from tests.archives import same
from tests.faults.disk import Files, partly, states_after_kill
from tests.faults.explore import THOROUGH, Explorer
from tests.faults.promise import Base, Judge, by_numpy, facts
from tests.faults.recorder import Action, Event, KilledError, Operation, Plan, Recorder, why_not
from tests.faults.scenarios import BASES, Script, append, many, noise, replace, update
from tests.processes import run_python

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.thread_unsafe(reason="has processes of its own, and records what they do"),
]


@pytest.fixture
def explorer(recorder: Recorder, tmp_path: Path) -> Explorer:
    return Explorer(recorder, tmp_path)


def writing(script: Script, **options: Any) -> None:
    script.open("x", **options).write("a", noise(500)).flush().write("b", noise(80_000)).write("c", 1)
    script.flush(sync=True).write("large", noise(1_300_000)).write("d", noise(10)).close().close().close()


PROGRAMS: dict[str, tuple[str | None, Callable[..., None]]] = {
    "new": (None, writing),
    "update": (None, update),
    "ours": ("ours", append),
    "savez": ("savez", append),
    "replaced": ("ours", replace),
}


def count_operations(
    explorer: Explorer, content: bytes | None, build: Callable[..., None], **options: Any
) -> int:
    """Return the number of operations of a script that runs without errors."""
    script = Script(explorer.path)
    build(script, **options)
    _, events, outcomes = explorer.record(content, script)
    assert not any(outcomes)
    return max(event.number for event in events if event.operation is not Operation.NOTE) + 1


def exceptions_of(outcomes: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield the exceptions among the outcomes of the steps, those of threads included."""
    for outcome in outcomes:
        yield from outcome if isinstance(outcome, list) else [outcome] if outcome else []


def check(
    explorer: Explorer, content: bytes | None, script: Script, events: list[Event], label: str
) -> Judge:
    """Check the file that a script has left against the promise."""
    known = explorer.known(content)
    known.values = {**known.values, **script.values}
    for event in events:
        known.hear(event)
    replaced = script.steps[0][2] == "w"
    judge = Judge(explorer.work, Base() if replaced else Base.of(content or b"", explorer.work))
    if replaced and explorer.path.read_bytes() == content:
        return judge  # the writer failed before it replaced the file
    judge.check(explorer.path.read_bytes() if explorer.path.exists() else None, known, label)
    return judge


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_an_error_at_each_operation(explorer: Explorer, program: str, sync: bool, number: int) -> None:
    base, build = PROGRAMS[program]
    content = BASES[base]() if base else None
    for at in range(count_operations(explorer, content, build, sync=sync)):
        # The error occurs once, or at all later operations too, as on a disk that stays full.
        for last in (at, 1 << 40):
            script = Script(explorer.path)
            build(script, sync=sync)
            plan = Plan(at, last, Action.FAIL, number)
            _, events, outcomes = explorer.record(content, script, plan=plan)
            label = f"error at {at} to {last}"
            errors = list(exceptions_of(outcomes))
            opened = outcomes[0] is None
            for error in errors:
                # Ignore the errors of the script's calls of a writer that is not open.
                if opened and "closed" not in error["text"]:
                    assert error["is_os_error"], (label, error)
                    # The script opens the file again, even if the first writer failed to close.
                    known = {number, errno.EAGAIN} if error["type"] == "BlockingIOError" else {number}
                    assert error["errno"] in known, (label, error)
                    assert error["filename"] == str(explorer.path), (label, error)
            if not opened:
                assert outcomes[0]["is_os_error"], (label, outcomes)
                assert outcomes[0]["errno"] == number, (label, outcomes)
            # What `update` cannot write together, it writes one by one: one error harms nobody.
            assert errors or (program == "update" and last == at), label
            check(explorer, content, script, events, label).conclude()
            if opened and last == at and script.steps[-1] == ("close",) and outcomes[-1] is None:
                # `close` returned, so the archive must be whole.
                assert zipfile.ZipFile(explorer.path).testzip() is None, label
                assert not mmnpz.repair(explorer.path).changed, label


# At most this many states after an error are checked, those of the writer going on.
LATER = 12 * THOROUGH


@pytest.mark.parametrize("first", ["flush", "close"])
@pytest.mark.parametrize(("action", "sync"), [(Action.FAIL, False), (Action.FAIL_AFTER, True)])
@pytest.mark.parametrize("base", ["ours, with room", "savez", "junk behind", "room to grow"])
def test_killed_when_a_writer_has_gone_on_after_an_error(
    explorer: Explorer, base: str, action: Action, sync: bool, first: str
) -> None:
    """A kill after an error loses nothing, although the error does not tell which bytes are in the file.

    The failed operation, and a directory, may have been written in parts.
    """
    bases: dict[str, Callable[[], bytes]] = {**BASES, "room to grow": lambda: many(flush=True)}
    content = bases[base]()
    _, events, _ = explorer.record(content, after_error(explorer, first, sync))
    last = max(event.number for event in events if event.operation is not Operation.NOTE)
    for at in range(last + 1):
        script = after_error(explorer, first, sync)
        knowledge = explorer.known(content)
        files, events, _ = explorer.record(content, script, plan=Plan(at, at, action))
        judge = Judge(explorer.work, Base.of(content, explorer.work))
        failed = next(index for index, event in enumerate(events) if event.number == at)
        states = [*states_after_kill(files, events, explorer.path, 1)]
        later = [state for state in states if state.events > failed][:LATER]
        explorer.judge(judge, later, events, knowledge, script)
        judge.failures = [f"error at {at}: {failure}" for failure in judge.failures]
        judge.conclude()


def after_error(explorer: Explorer, first: str, sync: bool) -> Script:
    """Return a script of members whose entries have the same size.

    Steps after a `close` that succeeds have no effect.
    """
    script = Script(explorer.path).open("a", sync=sync).write("b1", 3)
    script = script.flush() if first == "flush" else script.close()
    return script.write("b2", 3).flush().write("b3", 3).close()


@pytest.mark.parametrize("action", [Action.SHORT, Action.FAIL])
@pytest.mark.parametrize("program", PROGRAMS)
def test_short_and_interrupted_writes_are_no_errors(explorer: Explorer, program: str, action: Action) -> None:
    base, build = PROGRAMS[program]
    content = BASES[base]() if base else None
    script = Script(explorer.path)
    build(script)
    _, events, _ = explorer.record(content, script)
    starts = [event for event in events if event.operation is Operation.WRITE and not event.is_end]
    whole = by_numpy(explorer.path, mmnpz.load(explorer.path).files)
    for start in starts:
        plan = Plan(start.number, start.number, action, errno.EINTR, max(1, len(start.data) // 3))
        script = Script(explorer.path)
        build(script)
        _, _, outcomes = explorer.record(content, script, plan=plan)
        assert not any(outcomes), (start.number, outcomes)
        found = by_numpy(explorer.path, whole)
        assert found.keys() == whole.keys()
        assert all(same(found[name], array) for name, array in whole.items()), start.number


def test_the_replay_matches_a_real_kill(explorer: Explorer) -> None:
    """A process that is really killed during an operation leaves the bytes that the replay computes."""
    script = Script(explorer.path)
    script.open("x").write("a", noise(500)).flush().write("b", noise(20_000)).write(
        "c", noise(50_000)
    ).close()
    _, events, _ = explorer.record(None, script)
    last = max(event.number for event in events if event.operation is not Operation.NOTE)
    for at in range(last + 1):
        for action in (Action.KILL_BEFORE, Action.KILL_WITHIN, Action.KILL_AFTER):
            files = Files({}, {})
            starts: dict[int, Event] = {}
            content: bytes | None = None
            for event in events:
                if event.operation is Operation.NOTE:
                    continue
                if not event.is_end:
                    starts[event.number] = event
                    if event.number == at and action is not Action.KILL_AFTER:
                        cut = 4096 - event.offset % 4096 if action is Action.KILL_WITHIN else 0
                        content = files.content(explorer.path)
                        if event.operation is Operation.WRITE:
                            content = partly(files, explorer.path, {event: cut}, 0).content
                        break
                else:
                    files.apply(starts[event.number], event)
                    if event.number == at:
                        content = files.content(explorer.path)
                        break
            is_write = starts[at].operation is Operation.WRITE
            if action is Action.KILL_WITHIN and (not is_write or len(starts[at].data) <= 4096):
                continue
            cut = 4096 - starts[at].offset % 4096
            with pytest.raises(KilledError):
                explorer.record(None, script, plan=Plan(at, at, action, 0, cut))
            found = explorer.path.read_bytes() if explorer.path.exists() else None
            assert found == content, (at, action)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """The root of a file system of one megabyte."""
    folder = Path(tempfile.mkdtemp())
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "mmnpz-test", folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        folder.rmdir()
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
    folder.rmdir()


@pytest.mark.parametrize("mode", ["x", "w", "a"])
@pytest.mark.parametrize("size", [5_000, 100_000, 3_000_000])
def test_a_full_disk(small_disk: Path, mode: Any, size: int) -> None:
    path = small_disk / "a.npz"
    if mode != "x":
        with mmnpz.NpzWriter(path) as writer:
            writer.write("old", noise(1000))
    written = ["old"] if mode == "a" else []
    fill = small_disk / "fill"
    fill.write_bytes(bytes(300_000))
    writer = mmnpz.NpzWriter(path, mode)
    failures = 0
    failed: list[OSError] = []
    for number in range(2_000_000 // size + 300):
        try:
            writer.write(str(number), noise(size if number % 2 else 100, number))
        except OSError as error:
            failed.append(error)
            failures += 1
            if failures == 3:
                break
        else:
            written.append(str(number))
    assert failures == 3
    try:
        writer.close()
    except OSError as error:
        failed.append(error)
    if not writer.closed:
        # All arrays are readable, and `close` succeeds once the disk has space.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert sorted(mmnpz.load(path).files) == sorted(written)
        fill.unlink()
        writer.close()
    assert {error.errno for error in failed} == {errno.ENOSPC}
    assert {error.filename for error in failed} == {str(path)}
    assert sorted(mmnpz.load(path).files) == sorted(written)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert len(file.namelist()) == len(written)


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    code = """
import resource, signal, sys, zipfile, numpy as np, mmnpz
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
writer = mmnpz.NpzWriter(sys.argv[1])
written = []
for number in range(100):
    try:
        writer.write(str(number), np.full(10_000 if number % 3 else 5, number % 100, np.uint8))
        written.append(str(number))
    except OSError as error:
        assert error.errno == 27 and error.filename == sys.argv[1], error
try:
    writer.close()
except OSError as error:
    assert error.errno == 27 and error.filename == sys.argv[1], error
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    writer.close()
assert mmnpz.load(sys.argv[1]).files == written and len(written) > 10
assert zipfile.ZipFile(sys.argv[1]).testzip() is None
"""
    run_python(code, tmp_path / "a.npz")


def test_a_writer_whose_descriptor_was_closed(explorer: Explorer) -> None:
    script = Script(explorer.path)
    script.open("x").write("a", noise(50)).flush().write("b", noise(50))
    script.steps.append(("close_descriptors",))
    script.write("c", noise(50)).close().close()
    _, events, outcomes = explorer.record(None, script)
    failures = list(exceptions_of(outcomes))
    assert {failure["errno"] for failure in failures} == {errno.EBADF}
    assert {failure["filename"] for failure in failures} == {str(explorer.path)}
    assert len(failures) >= 2
    explorer.recorder.stop()  # do not use this process again: its descriptors are closed
    check(explorer, None, script, events, "closed descriptor").conclude()


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("mode", ["x", "w", "a"])
def test_a_folder_that_is_read_only(tmp_path: Path, mode: Any) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(PermissionError, match=r"a\.npz"):
            mmnpz.NpzWriter(tmp_path / "a.npz", mode)
    finally:
        tmp_path.chmod(0o755)


def test_a_failed_write_leaves_no_trace_of_itself(explorer: Explorer) -> None:
    script = Script(explorer.path)
    script.open("x").write("a", noise(50)).write("bad", noise(5000)).write("b", noise(60)).close()
    plan = None
    _, events, _ = explorer.record(None, script)
    for event in events:
        if event.operation is Operation.WRITE and not event.is_end and len(event.data) > 5000:
            plan = Plan(event.number, event.number, Action.FAIL, errno.EIO)
    assert plan
    _, _, outcomes = explorer.record(None, script, plan=plan)
    assert [bool(outcome) for outcome in outcomes] == [False, False, True, False, False]
    assert [info[0] for info in facts(explorer.path)] == ["a.npy", "b.npy"]
    assert explorer.path.stat().st_size < 1000
