"""Hearing what nodes log and print: whose it is, what is heard, and that it goes where it went before."""

from __future__ import annotations

import asyncio
import contextvars
import io
import logging
import threading
from typing import Any, cast

import pytest

from egregore_dist import Context
from egregore_dist.engine import capture, inside
from egregore_dist.engine.inside import Here
from egregore_dist.engine.logbook import Logbook


class Book:
    """A logbook that is read at once."""

    def __init__(self, level: int | None = logging.INFO) -> None:
        self.level = level
        self.said: list[tuple[int, str, int, str]] = []

    def say(self, here: Here, source: str, level: int, text: str) -> None:
        """Note a line."""
        self.said.append((here[1], source, level, text))

    print = say

    @property
    def texts(self) -> list[str]:
        return [text for *_, text in self.said]


class Loggers(logging.Logger):
    """Loggers of their own, so that those of the test's process stay as they are."""


capture.hear_logging(Loggers)


class Handler(logging.Handler):
    """Keeps what a process's own log would show."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.shown.append(record.getMessage())


def here(branch: int = 0) -> Here:
    return Context(run="r", workflow="w", block=None, branch=None, node="n", attempt=1), branch, 1


def within(branch: int, *calls: Any) -> None:
    """Call functions as a node of a branch does."""
    token = inside.current.set(here(branch))
    try:
        for call in calls:
            call()
    finally:
        inside.current.reset(token)


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> Book:
    book = Book()
    monkeypatch.setattr(capture, "_book", cast(Logbook, book))
    return book


@pytest.fixture
def loggers() -> tuple[Loggers, Loggers, Handler]:
    """A root logger at WARNING with a handler, and one below it."""
    root, logger, handler = Loggers("root", logging.WARNING), Loggers("shop.orders"), Handler()
    root.addHandler(handler)
    logger.parent = root
    return root, logger, handler


def test_a_level_of_its_own(book: Book, loggers: tuple[Loggers, Loggers, Handler]) -> None:
    """The setting's level decides what is kept, and the root logger's what the process shows, as before."""
    _, logger, handler = loggers
    logger.info("outside")
    within(3, lambda: logger.debug("low"), lambda: logger.info("seen %d", 7), lambda: logger.warning("both"))
    logger.warning("outside too")

    assert book.said == [(3, "shop.orders", logging.INFO, "seen 7"), (3, "shop.orders", logging.WARNING, "both")]
    assert handler.shown == ["both", "outside too"]
    assert not logger.isEnabledFor(logging.INFO)


def test_levels_filters_and_disabling_hold(book: Book, loggers: tuple[Loggers, Loggers, Handler]) -> None:
    """A logger that somebody has made quieter is no louder for it."""
    _, logger, _ = loggers
    below = Loggers("shop.orders.sql")
    below.parent = logger
    logger.setLevel(logging.ERROR)
    within(0, lambda: logger.warning("no"), lambda: below.warning("no"), lambda: below.error("yes"))
    logger.setLevel(logging.NOTSET)
    logger.addFilter(lambda record: "no" not in record.getMessage())
    within(0, lambda: logger.info("no"), lambda: logger.info("yes"))
    logger.disabled = True
    within(0, lambda: logger.error("no"))

    assert book.texts == ["yes", "yes"]


def test_a_lower_level_of_the_process(book: Book, loggers: tuple[Loggers, Loggers, Handler]) -> None:
    """Where the process shows more than is kept, it goes on to."""
    root, logger, handler = loggers
    root.setLevel(logging.DEBUG)
    within(0, lambda: logger.debug("shown"), lambda: logger.info("kept"))

    assert book.texts == ["kept"]
    assert handler.shown == ["shown", "kept"]


def test_records_that_are_handed_on(book: Book, loggers: tuple[Loggers, Loggers, Handler]) -> None:
    """A record that a logger is given as it is goes to its handlers, whatever its level."""
    _, logger, handler = loggers
    record = logging.makeLogRecord({"name": "far", "levelno": logging.DEBUG, "msg": "handed on"})
    within(0, lambda: logger.handle(record))

    assert handler.shown == ["handed on"]
    assert book.texts == []


def test_a_traceback_and_a_wrong_format(book: Book, loggers: tuple[Loggers, Loggers, Handler]) -> None:
    """An exception's traceback is part of the text; a record that cannot be formatted breaks nothing."""
    _, logger, _ = loggers

    class Rude:
        def __str__(self) -> str:
            raise ValueError("no")

    def fails() -> None:
        try:
            raise KeyError("here")
        except KeyError:
            logger.exception("broke")

    loggers[0].handlers.clear()
    loggers[0].addHandler(logging.NullHandler())
    within(0, fails, lambda: logger.info("%d of", "x"), lambda: logger.info(Rude()))

    broke, wrong, rude = book.texts
    assert broke.startswith("broke\nTraceback")
    assert broke.endswith("KeyError: 'here'")
    assert wrong == "%d of"
    assert rude == "Rude that cannot be shown: ValueError"


