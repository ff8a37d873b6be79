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
