"""A run's trace context in the ledger, and who is told that its blocks have ended."""

from __future__ import annotations

import pytest

from egregore_dist.ledger import Ledger, Work, spans
from egregore_dist.ledger.keys import ROOT
from tests.cluster.ledger.play import Play, ok

CONTEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_the_context_of_the_submission_stays(ledger: Ledger) -> None:
    """It is read with the run's work, and no other takes its place."""
    ledger.submit("r", Work("w", b"", b"", trace=CONTEXT), code={}, input=b"", queue="q")

    assert ledger.work("r").trace == CONTEXT
    assert ledger.trace("r", f"{CONTEXT[:-2]}00") == CONTEXT


def test_a_run_that_was_submitted_in_no_trace(ledger: Ledger) -> None:
    """The first to begin one is the one; a run that there is not is not made by it."""
    ledger.submit("r", Work("w", b"", b""), code={}, input=b"", queue="q")

    assert ledger.work("r").trace == ""
    assert ledger.trace("r", CONTEXT) == CONTEXT
    assert ledger.trace("r", "another") == CONTEXT
    assert ledger.trace("nothing", CONTEXT) == ""
    assert not ledger.exists("nothing")


def test_who_ends_a_block_is_told_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one whose transition ended it; of a run that is not traced nobody is."""
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr(spans, "of_ended", lambda _ledger, run, blocks: told.append((run, *blocks)))
    traced, plain = Play.submit(ledger), Play.submit(ledger)
    ledger.trace(traced.run, CONTEXT)

    for play in (traced, plain):
        block, token = play.block(1), play.lane()
        play.serve(block, token)
        served = play.serve(block, token, ok(0))
        assert (served.state, served.messages) == ("ok", ())
        for _ in range(2):
            assert play.serve(ROOT, token, ok(0)).state == "ok"

    assert told == [(traced.run, block), (traced.run, ROOT)]


def test_blocks_that_end_with_another(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever cancels a run is told of all its blocks, and so is the janitor that ends one at its deadline."""
    told: list[str] = []
    monkeypatch.setattr(spans, "of_ended", lambda _ledger, _run, blocks: told.extend(blocks))
    cancelled, late = Play.submit(ledger), Play.submit(ledger)
    for play in (cancelled, late):
        ledger.trace(play.run, CONTEXT)
    outer = cancelled.block(1)
    token = cancelled.lane()
    cancelled.serve(outer, token)
    inner = cancelled.nest(outer, 0, token, 1)
    block = late.block(1, timeout=60.0)

    assert ledger.cancel(cancelled.run) == "cancelled"
    assert sorted(told) == sorted([ROOT, outer, inner])
    told.clear()
    assert [message.kind for message in late.sweep("deadline", block) if message.kind == "ended"] == []
    assert sorted(told) == sorted([ROOT, block])
