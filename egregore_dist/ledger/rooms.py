"""The room that one machine has for lanes that need much of it, see ``room.lua``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from egregore_dist.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a worker's lanes may have of its machine. Memory in bytes.

    Attributes:
        group: the processes that have one memory limit with the worker; "" for all of the machine.
        memory: of that group.
        machine: of the machine.
        cores: of the machine.
    """

    group: str
    memory: int
    machine: int
    cores: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Whether there is room for a lane, and what others have.

    Attributes:
        has_room: whether there is.
        memory: bytes that lanes have on the machine, all workers together.
        cores: cores that they have.
        lanes: how many they are.
        others_first: whether somebody waits there for longer.
    """

    has_room: bool
    memory: int
    cores: float
    lanes: int
    others_first: bool


class Rooms:
    """The room of one worker's machine. Safe to share between threads.

    Args:
        host: the machine.
        worker: the worker's name.

    Every method raises `errors.BrokerUnavailable` where the ledger cannot be reached.
    """

    def __init__(self, ledger: Ledger, host: str, worker: str) -> None:
        self._ledger = ledger
        self._key = ledger.keys.machine(host)
        self._worker = worker

    def begin(self) -> None:
        """This worker has begun, and has no lanes: give back what one of its name had."""
        self._ask("begin")

    def admit(
        self,
        queue: str,
        lane: str,
        *,
        memory: int,
        cores: float,
        bounds: Bounds,
        of: tuple[str, str, int] | None = None,
    ) -> Answer:
        """Have a lane take its room, where there is some; else lanes of its queue wait from now on.

        Args:
            lane: its id; "" to see whether there is room, and keep the turn of those that wait.
            memory: bytes that one branch needs.
            cores: that one branch needs.
            of: run, block and track that it serves, where it may run several branches at a time.
        """
        block = "" if of is None else self._ledger.keys.block(of[0], "b", of[1])
        track = 0 if of is None else of[2]
        sizes = [memory, round(cores * 1000), bounds.group, bounds.memory, bounds.machine, int(bounds.cores * 1000)]
        has_room, taken, busy, lanes, others = self._ask("admit", queue, lane, *sizes, block, track)
        return Answer(
            has_room=bool(has_room),
            memory=int(taken),
            cores=busy / 1000,
            lanes=int(lanes),
            others_first=bool(others),
        )

    def free(self, lanes: Iterable[str]) -> None:
        """These lanes have ended: give back what they have."""
        self._ask("free", *lanes)

    def leave(self, queue: str) -> None:
        """No lane of a queue waits for this worker any more."""
        self._ask("leave", queue)

    def _ask(self, what: str, *args: Any) -> Any:
        return self._ledger.call("room", self._key, [what, self._worker, *args])
