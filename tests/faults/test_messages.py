"""F12, F13, F15, F24: messages that come twice, that are lost, that nobody can read, and of another release."""

from __future__ import annotations

import base64
import bz2
import copy
import functools
import json
import os
import pickle
import random
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import hypothesis
import hypothesis.strategies as st
import kombu
import kombu.exceptions
import msgspec
import psutil
import pytest
import redis
from celery import Celery
from celery.exceptions import SecurityError
from celery.worker import state

from egregore_dist import LocalCluster, Run, Sequence, connect, errors, node, parallel
from egregore_dist.client import session
from egregore_dist.client.processes import Process
from egregore_dist.client.server import Server
from egregore_dist.engine import app as apps
from egregore_dist.engine import publish, urls
from egregore_dist.ledger import ENDED, Aside, Ledger, Work
from egregore_dist.settings import load
from egregore_dist.wire import codec
from egregore_dist.worker.guard import Guard
from egregore_dist.workflow import describe
from tests.support import work
from tests.support.clusters import RABBITMQ, answers, delete_queues, inside
from tests.support.trial import QUICK, Trial
from tests.support.waiting import let_pass, until
from tests.support.work import join, nap, quick

SECRET = "canary-of-somebody-else"
UNKNOWN = "0" * 32
BYTES = bytes(range(256))

TRIES = 5
# Seconds until what comes after a message that cannot be served has ended.
NEXT_WITHIN = 1.0
# Seconds that a janitor waits for a message before it takes it for lost: HINT_AFTER of the ledger's scripts.
ASKED_AFTER = 2.0
# A busy machine is slower than the product.
SLACK = 10.0


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
    "an unknown run's collect": lambda queue: message(queue, headers=headers(apps.COLLECT), body=body(UNKNOWN, "0.1")),
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

    def forget(self) -> None:
        """Begin with an empty list: what a test before this one has sent is noted a little later."""

        def empty() -> bool:
            self.server.delete(self.ledger.keys.aside)
            let_pass(0.5)
            return not self.asides() and not self.server.llen(self.queue) and not self.server.hlen("unacked")

        until(empty, what="an empty list")

    def assert_serves(self) -> None:
        assert probe() == 1
        assert self.worker.alive, self.worker.log_tail(60)
        assert self.worker.pid == self.pid


@pytest.fixture(scope="module", params=["prefork", "threads"])
def guarded(request: pytest.FixtureRequest) -> Iterator[Guarded]:
    """A worker of each kind of pool, on a server of its own."""
    # Celery would not start as root where pickle were accepted, and hide that it is.
    os.environ.setdefault("C_FORCE_ROOT", "1")
    with LocalCluster(workers=1, pool=request.param) as cluster:
        here = Guarded(cluster)
        yield here
        here.ledger.close()


def test_what_cannot_be_served_is_set_aside(guarded: Guarded) -> None:
    """Each kind of message that is not ours or not well-formed ends in the list, and the worker serves the next one."""
    guarded.forget()
    for make in MALFORMED.values():
        guarded.server.lpush(guarded.queue, raw(make(guarded.queue)))
    guarded.assert_serves()
    until(lambda: len(guarded.asides()) == len(MALFORMED), what=f"{len(MALFORMED)} messages set aside")

    noted = guarded.asides()
    assert all(it.reason and it.worker == guarded.worker.name and it.at for it in noted)
    assert {it.queue for it in noted} <= {guarded.queue, ""}
    assert SECRET not in str(noted)
    assert SECRET not in guarded.worker.log_tail(2000)
    until(lambda: not guarded.server.hlen("unacked"), what="the end of every message")
    assert not guarded.server.llen(guarded.queue)


def test_the_next_one_is_served_at_once(guarded: Guarded, seed: str, figure: Callable[[str], None]) -> None:
    """Whatever kind of message it was that could not be served: the next one does not wait for it."""
    guarded.assert_serves()
    took = []
    for make in random.Random(seed).sample(list(MALFORMED.values()), k=TRIES):
        guarded.server.lpush(guarded.queue, raw(make(guarded.queue)))
        begun = time.monotonic()
        guarded.assert_serves()
        took.append(time.monotonic() - begun)
    figure(f"the next run ended after {median(took):.2f} s (median), {max(took):.2f} s at most")
    assert min(took) < NEXT_WITHIN
    assert max(took) < NEXT_WITHIN + SLACK


