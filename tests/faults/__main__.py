"""Runs the tests of durability and says what was tried: `python -m tests.faults`, from the repository's root.

`MMNPZ_FAULTS` makes them more thorough (1 by default), `MMNPZ_KILLS` is the number of real kills,
`MMNPZ_BESIDE` the number of seconds beside readers, `MMNPZ_EDITS` the number of sessions between edits.
"""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
NAMES = ("faults", "kills", "io_errors", "two_writers", "resume", "beside", "edits")

if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "--timeout=0", *(str(TESTS / f"test_{name}.py") for name in NAMES)]))
