"""The room that one machine has for lanes that need much of it, see ``room.lua``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from egregore_dist.ledger.ledger import Ledger

_ADMITTED, _STALE = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a worker's lanes may have of its machine. Memory in bytes.

    Attributes:
        group: the processes that have one memory limit with the worker; "" for all of the machine.
        memory: of that group.
        machine: of the machine.
        cpu_group: the processes that have one CPU quota with the worker; "" for all of the machine.
        cores: of that group.
        machine_cores: of the machine.
    """

    group: str
    memory: int
    machine: int
    cpu_group: str
    cores: float
    machine_cores: float


@dataclass(frozen=True, slots=True)
class Grant:
    """What one lane has of its machine: bytes, cores, and of which groups."""

    memory: int
    cores: float
    group: str
    cpu_group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Whether there is room for a lane, and what others have.

    Attributes:
        has_room: whether there is.
        is_stale: whether there is nothing for the lane to do: its block has ended, or others do what is left.
        memory: bytes that other lanes have on the machine, all workers together.
        cores: cores that they have, of the CPU group.
        machine_cores: cores that they have on the machine.
        lanes: how many they are.
        others_first: whether somebody waits there for longer.
        grant: what the lane needs, and has if there is room.
    """

    has_room: bool
    is_stale: bool = False
    memory: int
    cores: float
    machine_cores: float
    lanes: int
    others_first: bool
    grant: Grant


class Rooms:
    """The room of one worker's machine. Safe to share between threads.

    Args:
        host: the machine.
        worker: the worker's name.
        ttl: seconds for which what its lanes have counts, unless `sync` says so again.

    Every method raises `errors.BrokerUnavailable` where the ledger cannot be reached.
    """

    def __init__(self, ledger: Ledger, host: str, worker: str, *, ttl: float) -> None:
        self._ledger = ledger
        self._key = ledger.keys.machine(host)
        self._worker = worker
        self._ttl = round(ttl * 1000)

    def admit(
        self,
        queue: str,
        lane: str,
        *,
        memory: int,
        cores: float,
        bounds: Bounds,
        of: tuple[str, str | None, int] | None = None,
    ) -> Answer:
        """Have a lane take its room, where there is some; else lanes of its queue wait from now on.

        Args:
            lane: its id; "" to see whether there is room, and keep the turn of those that wait.
            memory: bytes that one branch needs.
            cores: that one branch needs.
            of: run, block and track that it serves; without a block it carries the run on.
        """
        keys = self._ledger.keys
        run, block, track = (None, None, 0) if of is None else of
        about = ["", "", "", 0] if run is None else [keys.run(run), "", "", 0]
        if run is not None and block is not None:
            about[1:] = [keys.block(run, "b", block), f"{keys.block(run, 'q', block)}:{track}", track]
        needed = [memory, round(cores * 1000)]
        there = [bounds.group, bounds.cpu_group, bounds.memory, bounds.machine]
        there += [round(bounds.cores * 1000), round(bounds.machine_cores * 1000)]
        answer = self._ask("admit", queue, lane, *needed, *there, self._ttl, *about)
        said, taken, busy, lanes, others, has, of_cores, all_busy = answer
        return Answer(
            has_room=said == _ADMITTED,
            is_stale=said == _STALE,
            memory=int(taken),
            cores=busy / 1000,
            machine_cores=all_busy / 1000,
            lanes=int(lanes),
            others_first=bool(others),
            grant=Grant(int(has), of_cores / 1000, bounds.group, bounds.cpu_group),
        )

    def sync(self, has: Mapping[str, Grant]) -> bool:
        """Say what all lanes of this worker have, by their ids: what others of it had is given back.

        Returns whether lanes wait for room on the machine.
        """
        told = [
            value
            for lane, grant in has.items()
            for value in (lane, grant.memory, round(grant.cores * 1000), grant.group, grant.cpu_group)
        ]
        return bool(self._ask("sync", self._ttl, *told)[0])

    def leave(self, queue: str) -> None:
        """No lane of a queue waits for this worker any more."""
        self._ask("leave", queue)

    def _ask(self, what: str, *args: Any) -> Any:
        return self._ledger.call("room", self._key, [what, self._worker, *args])
