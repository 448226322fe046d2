"""What large arguments cost: they are sent once."""

from __future__ import annotations

from egregore_dist.ledger import Ledger, Work


def test_a_server_without_the_scripts_is_sent_an_input_once(ledger: Ledger) -> None:
    """A server that was just started knows no script, and is told each before it is asked for with its arguments."""
    size = 4_000_000
    ledger.redis.script_flush()
    before = ledger.redis.info("stats")["total_net_input_bytes"]

    ledger.submit("large", Work("w", b"", b""), code={}, input=b"x" * size, queue="q")

    assert ledger.redis.info("stats")["total_net_input_bytes"] - before < 1.2 * size


def test_a_lane_that_comes_while_the_server_forgets_its_scripts(ledger: Ledger) -> None:
    """A server that was started anew after a ledger's first call is told its scripts again."""
    for run in ("before", "after"):
        ledger.submit(run, Work("w", b"", b""), code={}, input=b"", queue="q")
        entered = ledger.enter(run, "0", 0, "w/1/lane", work=False)
        ledger.redis.script_flush()

        assert entered is not None
        assert [lease.branch for lease in entered.served.leases] == [0]
