"""Lets branches start processes, and ends those that a branch leaves behind.

A process of Celery's prefork pool is daemonic: `multiprocessing` refuses to start processes there. It is not while it
serves a lane. Of a process that has no children, nothing is asked but that, in one system call.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import active_children, util
from multiprocessing.process import AuthenticationString  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

import psutil
from billiard import process as billiards

from egregore_dist.engine import boards, marks

#: Seconds that a branch takes at least if it starts a process; a look at what it left takes 4 microseconds.
QUICKEST = 50e-6
#: Seconds between SIGTERM and SIGKILL.
GRACE = 0.5
# Seconds that killed processes may take to be gone, and that a pool of processes may take to close.
_GONE_WITHIN = _CLOSES_WITHIN = 2.0
_LOOK_EVERY = 0.005
# What is started while others are ended is ended next.
_PASSES = 3

_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

# Helpers of libraries: they end with the process that started them, which goes on using them.
_HELPERS = (
    ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
    ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
    ("billiard.semaphore_tracker", "_semaphore_tracker", "_semaphoretracker_pid"),
    ("loky.backend.resource_tracker", "_resource_tracker", "_pid"),
    ("joblib.externals.loky.backend.resource_tracker", "_resource_tracker", "_pid"),
)
_FORKSERVER = _HELPERS[1]
_REUSED = ("loky.reusable_executor", "joblib.externals.loky.reusable_executor")
# Whose handlers of signals mean nothing in a process that a branch has forked.
_OWN = ("billiard", "celery", "egregore_dist")
_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1)

_lock = threading.Lock()
_lanes = 0
_imports = 0
_mark = ""
_is_pool_process = False
_owned = False
_is_installed = False
_before: dict[str, Any] = {}
_kept: set[int] = set()


def own() -> None:
    """Nothing but lanes runs in this process, whatever pool it has: what is new in it was started by branches."""
    global _owned
    _owned = True


@contextmanager
def allowed() -> Iterator[None]:
    """Around what a lane does in this process: its branches may start processes."""
    _begin()
    try:
        yield
    finally:
        try:
            end()
        finally:
            _leave()


def end() -> None:
    """End what the branch that has just ended has started, unless other branches share this process.

    What the process had before the lane, which only `allowed` knows, is left alone; so is what a module started as it
    was imported.
    """
    if not _has_children() or _lanes != 1 or not (_is_pool_process or _owned):
        return
    for _ in range(_PASSES):
        left = _left()
        if not left:
            break
        _end(left)


@contextmanager
def kept() -> Iterator[None]:
    """What is started in here is left alone, as what a module starts when it is imported."""
    before = set(_children()) if _has_children() else set()
    _importing(1)
    try:
        yield
    finally:
        _importing(-1)
    if _has_children():
        _kept.update(set(_children()) - before)


def _importing(more: int) -> None:
    # Branches on other threads may import at the same time.
    global _imports
    with _lock:
        _imports += more
        _wear_mark()


def _wear_mark() -> None:
    if _mark and not _imports:
        marks.put_on(_mark)
    else:
        marks.take_off()


def _begin() -> None:
    global _lanes, _is_pool_process, _is_installed, _mark
    with _lock:
        _lanes += 1
        if _lanes > 1:
            return
        if not _is_installed:
            _is_installed = True
            os.register_at_fork(after_in_child=_forked)
        _kept.clear()
        if _has_children():
            _kept.update(_children())
        process: Any = billiards.current_process()
        _is_pool_process = process.daemon
        if _is_pool_process:
            _before.update(process._config)
            # Billiard's own key refuses to travel to what `multiprocessing` starts.
            process._config.update(daemon=False, authkey=AuthenticationString(process.authkey))
            if (board := boards.path()) is not None:
                _mark = marks.of(board)
                _wear_mark()
            _adopt(True)


def _leave() -> None:
    global _lanes, _is_pool_process, _mark
    with _lock:
        _lanes -= 1
        if _lanes == 0 and _is_pool_process:
            # What the user's own tasks do in this process is as it always was.
            _adopt(False)
            _mark = ""
            _wear_mark()
            process: Any = billiards.current_process()
            process._config.update(_before)
            _is_pool_process = False


def _forked() -> None:
    # In a process that a branch has forked.
    if _lanes == 0:
        return
    _kept.clear()
    for number in _SIGNALS:
        handler: Any = signal.getsignal(number)
        if str(getattr(handler, "__module__", "")).partition(".")[0] in _OWN:
            signal.signal(number, signal.SIG_DFL)


def _adopt(wants: bool) -> None:
    # A process whose parent, a shell perhaps, has ended is this one's child then.
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, int(wants), 0, 0, 0)


if hasattr(os, "waitid"):
    _LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT

    def _has_children() -> bool:
        try:
            os.waitid(os.P_ALL, 0, _LOOK)
        except ChildProcessError:
            return False
        return True

    def _is_unfinished(child: int) -> bool:
        # A zombie whose threads are ending cannot be waited for yet.
        try:
            return os.waitid(os.P_PID, child, _LOOK) is None
        except ChildProcessError:
            return False

else:

    def _has_children() -> bool:
        return bool(psutil.Process().children())

    def _is_unfinished(child: int) -> bool:
        return False


def _children(of: int | None = None) -> list[int]:
    pid = of or os.getpid()
    try:
        # Far quicker than to ask all processes of the machine for their parents.
        files = Path(f"/proc/{pid}/task").glob("*/children")
        found = [file.read_text().split() for file in files]
    except OSError:
        found = []
    if found:
        return [int(child) for each in found for child in each]
    with suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children()]
    return []


def _left() -> set[int]:
    children = set(_children())
    _kept.intersection_update(children)
    left = children - _kept - {pid for helper in _HELPERS if (pid := _helper(helper)) is not None}
    forkserver = _helper(_FORKSERVER)
    if forkserver in children:
        left.update(_children(forkserver))
    return left


def _helper(named: tuple[str, str, str]) -> int | None:
    module, name, attribute = named
    return getattr(getattr(sys.modules.get(module), name, None), attribute, None)


def _end(left: set[int]) -> None:
    executors = _executors(left)
    _renew_loaders(left)
    for close in _closers(left):
        # On a thread: a pool of which somebody has killed a process may never close.
        closing = threading.Thread(target=close, name="egregore-close", daemon=True)
        closing.start()
        closing.join(_CLOSES_WITHIN)
    doomed = list(_with_descendants(left))
    if not _end_all(doomed, signal.SIGTERM, GRACE):
        _end_all(list(_with_descendants(left)) + doomed, signal.SIGKILL, _GONE_WITHIN)
    _reap(left | {process.pid for process in doomed})
    for manager, executor in executors:
        manager.join(_CLOSES_WITHIN)
        _renew(executor)


def _with_descendants(pids: Iterable[int]) -> Iterator[psutil.Process]:
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            yield process
            yield from process.children(recursive=True)


def _end_all(processes: list[psutil.Process], number: int, seconds: float) -> bool:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    until = time.monotonic() + seconds
    while True:
        have_ended = not any(map(_runs, processes))
        # Their owners learn of it before anybody else takes the news.
        active_children()
        subprocess._cleanup()  # type: ignore[attr-defined]
        if have_ended:
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(_LOOK_EVERY)


def _runs(process: psutil.Process) -> bool:
    try:
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            return True
    except psutil.NoSuchProcess:
        pass
    return _is_unfinished(process.pid)


def _reap(left: set[int]) -> None:
    # Whoever holds a `Popen` hears how it ended; what nobody waits for must not stay a zombie.
    for held in gc.get_objects():
        if issubclass(type(held), subprocess.Popen) and getattr(held, "pid", None) in left:
            held.poll()
    for pid in left:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _closers(left: set[int]) -> Iterator[Callable[[], object]]:
    # Pools that would start other processes in the place of those that are ended.
    for name in _REUSED:
        executor = getattr(sys.modules.get(name), "_executor", None)
        if executor is not None and left.intersection(executor._processes or ()):
            yield partial(executor.shutdown, wait=True, kill_workers=True)
    for finalizer in list(util._finalizer_registry.values()):  # type: ignore[attr-defined]
        pool = getattr(getattr(finalizer, "_callback", None), "__qualname__", "") == "Pool._terminate_pool"
        if pool and left.intersection(process.pid for process in finalizer._args[3] if hasattr(process, "_popen")):
            yield finalizer


def _executors(left: set[int]) -> list[tuple[threading.Thread, ProcessPoolExecutor]]:
    # Those that somebody holds, such as a module, and of which processes are ended.
    found = []
    for thread in threading.enumerate():
        made = getattr(thread, "executor_reference", lambda: None)()
        if isinstance(made, ProcessPoolExecutor) and not made._shutdown_thread and left.intersection(made._processes):
            found.append((thread, made))
    return found


def _renew(executor: Any) -> None:
    # It starts others when it is used again; as it is, it would raise BrokenProcessPool from now on.
    executor.__init__(
        executor._max_workers,
        executor._mp_context,
        executor._initializer,
        executor._initargs,
        max_tasks_per_child=executor._max_tasks_per_child,
    )


def _renew_loaders(left: set[int]) -> None:
    # Iterators of PyTorch would raise errors here as their workers end. A loader that holds one makes another then.
    module: Any = sys.modules.get("torch.utils.data.dataloader")
    if module is None:
        return
    objects = gc.get_objects()
    iterators = [
        held
        for held in objects
        if issubclass(type(held), module._MultiProcessingDataLoaderIter)
        and left.intersection(worker.pid for worker in getattr(held, "_workers", ()))
    ]
    for iterator in iterators:
        if getattr(iterator, "_worker_pids_set", False):
            module._utils.signal_handling._remove_worker_pids(id(iterator))
            iterator._worker_pids_set = False
        if hasattr(iterator, "_pin_memory_thread_done_event"):
            iterator._pin_memory_thread_done_event.set()
        # It raises an error when it is used again, and its finalizer waits for none of the workers.
        iterator._shutdown = True
    for held in objects:
        if issubclass(type(held), module.DataLoader) and getattr(held, "_iterator", None) in iterators:
            held._iterator = None