def test_remote_control_that_cannot_be_read(guarded: Guarded) -> None:
    """What is published as remote control, and is none, ends nothing."""
    for made in (BYTES, b"{", b"[]", b"7", raw({"body": "x"}), raw(message("x")), raw(message("x", headers=[1]))):
        guarded.server.publish("/0.celery.pidbox", made)
    guarded.assert_serves()
    replies = session.current().app.control.ping(timeout=5, limit=1)
    assert [*replies[0]] == [guarded.worker.name]


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def bombs(path: Path) -> Iterator[dict[str, Any]]:
    """Bodies that make a file where they are decoded by what their content type names, plain and compressed."""
    code = f'!!python/object/apply:os.system ["touch {path}"]'
    made = {
        ("application/x-python-serialize", "binary"): pickle.dumps(([Bomb(path)], {}, {})),
        ("pickle", "utf-8"): pickle.dumps(Bomb(path), protocol=0),
        ("application/x-yaml", "utf-8"): code.encode(),
        ("yaml", "binary"): code.encode(),
        ("application/json", "utf-8"): pickle.dumps(Bomb(path)),
        ("application/data", "binary"): pickle.dumps(Bomb(path)),
    }
    packers = {None: bytes, "application/x-gzip": zlib.compress, "application/x-bz2": bz2.compress}
    for (kind, encoding), content in made.items():
        for name, pack in packers.items():
            yield {"body": pack(content), "content_type": kind, "content_encoding": encoding, "compression": name}


def as_kombu_has_it(queue: str, bomb: dict[str, Any]) -> dict[str, Any]:
    whole = message(queue, body=base64.b64encode(bomb["body"]).decode())
    whole |= {"content-type": bomb["content_type"], "content-encoding": bomb["content_encoding"]}
    if bomb["compression"]:
        whole["headers"]["compression"] = bomb["compression"]
    return whole


def test_s1_pickle_and_yaml_are_not_read(guarded: Guarded, tmp_path: Path) -> None:
    """Wherever a worker or a client reads from the server: what pickle or yaml would run does not run."""
    guarded.forget()
    path, here = tmp_path / "mark", session.current().app
    pickle.loads(pickle.dumps(Bomb(path)))
    assert path.exists()
    path.unlink()

    made = list(bombs(path))
    for bomb in made:
        guarded.server.lpush(guarded.queue, raw(as_kombu_has_it(guarded.queue, bomb)))
        each = as_kombu_has_it(guarded.queue, bomb)
        guarded.server.publish("/0.celery.pidbox", raw(each))
        guarded.server.lpush(f"{guarded.worker.name}.celery.pidbox", raw(each))
        guarded.server.lpush(f"{here.thread_oid}.reply.celery.pidbox", raw(each))
    plain = [as_kombu_has_it(guarded.queue, bomb) for bomb in made if bomb["compression"] is None]
    held = {f"of a dead worker {at}": json.dumps([each, "", guarded.queue]) for at, each in enumerate(plain)}
    guarded.server.hset("unacked", mapping=held)
    guarded.server.zadd("unacked_index", dict.fromkeys(held, 1.0))
    bare = [pickle.dumps(Bomb(path)), f'!!python/object/apply:os.system ["touch {path}"]']
    for number, content in enumerate(bare):
        guarded.server.set(here.backend.get_key_for_task(f"bomb{number}"), content)
    guarded.assert_serves()
    # Most of those sent as remote control are set aside too.
    until(lambda: len(guarded.asides()) > len(made) + len(held), seconds=30, what="all of them set aside")
    until(lambda: not guarded.server.llen(guarded.queue) and not guarded.server.hlen("unacked"), what="their end")
    for number in range(len(bare)):
        with pytest.raises((ValueError, kombu.exceptions.DecodeError), match=r"Expecting value|codec can't decode"):
            here.AsyncResult(f"bomb{number}").result  # noqa: B018
        guarded.server.delete(here.backend.get_key_for_task(f"bomb{number}"))
    with suppress(kombu.exceptions.ContentDisallowed, kombu.exceptions.DecodeError):
        here.control.ping(timeout=1, limit=1)
    guarded.assert_serves()

    assert not path.exists()


