"""Run Python code in another process, for tests of state that belongs to a whole process."""

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
"""`run_script` runs a script up to this often while its output contains `NOT_OURS`. The last run counts."""

NOT_OURS = (
    "ResourceTracker called reentrantly",
    "UserWarning: resource_tracker: '/mp-",
    "terminate called without an active exception",
)
"""Messages that come from CPython and the C++ library, not from mmnpz.

CPython writes the first when it frees a semaphore while it makes another (3.13, free-threaded). It writes
the second when it wants to free a semaphore that is gone. The C++ library writes the third when a thread ends
with its process. PyTorch uses semaphores and C++; mmnpz uses neither.
"""


def run_python(code: str, *arguments: object, cwd: Path | None = None) -> str:
    """Run code with `arguments` as sys.argv[1:], and return its output. The code must succeed."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=cwd)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr}"
    return done.stdout


def run_script(code: str, folder: Path, *arguments: object) -> str:
    """Run code from a file, as `run_python` does with a string, and return its output.

    From a file, the code can send its functions and classes to processes that it spawns. The standard error
    must be empty: processes that end after the script write their warnings to it. If the standard error
    contains one of `NOT_OURS`, run the script again.
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
    """Fork a child that calls `work`, and return its process id. Its exit status is 0 if `work` returned."""
    with warnings.catch_warnings():
        # Python warns when a process with threads forks. The tests do this on purpose.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process:
        return process
    # The hook of pytest must not run in the child: it keeps objects whose destructor raised an exception.
    sys.unraisablehook = sys.__unraisablehook__
    status = 1
    try:
        # SIGALRM ends a deadlocked child, after faulthandler has written the stacks of all threads.
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
    """Copy a reader without the module `copy`, for tests in which another thread forks meanwhile.

    The module `copy` looks the type up in a global dict. Free-threaded CPython 3.13 locks the dict for that.
    In a child that is forked during the lookup, the dict stays locked.
    """
    return reader.__deepcopy__({}) if deeply else reader.__copy__()


def wait_for(process: int) -> None:
    """Wait for a child of `fork`, which must end with status 0."""
    # A deadlocked child ends by SIGALRM. Polling lets the other Python threads run.
    while (waited := os.waitpid(process, os.WNOHANG))[0] == 0:
        time.sleep(0.0005)
    assert waited == (process, 0), f"the child ended with status {waited[1]}"
