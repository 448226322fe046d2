"""S14: users of the server with the rights of one role each, as ``deploy/acl`` ships them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from egregore_dist import Limit, LocalCluster, Run, errors, node
from egregore_dist.client.session import Session
from egregore_dist.engine import access
from egregore_dist.ledger import Ledger
from egregore_dist.monitor.routes import ROUTES
from egregore_dist.settings import Settings, load
from tests.cluster.test_monitor import monitor
from tests.support.clusters import submitting
from tests.support.flows import FLOW
from tests.support.redis_server import RedisServer, redis_server
from tests.support.waiting import until

ACL = Path(__file__).parents[2] / "deploy/acl"
PASSWORD = "open-sesame"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that has loaded the shipped files, each user with a password."""
    folder = tmp_path_factory.mktemp("acl")
    users = folder / "users.acl"
    users.write_text("".join(f"{shipped(role)} >{PASSWORD}\n" for role in access.ROLES))
    with redis_server(folder, "--aclfile", str(users)) as running:
        yield running


def shipped(role: access.Role) -> str:
    """The line of a role's shipped file."""
    (line,) = [it for it in (ACL / f"{role.name}.acl").read_text().splitlines() if it.startswith("user ")]
    return line


def reset(server: RedisServer, role: access.Role) -> None:
    """Give a role's user the rights of its shipped file."""
    _, name, *rules = shipped(role).split()
    hidden = f"#{'0' * 64}"
    server.client.execute_command("ACL", "SETUSER", name, "reset", f">{PASSWORD}", *(r for r in rules if r != hidden))


def url(server: RedisServer, role: access.Role) -> str:
    """The server's URL for a role."""
    return f"redis://{role.name}:{PASSWORD}@127.0.0.1:{server.port}/0"


@pytest.mark.parametrize("role", access.ROLES, ids=lambda role: role.name)
def test_the_shipped_files_are_those_of_the_table(role: access.Role) -> None:
    """Each file in ``deploy/acl`` is what `access` says, for the default prefix and queue."""
    assert role.acl(Settings()) in (ACL / f"{role.name}.acl").read_text().splitlines()


@pytest.mark.parametrize("role", access.ROLES, ids=lambda role: role.name)
def test_what_a_user_lacks_is_named(server: RedisServer, role: access.Role) -> None:
    """Each command and each pattern that is taken away is named, and nothing is executed to learn that."""
    settings = load(broker_url=url(server, role))
    before = server.client.dbsize()
    with closing(Ledger(url(server, role))) as ledger:
        access.refuse_missing(ledger.redis, settings, role)
    try:
        server.client.execute_command("ACL", "SETUSER", role.name, "-@all", "+multi", "+discard", "+client", "+hello")
        with redis.Redis.from_url(url(server, role)) as client:
            lacks = access.missing_rights(client, role, role.patterns(settings))
        asked = {f"command {it}" for it in role.commands if it not in access.UNASKED}
        assert asked <= set(lacks)
        reset(server, role)
        server.client.execute_command("ACL", "SETUSER", role.name, "resetkeys", "~egd:*", "resetchannels")
        if len(role.keys) > 1:
            with (
                closing(Ledger(url(server, role))) as ledger,
                pytest.raises(errors.ConfigurationError, match=r"keys egregore\*") as caught,
            ):
                access.refuse_missing(ledger.redis, settings, role)
            assert all(f"channels {channel.format(db=0)}" in str(caught.value) for channel in role.channels)
    finally:
        reset(server, role)
    assert server.client.dbsize() == before


#: What is taken from a client's user, and the missing right that its first submit names.
TAKEN = {
    "command": (("-evalsha",), "command evalsha"),
    "transaction": (("-multi",), "command multi"),
    "end of a transaction": (("-discard",), "command discard"),
    "keys of the ledger": (("resetkeys", "~egregore*", "~_kombu.binding*", "~unacked*"), r"keys egd:\*"),
    "keys of the queue": (("resetkeys", "~egd:*", "~_kombu.binding*", "~unacked*"), r"keys egregore\*"),
    "channels": (("resetchannels",), "channels /0.celery.pidbox"),
}


@pytest.mark.parametrize("taken", TAKEN)
def test_s14_a_client_without_a_right_is_refused_at_its_first_submit(server: RedisServer, taken: str) -> None:
    """No run is accepted that would hang; once the right is there, the same session submits."""
    rules, right = TAKEN[taken]
    before = server.client.dbsize()
    try:
        server.client.execute_command("ACL", "SETUSER", access.CLIENT.name, *rules)
        with submitting(load(broker_url=url(server, access.CLIENT), monitor=False)) as mine:
            with pytest.raises(errors.ConfigurationError, match=right):
                FLOW.submit(21)
            assert server.client.dbsize() == before
            reset(server, access.CLIENT)
            mine.refuse_unfit_server()
    finally:
        reset(server, access.CLIENT)


