"""The time in which `verify` compares all members with their checksums, and that of `zipfile.testzip`."""

import zipfile
from typing import Any

from data import Plan
from harness import OURS, Bar, Case, Contenders, best, duration, require, run, timed

import mmnpz

TESTZIP = "zipfile.testzip"
READ = "reading the file"
TWO = "mmnpz, two threads"

BLOCK = 1 << 18


def cases(plan: Plan) -> list[Case]:
    small = plan.scaled(10**5, 10**3)
    long = plan.scaled(100, 4)

    def case(content: str, members: int, label: str) -> Case:
        parameters = {"archive": str(plan.archive("ours", content, members)), "members": members}
        bars = (Bar("≥ 3 × zipfile.testzip", 3, TESTZIP), Bar("≥ 0.7 × reading the file", 0.7, READ))
        return Case(label, (OURS, TWO, TESTZIP, READ), parameters, duration, bars)

    return [
        case("small", small, f"verify {small:,} members of 400 bytes: per member"),
        case("recording", long, f"verify {long:,} recordings: per member"),
    ]


def measured(work: Any, members: int) -> float:
    return best(lambda: timed(work, lambda found: require(not found, f"found damage: {found}")), 3) / members


def with_mmnpz(archive: str, members: int, threads: int = 1) -> float:
    return measured(lambda: mmnpz.load(archive).verify(threads=threads), members)


def with_two_threads(archive: str, members: int) -> float:
    return with_mmnpz(archive, members, threads=2)


def with_testzip(archive: str, members: int) -> float:
    def test() -> str | None:
        with zipfile.ZipFile(archive) as file:
            return file.testzip()

    return measured(test, members)


def with_reading(archive: str, members: int) -> float:
    def read() -> None:
        block = bytearray(BLOCK)
        with open(archive, "rb", buffering=0) as file:
            while file.readinto(block):
                pass

    return measured(read, members)


CONTENDERS: Contenders = {
    OURS: with_mmnpz,
    TWO: with_two_threads,
    TESTZIP: with_testzip,
    READ: with_reading,
}

if __name__ == "__main__":
    run(CONTENDERS)
