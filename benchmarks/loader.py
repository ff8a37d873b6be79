"""The rate of batches of excerpts from a PyTorch loader, beside `gather` and datasets of single ones."""

import io
import multiprocessing
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cold import drop
from data import (
    COLUMNS,
    OWN,
    Excerpt,
    Plan,
    excerpts_of,
    rows_of,
    rows_of_recording,
    safetensors_excerpts,
)
from harness import OURS, Bar, Case, Contenders, digits, duration, member_name, require, run
from peers import PEERS, number_of

import mmnpz

LENGTH, BATCH = 100, 64

COLLATED, THREADS = f"{OURS}, collate_fn", f"{OURS}, threads=2"
GATHER, GATHERS = "gather", "gather, 2 processes"
VIEWS, SAFETENSORS = "views", "safetensors"
SPDL, WEBDATASET = "spdl", "webdataset"
LENGTHS = f"{OURS}, length="


def cases(plan: Plan) -> list[Case]:
    members = plan.scaled(20_000, 200)
    archives = {OWN: plan.archive(OWN, "recording", members)}
    archives[SAFETENSORS] = plan.archive(SAFETENSORS, "recording", members)
    archives[WEBDATASET] = plan.shards(members)
    warm = {"archives": {name: str(path) for name, path in archives.items()}, "members": members}
    warm["epochs"] = plan.scaled(15, 2)
    many = plan.scaled(4096, 200)
    path = str(plan.archive(OWN, "recording", many, on_disk=True))
    cold = {"archives": {OWN: path}, "members": many, "epochs": 1, "cold": True, "strict": not plan.quick}
    what = f"batches of {BATCH} excerpts of {LENGTH} × 80 float32 of {members:,} arrays: excerpts a second"

    def case(
        how: str, contenders: tuple[str, ...], limit: float, peer: str, parameters: dict[str, Any]
    ) -> Case:
        bars = (Bar(f"≥ {limit} × {peer}", limit, peer),)
        return Case(f"DataLoader{how}, {what}", contenders, parameters, _rate, bars, True)

    alone = (OURS, COLLATED, THREADS, GATHER, VIEWS, SAFETENSORS, SPDL, WEBDATASET)
    first = {**warm, "epochs": 1}
    return [
        case("", alone, 0.85, GATHER, warm),
        case(
            " with 2 workers",
            (OURS, COLLATED, GATHERS, VIEWS, SAFETENSORS, SPDL, WEBDATASET),
            0.8,
            GATHERS,
            warm | {"workers": 2},
        ),
        case(" from a disk, not in the page cache", (OURS, GATHER, VIEWS), 0.8, GATHER, cold),
        *(
            Case(
                f"DataLoader with a transform of each sample{epoch}, {what}",
                (OURS, LENGTHS, VIEWS),
                {**parameters, "transformed": True},
                _rate,
                (Bar(f"≥ 1 × {VIEWS}", 1, VIEWS),),
                True,
            )
            for epoch, parameters in (("", warm), (", first epoch", first))
        ),
        *(
            Case(
                f"the first batch of a DataLoader with 2 workers ({method}), {members:,} arrays",
                (OURS, COLLATED, VIEWS),
                {**warm, "workers": 2, "method": method},
                duration,
                (Bar(f"≤ 1.1 × {VIEWS}", 1 / 1.1, VIEWS),),
            )
            for method in ("spawn", "forkserver")
        ),
    ]


def _rate(rate: float) -> str:
    return f"{digits(rate / 1e3)} k/s"


def places(members: int, seed: int) -> Iterator[tuple[list[int], list[int]]]:
    """Return batches: the numbers of members in random order, and where excerpts start."""
    generator = np.random.default_rng(seed)
    rows = np.array([rows_of(number) for number in range(members)])
    order = generator.permutation(members)
    for first in range(0, members - BATCH + 1, BATCH):
        numbers = order[first : first + BATCH]
        starts = (generator.random(BATCH) * (rows[numbers] - LENGTH + 1)).astype(int)
        yield numbers.tolist(), starts.tolist()


