"""The time in which `layout` tells dtype, shape and place of all arrays."""

import zipfile

import numpy as np
from data import Plan
from harness import ITEMS, OURS, Bar, Case, Contenders, best, duration, require, run, timed

import mmnpz

ZIPFILE = "zipfile.infolist"


def cases(plan: Plan) -> list[Case]:
    members = plan.most_members
    bars = (Bar("≤ 150 ns", 150e-9), Bar(f"≥ 20 × {ZIPFILE}", 20, ZIPFILE))
    ours = {"archive": str(plan.our_archive(members)), "members": members}
    others = {"archive": str(plan.savez_archive(members)), "members": members}
    return [
        Case(f"layout of {members:,} members: per member", (OURS, ZIPFILE), ours, duration, bars),
        Case(f"layout of {members:,} members of numpy.savez: per member", (OURS, ZIPFILE), others, duration),
    ]


def with_mmnpz(archive: str, members: int) -> float:
    data = mmnpz.load(archive)

    def check(layout: mmnpz.Layout) -> None:
        require(len(layout) == members, "members are missing")
        require(bool(np.all(layout.length == ITEMS)), "a length is wrong")
        require(int(layout.offset[-1]) == data.info(data.files[-1]).offset, "an offset is wrong")

    return best(lambda: timed(data.layout, check), 3) / members


def with_zipfile(archive: str, members: int) -> float:
    """Names, sizes and places of the members, without dtypes and shapes."""

    def infos() -> list[zipfile.ZipInfo]:
        with zipfile.ZipFile(archive) as file:
            return file.infolist()

    return best(lambda: timed(infos, lambda found: require(len(found) == members, "missing")), 2) / members


CONTENDERS: Contenders = {OURS: with_mmnpz, ZIPFILE: with_zipfile}

if __name__ == "__main__":
    run(CONTENDERS)
