"""Brokers that refuse what stays as it is: a login, a database, a virtual host, a queue's type."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import kombu
import pytest
import redis

from egregore_dist import LocalCluster, Run, node, parallel
from egregore_dist.client.server import Server
from egregore_dist.client.session import Session
from egregore_dist.settings import load
from tests.support import rabbitmq, shops
from tests.support.clusters import RABBITMQ, submitting
from tests.support.proxy import Proxy
from tests.support.redis_server import redis_server
from tests.support.waiting import until

CANARY = "canary-7d1"

#: By case: the broker's URL, where it has no ``redis`` or ``rabbitmq`` of its own; and the cure that is named.
REDIS = {
    "wrong password": (f"redis://:{CANARY}@", "/0", "see that its URL has the right user and password"),
    "no password": ("redis://", "/0", "see that its URL has the right user and password"),
    "no such database": ("redis://:right-7d1@", "/99", "end its URL with a lower number"),
}
RABBIT = {
    "wrong login": (f"amqp://guest:{CANARY}@", "//", "see that its URL has the right user and password"),
    "no such virtual host": ("amqp://guest:guest@", "/egdtest-none", "create that virtual host"),
    "no permission": ("amqp://guest:guest@", None, "give the URL's user that permission"),
}
CASES = [*REDIS, *RABBIT]


@dataclass
class Refusing:
    """A broker that refuses, behind a proxy, and a ledger that does not.

    Attributes:
        url: of the broker.
        cure: what is told of it.
    """

    url: str
    cure: str
    proxy: Proxy
    ledger: Server
    name: str


@contextmanager
def refusing(case: str, folder: Path) -> Iterator[Refusing]:
    with ExitStack() as stack:
        login, path, cure = {**REDIS, **RABBIT}[case]
        if case in REDIS:
            server = stack.enter_context(redis_server(folder))
            server.client.config_set("requirepass", "right-7d1")
            port = server.port
        else:
            port = RABBITMQ[1]
            own = stack.enter_context(rabbitmq.virtual_host(permitted=False))
            path = path or f"/{own.rpartition('/')[2]}"
        ledger = stack.enter_context(Server.start())
        proxy = stack.enter_context(Proxy(port))
        name = f"egdtest-{uuid.uuid4().hex[:8]}"
        yield Refusing(f"{login}127.0.0.1:{proxy.port}{path}", cure, proxy, ledger, name)


@node
def one(_: object) -> int:
    return 1


@pytest.mark.parametrize("case", CASES)
def test_a_worker_tells_once_what_its_broker_refuses_and_asks_slowly(case: str, tmp_path: Path) -> None:
    """It tells the cure once, and each attempt comes later after the one before."""
    with refusing(case, tmp_path) as broker:
        cluster = LocalCluster(
            workers=1,
            concurrency=1,
            broker_url=broker.url,
            ledger_url=broker.ledger.url,
            queue=broker.name,
            prefix=broker.name,
        )
        with cluster:
            until(lambda: len(_attempts(broker.proxy)) >= 4, seconds=60, what="four attempts")
            log = cluster.workers[0].log_tail(500)
            assert cluster.workers[0].alive
            attempts = _attempts(broker.proxy)

    # One, two and four seconds, each by up to 30 % less.
    assert attempts[3] - attempts[0] >= 0.7 * 7 - 0.5
    assert log.count("the broker refuses this worker") == 1
    assert broker.cure in log
    for text in ("Trying again", "Frequent restarts", "Traceback", CANARY, "right-7d1"):
        assert text not in log


def _attempts(proxy: Proxy) -> list[float]:
    # What came within half a second is one attempt: a worker has several connections.
    found: list[float] = []
    for at in tuple(proxy.accepted):
        if not found or at > found[-1] + 0.5:
            found.append(at)
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_client_tells_what_its_broker_refuses(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """There is one clear line, no traceback, and no second attempt."""
    caplog.set_level(logging.WARNING)
    with refusing(case, tmp_path) as broker:
        settings = load(
            broker_url=broker.url, ledger_url=broker.ledger.url, queue=broker.name, prefix=broker.name, monitor=False
        )
        with submitting(settings):
            one.submit(1)

    told = [line for line in caplog.records if getattr(line, "action", "") == "publish_failed"]
    assert [line.exc_info for line in told] == [None]
    assert broker.cure in told[0].getMessage()
    assert CANARY not in caplog.text
    assert "right-7d1" not in caplog.text
    assert len(broker.proxy.accepted) == 1


def test_a_client_publishes_to_the_other_broker_where_the_first_refuses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of several brokers each is tried before a refusal counts."""
    with refusing("wrong password", tmp_path) as broker, Server.start(tcp=True) as other:
        settings = load(
            broker_url=f"{broker.url};{other.tcp_url}",
            ledger_url=broker.ledger.url,
            queue=broker.name,
            prefix=broker.name,
            monitor=False,
        )
        with submitting(settings):
            one.submit(1)
        with redis.Redis.from_url(other.tcp_url) as client:
            assert client.llen(broker.name) == 1

    assert [line for line in caplog.records if getattr(line, "action", "") == "publish_failed"] == []