class OneByOne:
    """A dataset as programs write it: a copy of a slice for each sample."""

    def __init__(self, how: str, path: str, members: int, transform: Callable[[Any], Any] | None) -> None:
        self.how, self.path, self.transform = how, path, transform
        self.rows = [rows_of(number) for number in range(members)]
        self.take: Any = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Any:
        import torch

        if self.take is None:
            self.take = (
                _views(self.path) if self.how == VIEWS else safetensors_excerpts(self.path, keep=False)
            )
        start = int(torch.randint(self.rows[number] - LENGTH + 1, ()))
        part = torch.from_numpy(np.array(self.take(member_name(number), start, start + LENGTH)))
        return part if self.transform is None else self.transform(part), number


def _at_random(view: Any) -> Any:
    import torch

    start = int(torch.randint(len(view) - LENGTH + 1, ()))
    return view[start : start + LENGTH]


def _transform(tensor: Any) -> Any:
    """Change nothing, at the cost of something simple."""
    return tensor.add_(0)


def _views(path: str) -> Excerpt:
    return excerpts_of(mmnpz.load(path, cache=False, subok=False))


def _drop(path: str, strict: bool) -> None:
    left = drop([Path(path)])
    require(not strict or left < 0.01, f"{left:.0%} of {path} stay in the page cache")


def check(batch: Any, members: Any) -> None:
    for excerpt, number in zip(np.asarray(batch), np.asarray(members).tolist(), strict=True):
        start = round((float(excerpt[0, 0]) - number) / COLUMNS)
        require(
            np.array_equal(excerpt, rows_of_recording(number, start, start + LENGTH)),
            f"the excerpt of {member_name(number)} is not what was written",
        )


def with_loader(
    how: str,
    workers: int = 0,
    epochs: int = 1,
    cold: bool = False,
    method: str = "",
    transformed: bool = False,
    **where: Any,
) -> float:
    """Return excerpts a second in the best epoch or, with `method`, the seconds until the first batch."""
    import torch
    from torch.utils.data import DataLoader

    from mmnpz.torch import Batches, NpzDataset, collate

    torch.set_num_threads(1)
    members = where["members"]
    path = where["archives"][SAFETENSORS if how == SAFETENSORS else OWN]
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    if method:
        options["multiprocessing_context"] = method
    batches = Batches(range(members), BATCH, shuffle=True, drop_last=True)
    transform = _transform if transformed else None
    if transformed or how in (VIEWS, SAFETENSORS):
        single: Any  # PyTorch asks no more of a dataset than its methods
        if how == OURS:
            single = NpzDataset(path, excerpt=_at_random, transform=transform, index=True)
        elif how == LENGTHS:
            single = NpzDataset(path, length=LENGTH, transform=transform, index=True)
        else:
            single = OneByOne(how, path, members, transform)
        loader: Any = DataLoader(single, batch_sampler=batches, **options)
    else:
        dataset = NpzDataset(path, length=LENGTH, index=True, threads=2 if how == THREADS else 1)
        if how == COLLATED:
            loader = DataLoader(dataset, batch_sampler=batches, collate_fn=collate, **options)
        else:
            loader = DataLoader(dataset, sampler=batches, batch_size=None, **options)
    if cold:
        _drop(path, where["strict"])

    if method:
        begin = time.perf_counter()
        batch = next(iter(loader))
        seconds = time.perf_counter() - begin
        check(*batch)
        return seconds

    return _best(lambda: loader, epochs)


def _best(batches: Callable[[], Any], epochs: int) -> float:
    """Return samples a second in the best epoch."""

    def epoch() -> float:
        last: Any = None
        begin, count = time.perf_counter(), 0
        for last in batches():
            count += len(last[0])
        seconds = time.perf_counter() - begin
        check(*last)
        return count / seconds

    return max(epoch() for _ in range(epochs))


