"""The list of messages that could not be served, and a server that refuses to write."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from egregore_dist import errors
from egregore_dist.client.server import Server
from egregore_dist.ledger import NEARLY_FULL, Aside, Ledger, Work
from egregore_dist.ledger.ledger import ASIDE_KEPT
from tests.support.waiting import until


def test_messages_are_kept_newest_first(ledger: Ledger) -> None:
    """Each has the server's time; more than the list holds push the oldest out."""
    before = ledger.now()
    ledger.set_aside([Aside(reason="one", worker="w", queue="q", excerpt="{}"), Aside(reason="two", worker="w")])
    first, second = ledger.aside()

    assert (first.reason, second.reason, second.queue, second.excerpt) == ("two", "one", "q", "{}")
    assert before <= first.at <= ledger.now()
    ledger.set_aside([Aside(reason=str(number), worker="w") for number in range(ASIDE_KEPT + 5)])
    assert len(ledger.aside()) == ASIDE_KEPT
    assert ledger.aside(1)[0].reason == str(ASIDE_KEPT + 4)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of the test's own."""
    with Server.start() as server:
        yield server


def submit(ledger: Ledger, run: str) -> bool:
    return ledger.submit(run, Work("w", b"", b""), code={}, input=b"", queue="q").new


def test_a_full_server_is_told(server: Server) -> None:
    """A transition that is refused changes nothing and says why; reading goes on."""
    ledger = Ledger(server.url, retries=1)
    assert submit(ledger, "first")
    ledger.redis.config_set("maxmemory", 1)

    with pytest.raises(errors.BrokerFull, match="maxmemory"):
        submit(ledger, "second")
    assert not submit(ledger, "first")
    with pytest.raises(errors.BrokerFull):
        ledger.report("w", b"report", 1.0)
    assert [run.id for run in ledger.runs()] == ["first"]
    ledger.close()


def test_a_full_server_answers_its_janitor(server: Server) -> None:
    """It leads on, and hears that nobody can report."""
    ledger = Ledger(server.url, retries=1)
    assert ledger.due("me", 60.0).entries == []
    ledger.redis.config_set("maxmemory", 1)

    assert ledger.due("me", 60.0).full
    other = ledger.due("other", 60.0)
    assert (other.leads, other.full) == (False, True)
    ledger.redis.config_set("maxmemory", 0)
    assert not ledger.due("other", 60.0).full
    ledger.redis.delete(ledger.keys.janitor)
    ledger.redis.config_set("maxmemory", 1)
    with pytest.raises(errors.BrokerFull):
        ledger.due("other", 60.0)
    ledger.close()


def test_a_nearly_full_server_takes_no_new_run(server: Server) -> None:
    """What is left of its memory is for the runs that it has; one of them may be submitted once more."""
    ledger = Ledger(server.url, retries=1)
    assert submit(ledger, "first")
    # Beside it scripts and buffers are little.
    ledger.redis.set("others", bytes(10 * 2**20))
    used = int(ledger.redis.info("memory")["used_memory"])
    ledger.redis.config_set("maxmemory", int(used / (NEARLY_FULL + 0.05)))

    with pytest.raises(errors.BrokerFull, match="kept for the results of the runs that it has"):
        submit(ledger, "second")
    assert not submit(ledger, "first")
    ledger.report("w", b"report", 1.0)
    ledger.redis.config_set("maxmemory", 2 * used)
    assert submit(ledger, "second")
    assert {run.id for run in ledger.runs()} == {"first", "second"}
    ledger.close()


def test_an_input_that_would_fill_the_server_is_refused(server: Server) -> None:
    """It is counted with what the server has already."""
    ledger = Ledger(server.url, retries=1)
    assert submit(ledger, "first")
    used = int(ledger.redis.info("memory")["used_memory"])
    ledger.redis.config_set("maxmemory", 2 * used)

    assert submit(ledger, "second")
    with pytest.raises(errors.BrokerFull, match="kept for the results"):
        ledger.submit("large", Work("w", b"", b""), code={}, input=bytes(used), queue="q")
    assert {run.id for run in ledger.runs()} == {"first", "second"}
    ledger.close()


def test_what_is_in_the_request_is_counted_once(server: Server) -> None:
    """An input for which there is room is taken, though the server holds it twice while it is asked."""
    ledger = Ledger(server.url, retries=1)
    used = int(ledger.redis.info("memory")["used_memory"])
    size = 20 * 2**20
    ledger.redis.config_set("maxmemory", int(used + 2.3 * size))

    assert ledger.submit("large", Work("w", b"", b""), code={}, input=bytes(size), queue="q").new
    with pytest.raises(errors.BrokerFull):
        ledger.submit("second", Work("w", b"", b""), code={}, input=bytes(size), queue="q")
    ledger.close()


def test_a_server_that_evicts_is_no_full_one(server: Server) -> None:
    """It is as full as may be at all times."""
    ledger = Ledger(server.url, retries=1)
    for number in range(20):
        ledger.redis.set(f"some{number}", bytes(2**20))
    used = int(ledger.redis.info("memory")["used_memory"])
    ledger.redis.config_set("maxmemory-policy", "allkeys-lru")
    ledger.redis.config_set("maxmemory", int(used / (NEARLY_FULL + 0.05)))

    assert submit(ledger, "first")
    ledger.close()


def test_a_patient_ledger_waits_for_room(server: Server) -> None:
    """With retries a transition is asked for again until it is taken, once."""
    ledger, patient = Ledger(server.url, retries=1), Ledger(server.url, retries=600)
    ledger.redis.config_set("maxmemory", 1)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(submit(patient, "late")))
    thread.start()
    refused = "errorstat_NEARLYFULL"
    until(lambda: int(ledger.redis.info("errorstats").get(refused, {}).get("count", 0)) > 2, what="refusals")
    assert not ledger.exists("late")
    ledger.redis.config_set("maxmemory", 0)
    thread.join(timeout=20)

    assert answers == [True]
    assert ledger.exists("late")
    for it in (ledger, patient):
        it.close()