#: A class that would be imported and called, as CVE-2021-23727 had it.
FORGED = {"exc_module": "os", "exc_type": "system"}


def test_s5_a_forged_exception_class_is_inert(guarded: Guarded, tmp_path: Path) -> None:
    """A failure that names a function in place of its exception's class: nobody calls it."""
    path, here, server = tmp_path / "mark", session.current().app, guarded.server
    forged = {**FORGED, "exc_message": [f"touch {path}"]}
    meta = {"status": "FAILURE", "result": forged, "traceback": None, "children": [], "task_id": "forged"}
    server.set(here.backend.get_key_for_task("forged"), json.dumps(meta))
    # Of a chord of two lanes, the one that ends first.
    chord = {"task": apps.COLLECT, "args": [UNKNOWN, "0"], "kwargs": {}, "options": {}, "chord_size": 2}
    group = str(uuid.uuid4())
    server.zadd(here.backend.get_key_for_group(group, ".j"), {json.dumps([1, "forged", "FAILURE", forged]): 1})
    server.lpush(
        guarded.queue,
        raw(
            message(
                guarded.queue,
                headers=headers(apps.LANE, group=group),
                body=body(UNKNOWN, "0", 0, embed={"chord": chord}),
            )
        ),
    )
    guarded.assert_serves()
    with pytest.raises(SecurityError, match="Expected an exception class"):
        here.AsyncResult("forged").result  # noqa: B018
    server.delete(here.backend.get_key_for_task("forged"), here.backend.get_key_for_group(group, ".j"))

    run = parallel(node("fails")(lambda _: 1 / 0)).submit(1)
    with pytest.raises(errors.RunFailed):
        run.result(timeout=30)
    key = next(iter(server.scan_iter(match=f"*{{{run.id}}}:e:0")))
    failed = {"type": "os.system", "message": f"touch {path}", "args": [f"touch {path}"], "whole": True, **forged}
    for field in server.hkeys(key):
        server.hset(key, field, msgspec.msgpack.encode(failed))
    with pytest.raises(errors.RunFailed, match=r"os\.system") as caught:
        Run(run.id).result(timeout=30)
    assert type(caught.value.__cause__) is errors.RemoteError
    guarded.assert_serves()

    assert not path.exists()


def test_what_a_dead_worker_held_ends_no_other(guarded: Guarded) -> None:
    """Messages that cannot be read are set aside too where they come back from a worker that died: no crash loop."""
    guarded.forget()
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
    until(lambda: len(guarded.asides()) == len(held), what="their being set aside")


def test_the_list_is_bounded(guarded: Guarded) -> None:
    """A flood of garbage is dealt with, and only the newest of it is kept."""
    pipe = guarded.server.pipeline()
    for number in range(3000):
        pipe.lpush(guarded.queue, f"garbage {number}")
    pipe.execute()
    until(lambda: not guarded.server.llen(guarded.queue), seconds=60, what="the end of the flood")
    guarded.assert_serves()
    assert len(guarded.asides()) <= 1000


#: Of a terminal: clear it, name its window, write from right to left, and begin a line.
HOSTILE = "\x1b[2J\x1b]0;x\x07\u202e\u2066\n\r\x9b31m"


def test_hostile_messages_are_cleaned_and_cut(guarded: Guarded) -> None:
    """Routing keys of a megabyte with what a terminal obeys are kept and logged short and harmless."""
    guarded.forget()
    key = HOSTILE + 2**20 * "k" + HOSTILE
    for task in ("os.system" + HOSTILE, apps.ADVANCE):
        for name in (key, HOSTILE, "\U0001f600" * 1000):
            info = {"exchange": name, "routing_key": name}
            guarded.server.lpush(
                guarded.queue,
                raw(
                    message(
                        guarded.queue,
                        headers=headers(task, id=HOSTILE, expires=[name]),
                        properties={"delivery_info": info},
                    )
                ),
            )
    guarded.assert_serves()
    until(lambda: len(guarded.asides()) == 6, what="all of them set aside")

    entries = guarded.server.lrange(guarded.ledger.keys.aside, 0, -1)
    assert sum(map(len, entries)) < len(entries) * 2**11
    for noted in guarded.asides():
        assert all(text.isprintable() for text in (noted.reason, noted.queue, noted.worker, noted.excerpt))
    logged = guarded.worker.log_tail(2000)
    assert "is set aside" in logged
    assert all(letter.isprintable() or letter == "\n" for letter in logged)
    assert max(map(len, logged.splitlines())) < 2000


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


