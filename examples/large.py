"""Arrays larger than memory, and very many arrays: four jobs, each in memory that has a bound.

- ``spectra``: the spectrogram of a long recording, in pieces.
- ``simulate``: a simulation that is written step by step, is killed, and goes on.
- ``convert``: an HDF5 data set and a Zarr array become members of one archive.
- ``label``: a million labels in one call.

Each job is small enough to run in seconds; nothing in it would change if its data had a terabyte.
"""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

import mmnpz

RATE = 16_000
"""Samples of a second of sound."""


def sound(second: int) -> Any:
    """Return a second of a recording: a tone that rises, and noise."""
    noise = np.random.default_rng(second).normal(scale=100, size=RATE)
    phase = 2 * np.pi * (200 + second) * np.arange(RATE) / RATE
    return (3000 * np.sin(phase) + noise).astype(np.int16)


def spectra(path: Path, seconds: int) -> None:
    """Write a recording as it comes, and then its spectrogram, of which no piece needs another."""
    with mmnpz.NpzWriter(path) as writer:
        with writer.stream("sound", np.int16) as samples:
            for second in range(seconds):
                samples.append(sound(second))
        writer.flush()
        recording = mmnpz.load(path)["sound"]
        transform = ShortTimeFFT(hann(512), hop=256, fs=RATE)
        frames = len(recording) // transform.hop
        with writer.stream("spectrum", np.float32, row_shape=transform.f_pts) as spectrum:
            for first in range(0, frames, 1000):
                last = min(first + 1000, frames)
                # The samples that these frames see begin a frame earlier, and end a frame later.
                before = max(first - 1, 0)
                piece = recording[before * transform.hop : (last + 1) * transform.hop].astype(np.float32)
                frame = transform.spectrogram(piece, p0=first - before, p1=last - before)
                spectrum.append(frame.T.astype(np.float32))
    data = mmnpz.load(path)
    assert len(data["sound"]) == seconds * RATE
    assert data["spectrum"].shape == (frames, 257)
    # The tone rises by one hertz a second.
    loudest = transform.f[data["spectrum"][:: frames // 10].argmax(axis=1)]
    assert (np.diff(loudest) >= 0).all()


def step(state: Any) -> Any:
    """Return the next state of a simulation: heat that spreads on a ring."""
    return state + 0.1 * (np.roll(state, 1) - 2 * state + np.roll(state, -1))


def simulate(path: Path, steps: int, killed_at: int | None = None) -> None:
    """Write a simulation step by step, from the last state that is there on."""
    state = np.zeros(1000)
    state[500] = 1
    done = 0
    if path.exists():
        # Also what was flushed of a part that was not finished.
        mmnpz.repair(path, keep_partial=True)
        with mmnpz.load(path) as data:
            done = sum(len(data[name]) for name in data)
            state = np.array(data[data.files[-1]][-1])
    with (
        mmnpz.NpzWriter(path, "a") as writer,
        writer.stream(f"states/{done:09}", float, row_shape=state.shape) as states,
    ):
        for number in range(done, steps):
            state = step(state)
            states.append(state)
            if number % 100 == 99:
                states.flush()
            if number == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)


def convert(source: Any, writer: mmnpz.NpzWriter, name: str) -> None:
    """Copy an array of h5py or Zarr into an archive, by blocks of its first axis, with four threads."""
    rows = max(1, 4_000_000 // (source.dtype.itemsize * int(np.prod(source.shape[1:]))))
    with writer.create(name, source.shape, source.dtype) as out, ThreadPoolExecutor(4) as threads:

        def copy(start: int) -> None:
            out[start : start + rows] = source[start : start + rows]

        list(threads.map(copy, range(0, source.shape[0], rows)))


def label(path: Path, count: int) -> None:
    """Write labels, one array each, from an iterator."""
    with mmnpz.NpzWriter(path) as writer:
        writer.update((f"{number // 1000}/{number}", number % 10) for number in range(count))
    data = mmnpz.load(path)
    assert len(data) == count
    assert data[f"{count // 2000}/{count // 2}"] == count // 2 % 10


@contextmanager
def bounded(most: int) -> Iterator[None]:
    """Make sure that the memory of the process, without the pages of files, grows by less than `most` MB."""

    def used() -> int:
        try:
            status = Path("/proc/self/status").read_text()
        except OSError:
            return 0  # not on this system
        return int(status.partition("RssAnon:")[2].split()[0]) // 1000

    before, grown, is_done = used(), [0], threading.Event()

    def watch() -> None:
        while not is_done.wait(0.01):
            grown.append(used() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()
    print(f"    {max(grown)} MB more memory at most")
    assert max(grown) < most


def main() -> None:
    """Run all four jobs."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        print("the spectrogram of half an hour of sound, in pieces")
        with bounded(64):
            spectra(folder / "recording.npz", 1800)

        print("a simulation of 3000 steps, killed after 1234")
        process = os.fork()
        if process == 0:
            simulate(folder / "simulation.npz", 3000, killed_at=1234)
        os.waitpid(process, 0)
        simulate(folder / "simulation.npz", 3000)
        data = mmnpz.load(folder / "simulation.npz")
        print(f"    {', '.join(f'{name}: {len(data[name])} steps' for name in data)}")
        states = np.concatenate([data[name] for name in data])
        assert len(states) == 3000
        assert all(np.array_equal(step(states[number]), states[number + 1]) for number in range(2999))

        print("arrays of 256 MB of HDF5 and Zarr")
        shape, rows = (32_000, 2000), 1000
        with h5py.File(folder / "source.h5", "w") as hdf5:
            arrays = (
                hdf5.create_dataset("x", shape, np.float32, chunks=(rows, 500)),
                zarr.create_array(folder / "source.zarr", shape=shape, dtype=np.float32, chunks=(rows, 500)),
            )
            for array in arrays:
                for start in range(0, shape[0], rows):
                    array[start : start + rows] = (
                        np.arange(start, start + rows)[:, None] + np.arange(2000) / 2000
                    )
        with (
            bounded(200),
            h5py.File(folder / "source.h5") as hdf5,
            mmnpz.NpzWriter(folder / "converted.npz") as writer,
        ):
            convert(hdf5["x"], writer, "of HDF5")
            convert(zarr.open_array(folder / "source.zarr", mode="r"), writer, "of Zarr")
        data = mmnpz.load(folder / "converted.npz")
        assert data.verify() == []
        assert np.array_equal(data["of HDF5"], data["of Zarr"])
        assert data["of Zarr"][31_999, 1] == np.float32(31_999 + 1 / 2000)

        print("a million labels")
        with bounded(200):
            label(folder / "labels.npz", 1_000_000)


if __name__ == "__main__":
    main()
