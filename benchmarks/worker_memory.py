"""The memory that a worker shares with no process, after it has read from each member."""

import gc
import importlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from data import Excerpt, Plan, excerpts_of, h5py_excerpts, lmdb_excerpts, lmdb_store, safetensors_excerpts
from harness import OURS, V1, Bar, Case, Contenders, member_name, memory, require, run, size, small_array

import mmnpz

LENGTH = 5

PEERS = ("safetensors", "h5py", "LMDB")

KINDS = {"fork": "forked, each inherits the reader", "spawn": "spawned, each opens the file"}


def cases(plan: Plan) -> list[Case]:
    members = plan.scaled(10**5, 10**3)
    archives = {writer: str(plan.archive(writer, "small", members)) for writer in ("ours", *PEERS)}
    return [
        Case(
            f"own memory of a worker that read of {members:,} members, "
            f"{'views kept' if cache else 'cache=False'}; {text}",
            (OURS, V1) if cache else (OURS, V1, "numpy.load", *PEERS),
            {"archives": archives, "members": members, "method": method, "cache": cache},
            size,
            () if cache else (Bar("≤ 4 MiB", 4 << 20),),
        )
        for method, text in KINDS.items()
        for cache in (False, True)
    ]


# Functions that open a data set. They are functions of this module, so that spawned workers find them.

Open = Callable[[str, bool], Excerpt]


def open_mmnpz(path: str, cache: bool) -> Excerpt:
    return excerpts_of(mmnpz.load(path, cache=cache))


def open_numpy(path: str, cache: bool) -> Excerpt:
    return excerpts_of(np.load(path))


def open_safetensors(path: str, cache: bool) -> Excerpt:
    return safetensors_excerpts(path, keep=cache)


def open_h5py(path: str, cache: bool) -> Excerpt:
    return h5py_excerpts(path, keep=cache)


def open_lmdb(path: str, cache: bool) -> Excerpt:
    return lmdb_excerpts(lmdb_store(path))


def work(connection: Connection, take: Excerpt, members: int) -> None:
    """Read from each member, and then wait until the measuring process closes the connection."""
    expected = small_array(0)[:LENGTH].copy()
    for number in range(members):
        name = member_name(number)  # a list of all names would count as memory of the worker
        expected[0] = number
        require(np.array_equal(take(name, 0, LENGTH), expected), f"{name} is not what was written")
    gc.collect()
    connection.send(members)
    connection.recv()


def open_and_work(
    connection: Connection, module: str, open_file: Open, path: str, cache: bool, members: int
) -> None:
    importlib.import_module(module)
    work(connection, open_file(path, cache) if members else _none, members)


def _none(name: str, start: int, stop: int) -> Any:
    return None


def _measure(
    module: str, open_file: Open, path: str, members: int, method: str, cache: bool, inherit: bool = True
) -> float:
    """
    Return how much more private memory two workers have than an idle worker, on average.

    Both workers read the same pages of the file, so that the pages are shared, and count for neither.
    """
    context: Any = multiprocessing.get_context(method)
    importlib.import_module(module)
    shared = open_file(path, cache) if method == "fork" and inherit else None
    workers = []
    for count in (0, members, members):
        here, there = context.Pipe()
        worker = (
            context.Process(target=work, args=(there, shared, count), daemon=True)
            if shared
            else context.Process(
                target=open_and_work, args=(there, module, open_file, path, cache, count), daemon=True
            )
        )
        worker.start()
        there.close()
        workers.append((worker, here))
    for (_, here), count in zip(workers, (0, members, members), strict=True):
        require(here.recv() == count, "a worker has not read all members")
    idle, *busy = (memory(worker.pid, "Private_Clean", "Private_Dirty") for worker, _ in workers)
    for worker, here in workers:
        here.send(None)
        worker.join()
    return sum(busy) / len(busy) - idle


def with_mmnpz(archives: dict[str, str], **options: Any) -> float:
    return _measure("mmnpz", open_mmnpz, archives["ours"], **options)


def with_numpy(archives: dict[str, str], **options: Any) -> float:
    """Each worker opens the file: threads and processes that share such a reader move its file position."""
    return _measure("numpy", open_numpy, archives["ours"], inherit=False, **options)


def with_safetensors(archives: dict[str, str], **options: Any) -> float:
    return _measure("safetensors", open_safetensors, archives["safetensors"], **options)


def with_h5py(archives: dict[str, str], **options: Any) -> float:
    """Each worker opens the file: the library does not support open files across a fork."""
    return _measure("h5py", open_h5py, archives["h5py"], inherit=False, **options)


def with_lmdb(archives: dict[str, str], **options: Any) -> float:
    """Each worker opens the store: LMDB forbids the use of an open store after a fork."""
    return _measure("lmdb", open_lmdb, archives["LMDB"], inherit=False, **options)


CONTENDERS: Contenders = {
    OURS: with_mmnpz,
    V1: with_mmnpz,
    "numpy.load": with_numpy,
    "safetensors": with_safetensors,
    "h5py": with_h5py,
    "LMDB": with_lmdb,
}

if __name__ == "__main__":
    run(CONTENDERS)
