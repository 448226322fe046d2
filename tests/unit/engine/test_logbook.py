"""What waits to be written of what nodes say: bounds, order, and what happens while the ledger is away."""

from __future__ import annotations

import threading
from typing import Any, cast

import msgspec
import pytest

from egregore_dist import Context, errors
from egregore_dist.engine import logbook
from egregore_dist.engine.inside import Here
from egregore_dist.engine.logbook import LONGEST, WAIT_AT_MOST, Logbook
from egregore_dist.ledger import Ledger
from egregore_dist.ledger.logs import Line
from egregore_dist.settings import Settings


class Kept:
    """A ledger that keeps lines."""

    def __init__(self) -> None:
        self.lines: dict[str, tuple[str, Line]] = {}
        self.said = 0
        self.numbers: list[int] = []
        self.of: list[tuple[str, int]] = []
        self.away = False
        self._ids = 0

    def transition(self, name: str, run: str, args: list[Any]) -> list[bytes]:
        """Keep lines."""
        assert name == "log"
        if self.away:
            raise errors.BrokerUnavailable("away")
        _, number, said, _, created, forget, count = args[:7]
        self.numbers.append(number)
        self.of.append((run, created))
        self.said += said
        for id in args[7 : 7 + forget]:
            del self.lines[id]
        added = []
        for raw in args[7 + forget :]:
            self._ids += 1
            self.lines[f"{self._ids}-0"] = (run, msgspec.msgpack.decode(raw, type=tuple[int, Line])[1])
            added.append(f"{self._ids}-0".encode())
        assert len(added) == count
        return added

    def texts(self, run: str = "r") -> list[str]:
        """What is kept of a run."""
        return [line.text for of, line in self.lines.values() if of == run]


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def book(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> Logbook:
    """A logbook that writes when it is told to alone."""
    monkeypatch.setattr(logbook, "EVERY", 3600)
    return Logbook(cast(Ledger, kept), Settings(log_lines=10, log_bytes=2000))


def here(branch: int = 0, *, run: str = "r", attempt: int = 1, created: int = 1) -> Here:
    """A node of a block."""
    return (
        Context(run=run, workflow="w", block="b", branch="x", node="n", attempt=attempt, block_id="0.0-"),
        branch,
        created,
    )


def test_lines_keep_their_order(book: Logbook, kept: Kept) -> None:
    """Those of all branches and runs, each with its number, written once."""
    for i in range(3):
        for branch in range(2):
            book.say(here(branch), "stdout", 20, f"{branch}.{i}")
    book.say(here(run="other"), "log", 30, "elsewhere")
    assert book.waits
    book.write()
    book.write()

    assert kept.texts() == ["0.0", "1.0", "0.1", "1.1", "0.2", "1.2"]
    assert kept.texts("other") == ["elsewhere"]
    assert [line.number for _, line in kept.lines.values()] == [1, 1, 2, 2, 3, 3, 1]
    assert sorted(kept.numbers) == [1, 2]
    assert not book.waits


def test_the_first_and_the_last_are_kept(book: Logbook, kept: Kept) -> None:
    """However often they are written: what is between them is counted, and may be seen while it is the last."""
    seen = set()
    for i in range(100):
        book.say(here(), "stdout", 20, str(i))
        if i % 7 == 0:
            book.write()
            seen.update(kept.texts())
    book.write()

    assert kept.texts() == [*(str(i) for i in range(5)), *(str(i) for i in range(95, 100))]
    assert kept.said == 100
    assert [line.number for _, line in kept.lines.values()] == [1, 2, 3, 4, 5, 96, 97, 98, 99, 100]
    assert len(seen) > 50


def test_a_branch_that_goes_on_is_remembered_beside_very_many(
    book: Logbook, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that said nothing for longest are forgotten: it does not begin to count anew, nor have as much again."""
    monkeypatch.setattr(logbook, "_PAGES", 10)
    for i in range(50):
        book.say(here(), "stdout", 20, f"long {i}")
        book.say(here(i + 1), "stdout", 20, "short")
    book.write()

    mine = [line for _, line in kept.lines.values() if line.branch == 0]
    assert [line.number for line in mine] == [1, 2, 3, 4, 5, 46, 47, 48, 49, 50]


def test_another_branch_and_attempts(book: Logbook, kept: Kept) -> None:
    """A branch that floods takes nothing from others; its next attempt has what is left of its own."""
    for i in range(100):
        book.say(here(), "stdout", 20, str(i))
    book.say(here(1), "stdout", 20, "quiet")
    book.say(here(attempt=2), "stdout", 20, "again")
    book.write()

    assert "quiet" in kept.texts()
    assert kept.texts()[-1] == "again"
    assert len(kept.texts()) == 11


def test_a_run_that_has_the_id_of_another_one(book: Logbook, kept: Kept) -> None:
    """Its lines are counted anew, and none of the other's are written to it."""
    for number in range(12):
        book.say(here(created=1), "stdout", 20, f"former {number}")
    book.say(here(created=2), "stdout", 20, "present")
    book.write()

    assert sorted(kept.of) == [("r", 1), ("r", 2)]
    assert [line.number for _, line in kept.lines.values() if line.text == "present"] == [1]


def test_bytes_are_bounded(book: Logbook, kept: Kept) -> None:
    """Long lines take the place of many."""
    for i in range(10):
        book.say(here(), "stdout", 20, f"{i}" * 400)
        book.write()

    assert [text[0] for text in kept.texts()] == ["0", "1", "8", "9"]
    assert kept.said == 10


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (["a\n"], ["a"]),
        (["a", " ", "b", "\n", "c\nd", "\n"], ["a b", "c", "d"]),
        (["\n", "x\r\n"], ["", "x"]),
        (["\r10%", "\r20%", "\r100%\n"], ["100%"]),
        (["10%\r", "20%\r", "\n"], ["20%"]),
        (["ü\ud800\n"], ["ü\\ud800"]),
        (["\x1b[31mred\x07\n"], ["\x1b[31mred\x07"]),
    ],
)
def test_what_is_printed_becomes_lines(book: Logbook, kept: Kept, written: list[str], lines: list[str]) -> None:
    """A line ends where its end was written; of what was written over, the last is shown."""
    for text in written:
        book.print(here(), "stdout", 20, text)
    book.write()

    assert kept.texts() == lines


