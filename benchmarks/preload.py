"""Opening with all views made."""

from data import Plan
from harness import OURS, V1, Case, Contenders, best, duration, require, require_sample, run, timed

import mmnpz


def cases(plan: Plan) -> list[Case]:
    members = plan.scaled(10**5, 10**3)
    return [
        Case(
            f"open {members:,} members with preload=True: per member",
            (OURS, V1),
            {"archive": str(plan.our_archive(members)), "members": members},
            duration,
        )
    ]


def with_mmnpz(archive: str, members: int) -> float:
    def check(data: mmnpz.NpzReader) -> None:
        with data:
            require(len(data.arrays) == members, "members are missing")
            require_sample(data.arrays, members)

    return best(lambda: timed(lambda: mmnpz.load(archive, preload=True), check), 2) / members


CONTENDERS: Contenders = {OURS: with_mmnpz, V1: with_mmnpz}

if __name__ == "__main__":
    run(CONTENDERS)
