"""What is remembered for a while, since it can be had again: never more than so many values."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Kept(Generic[K, V]):
    """The last values that were made, of what does not change."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, made where there is none."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        return value


@dataclass(slots=True)
class _Making:
    """How often a value was begun to be made, and the last one that was."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    begun: int = 0
    made: int = 0
    value: Any = None
    next: float = 0.0


class Shared(Generic[K, V]):
    """Values that change, made for all who ask at a time: each gets one that was begun after it had asked.

    Args:
        most: values at a time.
        share: of the time, at most, that is spent on one.
        longest: seconds that somebody waits for that reason, at most.
    """

    def __init__(self, most: int, *, share: float = 0.2, longest: float = 0.25) -> None:
        self._makings: Kept[K, _Making] = Kept(most)
        self._rest = 1 / share - 1
        self._longest = longest

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key."""
        making = self._makings.get(key, _Making)
        before = making.begun
        with making.lock:
            if making.made <= before:
                time.sleep(max(0.0, making.next - time.monotonic()))
                making.begun += 1
                begun = time.monotonic()
                making.value = make()
                making.made = making.begun
                took = time.monotonic() - begun
                making.next = time.monotonic() + min(self._longest, self._rest * took)
            value: V = making.value
            return value
