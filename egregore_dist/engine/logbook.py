"""What nodes say, on its way to the ledger: held for a moment, bounded, and written by a thread of its own."""

from __future__ import annotations

import contextvars
import logging
import os
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from egregore_dist.engine.inside import Here
from egregore_dist.ledger import Ledger, logs
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.logs import Line
from egregore_dist.settings import Settings, level_of

log = logging.getLogger(__name__)

#: Seconds between two times that lines are written; letters of a line that are kept.
EVERY, LONGEST = 0.3, 4000
#: Bytes that wait at most: of what is said while the ledger is away, the rest is counted alone.
WAIT_AT_MOST = 8 * 2**20

# Seconds after which a line that nobody has ended is shown as it is.
_SETTLED = 1.0
# What a line takes beside its text; branches that are remembered; lines of one call, and bytes of them.
_OVERHEAD, _PAGES, _AT_ONCE, _BYTES_AT_ONCE = 200, 4096, 500, 2**20
# Of the names of blocks, branches, nodes and loggers.
_LETTERS_OF_NAME = 200
# Seconds between two lines of log about lines that could not be written.
_SAY_EVERY = 30.0

#: A branch: its run, when that was submitted (its id may be used again), its block and its position.
Key = tuple[str, int, str, int]
_Run = tuple[str, int]


@dataclass(slots=True)
class _Page:
    """What one branch has said in this process: its first lines as they came, and after those its last ones.

    ``number`` counts its lines, ``fresh`` those since the last call; ``lines`` and ``bytes`` are of the first ones.
    ``tail`` waits to be written, ``written`` has been: ids and bytes.
    """

    run: _Run
    number: int = 0
    fresh: int = 0
    lines: int = 0
    bytes: int = 0
    is_full: bool = False
    tail: deque[_Said] = field(default_factory=deque)
    tail_bytes: int = 0
    written: deque[tuple[str, int]] = field(default_factory=deque)
    written_bytes: int = 0


@dataclass(slots=True)
class _Said:
    """A line. ``at``: when, on this process's clock; ``in_tail``: it is forgotten once it is not among the last."""

    at: float
    page: _Page
    number: int
    here: Here
    source: str
    level: int
    text: str
    size: int
    in_tail: bool


@dataclass(slots=True)
class _Unfinished:
    """A printed line without its end. ``since`` the letters that a terminal would show began."""

    here: Here
    level: int
    since: float
    text: str


@dataclass(slots=True)
class _Batch:
    lines: list[_Said] = field(default_factory=list)
    said: int = 0
    forget: list[str] = field(default_factory=list)


