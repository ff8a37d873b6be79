"""The time to read all arrays of an archive without a map of a path, and to write one to a stream."""

import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from data import CONTENTS, SAVEZ, Plan
from harness import OURS, Bar, Case, Contenders, best, duration, member_name, require, run, timed
from numpy.typing import NDArray

import mmnpz

NUMPY = "numpy"
PREAD = "os.preadv"


def cases(plan: Plan) -> list[Case]:
    large = {"content": "signal", "members": plan.scaled(200, 8)}
    small = {"content": "small", "members": plan.scaled(10**4, 10**3)}
    whats = {"signal": "signals of 130 to 640 KB", "small": "arrays of 400 bytes"}
    bars = (Bar(f"≥ 1 × {NUMPY}", 1, NUMPY),)

    def case(label: str, how: str, of: dict[str, Any], *others: str, bars: tuple[Bar, ...] = bars) -> Case:
        archive = str(plan.archive(SAVEZ, of["content"], of["members"]))
        label = f"{label} {of['members']:,} {whats[of['content']]}: per member"
        contenders = (OURS, *others, NUMPY)
        return Case(label, contenders, {"how": how, "archive": archive, **of}, duration, bars)

    as_fast_as_the_system = (Bar(f"≥ 0.9 × {PREAD}", 0.9, PREAD), *bars)
    return [
        case("mmap_mode=None: read", "none", large, PREAD, bars=as_fast_as_the_system),
        case("mmap_mode=None: read", "none", small),
    ] + [
        case(label, how, of)
        for label, how in (
            ("an open file: read", "file"),
            ("io.BytesIO: read", "stream"),
            ('mode "c" (numpy: copies): read, and write to', "copy"),
            ("io.BytesIO: write", "write"),
        )
        for of in (large, small)
    ]


def measured(load: Callable[..., Any], how: str, archive: str, content: str, members: int) -> float:
    make = CONTENTS[content]
    names = [member_name(number) for number in range(members)]
    if how == "write":
        return written(load is mmnpz.load, names, make)
    memory = Path(archive).read_bytes() if how == "stream" else b""

    def read() -> tuple[float, Any]:
        """Use all of each array."""
        total, array = 0.0, np.empty(0)
        with open(archive, "rb") as file:
            modes: dict[str, dict[str, Any]] = {"copy": {"mmap_mode": "c"}, "none": {"mmap_mode": None}}
            source = archive if how in modes else io.BytesIO(memory) if memory else file
            data = load(source, **modes.get(how, {}))
            for name in names:
                array = data[name]
                if how == "copy":
                    array[0] = 1
                if how != "none":  # there, the array has been read
                    total += float(array.sum())
        return total, array

    def check(result: tuple[float, Any]) -> None:
        last = make(members - 1)
        if how == "copy":
            last[0] = 1
        require(np.array_equal(result[1], last), "the last array is another one")

    return best(lambda: timed(read, check), 3) / members


def read_by_the_system(how: str, archive: str, content: str, members: int) -> float:
    """The time to read the bytes of each array to where a new one has them."""
    with mmnpz.load(archive) as data:
        layout = data.layout()
    places = list(zip(layout.offset.tolist(), layout.nbytes.tolist(), strict=True))

    def read() -> NDArray[np.uint8]:
        file, array = os.open(archive, os.O_RDONLY), np.empty(0, np.uint8)
        for offset, count in places:
            array = np.empty(count, np.uint8)
            require(os.preadv(file, [array.data], offset) == count, "the file is too short")
        os.close(file)
        return array

    def check(array: NDArray[np.uint8]) -> None:
        last = CONTENTS[content](members - 1).reshape(-1).view(np.uint8)
        require(np.array_equal(array, last), "the last array is another one")

    return best(lambda: timed(read, check), 3) / members


def written(by_mmnpz: bool, names: list[str], make: Callable[[int], Any]) -> float:
    arrays = {name: make(number) for number, name in enumerate(names)}

    def write() -> io.BytesIO:
        stream = io.BytesIO()
        if not by_mmnpz:
            np.savez(stream, **arrays)
            return stream
        with mmnpz.NpzWriter(stream) as writer:
            for name, array in arrays.items():
                writer.write(name, array)
        return stream

    def check(stream: io.BytesIO) -> None:
        stream.seek(0)
        require(
            np.array_equal(np.load(stream)[names[-1]], arrays[names[-1]]), "the last array is another one"
        )

    return best(lambda: timed(write, check), 3) / len(names)


CONTENDERS: Contenders = {
    OURS: partial(measured, mmnpz.load),
    NUMPY: partial(measured, np.load),
    PREAD: read_by_the_system,
}

if __name__ == "__main__":
    run(CONTENDERS)
