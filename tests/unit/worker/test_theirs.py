"""What is said of a Celery app of the user's own whose workers would not find what is submitted."""

from __future__ import annotations

import pytest
from celery import Celery

from egregore_dist.engine import app as apps
from egregore_dist.ledger import sentinel
from egregore_dist.settings import load
from egregore_dist.worker import theirs


@pytest.mark.parametrize(
    ("app", "ours", "is_other"),
    [
        ("redis://:secret-1@one:6379/0", "redis://:secret-2@one/0", False),
        ("redis://localhost:6379", "redis://127.0.0.1:6379/", False),
        ("redis://one:6379", "redis://one:6379/0", False),
        ("redis://one:6379/0", "redis://one:6379/1", True),
        ("redis://:secret-1@one:6379/0", "redis://:secret-2@two:6379/0", True),
        ("redis+socket://:secret-1@/run/a.sock", "unix://:secret-2@/run/a.sock?db=0", False),
        ("redis+socket:///run/a.sock?virtual_host=6&password=secret-1", "unix:///run/a.sock?db=6", False),
        ("redis+socket:///run/a.sock?virtual_host=6", "unix://:secret-2@/run/a.sock", True),
        ("redis+socket:///run/a.sock", "unix:///run/b.sock", True),
        ("redis+socket:///run/a.sock", "redis://:secret-2@localhost/0", True),
        ("amqp://guest:secret-1@one//", "redis://:secret-2@one:6379/0", True),
    ],
)
def test_another_broker_is_told(app: str, ours: str, is_other: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Where the app's workers consume one, and what is submitted goes to another: with both, and no password."""
    theirs.warn_elsewhere(Celery("shop", broker=app, set_as_current=False), load(broker_url=ours))

    assert bool(caplog.messages) == is_other
    assert "secret" not in caplog.text
    assert not is_other or "workers of Celery app 'shop' consume " in caplog.text


@pytest.mark.parametrize(
    "addresses", ["sentinel://:pw@one;sentinel://:pw@two/2", ["sentinel://:pw@one", "sentinel://:pw@two/2"]]
)
def test_an_app_on_sentinel(addresses: object) -> None:
    """What the app's transport options say of the primary and of the sentinels holds for the ledger too."""
    app = Celery("shop", set_as_current=False)
    login = {"password": "open"}
    app.conf.update(broker_url=addresses, broker_transport_options={"master_name": "main", "sentinel_kwargs": login})

    said = sentinel.read(apps.ledger_url(theirs.settings(app)))

    assert said.addresses == (("one", 26379), ("two", 26379))
    assert (said.master, said.db, said.login, said.kwargs) == ("main", 2, ":pw@", login)
