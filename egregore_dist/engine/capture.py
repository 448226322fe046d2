"""Hears what nodes log and print, and tells the logbook; it goes where it went before, as well.

What is heard is told apart by a context variable, so that it is known whose it is on whichever thread or event loop it
is said: in the node's call, in tasks of asyncio that it makes, and in threads that run in a copy of its context, such
as those of `asyncio.to_thread`. Other threads, other processes, and what is written past `sys.stdout` and `sys.stderr`
are not heard.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from egregore_dist.engine import inside
from egregore_dist.engine.logbook import Logbook

# What is on a record that is made for the logbook alone: no handler of the process would have got it.
_ALONE = "_egregore_alone"

_book: Logbook | None = None
_is_installed = False


def into(book: Logbook) -> None:
    """From now on, tell this logbook."""
    global _book, _is_installed
    _book = book if book.level is not None else None
    if _book is not None and not _is_installed:
        _is_installed = True
        # A process that a node forks has no thread that writes.
        os.register_at_fork(after_in_child=forget)
        hear_logging(logging.Logger)
        for stream, source, level in ((sys.stdout, "stdout", logging.INFO), (sys.stderr, "stderr", logging.WARNING)):
            hear_stream(stream, source, level)


def forget() -> None:
    """Tell nobody any more."""
    global _book
    _book = None


def hear_stream(stream: Any, source: str, level: int) -> None:
    """Hear what is written to a text stream; one that takes no attribute, or None, is left alone."""
    write: Callable[[str], Any] | None = getattr(stream, "write", None)

    def heard(text: str) -> Any:
        here, book = inside.current.get(), _book
        assert write is not None
        if here is None or book is None or book.level is None or level < book.level or not isinstance(text, str):
            return write(text)
        # Not heard twice, where the stream hands on to another one, or to a logger.
        token = inside.current.set(None)
        try:
            book.print(here, source, level, text)
            return write(text)
        finally:
            inside.current.reset(token)

    try:
        stream.write = heard
    except (AttributeError, TypeError):
        return


def hear_logging(loggers: Any) -> None:
    """Hear what loggers of a class log.

    The level of the logbook stands in the place of the root logger's: one that was set on a logger, or on one between
    it and the root, holds, as filters and `logging.disable` do.
    """
    is_enabled: Callable[[Any, int], bool] = loggers.isEnabledFor
    make: Callable[..., logging.LogRecord] = loggers.makeRecord
    call: Callable[[Any, logging.LogRecord], None] = loggers.callHandlers

    def is_enabled_for(self: logging.Logger, level: int) -> bool:
        return is_enabled(self, level) or _wants(self, level)

    def make_record(self: logging.Logger, *args: Any, **options: Any) -> logging.LogRecord:
        record = make(self, *args, **options)
        if inside.current.get() is not None and not is_enabled(self, record.levelno):
            setattr(record, _ALONE, True)
        return record

    def call_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
        here, book = inside.current.get(), _book
        if here is None or book is None:
            call(self, record)
            return
        # What handlers print, or log themselves, is no line of the node's.
        token = inside.current.set(None)
        try:
            if book.level is not None and record.levelno >= book.level:
                book.say(here, record.name, record.levelno, _text(record))
            if not hasattr(record, _ALONE):
                call(self, record)
        finally:
            inside.current.reset(token)

    loggers.isEnabledFor = is_enabled_for
    loggers.makeRecord = make_record
    loggers.callHandlers = call_handlers


def _wants(logger: logging.Logger, level: int) -> bool:
    book = _book
    if book is None or book.level is None or level < book.level or inside.current.get() is None:
        return False
    if logger.disabled or logger.manager.disable >= level:
        return False
    at: logging.Logger | None = logger
    while at is not None and at.parent is not None:
        if at.level:
            return level >= at.level
        at = at.parent
    # An own level of the root logger that is lower than the logbook's has let it through before.
    return True


def _text(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception as error:
        # The arguments do not fit, or cannot be told: handlers say so.
        text = f"{type(record.msg).__name__} that cannot be shown: {type(error).__name__}"
        if isinstance(record.msg, str):
            text = record.msg
    trace = record.exc_text
    if record.exc_info and not trace:
        # Not kept on the record: handlers have formatters of their own.
        trace = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
    return "\n".join(part for part in (text, trace, record.stack_info) if part)
