"""Python in a process of its own, for what concerns a whole process."""

import faulthandler
import os
import signal
import subprocess
import sys
import textwrap
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import mmnpz

ATTEMPTS = 6
"""So often a script is run before what is not ours counts, too."""

NOT_OURS = (
    "ResourceTracker called reentrantly",
    "UserWarning: resource_tracker: '/mp-",
    "terminate called without an active exception",
)
"""What CPython says of a semaphore that it frees while it makes another (3.13, free-threaded), or that is
gone when it wants to free it, and what the C++ library says of a thread that ends with its process. mmnpz has
neither semaphores nor C++; PyTorch has."""


def run_python(code: str, *arguments: object, cwd: Path | None = None) -> str:
    """Runs code with sys.argv[1:] and gives back what it printed; it must succeed."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=cwd)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr}"
    return done.stdout


def run_script(code: str, folder: Path, *arguments: object) -> str:
    """Runs code as run_python does, from a file: what it defines can be sent to processes that it spawns.

    Nothing may be on its standard error: there are the warnings of processes that end after the script.
    What a process says of its own end that is `NOT_OURS` is not: the script is run again.
    """
    script = folder / "script.py"
    script.write_text(textwrap.dedent(code), encoding="utf-8")
    command = [sys.executable, "-W", "error", str(script), *map(str, arguments)]
    attempts = 0
    while True:
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=folder)
        attempts += 1
        if attempts == ATTEMPTS or not any(text in done.stderr for text in NOT_OURS):
            break
    assert (done.returncode, done.stderr) == (0, ""), f"exit code {done.returncode}: {done.stderr}"
    return done.stdout


def fork(work: Callable[[], object], seconds: int = 60) -> int:
    """Forks a child that does some work, and gives its number; its status is 0 if that went well."""
    with warnings.catch_warnings():
        # Python warns of forking with threads, which is what is tried here.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process:
        return process
    # Nothing of pytest may run in the child: its hook keeps objects whose destructor has raised.
    sys.unraisablehook = sys.__unraisablehook__
    status = 1
    try:
        # A deadlock ends with SIGALRM, which shows first where all threads are.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        faulthandler.register(signal.SIGALRM, file=2, chain=True)
        signal.alarm(seconds)
        work()
        status = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def copied(reader: mmnpz.NpzReader, *, deeply: bool = False) -> mmnpz.NpzReader:
    """The same as copy.copy or copy.deepcopy, for processes that fork meanwhile.

    Those look the type up in a dict of theirs. Free-threaded CPython 3.13 locks it for that, and in a child
    that is forked in the middle it stays locked.
    """
    return reader.__deepcopy__({}) if deeply else reader.__copy__()


def wait_for(process: int) -> None:
    """Waits for a child, which must have done its work."""
    # The child ends by itself in the worst case. Python lets other threads go on meanwhile.
    while (waited := os.waitpid(process, os.WNOHANG))[0] == 0:
        time.sleep(0.0005)
    assert waited == (process, 0), f"the child ended with status {waited[1]}"
