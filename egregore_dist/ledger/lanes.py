"""What the lanes of workers are at: as these report, and as the ledger has it now; and which have still to stop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from egregore_dist.ledger.connection import reachable
from egregore_dist.ledger.ledger import Ledger
from egregore_dist.resources.report import AtWork, Report


@dataclass(frozen=True, slots=True, kw_only=True)
class AtBlock:
    """A lane at a block.

    Attributes:
        run: the run.
        workflow: the name of its workflow.
        block: the id of the block.
        name: its name.
        branch: the position of the branch that it executes; None where the worker did not name one: tiny ones
            follow each other, and a lane may execute many at a time.
        attempt: of that branch, from 1; 0 without one.
        node: what the branch has called last, or "".
        held: branches that the lane holds; 0 where that is not known.
        since: when the branch was begun, or the lane where none is named, in seconds of the server's clock since 1970;
            None where that is not known.
    """

    run: str
    workflow: str
    block: str
    name: str
    branch: int | None
    attempt: int
    node: str
    held: int
    since: float | None


def at_work(ledger: Ledger, reports: Iterable[Report], *, run: str | None = None) -> dict[str, list[AtBlock]]:
    """What the lanes of workers are at, by worker, in one round trip: without those that have left their blocks since.

    Args:
        run: the only one that is asked for, or None for all.

    Raises:
        errors.BrokerUnavailable: the ledger cannot be reached.
    """
    said = [(report.worker, work) for report in reports for work in report.work if run in (None, work.run)]
    keys = ledger.keys
    pipe = ledger.redis.pipeline(transaction=False)
    for _, work in said:
        pipe.hget(keys.run(work.run), "workflow")
        pipe.hmget(keys.block(work.run, "b", work.block), "name", "state")
        pipe.hget(keys.block(work.run, "l", work.block), f"@{work.token}")
    with reachable():
        answers = pipe.execute() if said else []
    found: dict[str, list[AtBlock]] = {}
    for (worker, work), workflow, (name, state), lane in zip(
        said, answers[::3], answers[1::3], answers[2::3], strict=True
    ):
        if workflow is None or state != b"open" or (work.token and lane is None):
            continue
        found.setdefault(worker, []).append(_lane(work, workflow, name, lane))
    for lanes in found.values():
        lanes.sort(key=lambda lane: (lane.since is None, lane.since, lane.run, lane.block))
    return found


def _lane(work: AtWork, workflow: bytes, name: Any, lane: bytes | None) -> AtBlock:
    held, since = 0, work.since
    if lane is not None:
        # "<held>:<width>:<track>:<since when it holds any>"
        parts = lane.split(b":")
        held, since = int(parts[0]), since or int(parts[3])
    return AtBlock(
        run=work.run,
        workflow=workflow.decode(),
        block=work.block,
        name=(name or b"").decode(),
        branch=work.branch,
        attempt=work.attempt,
        node=work.node,
        held=held,
        since=since / 1000 if since else None,
    )


def stopping(ledger: Ledger, run: str, blocks: Iterable[str] | None = None) -> list[str]:
    """The blocks of a run that has ended whose lanes have not all left yet; those of dead workers never do.

    Args:
        blocks: the only ones to look at; absent, all of the run.

    Raises:
        errors.BrokerUnavailable: the ledger cannot be reached.
    """
    keys, server = ledger.keys, ledger.redis
    with reachable():
        if blocks is None:
            blocks = [name.decode() for name in cast(set[bytes], server.smembers(keys.part(run, "blocks")))]
        asked = list(blocks)
        pipe = server.pipeline(transaction=False)
        for block in asked:
            pipe.hkeys(keys.block(run, "l", block))
        workers = {block: _workers(names) for block, names in zip(asked, pipe.execute(), strict=True)}
        named = sorted(set[str]().union(*workers.values()))
        for worker in named:
            pipe.exists(keys.worker(worker))
        alive = {worker for worker, there in zip(named, pipe.execute(), strict=True) if there}
    return [block for block in asked if workers[block] & alive]


def _workers(names: Iterable[bytes]) -> set[str]:
    # Beside the branches that are leased, "@<worker>/<pid>/<lane>" of each lane.
    return {name[1:].decode().rsplit("/", 2)[0] for name in names if name.startswith(b"@")}
