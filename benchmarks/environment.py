"""The environments of this mmnpz and of mmnpz 1.0.0, and the versions in them."""

import importlib
import os
import platform
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

import numpy as np

import mmnpz

PINNED = ("mmnpz==1.0.0", "numpy==2.2.6", "typing_extensions")

PEERS = {
    "safetensors": ("safetensors", "safetensors"),
    "h5py": ("h5py", "h5py"),
    "LMDB": ("lmdb", "lmdb"),
    "ztensor": ("ztensor", "ztensor"),
    "zarr": ("zarr", "zarr"),
    "tensorstore": ("tensorstore", "tensorstore"),
    "spdl": ("spdl-io", "spdl.io"),
    "mmap_ninja": ("mmap-ninja", "mmap_ninja"),
    "webdataset": ("webdataset", "webdataset"),
    "npy-append-array": ("npy-append-array", "npy_append_array"),
}
"""The distribution and the module of each peer."""

NUMPYS = ("numpy.load", "numpy.savez", "np.memmap")
"""The peers that come with NumPy."""

VERSIONS = "import mmnpz, numpy; from importlib.metadata import version as v; print(v('mmnpz'), v('numpy'))"


FREE_THREADED = """
import mmnpz, numpy, platform, sys
if sys._is_gil_enabled():
    sys.exit("it has a global lock")
print(f"{platform.python_version()}, mmnpz {mmnpz.__version__}, NumPy {numpy.__version__}")
"""


class Unusable(Exception):
    """An environment lacks a package. The message says what to do."""


def require_peers() -> None:
    for peer, (_, module) in PEERS.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise Unusable(
                f"{peer} cannot be imported: install the benchmarks' peers with  pip install 'mmnpz[bench]'"
            ) from error


def is_peer(contender: str) -> bool:
    """Return whether a contender is a library, not a limit. Its name may tell in brackets how it is used."""
    return contender.partition(" (")[0] in {*PEERS, *NUMPYS}


def python_of_v1(folder: Path) -> Path:
    """Return the interpreter of the environment of mmnpz 1.0.0. Make the environment if it does not exist."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not _is_v1(python):
        print(f"making {folder} with {' '.join(PINNED)}", file=sys.stderr)
        try:
            venv.create(folder, clear=True, with_pip=True)
            install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINNED]
            subprocess.run(install, check=True, env=without_python_path(), stdout=sys.stderr)
        except subprocess.CalledProcessError as error:
            raise Unusable(f"cannot make the environment of mmnpz 1.0.0 in {folder}: {error}") from error
        if not _is_v1(python):
            raise Unusable(f"{folder} holds something else than {' '.join(PINNED)}")
    return python


def _is_v1(python: Path) -> bool:
    if not python.exists():
        return False
    # Isolated mode: otherwise Python would import a folder mmnpz in the working directory, not the installed
    # one.
    command = [str(python), "-I", "-c", VERSIONS]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    return found.stdout.split() == ["1.0.0", "2.2.6"]


def free_threaded_versions(python: Path) -> str:
    """Return the versions in a free-threaded environment."""
    command = [str(python), "-I", "-c", FREE_THREADED]
    try:
        found = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise Unusable(f"cannot start {python}: {error}") from error
    if found.returncode:
        raise Unusable(f"{python} is no free-threaded Python with mmnpz: {found.stderr.strip()}")
    return found.stdout.strip()


def without_python_path() -> dict[str, str]:
    """Return the environment variables without PYTHONPATH, which would make mmnpz 1.0.0 import this mmnpz."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def description() -> dict[str, str]:
    return {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "mmnpz": f"{mmnpz.__version__}, NumPy {np.__version__}",
        "mmnpz 1.0.0": "NumPy 2.2.6",
        "peers": ", ".join(f"{peer} {version(name)}" for peer, (name, _) in PEERS.items()),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.2g}",
    }


def kind_of_folder(folder: Path) -> str:
    """Return the kind of the file system, which tells more than the path, and how much it reads ahead."""
    command = ["stat", "--file-system", "--format=%T", str(folder)]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    kind = found.stdout.strip() or "unknown"
    device = folder.stat().st_dev
    read_ahead = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    if kind == "tmpfs" or not read_ahead.exists():
        return kind
    return f"{kind}, {read_ahead.read_text().strip()} kB read ahead"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
