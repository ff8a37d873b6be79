"""Opening an archive, and one lookup."""

from typing import Any

import numpy as np
from data import Plan
from harness import (
    OURS,
    V1,
    Bar,
    Case,
    Contenders,
    best,
    duration,
    member_name,
    require,
    require_small,
    run,
    timed,
)

import mmnpz


def cases(plan: Plan) -> list[Case]:
    rows = []
    for members in plan.member_counts:
        bars = (Bar("≥ 60 × 1.0", 60, V1),) if members == 10**6 else ()
        repeat = max(1, min(5, 300_000 // members))
        for whose, archive in (
            ("numpy.savez's", plan.savez_archive(members)),
            ("ours", plan.our_archive(members)),
        ):
            rows.append(
                Case(
                    f"open a file ({whose}) of {members:,} members, one lookup: per member",
                    (OURS, V1, "numpy.load"),
                    {"archive": str(archive), "members": members, "repeat": repeat},
                    duration,
                    bars if whose != "ours" else (),
                )
            )
    return rows


def with_mmnpz(archive: str, members: int, repeat: int) -> float:
    return _measure(mmnpz.load, archive, members, repeat)


def with_numpy(archive: str, members: int, repeat: int) -> float:
    return _measure(np.load, archive, members, repeat)


def _measure(load: Any, archive: str, members: int, repeat: int) -> float:
    number = members // 3
    name = member_name(number)

    def open_and_look_up() -> Any:
        data = load(archive)
        data[name]
        return data

    def check(data: Any) -> None:
        with data:
            require_small(data[name], number)
            require(len(data) == members, "members are missing")

    return best(lambda: timed(open_and_look_up, check), repeat) / members


CONTENDERS: Contenders = {OURS: with_mmnpz, V1: with_mmnpz, "numpy.load": with_numpy}

if __name__ == "__main__":
    run(CONTENDERS)
