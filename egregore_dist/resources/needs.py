"""What lanes need of a worker beyond consuming their queue: it is said in the name of a queue of their own.

Such a queue is derived from another one: ``egregore@gpus:1+zone=eu`` is that of the lanes of queue ``egregore`` that
need a GPU and a worker with the label ``zone=eu``. Workers of ``egregore`` that have both consume it, and no others do.
What a node gives as its queue never has an ``@`` in it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

#: What a node of which nothing is known is taken to need. Bytes. What declares no more, nor more than one core, runs
#: wherever its queue is served.
MEMORY_PER_NODE = 50 * 2**20

# Nobody has more, and a name has room for no more.
_MOST_MEMORY, _MOST_CPUS = 10**15, 10**6

_PART = re.compile(
    r"(?P<label>[A-Za-z0-9_.-]+=[A-Za-z0-9_.-]+)|(?P<size>memory|learned|cpus|gpus):(?P<number>\d{1,16}(\.\d{1,3})?)",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker has to have to serve a queue.

    Attributes:
        queue: that it consumes: the queue itself, or the one that it was derived from.
        labels: each as ``key=value``.
        gpus: of its machine, for one lane.
        memory: bytes that one branch was declared to need, which a worker's share of its machine's memory has to hold.
        learned: bytes that one was seen to need; where no worker has so much, those serve it that have most.
        cpus: cores that one branch was declared to need.
    """

    queue: str
    labels: frozenset[str] = frozenset()
    gpus: int = 0
    memory: int = 0
    learned: int = 0
    cpus: float = 0.0

    @property
    def most_memory(self) -> int:
        """Bytes that one branch needs, as was declared or learned."""
        return max(self.memory, self.learned)

    @property
    def takes_room(self) -> bool:
        """Whether a lane has to be admitted to its machine."""
        return bool(self.most_memory or self.cpus)

    @property
    def has_sizes(self) -> bool:
        """Whether a lane has only what as many branches need as it was planned to run at a time."""
        return self.takes_room or self.gpus > 0


def queue(
    base: str,
    *,
    labels: Iterable[str] = (),
    gpus: int = 0,
    memory: int = 0,
    learned: int = 0,
    cpus: float = 0.0,
) -> str:
    """The queue of lanes that need this of the workers of a queue: that itself where they need no more."""
    sizes = [("memory", str(memory)), ("learned", str(learned)), ("cpus", _decimal(cpus)), ("gpus", str(gpus))]
    parts = [*(f"{name}:{number}" for name, number in sizes if number != "0"), *sorted(labels)]
    return f"{base}@{'+'.join(parts)}" if parts else base


@lru_cache(maxsize=4096)
def of(name: str) -> Needs:
    """What lanes of a queue need."""
    base, _, said = name.rpartition("@")
    parts = [_PART.fullmatch(part) for part in said.split("+")] if base else [None]
    labels = frozenset(part["label"] for part in parts if part is not None and part["label"])
    sizes = {part["size"]: float(part["number"]) for part in parts if part is not None and part["size"]}
    whole = {size: int(sizes.get(size, 0)) for size in ("gpus", "memory", "learned")}
    found = Needs(base, labels, cpus=sizes.get("cpus", 0.0), **whole)
    # Only what is written as it would be here: others may call their queues what they like.
    is_derived = None not in parts and _name(found) == name
    return found if is_derived else Needs(name)


def is_derived(name: str) -> bool:
    """Whether a queue is derived from another one."""
    return of(name).queue != name


def declared(memory: int | None, cpus: float | None) -> tuple[int, float]:
    """The memory and the cores that decide where a node runs: 0 of what each worker is taken to have."""
    return (
        min(memory, _MOST_MEMORY) if memory is not None and memory > MEMORY_PER_NODE else 0,
        # As a name says it; a thousand times a decimal is not always whole.
        math.ceil(round(min(cpus, _MOST_CPUS) * 1000, 6)) / 1000 if cpus is not None and cpus > 1 else 0.0,
    )


def with_declared(name: str, memory: int, cpus: float) -> str:
    """The queue of the same lanes where a branch needs so many bytes and cores; 0 for as many as each worker has."""
    return _name(replace(of(name), memory=memory, cpus=cpus))


def with_learned(name: str, memory: int) -> str:
    """The queue of the same lanes where a branch was seen to need so many bytes; 0 for what it was declared to."""
    return _name(replace(of(name), learned=memory))


def without_sizes(name: str) -> str:
    """The queue of the same lanes for workers of any memory and cores."""
    return _name(replace(of(name), memory=0, learned=0, cpus=0.0))


def _name(found: Needs) -> str:
    return queue(
        found.queue,
        labels=found.labels,
        gpus=found.gpus,
        memory=found.memory,
        learned=found.learned,
        cpus=found.cpus,
    )


def _decimal(number: float) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".")
