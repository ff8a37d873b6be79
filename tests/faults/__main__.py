"""Run the durability tests and print their counts: `python -m tests.faults`, from the repository's root.

Environment variables set how much the tests try:

- `MMNPZ_FAULTS`: a factor for the number of states that are checked (1 by default)
- `MMNPZ_KILLS`: the number of real kills
- `MMNPZ_BESIDE`: the number of seconds for which readers run beside writers
- `MMNPZ_EDITS`: the number of sessions in which another program edits the file
"""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
NAMES = ("faults", "kills", "io_errors", "two_writers", "resume", "beside", "edits")

if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "--timeout=0", *(str(TESTS / f"test_{name}.py") for name in NAMES)]))
