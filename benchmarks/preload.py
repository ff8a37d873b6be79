"""The time to open with `preload`, on warm and cold files, and to iterate over `items`."""

from pathlib import Path
from typing import Any

from cold import drop
from data import Plan
from harness import OURS, V1, Bar, Case, Contenders, best, duration, require, require_sample, run, timed

import mmnpz


def cases(plan: Plan) -> list[Case]:
    members = plan.scaled(10**5, 10**3)
    label = f"open {members:,} members with preload=True: per member"

    def parameters(*, cold: bool, walk: bool = False) -> dict[str, Any]:
        archive = plan.archive("ours", "small", members, on_disk=cold)
        # If the folder for temporary files is in memory, its files cannot leave the page cache.
        return {
            "archive": str(archive),
            "members": members,
            "cold": cold,
            "strict": not plan.quick,
            "walk": walk,
        }

    return [
        Case(label, (OURS, V1), parameters(cold=False), duration),
        Case(
            f"{label}, from a disk and not in the page cache",
            (OURS, V1),
            parameters(cold=True),
            duration,
            (Bar("≥ 20 × 1.0", 20, V1),),
        ),
        Case(
            f"open {members:,} members and go through items(): per member",
            (OURS, V1),
            parameters(cold=False, walk=True),
            duration,
        ),
    ]


def with_mmnpz(archive: str, members: int, cold: bool, strict: bool, walk: bool) -> float:
    def check(data: mmnpz.NpzReader) -> None:
        with data:
            require(len(data.arrays) == members, "members are missing")
            require_sample(data.arrays, members)

    def once() -> float:
        if cold:
            left = drop([Path(archive)])
            require(left < 0.01 or not strict, f"{left:.0%} of {archive} stayed in the page cache")
        return timed(through if walk else lambda: mmnpz.load(archive, preload=True), check)

    def through() -> mmnpz.NpzReader:
        data = mmnpz.load(archive)
        for _ in data.items():
            pass
        return data

    return best(once, 2) / members


CONTENDERS: Contenders = {OURS: with_mmnpz, V1: with_mmnpz}

if __name__ == "__main__":
    run(CONTENDERS)
