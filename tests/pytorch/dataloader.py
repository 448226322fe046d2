"""Nodes use PyTorch's `DataLoader`. ``make test-torch`` runs these tests: no other environment has PyTorch."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch.utils.data import DataLoader, Dataset

from egregore_dist import Context, LocalCluster, RunFailed, node
from tests.support import strays
from tests.support.waiting import until

SIZE, BATCH = 32, 4
TOTAL = sum(range(SIZE))


class Numbers(Dataset[int]):
    """So many numbers, each of which takes ``seconds``."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> int:
        time.sleep(self.seconds)
        return index


def loader_of(seconds: float = 0.0, *, persistent: bool = False) -> DataLoader[int]:
    return DataLoader(Numbers(seconds), batch_size=BATCH, num_workers=2, persistent_workers=persistent)


#: In a global variable, as in a module of a user's.
KEPT = loader_of(0.01, persistent=True)
ITERATORS: list[Iterator[Any]] = []


def workers() -> list[int]:
    return [child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module", params=["prefork", "threads"])
def cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    """One worker of one lane, which serves all branches in the same process."""
    with LocalCluster(workers=1, concurrency=1, pool=request.param) as cluster:
        yield cluster


@node
def sums(how: str) -> tuple[int, int, list[int]]:
    """What a branch has seen of an epoch: the sum, its process, and the loader's workers."""
    loader = KEPT if how.startswith("kept") else loader_of()
    total, pids = 0, set[int]()
    for batch in loader:
        total += int(batch.sum())
        pids.update(workers())
        if how.endswith("first batch"):
            break
        if how.endswith("fails"):
            raise ValueError("in the middle of an epoch")
    return total, os.getpid(), sorted(pids)


@pytest.mark.parametrize("which", ["new", "kept"])
def test_each_branch_gets_what_it_asks_for(cluster: LocalCluster, which: str) -> None:
    """A whole epoch, or its beginning, from workers that end with the branch, though the loader outlives it."""
    hows = [f"{which}, {part}" for part in ("epoch", "epoch", "first batch", "first batch", "epoch")]
    values = sums.map().submit(hows).result(timeout=90)

    assert [total for total, _, _ in values] == [sum(range(BATCH)) if "first" in how else TOTAL for how in hows]
    assert len({process for _, process, _ in values}) == 1
    pids = [pid for _, _, pids in values for pid in pids]
    assert len(set(pids)) == len(pids) == 2 * len(hows)
    until(lambda: not any(map(strays.runs, pids)), what="the end of the workers")


@pytest.mark.parametrize("which", ["new", "kept"])
def test_a_branch_fails_in_the_middle_of_an_epoch(cluster: LocalCluster, which: str) -> None:
    """With its own error; the next branch gets all of its epoch."""
    with pytest.raises(RunFailed, match="in the middle of an epoch"):
        sums.submit(f"{which}, fails").result(timeout=60)

    assert sums.submit(f"{which}, epoch").result(timeout=60)[0] == TOTAL


@node
def keeps_an_iterator(data: object) -> int:
    """The first batch of an epoch that the next branch goes on with."""
    ITERATORS.append(iter(KEPT))
    return int(next(ITERATORS[0]).sum())


@node
def uses_the_iterator(data: object) -> int:
    """The rest of the epoch, if PyTorch gives it."""
    return sum(int(batch.sum()) for batch in ITERATORS.pop())


def test_an_iterator_that_is_kept(cluster: LocalCluster) -> None:
    """The next branch gets PyTorch's error, and no part of an epoch; the loader can be used again."""
    assert keeps_an_iterator.submit(None).result(timeout=60) == sum(range(BATCH))
    with pytest.raises(RunFailed, match="Invalid iterator state: shutdown"):
        uses_the_iterator.submit(None).result(timeout=60)

    assert sums.submit("kept, epoch").result(timeout=60)[0] == TOTAL


@node
def dies(folder: str, context: Context) -> int:
    """The first attempt ends by SIGKILL while its workers load."""
    if context.attempt == 2:
        return sum(int(batch.sum()) for batch in loader_of())
    loading = iter(loader_of(60.0))
    Path(folder, "pids").write_text(" ".join(map(str, workers())))
    os.kill(os.getpid(), signal.SIGKILL)
    return int(next(loading).sum())


@pytest.mark.parametrize("cluster", ["prefork"], indirect=True)
def test_the_process_is_killed_while_workers_load(cluster: LocalCluster, tmp_path: Path) -> None:
    """They end, and the second attempt has others."""
    assert dies.submit(str(tmp_path)).result(timeout=60) == TOTAL
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    until(lambda: not any(map(strays.runs, pids)), what="the end of the workers")
