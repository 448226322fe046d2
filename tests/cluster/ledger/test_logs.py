"""Lines of nodes in the ledger."""

from __future__ import annotations

from typing import Any

from egregore_dist.client.logs import Wanted
from egregore_dist.ledger import Ledger, logs
from egregore_dist.ledger.logs import Line
from egregore_dist.monitor import logs as pages
from tests.cluster.ledger.play import Play

MOST = 10**6


def line(number: int = 1, text: str = "said", **more: Any) -> Line:
    """A line."""
    given = {"block": "0", "block_name": "", "branch": 0, "branch_name": "", "attempt": 1, "node": "n"}
    return Line(**{**given, "source": "stdout", "level": 20, **more}, number=number, text=text)


def write(play: Play, number: int, *lines: Line, **more: Any) -> list[str]:
    """Write lines that were said half a second ago."""
    raw = [logs.encode(0.5, each) for each in lines]
    given = {"writer": "w@here/1/a", "said": len(lines), "most": MOST, "created": created(play), **more}
    return logs.write(play.ledger, play.run, given.pop("writer"), number, raw, **given)


def created(play: Play) -> int:
    """When the run was submitted."""
    return round(play.ledger.run(play.run).created * 1000) if play.ledger.exists(play.run) else 0


def read(play: Play) -> list[logs.Entry]:
    """All lines."""
    return [logs.entry(*found) for found in play.ledger.events(play.run, "0", 0, "log")]


def test_lines_are_read_as_they_were_written(play: Play) -> None:
    """In their order, from either end, with the server's time at which they were said."""
    before = play.ledger.now()
    ids = write(play, 1, line(1, "one"), line(2, "two\nlines \x1b \x00 ü"))
    entries = read(play)

    assert [entry.cursor for entry in entries] == ids
    assert [entry.line.text for entry in entries] == ["one", "two\nlines \x1b \x00 ü"]
    assert entries[0].writer == "w@here/1/a"
    assert before - 500 <= entries[0].time * 1000 <= play.ledger.now() - 500
    assert logs.before(play.ledger, play.run, "+") == entries[::-1]
    assert logs.before(play.ledger, play.run, ids[1]) == entries[:1]


def test_a_call_that_is_asked_for_again_adds_nothing(play: Play) -> None:
    """Its reply may have been lost; another writer's call of that number is another call."""
    assert write(play, 1, line())
    assert write(play, 1, line()) == []
    assert write(play, 1, line(), writer="other@here/1/b")
    assert write(play, 2, line())

    assert logs.counts(play.ledger, play.run) == (3, 3)


def test_a_run_keeps_no_lines_of_one_that_had_its_id(play: Play) -> None:
    """They come late, from a process that still runs a node of that one."""
    assert write(play, 1, line(), created=created(play) - 1) == []
    assert read(play) == []
    assert logs.counts(play.ledger, play.run) == (0, 0)


def test_old_lines_make_room(play: Play) -> None:
    """The run's lines stay within their bytes, the newest are kept, and what was said is counted all the same."""
    for number in range(1, 51):
        write(play, number, *(line(10 * number + i, "x" * 100) for i in range(10)), most=20_000)
    entries = read(play)
    said, kept = logs.counts(play.ledger, play.run)

    assert (said, kept) == (500, len(entries))
    assert 60 < kept < 120
    assert [entry.line.number for entry in entries] == list(range(510 - kept, 510))
    sizes = [len(fields["line"]) + 64 for _, fields in play.ledger.events(play.run, "0", 0, "log")]
    counted = int(play.ledger.redis.hget(play.ledger.keys.part(play.run, "said"), "bytes") or 0)
    assert counted == sum(sizes) <= 20_000


def test_lines_that_are_to_be_forgotten_go(play: Play) -> None:
    """Those that are named, and no others; one that has gone already changes nothing."""
    first, second = write(play, 1, line(1), line(2))
    write(play, 2, line(3), forget=[first, "1-1"])
    write(play, 3, line(4), forget=[first])

    assert [entry.line.number for entry in read(play)] == [2, 3, 4]
    assert second == read(play)[0].cursor
    sizes = [len(fields["line"]) + 64 for _, fields in play.ledger.events(play.run, "0", 0, "log")]
    assert int(play.ledger.redis.hget(play.ledger.keys.part(play.run, "said"), "bytes") or 0) == sum(sizes)


def test_what_is_said_after_the_end_expires_with_the_run(play: Play) -> None:
    """A node that was stopped may still have said something; of a run that is gone nothing comes back."""
    play.ledger.cancel(play.run)
    write(play, 1, line())
    left = {key: int(play.ledger.redis.pttl(key)) for key in play.written()}

    assert play.ledger.keys.part(play.run, "log") in left
    assert all(0 < ttl <= 60_000 for ttl in left.values()), left
    assert play.ledger.delete(play.run)
    assert write(play, 2, line()) == []
    assert play.written() == set()


def test_a_run_that_nobody_has_gets_no_lines(ledger: Ledger) -> None:
    """Lines of an unknown run are dropped."""
    assert write(Play(ledger, "nobody"), 1, line()) == []
    assert list(ledger.redis.scan_iter(match=f"{ledger.keys.prefix}*")) == []


def test_a_page_of_lines(play: Play) -> None:
    """The last that fit, the oldest first, and where the ones before are; all is read in the end, each line once."""
    for start in range(0, 2500, 500):
        write(play, 1 + start, *(line(start + i + 1, str(start + i), level=40 if i % 5 else 20) for i in range(500)))
    before, seen = "", list[str]()
    for _ in range(10):
        found = pages.lines(play.ledger, play.run, Wanted.of(level="INFO"), before=before, limit=600)
        seen = [shown.text for shown in found.shown] + seen
        before = found.older
        if not before:
            break
    errors_ = pages.lines(play.ledger, play.run, Wanted.of(level="ERROR"), limit=10)

    assert seen == [str(i) for i in range(2500)]
    assert [shown.text for shown in errors_.shown] == [str(i) for i in range(2488, 2500) if i % 5]
    assert (errors_.said, errors_.kept, errors_.looked) == (2500, 2500, 12)
    assert {shown.dropped for shown in errors_.shown} == {0}