def test_a_queue_of_another_type_is_told_once_and_served_when_it_is_gone() -> None:
    """The cure that is named for an existing queue of another type works, and the run that waited ends."""
    with ExitStack() as stack:
        url = stack.enter_context(rabbitmq.virtual_host())
        server = stack.enter_context(Server.start())
        name = f"egdtest-{uuid.uuid4().hex[:8]}"
        with kombu.Connection(url) as connection:
            kombu.Queue(name, queue_arguments={"x-queue-type": "quorum"})(connection.default_channel).declare()
            cluster = LocalCluster(
                workers=1, concurrency=1, broker_url=url, ledger_url=server.url, queue=name, prefix=name
            )
            with cluster:
                worker = cluster.workers[0]
                until(lambda: "delete that queue" in worker.log_tail(500), seconds=60, what="the cure")
                connection.default_channel.queue_delete(name)

                assert probe() == 1
                assert worker.log_tail(500).count("the broker refuses this worker") == 1


@node
def meets(folder: str, key: str = "") -> bool:
    """Ends when three of these are at it."""
    (Path(folder) / uuid.uuid4().hex).touch()
    until(lambda: len(list(Path(folder).iterdir())) >= 3, seconds=30, what="the others")
    return True


@dataclass
class Quorum:
    """A cluster whose broker makes quorum queues of those that name no type."""

    url: str
    proxy: Proxy
    cluster: LocalCluster


@pytest.fixture(scope="module")
def quorum() -> Iterator[Quorum]:
    with ExitStack() as stack:
        url = stack.enter_context(rabbitmq.virtual_host("--default-queue-type", "quorum"))
        server = stack.enter_context(Server.start())
        proxy = stack.enter_context(Proxy(RABBITMQ[1]))
        name = f"egdtest-{uuid.uuid4().hex[:8]}"
        cluster = LocalCluster(
            workers=1, concurrency=1, broker_url=proxy.url(url), ledger_url=server.url, queue=name, prefix=name
        )
        with cluster:
            yield Quorum(url, proxy, cluster)


def probe() -> int:
    """The next message is served."""
    return int(parallel(node("probe")(lambda _: 1)).run(1)["probe"])


def test_quorum_queues_by_default_are_served(quorum: Quorum, tmp_path: Path) -> None:
    """The worker prefetches for each queue, also after its size has changed, and tells of no lost connection."""
    assert probe() == 1
    assert rabbitmq.queue_types(quorum.url)[quorum.cluster.settings.queue] == "quorum"

    worker = quorum.cluster.workers[0]
    with closing(Session(quorum.cluster.settings)) as mine:
        mine.workers.concurrency(worker.name, 3)
    runs: list[Run] = [meets.submit(str(tmp_path)) for _ in range(3)]
    assert all(run.result(timeout=60) for run in runs)
    log = worker.log_tail(500)
    assert "lost" not in log
    assert "refuses" not in log
    assert len(quorum.proxy.accepted) < 20


def test_hostile_messages_of_rabbitmq_are_cleaned_and_cut(quorum: Quorum) -> None:
    """The longest routing keys of AMQP, with what a terminal obeys, are kept and logged short and harmless."""
    queue = quorum.cluster.settings.queue
    hostile = "\x1b[2J\x1b]0;x\x07\u202e\u2066\n\r\x9b31m"
    keys = [hostile, (hostile + 255 * "k")[:240], 63 * "\U0001f600"]
    with kombu.Connection(quorum.url) as connection:
        anybody = kombu.Exchange("egdtest-anybody", "fanout")
        kombu.Queue(queue, anybody, "")(connection.default_channel).declare()
        producer = kombu.Producer(connection.default_channel, exchange=anybody)
        for key in keys:
            producer.publish([[], {}, {}], routing_key=key, headers={"task": "os.system" + hostile, "id": hostile})
    assert probe() == 1

    with closing(Session(quorum.cluster.settings)) as mine:
        until(lambda: len(mine.ledger.aside()) == len(keys), what="all of them set aside")
        for noted in mine.ledger.aside():
            texts = (noted.reason, noted.queue, noted.worker, noted.excerpt)
            assert all(text.isprintable() for text in texts)
            assert sum(len(text.encode()) for text in texts) < 2**11
    log = quorum.cluster.workers[0].log_tail(500)
    assert "is set aside" in log
    assert all(letter.isprintable() or letter == "\n" for letter in log)


def test_an_app_of_a_users_own_serves_quorum_queues_by_default(tmp_path: Path) -> None:
    """Its own tasks are served too, where stock Celery connects again and again."""
    with ExitStack() as stack:
        url = stack.enter_context(rabbitmq.virtual_host("--default-queue-type", "quorum"))
        shop = stack.enter_context(shops.opened(tmp_path, installed=True, broker=url, name="quorums"))
        assert shop.ends(shop.app.tasks["late"].delay("first"))[0] == "SUCCESS"
        assert rabbitmq.queue_types(url)["quorums"] == "quorum"
        assert len(shop.proxy.accepted) < 20