def test_envelopes_of_any_shape(guarded: Guarded, seed: str, long: bool) -> None:
    """Thousands of envelopes with any JSON in any place: none ends or stalls the worker, none is left."""
    queue, made = guarded.queue, []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=5000 if long else 200,
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
        # Until the worker consumes there is no queue, and RabbitMQ drops what is for none.
        here.assert_serves()
        yield here
        here.ledger.close()
    # A worker that lives makes its queue anew.
    delete_queues(cluster.url, [name])


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
        {"body": f'[["{SECRET}", 1, 1], {{}}, {{}}]', "content_type": "application/json", "headers": headers()},
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
        until(lambda: len(rabbit.asides()) == len(kinds), what=f"{len(kinds)} messages set aside")
        until(lambda: channel.queue_declare(rabbit.queue, passive=True).message_count == 0, what="an empty queue")
    assert SECRET not in str(rabbit.asides())
    assert SECRET not in rabbit.worker.log_tail(2000)


def on_queue(trial: Trial) -> list[bytes]:
    return [bytes(it) for it in trial.ledger.redis.lrange(trial.cluster.settings.queue, 0, -1)]


def in_flight(trial: Trial) -> list[bytes]:
    """The messages that workers hold, as they were on the queue."""
    return [json.dumps(json.loads(held)[0]).encode() for held in trial.ledger.redis.hvals("unacked")]


@pytest.mark.parametrize("copies", [2, 10])
def test_messages_that_come_again(trial_of: Callable[..., Trial], copies: int) -> None:
    """Copies of the messages of a run, before, during and after it, have no effect: each branch is executed once."""
    trial = trial_of(workers=0)
    server, queue = trial.ledger.redis, trial.cluster.settings.queue
    run = trial.submit(Sequence(nap.map(max_concurrent=2), join), [0.3] * 8)
    until(lambda: on_queue(trial), what="the run's message")
    seen = on_queue(trial)
    server.lpush(queue, *seen * copies)
    trial.add(wait=False)
    trial.add()
    trial.wait_for(2, node="nap")
    seen += in_flight(trial)
    server.lpush(queue, *seen * copies)

    assert len(trial.result(run)) == 8
    server.lpush(queue, *seen * copies)
    until(lambda: not server.llen(queue) and not server.hlen("unacked"), what="the end of every message")
    assert len(trial.executions("nap")) == 8
    assert len(trial.executions("join")) == 1
    assert run.status == "succeeded"


def test_messages_that_are_lost(trial_of: Callable[..., Trial], figure: Callable[[str], None]) -> None:
    """Messages that vanish from the queue, at the start and all the time, delay a run at most."""
    trial = trial_of(workers=0)
    server, queue = trial.ledger.redis, trial.cluster.settings.queue
    runs = [trial.submit(Sequence(nap.map(max_concurrent=2), join), [0.3] * 6) for _ in range(3)]
    until(lambda: len(on_queue(trial)) == len(runs), what="the runs' messages")
    server.delete(queue)
    for _ in range(2):
        trial.add(wait=False)
    for it in trial.nodes:
        it.ready()
    begun = time.monotonic()
    # From here on some are taken before a worker gets them, and some after.
    while time.monotonic() < begun + 3:
        if trial.rng.random() < 0.5:
            server.delete(queue)
        let_pass(0.01)

    for run in runs:
        assert len(trial.result(run)) == 6
    figure(f"{time.monotonic() - begun:.1f} s to the end of {len(runs)} runs, messages being lost for 3 s of it")


