"""The anonymous memory that an open archive takes."""

from typing import Any

import numpy as np
from data import Plan
from harness import (
    OURS,
    V1,
    Bar,
    Case,
    Contenders,
    anonymous_memory,
    member_name,
    require,
    require_small,
    run,
    size,
)

import mmnpz


def cases(plan: Plan) -> list[Case]:
    members = plan.most_members
    label = f"memory of an open file of {members:,} members"
    parameters = {
        "archive": str(plan.savez_archive(members)),
        "other": str(plan.savez_archive(plan.member_counts[0])),
        "members": members,
        "counted": False,
    }
    bars = (Bar("≤ 48 B", 48),)
    return [
        Case(f"{label}: per member", (OURS, V1, "numpy.load"), parameters, size, bars),
        Case(
            f"{label}, as our reader counts: per member", (OURS,), parameters | {"counted": True}, size, bars
        ),
    ]


def with_mmnpz(archive: str, other: str, members: int, counted: bool) -> float:
    return _measure(mmnpz.load, archive, other, members, counted)


def with_numpy(archive: str, other: str, members: int, counted: bool) -> float:
    return _measure(np.load, archive, other, members, counted)


def _measure(load: Any, archive: str, other: str, members: int, counted: bool) -> float:
    with load(other) as data:  # what is imported and allocated once per process is no member's
        require_small(data[member_name(1)], 1)
    before = anonymous_memory()
    data = load(archive)
    memory = data._index_memory if counted else anonymous_memory() - before
    require(len(data) == members, "members are missing")
    require_small(data[member_name(members - 1)], members - 1)
    return float(memory) / members


CONTENDERS: Contenders = {OURS: with_mmnpz, V1: with_mmnpz, "numpy.load": with_numpy}

if __name__ == "__main__":
    run(CONTENDERS)