def with_spdl(archives: dict[str, str], members: int, epochs: int, workers: int = 0) -> float:
    """The pipeline of spdl, whose workers are threads, and its reader, with the arrays kept."""
    import torch
    from spdl import pipeline as spdl

    store, count = PEERS[SPDL].open(archives[OWN], (COLUMNS,)), max(workers, 1)

    def batch(places: tuple[list[int], list[int]]) -> tuple[Any, list[int]]:
        out = np.empty((BATCH, LENGTH, COLUMNS), np.float32)
        store.fill([store.key(member_name(number)) for number in places[0]], places[1], out)
        return torch.from_numpy(out), places[0]

    def epoch() -> Iterator[Any]:
        builder: Any = spdl.PipelineBuilder()
        source = builder.add_source(places(members, 0))
        pipeline = source.pipe(batch, concurrency=count).add_sink(2 * count).build(num_threads=count)
        with pipeline.auto_stop():
            yield from pipeline

    return _best(epoch, epochs)


def _of_shard(sample: dict[str, Any]) -> tuple[Any, int]:
    import torch

    return torch.from_numpy(_at_random(np.load(io.BytesIO(sample["npy"])))), number_of(sample["__key__"])


def with_webdataset(archives: dict[str, str], members: int, epochs: int, workers: int = 0) -> float:
    """Shards in random order, and a buffer of samples in random order: it reads whole arrays, one by one."""
    import webdataset as module

    webdataset: Any = module
    shards = [str(path) for path in sorted(Path(archives[WEBDATASET]).iterdir())]
    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards), empty_check=False)
    samples = dataset.map(_of_shard).shuffle(1000).batched(BATCH, partial=False)
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    loader = webdataset.WebLoader(samples, batch_size=None, **options)
    return _best(lambda: loader, min(epochs, 2))


def with_gather(
    archives: dict[str, str], members: int, epochs: int, cold: bool = False, strict: bool = False
) -> float:
    """The limit: of each batch, only `gather` is called, with positions and places that are known before."""
    data = mmnpz.load(archives[OWN], cache=False)
    all_planned = [list(places(members, epoch)) for epoch in range(epochs)]
    if cold:
        _drop(archives[OWN], strict)
    return max(_gathered(data, planned) for planned in all_planned)


def _gathered(data: Any, planned: list[tuple[list[int], list[int]]]) -> float:
    batch = None
    begin = time.perf_counter()
    for numbers, starts in planned:
        # As for one who uses a loader, the last batch is there while the next one is made.
        batch = data.gather(numbers, starts, length=LENGTH)
    seconds = time.perf_counter() - begin
    check(batch, planned[-1][0])
    return len(planned) * BATCH / seconds


def with_gathers(archives: dict[str, str], members: int, epochs: int, workers: int) -> float:
    """The same in several processes at a time, each of which makes as many batches as a worker."""
    context = multiprocessing.get_context("fork")
    data, results = mmnpz.load(archives[OWN], cache=False), context.SimpleQueue()
    barrier = context.Barrier(workers)

    def work(number: int) -> None:
        rates = []
        for epoch in range(epochs):
            planned = list(places(members, epoch))[number::workers]
            barrier.wait()
            rates.append(_gathered(data, planned))
        results.put(rates)

    processes = [context.Process(target=work, args=(number,)) for number in range(workers)]
    for process in processes:
        process.start()
    rates = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return float(np.sum(rates, axis=0).max())


CONTENDERS: Contenders = {
    GATHER: with_gather,
    GATHERS: with_gathers,
    SPDL: with_spdl,
    WEBDATASET: with_webdataset,
    **{how: partial(with_loader, how) for how in (OURS, COLLATED, THREADS, LENGTHS, VIEWS, SAFETENSORS)},
}

if __name__ == "__main__":
    run(CONTENDERS)