def test_a_lost_message_is_soon_published_again(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str], None]
) -> None:
    """The message that starts a run never comes to its queue: a janitor asks again when it may, within two sweeps."""
    until(lambda: trial.ledger.redis.get(trial.ledger.keys.janitor), what="a janitor that leads")
    took = []
    for number in range(TRIES):
        with monkeypatch.context() as patch:
            patch.setattr(publish, "advance", lambda *_, **__: None)
            run = trial.submit(quick, number)
        submitted = work.now()
        assert trial.result(run).startswith("quick#")
        took.append((trial.executions("quick")[-1].start - submitted) / 1000)
    figure(f"begun {median(took):.2f} s (median) after its submission, {max(took):.2f} s at most")
    again = ASKED_AFTER + 2 * float(QUICK["sweep_interval"])
    assert min(took) < again
    assert max(took) < again + SLACK


def test_messages_that_a_dead_worker_held_are_lost(trial: Trial) -> None:
    """What a killed worker held is not delivered again, and its branches run again all the same."""
    run = trial.submit(Sequence(parallel(nap, quick), join), 2.0)
    trial.wait_for(1, node="nap")
    holder = next(it for it in trial.nodes if it.pid == os.getpgid(trial.executions("nap")[0].pid))
    trial.kill(holder)
    trial.ledger.redis.delete("unacked", "unacked_index")

    assert trial.result(run).keys() == {"nap", "quick"}


def test_a_spec_of_another_release(trial: Trial) -> None:
    """A run with a spec of a version that no worker knows fails, and says why; the next one is served."""
    described = describe.describe(parallel(quick))
    other = {**msgspec.msgpack.decode(described.encoded), "version": 999}
    old = Work(workflow="old", spec=msgspec.msgpack.encode(other), functions=msgspec.msgpack.encode([]), queue="")
    queue = trial.cluster.settings.queue
    id = uuid.uuid4().hex
    trial.ledger.submit(id, old, code={}, input=codec.encode(1, where="the input"), queue=queue)
    trial.accepted(id)
    trial.ledger.redis.lpush(queue, raw(message(queue, body=body(id))))

    assert "version 999" in str(trial.failure(Run(id)))
    assert trial.run(parallel(quick), 1).keys() == {"quick"}


def test_a_message_of_another_release(trial: Trial) -> None:
    """A message whose arguments are those of another release is set aside; its run is served by the ledger's word."""
    queue = trial.cluster.settings.queue
    run = trial.submit(parallel(nap, quick), 0.5)
    trial.ledger.redis.lpush(queue, raw(message(queue, headers=headers(apps.LANE), body=body(run.id, "0"))))

    assert trial.result(run).keys() == {"nap", "quick"}
    until(trial.ledger.aside, what="the message set aside")
    assert "arguments" in trial.ledger.aside()[0].reason


OWN_APP = """
import sys, time
from celery import Celery
from celery.exceptions import SecurityError
from egregore_dist.worker import install

app = Celery("theirs", broker=sys.argv.pop(1))
app.conf.update(task_default_queue="theirs", task_ignore_result=True, broker_connection_retry_on_startup=True)

@app.task(acks_late=True)
def append(file, word):
    with open(file, "a") as opened:
        opened.write(word + "\\n")

@app.task(acks_late=True)
def wait(file, seconds):
    append.run(file, "begun")
    time.sleep(seconds)
    append.run(file, "waited")

install(app)
app.worker_main(sys.argv[1:])
"""


