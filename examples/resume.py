"""A job that writes a data set item by item. A kill at any time loses no item: start the job again to go on.

    python examples/resume.py dataset.npz 500

The job skips the items that the archive has. `mode="a"` creates the file if it does not exist. Otherwise it
repairs the file, in whatever state a killed process left it, and finds all items that were written.
"""

import sys

import numpy as np

import mmnpz

FLUSH_EVERY = 50


def compute(number: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Return an item of the data set. This stands for a long computation."""
    generator = np.random.default_rng(number)
    return generator.normal(size=(int(generator.integers(1, 400)), 8))


def main(path: str, count: int) -> None:
    """Write the items that the archive does not have yet."""
    with mmnpz.NpzWriter(path, "a") as writer:
        print(f"{len(writer)} of {count} items are there", flush=True)
        for number in range(count):
            name = f"item/{number}"
            if name in writer:
                continue
            writer.write(name, compute(number))
            if number % FLUSH_EVERY == 0:
                # Other programs see the items from here on. A kill would lose nothing without this.
                writer.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
