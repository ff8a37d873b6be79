"""Train on real audio: the sounds inside the wheel of the game library arcade, told apart by short excerpts.

The sounds become spectrograms of different lengths in one file. `mmnpz.torch` makes batches of random
excerpts of them, with labels, in two worker processes. The run is stopped in the middle, and goes on where it
was.
"""

import importlib.util
import re
import tempfile
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader

import mmnpz
from mmnpz.torch import Batches, NpzDataset

WINDOW, STEP, BANDS = 1024, 128, 64
LENGTH = 48
BATCH = 32
EPOCHS = 300
QUIET = -8.0
"""The logarithm of the power of silence."""


def sounds() -> list[Path]:
    """Return the sounds, found without an import of the library."""
    spec = importlib.util.find_spec("arcade")
    assert spec is not None, "`pip install --no-deps arcade` installs the sounds"
    assert spec.origin is not None
    return sorted(Path(spec.origin).parent.joinpath("resources/assets/sounds").glob("*.wav"))


def spectrogram(path: Path) -> NDArray[np.float32]:
    """Return the logarithm of the power of a sound: a row for each window, a column for each band."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
    signal = np.pad(samples[:, 0] / 2**15, (0, WINDOW))
    windows = np.lib.stride_tricks.sliding_window_view(signal, WINDOW)[::STEP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(windows)) ** 2
    bands = np.add.reduceat(
        power, np.geomspace(2, WINDOW // 2 - BANDS, BANDS).astype(int) + np.arange(BANDS), 1
    )
    return np.log10(bands + 10**QUIET).astype(np.float32)


def kind(name: str) -> str:
    """Return the kind of a sound: its name without the number."""
    return re.sub(r"\d+$", "", name)


def network(kinds: int) -> nn.Module:
    """Return a network that gives a score for each kind, from excerpts of shape (batch, band, window)."""
    return nn.Sequential(
        nn.Conv1d(BANDS, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(32, 32, 5, padding=2),
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(32, kinds),
    )


def main(folder: Path) -> None:
    """Write the spectrograms, train in two parts, and say how well the kinds are told apart."""
    path = folder / "sounds.npz"
    with mmnpz.NpzWriter(path) as writer:
        for sound in sounds():
            writer.write(sound.stem, spectrogram(sound))
    data = mmnpz.load(path, cache=False)
    rows = data.layout().length
    kinds = sorted({kind(name) for name in data})
    print(f"{len(data)} sounds of {len(kinds)} kinds, {rows.min()} to {rows.max()} windows each")

    labels = {name: kinds.index(kind(name)) for name in data}
    dataset = NpzDataset(path, length=LENGTH, pad=QUIET, labels=labels)
    torch.manual_seed(0)
    model = network(len(kinds))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)

    # All batches of all epochs come from these two objects; the second goes on where the first was stopped.
    first = Batches(dataset, BATCH, shuffle=True, seed=0)
    losses: list[float] = []
    begin = time.perf_counter()
    train(dataset, first, model, optimizer, losses, EPOCHS // 2)
    second = Batches(dataset, BATCH, shuffle=True)
    second.load_state_dict(first.state_dict())
    train(dataset, second, model, optimizer, losses, EPOCHS - EPOCHS // 2)
    seconds = time.perf_counter() - begin

    # Each sound by all its excerpts.
    windows = NpzDataset(path, length=LENGTH, stride=LENGTH // 2, pad=QUIET, labels=labels)
    with torch.no_grad():
        x, _, y = windows[range(len(windows))]
        right = float((model(x.transpose(1, 2)).argmax(1) == y).double().mean())
    before, after = losses[0], float(np.mean(losses[-10:]))
    print(f"{len(losses):,} batches in {seconds:.1f} s: the loss went from {before:.2f} to {after:.2f}")
    print(f"{right:.0%} of {len(windows)} excerpts are told right, by chance {1 / len(kinds):.0%} would be")
    assert after < before / 4
    assert right > 0.8


def train(
    dataset: NpzDataset,
    batches: Batches,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: list[float],
    epochs: int,
) -> None:
    """Train for some epochs, and append the loss of each batch."""
    loader: DataLoader[Any] = DataLoader(
        dataset, sampler=batches, batch_size=None, num_workers=2, persistent_workers=True
    )
    for _ in range(epochs):
        for x, _lengths, y in loader:
            loss: Any = nn.functional.cross_entropy(model(x.transpose(1, 2)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
