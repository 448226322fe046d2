"""What happens in a run, as a client reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from egregore_dist.ledger.replies import unpack_positions


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One transition of a run.

    Attributes:
        cursor: its place in the run's stream.
        time: seconds since the epoch on the server's clock.
        type: ``run.submitted``, ``run.started``, ``run.ended``, ``run.retried``, ``run.paused``, ``run.resumed``,
            ``block.opened``, ``block.ended``, ``branches.started``, ``branches.ended``, ``branches.late``,
            ``branch.lost``, ``branch.stopped``, ``branch.again`` (it failed, and is tried again) or ``branches.waiting`` (a node of each
            has failed, and is called again later; their lanes keep them).
        block: the id of the block, or None.
        branches: the positions of the branches that started, or that ended well.
        failed: the positions of the branches that failed.
        worker: the worker that did it, or None.
        detail: the rest, as text: ``name``, ``n``, ``state``, ``count``.
    """

    cursor: str
    time: float
    type: str
    block: str | None
    branches: tuple[int, ...]
    failed: tuple[int, ...]
    worker: str | None
    detail: Mapping[str, str]

    @classmethod
    def of(cls, cursor: str, fields: dict[str, bytes]) -> Event:
        """Read an event from the fields of its stream entry."""
        rest = dict(fields)
        kind, block, lane = (rest.pop(name, b"").decode() for name in ("event", "block", "lane"))
        branches = [*_positions(rest.pop("branches", None)), *_positions(rest.pop("ok", None))]
        if "branch" in rest:
            branches.append(int(rest.pop("branch")))
        return cls(
            cursor=cursor,
            time=int(cursor.partition("-")[0]) / 1000,
            type=kind,
            block=block or None,
            branches=tuple(branches),
            failed=tuple(_positions(rest.pop("error", None))),
            worker=lane.rsplit("/", 2)[0] or None,
            detail={name: value.decode() for name, value in rest.items()},
        )


def _positions(raw: bytes | None) -> list[int]:
    return unpack_positions(raw) if raw else []
