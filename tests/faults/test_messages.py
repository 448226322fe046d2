"""F12, F13, F15, F24: messages that come twice, that are lost, that nobody can read, and that are of another release."""

from __future__ import annotations

import base64
import copy
import json
import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import kombu
import pytest
import redis

from egregore_dist import LocalCluster, node, parallel
from egregore_dist.client import session
from egregore_dist.client.server import Server
from egregore_dist.engine import app as apps
from egregore_dist.ledger import Aside, Ledger
from egregore_dist.worker import envelope
from tests.support.clusters import RABBITMQ, answers
from tests.support.waiting import until

SECRET = "canary-of-somebody-else"
UNKNOWN = "0" * 32
BYTES = bytes(range(256))


def headers(task: object = apps.ADVANCE, **more: object) -> dict[str, Any]:
    return {"lang": "py", "task": task, "id": str(uuid.uuid4()), "expires": None, "eta": None, **more}


def body(*args: object, named: object = None, embed: object = None) -> str:
    whole = [list(args), {} if named is None else named, {} if embed is None else embed]
    return base64.b64encode(json.dumps(whole).encode()).decode()


def message(queue: str, **changes: Any) -> dict[str, Any]:
    """A well-formed message as kombu keeps it in Redis, for a run that there is not, with parts changed."""
    properties = {
        "correlation_id": "x",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": str(uuid.uuid4()),
    }
    plain = {
        "body": body(UNKNOWN),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers(),
        "properties": {**properties, **changes.pop("properties", {})},
    }
    return {**plain, **changes}


#: What a Redis list can hold that is no message, or none for us: by what is wrong with it.
MALFORMED: dict[str, Callable[[str], Any]] = {
    "garbage bytes": lambda queue: BYTES + SECRET.encode(),
    "not JSON": lambda queue: f"{{{SECRET}".encode(),
    "nothing": lambda queue: b"",
    "a JSON list": lambda queue: [SECRET],
    "a JSON number": lambda queue: 7,
    "a JSON null": lambda queue: None,
    "an empty object": lambda queue: {},
    "deep JSON": lambda queue: b"[" * 100_000,
    "a type that kombu decodes": lambda queue: b'{"__type__": "datetime", "__value__": "' + SECRET.encode() + b'"}',
    "no properties": lambda queue: {"body": SECRET, "headers": headers()},
    "properties that are a list": lambda queue: {**message(queue), "properties": [SECRET]},
    "no delivery tag": lambda queue: _without(message(queue), "delivery_tag"),
    "a delivery tag that is an object": lambda queue: message(queue, properties={"delivery_tag": {SECRET: 1}}),
    "no delivery info": lambda queue: _without(message(queue), "delivery_info"),
    "delivery info that is text": lambda queue: message(queue, properties={"delivery_info": SECRET}),
    "headers that are a list": lambda queue: message(queue, headers=[SECRET]),
    "headers that are text": lambda queue: message(queue, headers=SECRET),
    "no headers": lambda queue: message(queue, headers=None),
    "a body that is not base64": lambda queue: message(queue, body=f"%%% {SECRET}"),
    "a body that is a number": lambda queue: message(queue, body=12),
    "no body": lambda queue: message(queue, body=None),
    "a body that is not JSON": lambda queue: message(queue, body=base64.b64encode(SECRET.encode()).decode()),
    "a body of two": lambda queue: message(queue, body=_body([[SECRET], {}])),
    "a body of four": lambda queue: message(queue, body=_body([[SECRET], {}, {}, {}])),
    "a body that is an object": lambda queue: message(queue, body=_body({"args": [SECRET]})),
    "arguments that are text": lambda queue: message(queue, body=_body([SECRET, {}, {}])),
    "bad compression": lambda queue: message(queue, headers=headers(compression="application/x-gzip")),
    "unknown compression": lambda queue: message(queue, headers=headers(compression="application/x-none")),
    "the wrong content type": lambda queue: message(queue, **{"content-type": "application/x-python-serialize"}),
    "a content type that is a number": lambda queue: message(queue, **{"content-type": 7}),
    "an unknown encoding": lambda queue: message(queue, **{"content-encoding": "klingon"}),
    "an unknown task": lambda queue: message(queue, headers=headers("os.system"), body=body(SECRET)),
    "a task of Celery's": lambda queue: message(queue, headers=headers("celery.starmap"), body=body(SECRET)),
    "a task that is a list": lambda queue: message(queue, headers=headers([SECRET])),
    "no task": lambda queue: message(queue, headers={"id": "x"}),
    "no id": lambda queue: message(queue, headers={"task": apps.ADVANCE}),
    "an id that is a list": lambda queue: message(queue, headers=headers(id=[SECRET])),
    "an end that is no time": lambda queue: message(queue, headers=headers(expires={"in": SECRET})),
    "a time to wait for": lambda queue: message(queue, headers=headers(eta="2999-01-01T00:00:00")),
    "limits that are text": lambda queue: message(queue, headers=headers(timelimit=[SECRET, "x"])),
    "too few arguments": lambda queue: message(queue, body=body()),
    "too many arguments": lambda queue: message(queue, body=body(UNKNOWN, SECRET)),
    "an argument by name": lambda queue: message(queue, body=body(UNKNOWN, named={"run": SECRET})),
    "a run that is a number": lambda queue: message(queue, body=body(12)),
    "a run that no run is called": lambda queue: message(queue, body=body("a:b{c}")),
    "a track that is text": lambda queue: message(queue, headers=headers(apps.LANE), body=body(UNKNOWN, "0", SECRET)),
    "a track below zero": lambda queue: message(queue, headers=headers(apps.LANE), body=body(UNKNOWN, "0", -1)),
    "a chord that is text": lambda queue: message(queue, body=body(UNKNOWN, embed={"chord": SECRET})),
    "an unknown run": lambda queue: message(queue),
    "a block of an unknown run": lambda queue: message(queue, headers=headers(apps.LANE), body=body(UNKNOWN, "0", 0)),
    "a collect of an unknown run": lambda queue: message(queue, headers=headers(apps.COLLECT), body=body(UNKNOWN, "0.1")),
}  # fmt: skip


