"""What lanes need of a worker beyond consuming their queue: it is said in the name of a queue of their own.

Such a queue is derived from another one: ``egregore@gpus:1+zone=eu`` is that of the lanes of queue ``egregore`` that
need a GPU and a worker with the label ``zone=eu``. Workers of ``egregore`` that have both consume it, and no others do.
What a node gives as its queue never has an ``@`` in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

_PART = re.compile(r"(?P<label>[A-Za-z0-9_.-]+=[A-Za-z0-9_.-]+)|(?P<size>memory|gpus):(?P<number>\d{1,16})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker has to have to serve a queue.

    Attributes:
        queue: that it consumes: the queue itself, or the one that it was derived from.
        labels: each as ``key=value``.
        gpus: of its machine, for one lane.
        memory: bytes for one lane, which a worker's share of its machine's memory has to hold.
    """

    queue: str
    labels: frozenset[str] = frozenset()
    gpus: int = 0
    memory: int = 0


def queue(base: str, *, labels: Iterable[str] = (), gpus: int = 0, memory: int = 0) -> str:
    """The queue of lanes that need this of the workers of a queue: that itself where they need no more."""
    sizes = [f"{name}:{number}" for name, number in (("memory", memory), ("gpus", gpus)) if number]
    parts = [*sizes, *sorted(labels)]
    return f"{base}@{'+'.join(parts)}" if parts else base


@lru_cache(maxsize=4096)
def of(name: str) -> Needs:
    """What lanes of a queue need."""
    base, _, said = name.rpartition("@")
    parts = [_PART.fullmatch(part) for part in said.split("+")] if base else [None]
    labels = frozenset(part["label"] for part in parts if part is not None and part["label"])
    sizes = {part["size"]: int(part["number"]) for part in parts if part is not None and part["size"]}
    found = Needs(base, labels, sizes.get("gpus", 0), sizes.get("memory", 0))
    # Only what is written as it would be here: others may call their queues what they like.
    is_derived = None not in parts and _name(found) == name
    return found if is_derived else Needs(name)


def is_derived(name: str) -> bool:
    """Whether a queue is derived from another one."""
    return of(name).queue != name


def with_memory(name: str, memory: int) -> str:
    """The queue of the same lanes where each needs so many bytes; 0 for as many as they were declared to."""
    found = of(name)
    return queue(found.queue, labels=found.labels, gpus=found.gpus, memory=memory)


def _name(found: Needs) -> str:
    return queue(found.queue, labels=found.labels, gpus=found.gpus, memory=found.memory)
