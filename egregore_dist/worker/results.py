"""The results of a prefork pool as it stops: Celery waits for ever for the rest of one whose process was killed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import isgenerator
from typing import Any

_NEEDED = ("_flush_outqueue", "_finish_partial_read", "_recv_message", "_hub")


def guard(prefork: Any) -> None:
    """Have a pool read what its processes have written last as it reads all else: what stays half is dropped.

    Args:
        prefork: Celery's pool of processes; of other releases that are made in another way, nothing is changed.
    """
    handler: Any = getattr(prefork._pool, "_result_handler", None)
    if all(hasattr(handler, name) for name in _NEEDED):
        handler._flush_outqueue = partial(_flush, handler, handler._flush_outqueue)


def _flush(
    handler: Any,
    flush: Callable[..., Any],
    descriptor: int,
    remove: Callable[[int], Any],
    processes: Any,
    on_message: Callable[[Any], Any],
) -> Any:
    process, hub = processes.get(descriptor), handler._hub
    if process is None or hub is None:
        return flush(descriptor, remove, processes, on_message)
    before = hub.readers.get(descriptor)
    if before is None or not isgenerator(before[0]):
        try:
            if not process.outq._reader.poll(0):
                # There is none: it waits a moment for one.
                return flush(descriptor, remove, processes, on_message)
        except OSError:
            return remove(descriptor)

        def done(*_: Any) -> None:
            if before is None:
                hub.readers.pop(descriptor, None)
            else:
                hub.readers[descriptor] = before

        # As the event loop notes a message that it has read in part. Celery completes that, or gives it up in time.
        hub.readers[descriptor] = handler._recv_message(done, descriptor, on_message), ()
    if handler._finish_partial_read(descriptor, process):
        hub.readers.pop(descriptor, None)
        return remove(descriptor)
    return None
