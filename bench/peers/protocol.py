"""What the harness and a peer's process say to each other: one JSON object a line, a request and its answer in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol


class Unsupported(Exception):
    """The peer cannot do this; the message says why, for the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The cluster that a driver starts.

    Attributes:
        workers: workers, where the peer has such a thing.
        processes: processes of each.
        server: a Redis or Valkey server of its own, for peers that need one.
        folder: for whatever it writes.
        options: the peer's own.
    """

    workers: int = 1
    processes: int = 2
    server: str = ""
    folder: str = ""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        """Processes that work."""
        return self.workers * self.processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be done once.

    Attributes:
        kind: ``each``: a branch for each input; ``share``: one input of ``size`` bytes for ``count`` branches;
            ``nest``: blocks in blocks, ``fan`` branches in each, ``depth`` levels.
        function: of the branches.
        count: how many branches.
        item: the input of each of them.
        items: where they differ, the input of each.
        cap: how many may run at a time.
        io: whether the branches mostly wait, where a peer wants that declared.
    """

    kind: Literal["each", "share", "nest"] = "each"
    function: str = "trivial"
    count: int = 1
    item: Any = 1
    items: list[Any] | None = None
    cap: int | None = None
    io: bool = False
    size: int = 0
    depth: int = 0
    fan: int = 2

    @property
    def data(self) -> Any:
        """The input of every branch, where they do not differ."""
        return "x" * self.size if self.kind == "share" else self.item

    @property
    def inputs(self) -> list[Any]:
        """The input of each branch."""
        return [self.data] * self.count if self.items is None else self.items

    @property
    def expected(self) -> int:
        """How many results there have to be."""
        return self.fan**self.depth if self.kind == "nest" else self.count

    def as_dict(self) -> dict[str, Any]:
        """For a message."""
        return asdict(self)


class Driver(Protocol):
    """One peer. It is made, started, asked for several pieces of work, and stopped, in a process of its own."""

    def start(self, setup: Setup) -> None:
        """Start the cluster, and wait until it serves."""

    def prepare(self, work: Work) -> Callable[[], object]:
        """A function that does the work once and returns its results; what can be built beforehand is.

        Raises:
            Unsupported: the peer has no such thing.
        """

    def settle(self) -> None:
        """Wait until nothing is left to do."""

    def left(self) -> int | None:
        """How many branches are not done yet, of all that is going on; None where the peer has no word for that."""

    def stop(self) -> None:
        """Stop all that was started."""