def test_an_unfinished_line(book: Logbook, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written when its branch ends, or after a while; those of others, threads and streams are not mixed up."""
    book.print(here(0), "stdout", 20, "of 0")
    book.print(here(0), "stderr", 30, "error of 0")
    book.print(here(1), "stdout", 20, "of 1")
    thread = threading.Thread(target=book.print, args=(here(0), "stdout", 20, "of a thread\n"))
    thread.start()
    thread.join()
    book.write()
    assert kept.texts() == ["of a thread"]
    assert book.waits
    book.write([("r", 1, "0.0-", 0)])
    assert sorted(kept.texts()) == ["error of 0", "of 0", "of a thread"]
    monkeypatch.setattr(logbook, "_SETTLED", -1.0)
    book.write()

    assert kept.texts()[-1] == "of 1"
    assert not book.waits


def test_a_long_line_loses_its_middle(book: Logbook, kept: Kept) -> None:
    """Its beginning and its end stay, whether it came at once or in many parts."""
    book = Logbook(cast(Ledger, kept), Settings())
    book.say(here(), "log", 20, "begin" + "x" * 10**6 + "end")
    for _ in range(1000):
        book.print(here(), "stdout", 20, "y" * 1000)
    book.print(here(), "stdout", 20, "end\n")
    book.write()

    assert len(kept.texts()) == 2
    for text in kept.texts():
        assert len(text) < LONGEST + 40
        assert text.endswith("end")
    assert kept.texts()[0].startswith("begin")
    assert f"[{10**6 + 8 - LONGEST} letters cut]" in kept.texts()[0]


def test_names_of_any_kind(book: Logbook, kept: Kept) -> None:
    """Keys and loggers' names are cut where they are long, and what has no encoding is told."""
    context = Context(run="r", workflow="w", block="b", branch="k\ud800" + "x" * 10**6, node="n", attempt=1)
    book.say((context, 0, 1), "l\udfff", 20, "said")
    book.say((context, 0, 1), "y" * 10**6, 20, "said")
    book.write()
    first, second = (line for _, line in kept.lines.values())

    assert first.branch_name.startswith("k\\ud800xx")
    assert first.source == "l\\udfff"
    assert len(second.source) == 200
    assert len(first.branch_name) < 210


def test_what_waits_is_bounded(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the ledger is away, the memory of a process stays within bounds whatever its branches say."""
    monkeypatch.setattr(logbook, "EVERY", 3600)
    book = Logbook(cast(Ledger, kept), Settings())
    for branch in range(200):
        for _ in range(30):
            book.say(here(branch), "stdout", 20, "x" * 4000)
    book.write()

    size = sum(len(text) for text in kept.texts())
    assert 0.8 * WAIT_AT_MOST < size <= WAIT_AT_MOST
    assert kept.said == 6000
    book.say(here(), "stdout", 20, "after")
    book.write()
    assert kept.texts()[-1] == "after"


def test_what_cannot_be_written_is_dropped(book: Logbook, kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """Who commits is not stopped by it; it is said once, without a word of the lines."""
    kept.away = True
    for i in range(3):
        book.say(here(), "stdout", 20, f"secret {i}")
        book.write()
    kept.away = False
    book.say(here(), "stdout", 20, "after")
    book.write()

    assert kept.texts() == ["after"]
    (record,) = caplog.records
    assert "run r: 1 lines of its nodes are lost: BrokerUnavailable" in record.getMessage()
    assert "secret" not in caplog.text


def test_a_thread_writes(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to ask for it."""
    monkeypatch.setattr(logbook, "EVERY", 0.01)
    written = threading.Event()
    transition = kept.transition

    def tell(*args: Any) -> list[bytes]:
        added = transition(*args)
        written.set()
        return added

    monkeypatch.setattr(kept, "transition", tell)
    book = Logbook(cast(Ledger, kept), Settings())
    for text in ("one", "two"):
        book.say(here(), "stdout", 20, text)
        assert written.wait(20)
        written.clear()

    assert kept.texts() == ["one", "two"]
