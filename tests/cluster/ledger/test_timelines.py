"""A timeline that is read on while the stream of events is bounded."""

from __future__ import annotations

from egregore_dist.client.timeline import Timeline, read_on
from egregore_dist.ledger import browse
from tests.cluster.ledger.play import Play, numbers, ok


def test_events_that_have_gone_between_two_reads(play: Play) -> None:
    """What was lost between two reads is told, and no attempt is taken to have gone on until its block's end."""
    block, token = play.block(3), play.lane()
    assert numbers(play.serve(block, token, want=1)) == [0]
    timeline = Timeline()
    read_on(play.ledger, play.run, timeline)
    assert not timeline.partial

    assert numbers(play.serve(block, token, ok(0), want=1)) == [1]
    play.ledger.redis.xtrim(play.ledger.keys.part(play.run, "events"), maxlen=0, approximate=False)
    assert numbers(play.serve(block, token, ok(1), want=1)) == [2]
    play.serve(block, token, ok(2))
    read_on(play.ledger, play.run, timeline)

    assert timeline.partial
    [lost] = timeline.attempts[block, 0]
    assert lost.end is None
    assert lost.how == "running"
    assert lost.cut is not None
    assert (block, 1) not in timeline.attempts
    assert [(one.how, one.cut) for one in timeline.attempts[block, 2]] == [("ok", None)]
    assert timeline.known(block) == (1, 3)


def test_nothing_is_lost_while_the_last_event_is_kept(play: Play) -> None:
    """Read on from any event, a stream that has lost only what was read before is complete."""
    block, token = play.block(50), play.lane()
    timeline = Timeline()
    for branch in range(50):
        play.serve(block, token, ok(*[branch - 1] if branch else []), want=1)
        read_on(play.ledger, play.run, timeline)
        play.ledger.redis.xtrim(play.ledger.keys.part(play.run, "events"), maxlen=1, approximate=False)

    assert not timeline.partial
    assert timeline.known(block) == (50, 50)


def test_records_tell_what_events_do_not_any_more(play: Play) -> None:
    """Of a stream without its beginning, the run and its blocks are known by their records."""
    block, token = play.block(2), play.lane()
    play.serve(block, token, want=1)
    play.ledger.redis.xtrim(play.ledger.keys.part(play.run, "events"), maxlen=0, approximate=False)
    play.serve(block, token, ok(0), want=1)
    play.serve(block, token, ok(1))
    timeline = Timeline()
    read_on(play.ledger, play.run, timeline)
    record, glance = play.ledger.run(play.run), browse.block(play.ledger, play.run, block)

    timeline.learn(record, [glance])

    assert timeline.submitted == record.created
    found = timeline.blocks[block]
    assert (found.name, found.opened, found.ended, found.partial) == (
        "block",
        glance.opened / 1000,
        (glance.ended or 0) / 1000,
        True,
    )
    assert timeline.known() == (1, 2)
