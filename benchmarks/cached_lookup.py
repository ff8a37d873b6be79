"""The time to look up arrays, in random order, that were looked up before."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from data import Plan
from harness import (
    OURS,
    V1,
    Bar,
    Case,
    Contenders,
    best,
    duration,
    member_names,
    require,
    require_sample,
    run,
    shuffled,
)

import mmnpz

LOOKUPS = 10**5

STRINGS = {
    "same": "the same string objects",
    "equal": "equal strings, hashed before",
    "new": "equal strings, just made",
}


def cases(plan: Plan) -> list[Case]:
    members = plan.scaled(10**4, 10**3)
    return [
        Case(
            f"cached data[name], {members:,} names at random, {text}",
            (OURS, V1, "dict"),
            {
                "archive": str(plan.our_archive(members)),
                "members": members,
                "strings": strings,
                "repeat": plan.scaled(20, 2),
            },
            duration,
            (Bar("≤ 1.3 × dict", 1 / 1.3, "dict"), Bar("never slower than 1.0", 1, V1)),
        )
        for strings, text in STRINGS.items()
    ]


def look_up(data: Mapping[str, Any], names: list[str]) -> float:
    start = time.perf_counter()
    for name in names:
        data[name]
    return time.perf_counter() - start


def with_mmnpz(archive: str, members: int, strings: str, repeat: int) -> float:
    names = member_names(members)
    data = mmnpz.load(archive)
    for name in names:
        data[name]
    return _measure(data, names, strings, repeat)


def with_dict(archive: str, members: int, strings: str, repeat: int) -> float:
    names = member_names(members)
    data = mmnpz.load(archive)
    return _measure({name: data[name] for name in names}, names, strings, repeat)


def _measure(data: Mapping[str, Any], names: list[str], strings: str, repeat: int) -> float:
    rounds = LOOKUPS // len(names)
    at_random = shuffled(names)
    others = copies(at_random)
    for name in others:
        hash(name)
    keys: Callable[[], list[str]] = {
        "same": lambda: at_random * rounds,
        "equal": lambda: others * rounds,
        "new": lambda: copies(at_random * rounds),
    }[strings]
    seconds = best(lambda: look_up(data, keys()), repeat)
    require_sample(data, len(names))
    require(
        all(data[name] is data[other] for name, other in zip(at_random, others, strict=True)),
        "views are not cached",
    )
    return seconds / LOOKUPS


def copies(names: list[str]) -> list[str]:
    """Return equal strings that are other objects, whose hash Python has not computed yet."""
    return [(name + " ")[:-1] for name in names]


CONTENDERS: Contenders = {OURS: with_mmnpz, V1: with_mmnpz, "dict": with_dict}

if __name__ == "__main__":
    run(CONTENDERS)