class Logbook:
    """The lines of one process; its methods may be called from any thread.

    What is said costs no round trip, and waits for nobody: it is written every `EVERY` seconds, and before its branch
    is committed.

    Args:
        ledger: is asked again until it answers, meanwhile no more than `WAIT_AT_MOST` bytes wait.

    Attributes:
        worker: the name of the worker.
        level: the least that is kept, or None.
        waits: whether there is anything to write.
    """

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self.worker = "eager"
        self.level = level_of(settings.log_level)
        self.waits = False
        self._ledger = ledger
        self._most_lines, self._most_bytes = settings.log_lines // 2, settings.log_bytes // 2
        self._most_of_run = settings.log_run_bytes
        # No other process ever has it: pids come again.
        self._life = f"{os.getpid()}/{secrets.token_hex(4)}"
        self._number = 0
        self._said_at = -_SAY_EVERY
        # Reentrant: an object that is collected meanwhile may print.
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        self._some = threading.Event()
        self._thread: threading.Thread | None = None
        self._pages: OrderedDict[Key, _Page] = OrderedDict()
        self._first: list[_Said] = []
        self._changed: dict[int, _Page] = {}
        self._unfinished: dict[tuple[Key, str, int], _Unfinished] = {}
        self._bytes = 0

    def say(self, here: Here, source: str, level: int, text: str) -> None:
        """A node says one line, or one record of several."""
        with self._lock:
            self._say(here, source, level, text)
            self._wake()

    def print(self, here: Here, source: str, level: int, text: str) -> None:
        """A node prints what may be part of a line, or many lines."""
        key = (_key(here), source, threading.get_ident())
        with self._lock:
            begun = self._unfinished.get(key)
            if "\n" in text or "\r" in text:
                self._break(key, here, level, text)
            elif begun is None:
                if text:
                    self._unfinished[key] = _Unfinished(here, level, time.monotonic(), _bounded(text))
            else:
                begun.text = _bounded(begun.text + text)
            self._wake()

    def write(self, ended: Collection[Key] = ()) -> None:
        """Write what waits; also the unfinished lines of branches that end with this."""
        with self._writing:
            for (run, created), batch in self._take(set(ended)).items():
                for part in _parts(batch):
                    self._write(run, created, part)

    def _wake(self) -> None:
        if self.waits:
            return
        self.waits = True
        self._some.set()
        if self._thread is None:
            # In a context of its own: whatever it says, no node has said it.
            run = contextvars.Context().run
            self._thread = threading.Thread(target=run, args=(self._run,), name="egregore-logbook", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._some.wait()
            time.sleep(EVERY)
            self._some.clear()
            try:
                self.write()
            except Exception:
                log.exception("lines of nodes were not written", extra={"action": "lines_failed"})

    def _break(self, key: tuple[Key, str, int], here: Here, level: int, text: str) -> None:
        """Print what ends lines, or begins them again."""
        begun = self._unfinished.pop(key, None)
        *lines, rest = (text if begun is None else begun.text + text).split("\n")
        for line in lines:
            self._say(here, key[1], level, _as_shown(line))
        if rest:
            shown = _as_shown(rest)
            goes_on = begun if not lines and len(shown) == len(rest) else None
            since = time.monotonic() if goes_on is None else goes_on.since
            kept = _bounded(shown) + ("\r" if rest.endswith("\r") else "")
            self._unfinished[key] = _Unfinished(here, level, since, kept)

    def _say(self, here: Here, source: str, level: int, text: str) -> None:
        key = _key(here)
        page = self._pages.get(key)
        if page is None:
            page = self._pages[key] = _Page(key[:2])
            if len(self._pages) > _PAGES:
                self._pages.popitem(last=False)
        else:
            self._pages.move_to_end(key)
        page.number += 1
        page.fresh += 1
        self._changed[id(page)] = page
        if len(text) > LONGEST:
            text = _cut(text)
        size = len(text)
        if not text.isascii():
            # A lone surrogate has no encoding.
            raw = text.encode("utf-8", "backslashreplace")
            text, size = raw.decode(), len(raw)
        if self._bytes + size + _OVERHEAD > WAIT_AT_MOST:
            return
        page.is_full = page.is_full or page.lines >= self._most_lines or page.bytes + size > self._most_bytes
        said = _Said(time.monotonic(), page, page.number, here, source, level, text, size, page.is_full)
        if not page.is_full:
            page.lines += 1
            page.bytes += size
            self._first.append(said)
        else:
            page.tail.append(said)
            page.tail_bytes += size
            while len(page.tail) > self._most_lines or page.tail_bytes > self._most_bytes:
                oldest = page.tail.popleft()
                page.tail_bytes -= oldest.size
                self._bytes -= oldest.size + _OVERHEAD
        self._bytes += size + _OVERHEAD

    def _take(self, ended: Collection[Key]) -> dict[_Run, _Batch]:
        """What is to be written, by run."""
        with self._lock:
            self._finish(ended)
            first, self._first = self._first, []
            changed, self._changed = self._changed, {}
            self._bytes = 0
            found: dict[_Run, _Batch] = {}
            for page in changed.values():
                batch = found.setdefault(page.run, _Batch())
                batch.said += page.fresh
                page.fresh = 0
                tail, page.tail = page.tail, deque()
                size, page.tail_bytes = page.tail_bytes, 0
                batch.lines += tail
                while page.written and (
                    len(page.written) + len(tail) > self._most_lines or page.written_bytes + size > self._most_bytes
                ):
                    id, its_size = page.written.popleft()
                    page.written_bytes -= its_size
                    batch.forget.append(id)
            for said in first:
                found[said.page.run].lines.append(said)
            for batch in found.values():
                batch.lines.sort(key=lambda said: said.at)
            self.waits = bool(self._unfinished)
            if self.waits:
                self._some.set()
            return found

    def _finish(self, ended: Collection[Key]) -> None:
        now = time.monotonic()
        for key, begun in list(self._unfinished.items()):
            if key[0] in ended or now - begun.since > _SETTLED:
                del self._unfinished[key]
                self._say(begun.here, key[1], begun.level, _as_shown(begun.text))

    def _write(self, run: str, created: int, batch: _Batch) -> None:
        self._number += 1
        now = time.monotonic()
        try:
            ids = logs.write(
                self._ledger,
                run,
                f"{self.worker}/{self._life}",
                self._number,
                [logs.encode(now - said.at, _line(said)) for said in batch.lines],
                said=batch.said,
                forget=batch.forget,
                created=created,
                most=self._most_of_run,
            )
        except Exception as error:
            # What nodes say is worth less than what they do: that goes on, and this is dropped.
            if now - self._said_at > _SAY_EVERY:
                self._said_at = now
                log.warning(
                    "run %s: %d lines of its nodes are lost: %s",
                    run,
                    len(batch.lines),
                    type(error).__name__,
                    extra={"action": "lines_lost", "run_id": run},
                )
            return
        with self._lock:
            for id, said in zip(ids, batch.lines, strict=False):
                if said.in_tail:
                    said.page.written.append((id, said.size))
                    said.page.written_bytes += said.size


def _key(here: Here) -> Key:
    context, branch, created = here
    return context.run, created, context.block_id or ROOT, branch


def _line(said: _Said) -> Line:
    context, branch, _ = said.here
    return Line(
        block=context.block_id or ROOT,
        block_name=_name(context.block or ""),
        branch=branch,
        branch_name="" if context.branch is None else _name(str(context.branch)),
        attempt=context.attempt,
        node=_name(context.node),
        source=_name(said.source),
        level=said.level,
        number=said.number,
        text=said.text,
    )


def _name(name: str) -> str:
    """A name as a line has it: the keys of a map may be of any length, and hold what has no encoding."""
    name = name[:_LETTERS_OF_NAME]
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()


def _as_shown(line: str) -> str:
    """A line as a terminal shows it: what comes after a carriage return is written over what was before."""
    return line if "\r" not in line else line.rstrip("\r").rpartition("\r")[2]


def _cut(text: str) -> str:
    """A text that is not too long: its beginning and its end, where a traceback says what happened."""
    if len(text) <= LONGEST:
        return text
    begin, end = LONGEST * 5 // 8, LONGEST * 3 // 8
    return f"{text[:begin]} [{len(text) - begin - end} letters cut] {text[-end:]}"


def _bounded(text: str) -> str:
    """An unfinished line. Not cut at each of its parts, or what was left out would be left out of again."""
    return text if len(text) < 2 * LONGEST else _cut(text)


def _parts(batch: _Batch) -> Iterator[_Batch]:
    """A batch in calls that do not hold the server up."""
    lines, said, forget = batch.lines, batch.said, batch.forget
    while lines or said or forget:
        count = size = 0
        while count < min(len(lines), _AT_ONCE) and size < _BYTES_AT_ONCE:
            size += lines[count].size
            count += 1
        yield _Batch(lines[:count], said, forget[:_AT_ONCE])
        lines, said, forget = lines[count:], 0, forget[_AT_ONCE:]
