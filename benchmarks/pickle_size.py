"""The size of a pickled reader."""

import pickle

from data import BLOCK_ITEMS, Plan
from harness import OURS, V1, Bar, Case, Contenders, member_name, require, run, size, small_array

import mmnpz


def cases(plan: Plan) -> list[Case]:
    members = plan.scaled(10**5, 10**3)
    archive = plan.archive("ours", "block", members)
    return [
        Case(
            f"pickle of a reader of {members:,} members, {archive.stat().st_size // 10**6:,} MB",
            (OURS, V1),
            {"archive": str(archive), "members": members},
            size,
            (Bar("≤ 1 KiB", 1 << 10),),
        )
    ]


def with_mmnpz(archive: str, members: int) -> float:
    data = mmnpz.load(archive)
    pickled = pickle.dumps(data, pickle.HIGHEST_PROTOCOL)
    again = pickle.loads(pickled)
    for number in range(0, members, members // 100):
        same = (again[member_name(number)] == small_array(number, BLOCK_ITEMS)).all()
        require(bool(same), f"{member_name(number)} is not what was written")
    return len(pickled)


CONTENDERS: Contenders = {OURS: with_mmnpz, V1: with_mmnpz}

if __name__ == "__main__":
    run(CONTENDERS)
