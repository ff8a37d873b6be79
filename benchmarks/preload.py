"""Opening with all views made, of a file that is in the page cache and of one that is not."""

from pathlib import Path
from typing import Any

from cold import drop
from data import Plan
from harness import OURS, V1, Bar, Case, Contenders, best, duration, require, require_sample, run, timed

import mmnpz


def cases(plan: Plan) -> list[Case]:
    members = plan.scaled(10**5, 10**3)
    label = f"open {members:,} members with preload=True: per member"

    def parameters(*, cold: bool) -> dict[str, Any]:
        archive = plan.archive("ours", "small", members, on_disk=cold)
        # A folder for temporary files in memory cannot be taken out of the page cache.
        return {"archive": str(archive), "members": members, "cold": cold, "strict": not plan.quick}

    return [
        Case(label, (OURS, V1), parameters(cold=False), duration),
        Case(
            f"{label}, from a disk and not in the page cache",
            (OURS, V1),
            parameters(cold=True),
            duration,
            (Bar("≥ 20 × 1.0", 20, V1),),
        ),
    ]


def with_mmnpz(archive: str, members: int, cold: bool, strict: bool) -> float:
    def check(data: mmnpz.NpzReader) -> None:
        with data:
            require(len(data.arrays) == members, "members are missing")
            require_sample(data.arrays, members)

    def once() -> float:
        if cold:
            left = drop([Path(archive)])
            require(left < 0.01 or not strict, f"{left:.0%} of {archive} stayed in the page cache")
        return timed(lambda: mmnpz.load(archive, preload=True), check)

    return best(once, 2) / members


CONTENDERS: Contenders = {OURS: with_mmnpz, V1: with_mmnpz}

if __name__ == "__main__":
    run(CONTENDERS)
