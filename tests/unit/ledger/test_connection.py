"""How what a server answers is told."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from pydantic import SecretStr
from redis._parsers import BaseParser

from egregore_dist import errors
from egregore_dist.engine.app import make_app
from egregore_dist.ledger import Ledger
from egregore_dist.ledger.connection import TurnedAway, outlasting, reachable, refusal, turned_away
from egregore_dist.ledger.keys import Keys
from egregore_dist.ledger.watch import Watch
from egregore_dist.settings import Settings

BUSY = "BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."
AWAY = [
    BUSY,
    "BUSY Redis is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE.",
    "LOADING Redis is loading the dataset in memory",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN The cluster is down",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
]


def error_of(answer: str) -> redis.exceptions.RedisError:
    """What redis-py makes of an answer."""
    error: redis.exceptions.RedisError = BaseParser.parse_error(answer)  # type: ignore[no-untyped-call]
    return error


@contextmanager
def answering(answer: str, *, raw: bool = False) -> Iterator[tuple[str, list[bytes]]]:
    """A server that says the same to whatever it is asked, an error unless ``raw``; its URL, and what it was asked."""
    asked: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with closing(connection):
            while data := connection.recv(65536):
                asked.append(data)
                commands = data.count(b"\r\n*") + 1
                connection.sendall(f"{answer if raw else f'-{answer}'}\r\n".encode() * commands)

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0", asked
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("answer", AWAY)
def test_a_server_that_answers_nobody_is_unavailable(answer: str) -> None:
    """What redis-py makes of such an answer comes out as BrokerUnavailable, and not as BrokerFull."""
    error = error_of(answer)
    reason = turned_away(error)
    with pytest.raises(errors.BrokerUnavailable) as caught, reachable():
        raise error if reason is None else TurnedAway(reason)

    assert not isinstance(caught.value, errors.BrokerFull)


@pytest.mark.parametrize("answer", ["ERR BUSY", "BUSYGROUP Consumer Group name already exists", "OOM full", "ERR x"])
def test_other_answers_are_not_taken_for_it(answer: str) -> None:
    """Only the server's own word counts."""
    assert turned_away(error_of(answer)) is None


def test_a_socket_of_the_file_system(tmp_path: Path) -> None:
    """A ledger may be there: where none is, this is said, on an event loop too."""
    url = f"unix://{tmp_path}/socket"

    async def wait() -> None:
        async with Watch(url, Keys("egd")) as watch:
            await watch.wait("r", 0.01)

    with closing(Ledger(url, retries=0)) as ledger, pytest.raises(errors.BrokerUnavailable, match="cannot be reached"):
        ledger.ping()
    with pytest.raises(errors.BrokerUnavailable, match="cannot be reached"):
        asyncio.run(wait())


@pytest.mark.parametrize(
    ("answer", "raw", "says"),
    [
        ("AMQP\0\0\x09\x01", True, r"does not answer as .*; is its URL that of a Redis or Valkey server\?"),
        ("ERR DB index is out of range", False, r"has no database 99 .*; end its URL with a lower number"),
    ],
)
def test_a_server_that_cannot_be_used_is_named(answer: str, raw: bool, says: str) -> None:
    """One that is no Redis, and one without the database, are named by their address, with the cure."""
    with answering(answer, raw=raw) as (url, _):
        host = url.partition("//")[2].partition("/")[0]
        asked = f"redis://:canary@{host}/99"

        async def wait() -> None:
            async with Watch(asked, Keys("egd")) as watch:
                await watch.wait("r", 0.01)

        for ask in (lambda: Ledger(asked, retries=0).ping(), lambda: asyncio.run(wait())):
            with pytest.raises(errors.BrokerUnavailable, match=f"{host} {says}") as caught:
                ask()
            assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        "READONLY You can't write against a read only replica.",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "ERR Error running script (call to f_1): @user_script:3: -READONLY You can't write against a read only replica",
    ],
)
def test_a_connection_to_a_replica_counts_as_lost(answer: str) -> None:
    """So redis-py and kombu close it, and connect anew; a caller is told that the server takes no write."""

    class Stub(redis.Connection):
        def read_response(self, *args: Any, **options: Any) -> Any:
            raise error_of(answer)

    class AsyncStub(redis.asyncio.Connection):
        async def read_response(self, *args: Any, **options: Any) -> Any:
            raise error_of(answer)

    with pytest.raises(errors.BrokerFull, match=r"takes nothing more: it (is read-only|has just become)"), reachable():
        outlasting(Stub)().read_response()
    with pytest.raises(redis.exceptions.ConnectionError, match="replica"):
        asyncio.run(outlasting(AsyncStub)().read_response())


def test_a_busy_server_is_no_full_one() -> None:
    """What waits for room must not be told to make room."""
    assert refusal(error_of(BUSY)) is None


READS: list[Callable[[Ledger], Any]] = [
    lambda ledger: ledger.ping(),
    lambda ledger: ledger.run("r"),
    lambda ledger: ledger.cancel("r"),
    lambda ledger: ledger.enter("r", "0", 0, "w/1/lane", work=False),
    lambda ledger: ledger.wait("r", 0.01),
    lambda ledger: ledger.report("w", b"", 1.0),
]


@pytest.mark.parametrize("ask", READS)
def test_a_ledger_asks_a_busy_server_again(ask: Callable[[Ledger], Any]) -> None:
    """A command, a script, a pipeline and a transaction are tried as often as with a server that is not there."""
    with answering(BUSY) as (url, asked):
        ledger = Ledger(url, retries=2)
        with pytest.raises(errors.BrokerUnavailable, match=r"does not answer: .* script"):
            ask(ledger)
        ledger.close()

    assert len(asked) >= 3


def test_an_event_loop_asks_a_busy_server_again() -> None:
    """As the ledger does."""

    async def wait(url: str) -> None:
        async with Watch(url, Keys("egd")) as watch:
            await watch.wait("r", 0.01)

    with answering(BUSY) as (url, asked), pytest.raises(errors.BrokerUnavailable, match="script"):
        asyncio.run(wait(url))

    assert len(asked) >= 3


def test_a_chords_counter_takes_it_for_a_loss() -> None:
    """A lane asks it outside of what guards the ledger."""
    backend: Any = make_app(Settings(broker_url=SecretStr("redis://127.0.0.1:1/0"))).backend
    kind = backend.client.connection_pool.connection_class

    assert outlasting(kind) is kind


def test_a_class_is_made_once() -> None:
    """A class that outlasts a busy server already is taken as it is."""
    for stock in (redis.Connection, redis.SSLConnection, redis.UnixDomainSocketConnection, redis.asyncio.Connection):
        made = outlasting(stock)
        assert issubclass(made, stock)
        assert outlasting(made) is made


def test_a_large_value_may_take_longer_than_the_timeout() -> None:
    """On a slow network it does: only a connection on which nothing gets on is given up."""
    connection = outlasting(redis.Connection)(socket_timeout=0.5)
    here, there = socket.socketpair()
    here.settimeout(0.5)
    connection._sock = here
    size, found = 8 * 2**20, bytearray()

    def read_slowly() -> None:
        while data := there.recv(2**18):
            found.extend(data)
            # Some 10 MB a second: this is the network.
            time.sleep(0.025)

    with closing(here), closing(there):
        reader = threading.Thread(target=read_slowly)
        reader.start()
        connection.send_packed_command([b"head", b"x" * size])
        here.shutdown(socket.SHUT_WR)
        reader.join(20)

    assert bytes(found) == b"head" + b"x" * size
