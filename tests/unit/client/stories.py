"""Events of runs, as tests tell them."""

from __future__ import annotations

from egregore_dist.client.events import Event
from egregore_dist.client.timeline import Timeline


def event(at: float, type: str, block: str | None = None, **more: object) -> Event:
    """An event, with what it says of branches and the rest."""
    told = ("branches", "failed", "worker", "attempts", "sizes", "took", "spent", "nodes", "calls")
    fields = {"branches": (), "failed": (), "worker": None} | {name: more.pop(name) for name in told if name in more}
    detail = {name: str(value) for name, value in more.items()}
    return Event(cursor=f"{int(at * 1000)}-0", time=at, type=type, block=block, detail=detail, **fields)  # type: ignore[arg-type]


def timeline(*events: Event) -> Timeline:
    """The timeline of these events."""
    made = Timeline()
    for one in events:
        made.add(one)
    return made


STORY = (
    event(100.0, "run.submitted"),
    event(101.0, "run.started"),
    event(101.0, "branches.started", "0", branches=(0,), worker="w1"),
    event(102.0, "block.opened", "0.0-1", name="fetch", n=3),
    event(103.0, "branches.started", "0.0-1", branches=(0, 1), worker="w1"),
    event(104.0, "branch.lost", "0.0-1", branches=(1,)),
    event(106.0, "branches.started", "0.0-1", branches=(1,), worker="w2"),
    event(107.0, "branches.ended", "0.0-1", branches=(1,), worker="w2"),
    event(108.0, "branches.ended", "0.0-1", failed=(0,), worker="w1"),
    event(108.0, "block.ended", "0.0-1", state="error"),
    event(108.0, "run.ended", state="failed"),
)