def test_an_app_of_the_users_own(tmp_path: Path) -> None:
    """Its worker outlives a restart of the server and what is no message; its own tasks and messages are its own."""
    marks = tmp_path / "marks"

    def lines() -> list[str]:
        return marks.read_text().split() if marks.exists() else []

    with Server.start() as server:
        settings = load(broker_url=server.url)
        ledger = Ledger(apps.ledger_url(settings), prefix=settings.prefix)
        url = urls.for_kombu(server.url)
        theirs = Celery("theirs", broker=url, set_as_current=False)
        arguments = ["worker", "-c1", "-Q", "theirs,egregore", "-n", "own@here", "--without-mingle"]
        worker = Process.spawn(
            [sys.executable, "-c", OWN_APP, url, *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            log=tmp_path / "worker.log",
        )
        try:
            until(lambda: "own@here" in ledger.reports(), seconds=60, what="the worker")
            send = functools.partial(theirs.send_task, queue="theirs", ignore_result=True)
            for queue in ("theirs", "egregore"):
                ledger.redis.lpush(
                    queue, BYTES, raw([1]), raw(message(queue, body="%%%")), raw(message(queue, body=body()))
                )
            ledger.redis.lpush("theirs", raw(message("theirs", headers={"task": "nobody's"}, body=_body([SECRET]))))
            send("theirs.append", [str(marks), "one"])
            until(lambda: lines() == ["one"], what="their own task")
            until(lambda: len(ledger.aside()) == 9, what="nine messages set aside")
            assert SECRET not in str(ledger.aside())

            send("theirs.wait", [str(marks), 2.0])
            until(lambda: "begun" in lines(), what="the long task")
            server.restart()
            until(lambda: "waited" in lines(), what="the end of the long task")
            send("theirs.append", [str(marks), "two"])
            until(lambda: "two" in lines(), what="their own task after the restart")
            until(lambda: not ledger.redis.hlen("unacked"), seconds=30, what="the end of every message")
            # What runs while the server restarts is not begun again.
            assert lines() == ["one", "begun", "waited", "two"]
            assert worker.alive
            before = session.use(None)
            try:
                client = connect(server.url)
                id = parallel(node("probe")(_one)).submit(1).id
                until(lambda: ledger.run(id).state in ENDED, what="our own run")
                client.close()
            finally:
                session.use(before)
            # It has no secret, so it refuses code that travels: the run was served, and says so.
            assert worker.alive
        finally:
            worker.kill()
            ledger.close()


def _one(_: int) -> int:
    return 1


@node
def begins_and_waits(begun: str, gate: str) -> str:
    """Waits for its gate; it leaves a mark each time that it begins."""
    with open(begun, "a") as marks:
        marks.write("x")
    until(Path(gate).exists, seconds=60, what="the gate")
    return "once"


def test_a_channel_that_rabbitmq_ends_is_no_end_of_a_worker(tmp_path: Path) -> None:
    """As for a message held longer than its consumer_timeout, 30 minutes by default: what runs goes on, once."""
    if not answers(RABBITMQ):
        pytest.skip("no RabbitMQ answers on this machine")
    name = f"egdtest-{uuid.uuid4().hex[:8]}"
    now, begun, gate = tmp_path / "now", tmp_path / "begun", tmp_path / "gate"
    with Server.start() as server, inside(f"end_channel={now}"):
        cluster = LocalCluster(
            workers=1,
            concurrency=2,
            broker_url="amqp://guest:guest@127.0.0.1:5672//",
            ledger_url=server.url,
            queue=name,
            prefix=name,
        )
        with cluster:
            held = begins_and_waits.submit({"begun": str(begun), "gate": str(gate)})
            until(begun.exists, what="the node")
            now.touch()
            assert probe() == 1
            until(lambda: not now.exists(), what="the end of the channel")

            # It is on its next connection, where the message of the node that runs came again.
            assert [probe() for _ in range(5)] == [1] * 5
            gate.touch()
            assert held.result(timeout=60) == "once"
            assert begun.read_text() == "x"
            assert "the broker has ended the channel" in cluster.workers[0].log_tail(200)
            assert psutil.pid_exists(cluster.workers[0].pid or 0)
        delete_queues(cluster.url, [name])


def test_what_a_worker_executes_is_not_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that the broker delivers of it is acknowledged; a message that comes a first time never is."""
    monkeypatch.setattr(state, "active_requests", [SimpleNamespace(id="at work")])

    def is_copy(id: str, **info: object) -> bool:
        return Guard._is_copy(SimpleNamespace(delivery_info=info, headers={"id": id}))

    assert is_copy("at work", redelivered=True)
    assert not is_copy("at work", redelivered=False)
    assert not is_copy("at work")
    assert not is_copy("another", redelivered=True)
    assert not Guard._is_copy(SimpleNamespace(delivery_info="redelivered", headers={"id": "at work"}))
