"""What a worker is started with."""

from __future__ import annotations

import socket
import ssl
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from egregore_dist import errors
from egregore_dist.engine import installed
from egregore_dist.settings import load
from egregore_dist.worker import install, service

HERE = socket.gethostname()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names under which workers would have been started."""
    found: list[str] = []

    class Worker:
        exitcode = None

        def __init__(self, *, hostname: str, **_options: object) -> None:
            self.name = hostname

        def start(self) -> None:
            found.append(self.name)

    monkeypatch.setattr(service.apps, "make_app", lambda _settings: SimpleNamespace(Worker=Worker))
    monkeypatch.setattr(service, "_install", lambda *_args, **_options: None)
    monkeypatch.setattr(service, "_claim", lambda *_args: None)
    return found


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"queues": ["a", "a b"]}, "'a b' cannot name a queue"),
        ({"queues": ["x{y}"]}, "cannot name a queue"),
        ({"name": "x y"}, "'x y' cannot name a worker"),
        ({"name": "x/1@here"}, "'x/1' cannot name a worker"),
        ({"name": "@here"}, "'' cannot name a worker"),
        ({"name": "x@a@b"}, "'a@b' cannot name a host of a worker"),
        ({"loglevel": "loud"}, "log level 'loud' is not known, choose one of CRITICAL, "),
    ],
)
def test_names_that_cannot_be(names: list[str], given: dict[str, Any], told: str) -> None:
    """Queues and names of workers are made of what nodes' are, or refused before anything is started."""
    with pytest.raises(errors.ConfigurationError, match=told):
        service.run(load(broker_url="redis://h"), **given)

    assert names == []


@pytest.mark.parametrize(("given", "name"), [("w", f"w@{HERE}"), ("w@there", "w@there"), ("w@%h", f"w@{HERE}")])
def test_names_are_completed(names: list[str], given: str, name: str) -> None:
    """Without a host it is this one's, as where Celery's own sign for it stands."""
    service.run(load(broker_url="redis://h"), name=given)

    assert names == [name]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Celery:
    """An app of the user's own."""
    monkeypatch.setattr(installed, "_settings", None)
    return Celery("theirs", broker="redis://h:6379/0", set_as_current=False)


@pytest.mark.parametrize("option", [{"global_keyprefix": "shop_"}, {"priority_steps": [3, 6, 9]}])
def test_an_app_whose_queues_others_would_not_find(app: Celery, option: dict[str, Any]) -> None:
    """It is refused by name, with what to do, before anything of ours is in it."""
    app.conf.broker_transport_options = option
    with pytest.raises(errors.ConfigurationError, match=f"app 'theirs' has {next(iter(option))}=.* Leave it out"):
        install(app)

    assert not [name for name in app.tasks if name.startswith("egregore.")]
    assert installed.settings() is None


@pytest.mark.parametrize("option", [{"global_keyprefix": ""}, {"priority_steps": [0, 5], "sep": ":"}, {}])
def test_an_app_whose_queues_others_find(app: Celery, option: dict[str, Any]) -> None:
    """Other options of its transport are its own."""
    app.conf.broker_transport_options = option
    install(app)

    assert "egregore.lane" in app.tasks
    assert installed.settings() is not None


def test_an_app_has_its_own_tasks(app: Celery) -> None:
    """Two apps of a process serve each with what it was installed with, and a third serves none."""
    other = Celery("other", broker="redis://other:6379/0", set_as_current=False)
    for each in (app, other):
        install(each)

    hosts = {each.main: each.tasks["egregore.lane"].backend.connparams["host"] for each in (app, other)}
    assert hosts == {"theirs": "h", "other": "other"}
    assert "egregore.lane" not in Celery("third", set_as_current=False).tasks


@pytest.mark.parametrize("url", [None, "", []])
def test_an_app_without_a_broker(app: Celery, url: object) -> None:
    """It is told where one can be named; a RabbitMQ that Celery would look for by itself is not meant."""
    app.conf.broker_url = url
    with pytest.raises(
        errors.ConfigurationError, match=r"'theirs' has no broker: .* broker_url .* EGREGORE_BROKER_URL"
    ):
        install(app)


def test_one_of_several_brokers_of_an_app(app: Celery) -> None:
    """The first of those that an app names for failover is taken."""
    app.conf.broker_url = ["redis://first:6379/0", "redis://second:6379/0"]
    install(app)

    assert app.tasks["egregore.lane"].backend.connparams["host"] == "first"


def test_modules_that_are_one_name(app: Celery) -> None:
    """A single name is no list of its letters, and how to write it is told."""
    with pytest.raises(errors.ConfigurationError, match=r"write install\(app, modules=\['shop.flows'\]\)"):
        install(app, modules="shop.flows")


@pytest.mark.parametrize(
    ("url", "use_ssl", "options"),
    [
        ("redis://h:6379/0", {"ssl_ca_certs": "/a b.pem"}, {"ssl_ca_certs": "/a b.pem"}),
        ("rediss://h:6379/0", {"ssl_cert_reqs": ssl.CERT_NONE}, {"ssl_cert_reqs": ssl.CERT_NONE}),
        ("rediss://h:6379/0", {"ssl_cert_reqs": None}, {"ssl_cert_reqs": ssl.CERT_NONE}),
        ("rediss://h:6379/0", {"ssl_cert_reqs": "optional"}, {"ssl_cert_reqs": ssl.CERT_OPTIONAL}),
        ("rediss://h:6379/0?ssl_ca_certs=/url.pem", {"ssl_ca_certs": "/a.pem"}, {"ssl_ca_certs": "/url.pem"}),
        (
            "rediss://h:6379?db=0",
            {"ssl_check_hostname": False, "ssl_keyfile": None},
            {"ssl_check_hostname": False},
        ),
        ("rediss://h:6379/0", True, {}),
    ],
)
def test_tls_of_an_app(app: Celery, url: str, use_ssl: object, options: dict[str, Any]) -> None:
    """What an app says of TLS beside its URL is taken with it; what neither says is verified."""
    app.conf.update(broker_url=url, broker_use_ssl=use_ssl)
    install(app)

    found = app.tasks["egregore.lane"].backend.connparams
    told = {name: value for name, value in found.items() if name.startswith("ssl_")}
    assert told == {"ssl_cert_reqs": ssl.CERT_REQUIRED, **options}
