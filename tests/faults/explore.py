"""Record a scenario, and check each state in which a kill or a power failure can leave its file."""

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mmnpz
from tests.faults.disk import Files, State, states_after_kill, states_after_power_loss
from tests.faults.promise import Base, Judge, Knowledge, by_numpy, fresh
from tests.faults.recorder import Event, Operation, Recorder
from tests.faults.scenarios import Script, noise

# Factor for the numbers of states.
THOROUGH = int(os.environ.get("MMNPZ_FAULTS", "1"))
# At most this many partial states of one write.
CUTS = 8 * THOROUGH
# Random states of a power failure at each moment.
POWER_STATES = 4 * THOROUGH
# One of SECOND_KILLS states is kept on average: its recovery is recorded, and killed at each moment.
SECOND_KILLS = max(1, 12 // THOROUGH)
# About this many states of one recording are checked where the archive has many members, because each check
# takes longer.
LARGE_STATES = 24 * THOROUGH

# The knowledge of each starting archive, by its bytes.
KNOWN: dict[bytes | None, Knowledge] = {}


def clear(folder: Path) -> None:
    """Remove all files of a folder."""
    for path in folder.iterdir():
        path.unlink()


def share(most: int | None, events: Sequence[Event], each: int) -> float:
    """Return which share of the states to check, so that about `most` are checked.

    `each` is the number of states at each moment.
    """
    if most is None:
        return 1
    moments = sum(event.operation is not Operation.NOTE for event in events)
    return min(1, most / (moments * each))


class Explorer:
    """Records a scenario in one folder, and checks its states in another folder."""

    def __init__(self, recorder: Recorder, folder: Path) -> None:
        self.recorder = recorder
        self.folder = folder / "recorded"
        self.folder.mkdir()
        self.work = folder / "judged"
        self.work.mkdir()
        self.path = self.folder / "a.npz"

    def record(
        self, content: bytes | None, script: Script, **options: Any
    ) -> tuple[Files, list[Event], list[Any]]:
        """Record a script that starts from a file with `content`, or from no file."""
        clear(self.folder)
        if content is not None:
            self.path.write_bytes(content)
        files = Files.of_folder(self.folder)
        outcomes, events = self.recorder.run(self.folder, script.steps, **options)
        return files, events, outcomes

    def known(self, content: bytes | None) -> Knowledge:
        """Return the knowledge of a whole archive: the names by mmnpz, and their arrays by NumPy."""
        if content not in KNOWN:
            knowledge = KNOWN[content] = Knowledge()
            if content:
                path = fresh(self.work, content)
                for name, array in by_numpy(path, mmnpz.load(path).files).items():
                    knowledge.has(name, array)
        return KNOWN[content].copy()

    def kill(
        self,
        content: bytes | None,
        build: Callable[..., None],
        *,
        delay: int = 0,
        second: bool = True,
        most: int | None = None,
        **options: Any,
    ) -> Judge:
        """Check every state in which a kill can leave the file, and kill the recovery of some of them."""
        script = Script(self.path)
        build(script, **options)
        knowledge = self.known(content)
        base = Base.of(content or b"", self.work)
        files, events, outcomes = self.record(content, script, delay=delay)
        assert not any(outcomes), outcomes
        judge = Judge(self.work, Base() if build.__name__ == "replace" else base)
        states = states_after_kill(files, events, self.path, CUTS)
        kept = self.judge(judge, states, events, knowledge, script, share(most, events, 1))
        if second:
            for number, (state, then) in enumerate(kept):
                self.kill_again(judge, state, then, number)
        return judge

    def power(
        self,
        content: bytes | None,
        build: Callable[..., None],
        *,
        delay: int = 0,
        seed: int = 1,
        each: int = POWER_STATES,
        most: int | None = None,
        **options: Any,
    ) -> Judge:
        """Check random states in which a power failure can leave the file."""
        script = Script(self.path)
        build(script, **options)
        knowledge = self.known(content)
        base = Base.of(content or b"", self.work)
        files, events, outcomes = self.record(content, script, delay=delay)
        assert not any(outcomes), outcomes
        judge = Judge(
            self.work,
            Base() if build.__name__ == "replace" else base,
            power=True,
            sync=bool(options.get("sync")),
        )
        states = states_after_power_loss(files, self.folder, events, self.path, each, seed)
        self.judge(judge, states, events, knowledge, script, share(most, events, each))
        return judge

    def judge(
        self,
        judge: Judge,
        states: Any,
        events: Sequence[Event],
        knowledge: Knowledge,
        script: Script,
        share: float = 1,
    ) -> list[tuple[State, Knowledge]]:
        """Check a share of the states, and return some of them, for kills of their recovery."""
        knowledge = knowledge.copy()
        knowledge.values = {**knowledge.values, **script.values}
        heard = 0
        kept: list[tuple[State, Knowledge]] = []
        chance = random.Random(7)
        for state in states:
            for event in events[heard : state.events]:
                knowledge.hear(event)
            heard = max(heard, state.events)
            if (share < 1 and chance.random() >= share) or not judge.is_new(state.content, knowledge):
                continue
            judge.check(state.content, knowledge, state.label)
            if state.content and chance.randrange(SECOND_KILLS) == 0:
                kept.append((state, knowledge.copy()))
        return kept

    def kill_again(self, judge: Judge, state: State, knowledge: Knowledge, number: int) -> None:
        """Record the recovery from a state, and check every state in which a kill can leave that."""
        script = Script(self.path)
        if number % 2:
            script.repair(keep_partial=bool(knowledge.streams) and number % 4 == 1)
        else:
            script.open("a").write("second", noise(5000)).flush().write("third", 3).close()
        files, events, outcomes = self.record(state.content, script)
        if any(outcomes):
            judge.failures.append(f"{state.label}: recovering: {outcomes}")
            return
        second = Judge(self.work, judge.base)
        states = states_after_kill(files, events, self.path, CUTS)
        self.judge(second, states, events, knowledge, script)
        judge.count += second.count
        judge.failures += [f"{state.label}: then, {text}" for text in second.failures]
