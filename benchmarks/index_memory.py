"""The anonymous memory of an open archive, for each member."""

from functools import partial

import numpy as np
from data import OWN, Plan
from harness import (
    OURS,
    V1,
    Bar,
    Case,
    Contenders,
    anonymous_memory,
    member_name,
    require_small,
    run,
    size,
)
from peers import PEERS, NumPy, Ours, OursStore, Peer

READS_OURS = (OURS, V1, "numpy.load")

WITHOUT = ("zarr", "np.memmap", "ztensor", "spdl")
"""The peers that cannot, or should not, have a million arrays: see `open_archive`."""

WAYS: dict[str, Peer] = {
    OURS: Ours(),
    V1: Ours(),
    "numpy.load": NumPy(),
    **{name: peer for name, peer in PEERS.items() if name not in WITHOUT},
}


def cases(plan: Plan) -> list[Case]:
    members = plan.most_members
    label = f"memory of an open file of numpy.savez of {members:,} members"
    parameters = {
        "archive": str(plan.savez_archive(members)),
        "other": str(plan.savez_archive(plan.member_counts[0])),
        "members": members,
        "counted": False,
    }
    bars = (Bar("≤ 48 B", 48),)
    of_savez = (OURS, V1, "numpy.load")
    return [
        Case(
            f"memory of an open file, each its own, of {members:,} members: per member",
            tuple(WAYS),
            {
                "archives": {name: _archive(plan, name, members) for name in WAYS},
                "others": {name: _archive(plan, name, plan.member_counts[0]) for name in WAYS},
                "members": members,
                "counted": False,
            },
            size,
            (Bar("≤ 1 B", 1),),
            headline=f"memory of an open file, for each of {members:,} arrays",
            plot="memory",
        ),
        Case(f"{label}: per member", of_savez, parameters, size, bars),
        Case(
            f"{label}, as our reader counts: per member", (OURS,), parameters | {"counted": True}, size, bars
        ),
    ]


def _archive(plan: Plan, name: str, members: int) -> str:
    return str(plan.archive(OWN if name in READS_OURS else name, "small", members))


def _measure(
    name: str,
    members: int,
    counted: bool,
    archive: str | None = None,
    other: str | None = None,
    archives: dict[str, str] | None = None,
    others: dict[str, str] | None = None,
) -> float:
    """Measure a contender. All contenders read one archive, or each reads its own."""
    path, first = (archives[name], others[name]) if archives and others else (archive, other)
    assert path is not None
    assert first is not None
    peer = WAYS[name]
    tiny = peer.open(first)  # warm up: do not count what a contender allocates once per process
    require_small(np.array(tiny.array(tiny.key(member_name(1)))), 1)
    tiny.close()
    del tiny
    before = anonymous_memory()
    store = peer.open(path)
    memory = anonymous_memory() - before
    if counted:
        assert isinstance(store, OursStore)
        memory = store.reader._index_memory
    require_small(np.array(store.array(store.key(member_name(members - 1)))), members - 1)
    return float(memory) / members


CONTENDERS: Contenders = {name: partial(_measure, name) for name in WAYS}

if __name__ == "__main__":
    run(CONTENDERS)