def _without(whole: dict[str, Any], name: str) -> dict[str, Any]:
    return {**whole, "properties": {key: value for key, value in whole["properties"].items() if key != name}}


def _body(whole: object) -> str:
    return base64.b64encode(json.dumps(whole).encode()).decode()


def raw(made: object) -> bytes:
    return made if isinstance(made, bytes) else json.dumps(made).encode()


def probe() -> int:
    """The next message is served."""
    return int(parallel(node("probe")(lambda _: 1)).run(1)["probe"])


class Guarded:
    """One worker that takes messages from a queue of its own."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.queue = cluster.settings.queue
        self.worker = cluster.workers[0]
        self.pid = self.worker.pid
        self.ledger = Ledger(apps.ledger_url(cluster.settings), prefix=cluster.settings.prefix)

    @property
    def server(self) -> redis.Redis:
        return self.ledger.redis

    def asides(self) -> list[Aside]:
        return self.ledger.aside()

    def assert_serves(self) -> None:
        assert probe() == 1
        assert self.worker.alive, self.worker.log_tail(60)
        assert self.worker.pid == self.pid


@pytest.fixture(scope="module", params=["prefork", "threads"])
def guarded(request: pytest.FixtureRequest) -> Iterator[Guarded]:
    """A worker of each kind of pool, on a server of its own."""
    with LocalCluster(workers=1, pool=request.param) as cluster:
        here = Guarded(cluster)
        yield here
        here.ledger.close()


def test_what_cannot_be_served_is_set_aside(guarded: Guarded, tmp_path: Path) -> None:
    """Each kind of message that is not ours or not well-formed ends in the list, and the worker serves the next one."""
    before = len(guarded.asides())
    for make in MALFORMED.values():
        guarded.server.lpush(guarded.queue, raw(make(guarded.queue)))
    guarded.assert_serves()
    until(lambda: len(guarded.asides()) == before + len(MALFORMED), what=f"{len(MALFORMED)} messages set aside")

    noted = guarded.asides()[: len(MALFORMED)]
    assert all(it.reason and it.worker == guarded.worker.name and it.at for it in noted)
    assert {it.queue for it in noted} <= {guarded.queue, ""}
    assert SECRET not in str(noted)
    assert SECRET not in guarded.worker.log_tail(2000)
    until(lambda: not guarded.server.hlen("unacked"), what="the end of every message")
    assert not guarded.server.llen(guarded.queue)


def test_remote_control_that_cannot_be_read(guarded: Guarded) -> None:
    """What is published as remote control, and is none, ends nothing."""
    for made in (BYTES, b"{", b"[]", b"7", raw({"body": "x"}), raw(message("x")), raw(message("x", headers=[1]))):
        guarded.server.publish("/0.celery.pidbox", made)
    guarded.assert_serves()
    replies = session.current().app.control.ping(timeout=5, limit=1)
    assert [*replies[0]] == [guarded.worker.name]


def test_what_a_dead_worker_held_ends_no_other(guarded: Guarded) -> None:
    """Messages that cannot be read are set aside too where they come back from a worker that died: no crash loop."""
    before = len(guarded.asides())
    held = {
        "not-base64": json.dumps([message(guarded.queue, body="%%%"), "", guarded.queue]),
        "two": json.dumps([message(guarded.queue, body=_body([[], {}])), "", guarded.queue]),
        "headers": json.dumps([message(guarded.queue, headers=[1]), "", guarded.queue]),
        "garbage": BYTES,
        "list": "[]",
    }
    guarded.server.hset("unacked", mapping=held)
    guarded.server.zadd("unacked_index", dict.fromkeys(held, 1.0))
    until(lambda: not guarded.server.hlen("unacked"), seconds=30, what="their coming back")
    guarded.assert_serves()
    until(lambda: len(guarded.asides()) >= before + len(held), what="their being set aside")


def test_the_list_is_bounded(guarded: Guarded) -> None:
    """A flood of garbage is dealt with, and only the newest of it is kept."""
    pipe = guarded.server.pipeline()
    for number in range(3000):
        pipe.lpush(guarded.queue, f"garbage {number}")
    pipe.execute()
    until(lambda: not guarded.server.llen(guarded.queue), seconds=60, what="the end of the flood")
    guarded.assert_serves()
    assert len(guarded.asides()) <= 1000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
#: Where a message is changed.
PLACES = [
    (),
    ("body",),
    ("content-type",),
    ("content-encoding",),
    ("headers",),
    *(("headers", name) for name in ("task", "id", "expires", "eta", "group", "timelimit", "retries", "compression")),
    ("properties",),
    *(("properties", name) for name in ("delivery_tag", "delivery_info", "body_encoding", "priority")),
    ("properties", "delivery_info", "exchange"),
    ("properties", "delivery_info", "routing_key"),
    ("properties", "delivery_info", "priority"),
]


def mutated(queue: str, rng: random.Random, value: object, places: list[tuple[str, ...]]) -> dict[str, Any] | object:
    task = rng.choice([apps.ADVANCE, apps.LANE, apps.COLLECT])
    whole: Any = message(queue, headers=headers(task), body=body(*(UNKNOWN, "0", 0)[: rng.randint(0, 3)]))
    for place in places:
        inside = whole
        for name in place[:-1]:
            inside = inside.get(name) if isinstance(inside, dict) else None
        if not place:
            whole = value
        elif isinstance(inside, dict):
            inside[place[-1]] = copy.deepcopy(value)
    return whole


def test_envelopes_of_any_shape(guarded: Guarded, long: bool) -> None:
    """Thousands of envelopes with any JSON in any place: none ends or stalls the worker, none is left."""
    queue, made = guarded.queue, []

    @hypothesis.settings(
        max_examples=5000 if long else 1500,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
        database=None,
    )
    @hypothesis.given(st.randoms(), json_values, st.lists(st.sampled_from(PLACES), min_size=1, max_size=3))
    def push(rng: random.Random, value: object, places: list[tuple[str, ...]]) -> None:
        made.append(raw(mutated(queue, rng, value, places)))

    push()
    for begin in range(0, len(made), 500):
        guarded.server.lpush(queue, *made[begin : begin + 500])
    until(lambda: not guarded.server.llen(queue), seconds=90, what="the end of the messages")
    guarded.assert_serves()
    until(lambda: not guarded.server.hlen("unacked"), what="their acknowledgement")


@hypothesis.given(json_values, json_values, st.sampled_from([apps.ADVANCE, apps.LANE, apps.COLLECT]))
def test_looking_at_a_message_never_fails(about: Any, content: Any, task: str) -> None:
    """Whatever JSON a message holds, it is found well-formed or a reason is given, and its shape is told in short."""
    about = about if isinstance(about, dict) else {"id": about}

    reason = envelope.fault(task, about, content)

    assert reason is None or reason.startswith(("headers", "body", "arguments"))
    assert len(envelope.excerpt({"headers": about, "body": content})) <= envelope.EXCERPT


@pytest.fixture(scope="module")
def rabbit() -> Iterator[Guarded]:
    """A worker that consumes from RabbitMQ."""
    if not answers(RABBITMQ):
        pytest.skip("no RabbitMQ answers on this machine")
    name = f"egdtest-{uuid.uuid4().hex[:8]}"
    with (
        Server.start() as server,
        LocalCluster(
            workers=1,
            broker_url="amqp://guest:guest@127.0.0.1:5672//",
            ledger_url=server.url,
            queue=name,
            prefix=name,
        ) as cluster,
    ):
        here = Guarded(cluster)
        yield here
        with kombu.Connection(cluster.url) as connection:
            connection.default_channel.queue_delete(name)
            connection.default_channel.exchange_delete(name)
        here.ledger.close()


def test_what_cannot_be_served_is_set_aside_from_rabbitmq(rabbit: Guarded) -> None:
    """Of RabbitMQ too: each kind is set aside and acknowledged, and the worker serves the next."""
    good = json.dumps([[UNKNOWN], {}, {}])
    kinds: list[dict[str, Any]] = [
        {"body": BYTES, "content_type": "application/json", "headers": headers()},
        {"body": BYTES},
        {"body": b""},
        {"body": "{", "content_type": "application/json"},
        {"body": "[]", "content_type": "application/json", "headers": headers()},
        {"body": good, "content_type": "application/x-python-serialize", "headers": headers()},
        {"body": good, "content_type": "application/json", "content_encoding": "klingon", "headers": headers()},
        {"body": good, "content_type": "application/json", "headers": headers("os.system")},
        {"body": good, "content_type": "application/json", "headers": {"task": apps.ADVANCE}},
        {"body": good, "content_type": "application/json", "headers": {"id": "x"}},
        {"body": good, "content_type": "application/json", "headers": headers(apps.LANE)},
        {"body": good, "content_type": "application/json", "headers": headers(compression="application/x-gzip")},
        {"body": f'[["{SECRET}", 1], {{}}, {{}}]', "content_type": "application/json", "headers": headers()},
        {"body": good, "content_type": "application/json", "headers": headers()},
    ]
    with kombu.Connection(rabbit.cluster.url) as connection:
        channel = connection.default_channel
        for kind in kinds:
            about = {"content_encoding": "utf-8", **kind}
            content = about.pop("body")
            made = channel.prepare_message(content if isinstance(content, bytes) else content.encode(), **about)
            channel.basic_publish(made, exchange="", routing_key=rabbit.queue)
        rabbit.assert_serves()
        until(lambda: len(rabbit.asides()) >= len(kinds), what=f"{len(kinds)} messages set aside")
        until(lambda: channel.queue_declare(rabbit.queue, passive=True).message_count == 0, what="an empty queue")
    assert SECRET not in str(rabbit.asides())
    assert SECRET not in rabbit.worker.log_tail(2000)
