"""Python in a process of its own, for what concerns a whole process."""

import subprocess
import sys
import textwrap
from pathlib import Path


def run_python(code: str, *arguments: object, cwd: Path | None = None) -> str:
    """Runs code with sys.argv[1:] and gives back what it printed; it must succeed."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=cwd)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr}"
    return done.stdout


def run_script(code: str, folder: Path, *arguments: object) -> str:
    """Runs code as run_python does, from a file: what it defines can be sent to processes that it spawns.

    Nothing may be on its standard error: there are the warnings of processes that end after the script.
    """
    script = folder / "script.py"
    script.write_text(textwrap.dedent(code), encoding="utf-8")
    command = [sys.executable, "-W", "error", str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
