"""A job that writes a data set item by item, can be killed at any time, and goes on when it is started again.

    python examples/resume.py dataset.npz 500

What is in the archive is not computed again. `mode="a"` creates the file, or opens it and brings back what a
killed process has written, whatever state it left the file in.
"""

import sys

import numpy as np

import mmnpz

FLUSH_EVERY = 50


def compute(number: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Stand in for what takes long: an item of the data set."""
    generator = np.random.default_rng(number)
    return generator.normal(size=(int(generator.integers(1, 400)), 8))


def main(path: str, count: int) -> None:
    """Write the items that are not there yet."""
    with mmnpz.NpzWriter(path, "a") as writer:
        print(f"{len(writer)} of {count} items are there", flush=True)
        for number in range(count):
            name = f"item/{number}"
            if name in writer:
                continue
            writer.write(name, compute(number))
            if number % FLUSH_EVERY == 0:
                # Not needed for safety: from here on other programs see what is written so far.
                writer.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