def test_the_first_submit_asks_what_the_user_may_do_and_later_ones_do_not(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is asked three times before a session's first submit: what it is, MULTI, all rights together."""
    with submitting(load(broker_url=url(server, access.CLIENT), monitor=False)) as mine:
        mine.ledger.ping()
        sent: list[object] = []
        send = redis.connection.AbstractConnection.send_packed_command

        def counted(
            connection: redis.connection.AbstractConnection, command: object, check_health: bool = True
        ) -> None:
            sent.append(command)
            send(connection, command, check_health)

        monkeypatch.setattr(redis.connection.AbstractConnection, "send_packed_command", counted)
        mine.refuse_unfit_server()
        first = len(sent)
        mine.refuse_unfit_server()

    assert (first, len(sent)) == (3, 3)


def test_rights_are_asked_for_again_where_the_connection_was_lost(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first submit outlives a lost connection, as every other call of the ledger."""
    read = redis.connection.AbstractConnection.read_response
    answers: list[object] = []

    def lost_once(connection: redis.connection.AbstractConnection, *args: Any, **options: Any) -> Any:
        answers.append(read(connection, *args, **options))
        if len(answers) == 10:
            raise redis.exceptions.ConnectionError("the connection was lost")
        return answers[-1]

    with closing(Ledger(url(server, access.CLIENT))) as ledger:
        ledger.ping()
        monkeypatch.setattr(redis.connection.AbstractConnection, "read_response", lost_once)
        assert access.missing_rights(ledger.redis, access.CLIENT, ("egd:*",)) == []

    assert len(answers) > 10


def test_s14_each_role_works_with_the_rights_of_its_user(server: RedisServer) -> None:
    """Runs go end to end; the viewer reads and cannot write; the operator's actions work; the dangerous is refused."""
    with LocalCluster(workers=1, broker_url=url(server, access.WORKER)) as cluster:
        assert cluster.settings.secret is not None
        secret = cluster.settings.secret.get_secret_value()
        client = load(broker_url=url(server, access.CLIENT), secret=secret)
        with submitting(client):
            run = FLOW.submit(21)
            assert run.result(timeout=60) == {"doubled": 42, "negated": -21}
        with closing(Ledger(url(server, access.VIEWER))) as viewer:
            assert viewer.run(run.id).state == "succeeded"
            assert viewer.reports()
            with pytest.raises(redis.exceptions.NoPermissionError):
                viewer.cancel(run.id)
            with pytest.raises(redis.exceptions.NoPermissionError):
                viewer.redis.set(viewer.keys.epoch, "other")
        with closing(Session(load(broker_url=url(server, access.OPERATOR), secret=secret))) as operator:
            assert operator.ledger.retry(run.id)[0] == "succeeded"
            name = next(iter(operator.ledger.reports()))
            operator.workers.drain(name)
            operator.workers.resume(name)
            assert operator.ledger.delete(run.id)
            until(lambda: not operator.ledger.exists(run.id), what="the end of the run's keys")
    for role in access.ROLES:
        with redis.Redis.from_url(url(server, role)) as user:
            for command in (
                ["FLUSHALL"],
                ["FLUSHDB"],
                ["CONFIG", "GET", "*"],
                ["KEYS", "*"],
                ["SHUTDOWN"],
                ["GET", "x"],
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    user.execute_command(*command)
    denied = [entry for entry in server.client.acl_log() if entry["username"] in {it.name for it in access.ROLES}]
    assert {entry["object"] for entry in denied} <= {"flushall", "flushdb", "config|get", "keys", "shutdown", "x"} | {
        "evalsha",
        "eval",
        "script|load",
        "set",
    }, denied


@node(limit=Limit(concurrent=5, name="tellers"))
def telling(text: str) -> str:
    logging.getLogger("tests").warning("this is told: %s", text)
    return text


def test_s14_a_monitor_with_the_rights_of_a_viewer_shows_all_and_changes_nothing(
    server: RedisServer, tmp_path: Path
) -> None:
    """Every page and stream answers; each button is refused with the user to take, also where an admin presses it."""
    with LocalCluster(workers=1, broker_url=url(server, access.WORKER)) as cluster:
        secret = cluster.settings.secret
        assert secret is not None
        with submitting(load(broker_url=url(server, access.CLIENT), secret=secret.get_secret_value(), monitor=False)):
            run: Run = telling.map(name="told").submit(["one", "two"])
            assert run.result(timeout=60) == ["one", "two"]
        server.client.acl_log_reset()
        viewer = {"EGREGORE_BROKER_URL": url(server, access.VIEWER)}
        with monitor(cluster, tmp_path, "--role", "admin", **viewer) as made:
            for path in (each.path.format_map(Parts(run.id)) for each in ROUTES if each.method == "GET"):
                with made.http.stream("GET", path, follow_redirects=True) as answer:
                    assert answer.status_code == 200, path
                    assert next(answer.iter_text()), path
            assert "this is told: one" in made.page(f"/runs/{run.id}/logs")
            assert cluster.workers[0].name in made.page("/workers")
            assert server.client.acl_log() == []

            form = {"worker": cluster.workers[0].name, "name": "tellers", "concurrent": 3, "run": run.id}
            before = written(server, run)
            for route in ROUTES:
                if route.method == "POST" and "log" not in route.name:
                    answer = made.post(route.path.format_map(Parts(run.id)), action="retry", **form)
                    assert answer.status_code == 403, route.path
                    assert (
                        "egregore-operator" in answer.text or "give the URL&#39;s user that permission" in answer.text
                    )
            assert written(server, run) == before


class Parts(dict[str, str]):
    """What varies in a route's path."""

    def __init__(self, run: str) -> None:
        super().__init__(run=run, block="0", branch="0", what="input", limit="tellers")


def written(server: RedisServer, run: Run) -> dict[bytes, bytes | None]:
    """The keys of a run, and of the limits that were set by hand."""
    keys = server.client.scan_iter(count=1000)
    return {key: server.client.dump(key) for key in keys if run.id.encode() in key or key.endswith(b":limits:set")}
