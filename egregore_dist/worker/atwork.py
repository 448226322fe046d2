"""What the lanes of a worker are at, for its report."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from egregore_dist.engine import app as apps
from egregore_dist.engine.board import NOBODY, Note
from egregore_dist.ledger.keys import ROOT
from egregore_dist.resources.report import AtWork


def of_notes(notes: Iterable[Note], now: int) -> tuple[AtWork, ...]:
    """What processes say that they execute.

    Args:
        now: the server's time, in milliseconds.
    """
    clock = time.monotonic()
    return tuple(_of_note(note, clock, now) for note in notes)


def of_requests(requests: Iterable[Any], now: int) -> tuple[AtWork, ...]:
    """What messages asked the lanes for that run in the worker's own process: a lane may have gone on since.

    Args:
        now: the server's time, in milliseconds.
    """
    found = []
    for request in requests:
        match request.type, tuple(request.args or ()):
            case (apps.ADVANCE, (str(run), *_)):
                block = ROOT
            case (apps.LANE, (str(run), str(block), _, *_)) | (apps.COLLECT, (str(run), str(block), *_)):
                pass
            case _:
                continue
        # By this machine's clock, which may be wrong.
        lasted = max(0.0, time.time() - request.time_start) if request.time_start else None
        found.append(AtWork(run, block, since=0 if lasted is None else now - int(lasted * 1000)))
    return tuple(found)


def _of_note(note: Note, clock: float, now: int) -> AtWork:
    where = note.where
    # On an event loop it is whoever has its turn just now.
    if note.loop or note.branch == NOBODY:
        return AtWork(where.run, where.block, where.token)
    since = now - int((clock - note.since) * 1000)
    return AtWork(where.run, where.block, where.token, since, note.branch, note.call.attempt, note.node)