def test_handlers_are_not_heard(book: Book, loggers: tuple[Loggers, Loggers, Handler]) -> None:
    """What a handler prints, or logs, of a record is no second line."""
    root, logger, _ = loggers
    heard = Stream()
    capture.hear_stream(heard, "stderr", logging.WARNING)
    root.addHandler(logging.StreamHandler(heard))
    within(0, lambda: logger.warning("once"), lambda: heard.write("twice"))

    assert book.texts == ["once", "twice"]
    assert heard.getvalue() == "once\ntwice"


class Stream(io.StringIO):
    """A stream that takes attributes, as those of a process do."""


def test_printing(book: Book) -> None:
    """What a node prints is heard and goes where it went before; what others print is not heard."""
    stream = Stream()
    capture.hear_stream(stream, "stdout", logging.INFO)
    print("outside", file=stream)
    within(1, lambda: print("a", "b", file=stream), lambda: stream.writelines(["c\n"]))

    assert stream.getvalue() == "outside\na b\nc\n"
    assert "".join(book.texts) == "a b\nc\n"
    assert {branch for branch, *_ in book.said} == {1}


def test_what_is_below_the_level_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output counts as INFO."""
    book, stream = Book(logging.WARNING), Stream()
    monkeypatch.setattr(capture, "_book", cast(Logbook, book))
    capture.hear_stream(stream, "stdout", logging.INFO)
    within(0, lambda: print("low", file=stream))

    assert (book.texts, stream.getvalue()) == ([], "low\n")


def test_a_stream_that_fails(book: Book) -> None:
    """The node gets the stream's own error."""
    stream = Stream()
    capture.hear_stream(stream, "stdout", logging.INFO)
    capture.hear_stream(None, "stdout", logging.INFO)
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        within(0, lambda: print("x", file=stream))
    with pytest.raises(TypeError):
        within(0, lambda: stream.write(cast(str, 7)))
    assert inside.current.get() is None


def test_who_says_it_at_a_time(book: Book) -> None:
    """Tasks of one event loop, and threads with a copy of a node's context, are told apart; others are nobody."""
    stream = Stream()
    capture.hear_stream(stream, "stdout", logging.INFO)

    async def branch(number: int) -> None:
        inside.current.set(here(number))
        for _ in range(3):
            await asyncio.sleep(0)
            stream.write(f"{number}\n")
            await asyncio.to_thread(stream.write, f"{number}\n")

    async def all_branches() -> None:
        await asyncio.gather(*(branch(number) for number in range(20)))

    asyncio.run(all_branches())
    assert len(book.said) == 120
    assert all(text == f"{number}\n" for number, _, _, text in book.said)

    book.said.clear()
    token = inside.current.set(here(5))
    copied = threading.Thread(target=contextvars.copy_context().run, args=(stream.write, "mine\n"))
    # Whose context is empty whatever the version of Python.
    alone = threading.Thread(target=contextvars.Context().run, args=(stream.write, "nobody's\n"))
    for thread in (copied, alone):
        thread.start()
        thread.join()
    inside.current.reset(token)

    assert [(number, text) for number, _, _, text in book.said] == [(5, "mine\n")]


def test_a_forked_process_tells_nobody(book: Book, loggers: tuple[Loggers, Loggers, Handler]) -> None:
    """It goes on to log as before."""
    _, logger, handler = loggers
    capture.forget()
    within(0, lambda: logger.info("low"), lambda: logger.warning("shown"))

    assert (book.texts, handler.shown) == ([], ["shown"])
