"""URLs of servers that Sentinel watches."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from egregore_dist import errors
from egregore_dist.cli import redact
from egregore_dist.engine import app as apps
from egregore_dist.ledger import sentinel
from egregore_dist.settings import Settings

FULL = "sentinel://user:p%40ss@one:26380/3;sentinel://two?master_name=main&sentinel_username=s&sentinel_password=q%26a"


def test_a_url_is_read() -> None:
    """Addresses, the primary's name, database and login, and the login of the sentinels."""
    said = sentinel.read(FULL)

    assert said.addresses == (("one", 26380), ("two", 26379))
    assert (said.master, said.db, said.login) == ("main", 3, "user:p%40ss@")
    assert said.kwargs == {"username": "s", "password": "q&a"}
    assert said.urls == "sentinel://user:p%40ss@one:26380/3;sentinel://user:p%40ss@two:26379/3"
    assert sentinel.read(said.url) == said


def test_a_client_logs_in_to_the_primary() -> None:
    """Its login and database are those of the URL, and the sentinels have their own login."""
    with sentinel.client(FULL, socket_timeout=1.0) as client:
        pool = client.connection_pool
        assert {name: pool.connection_kwargs[name] for name in ("username", "password", "db")} == {
            "username": "user",
            "password": "p@ss",
            "db": 3,
        }
        manager = pool.sentinel_manager
        assert [it.connection_pool.connection_kwargs["password"] for it in manager.sentinels] == ["q&a"] * 2
        manager_limits = [it.connection_pool.connection_kwargs["socket_timeout"] for it in manager.sentinels]
        assert manager_limits == [1.0] * 2


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sentinel://one:26379", "does not name the primary"),
        ("sentinel://one:26379;redis://two:6379?master_name=m", "each of its addresses"),
        ("sentinel://one:x?master_name=m", "each address is a host and a port"),
        ("sentinel://:26379?master_name=m", "each address is a host and a port"),
        ("sentinel://one/a?master_name=m", "database is one whole number"),
        ("sentinel://one/1;sentinel://two/2?master_name=m", "database is one whole number"),
        ("sentinel://:secret@one;sentinel://:other@two?master_name=m", "the same in each"),
        ("sentinel://one?master_name=m&ssl_cert_reqs=none", "TLS is not supported"),
        ("sentinel://one?master_name=m&db=1", "its options are"),
    ],
)
@pytest.mark.parametrize("variable", ["broker_url", "ledger_url"])
def test_a_url_that_cannot_be(url: str, says: str, variable: str) -> None:
    """The error names the variable and what is wrong, and has no password in it."""
    given = {"broker_url": SecretStr("redis://host:6379/0"), variable: SecretStr(url)}
    with pytest.raises(errors.ConfigurationError, match=says) as caught:
        apps.make_app(Settings(**given))

    assert f"EGREGORE_{variable.upper()}" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_app_of_a_sentinel_url() -> None:
    """Broker, ledger and the chord's counter are all on the primary that the sentinels name."""
    settings = Settings(broker_url=SecretStr(FULL))
    app = apps.make_app(settings)

    assert app.conf.broker_transport_options["master_name"] == "main"
    assert app.conf.broker_transport_options["sentinel_kwargs"] == {"username": "s", "password": "q&a"}
    assert app.conf.result_backend_transport_options["master_name"] == "main"
    assert sentinel.read(apps.ledger_url(settings)) == sentinel.read(FULL)
    assert sentinel.read(apps.public_url(settings)) == sentinel.read(FULL)


def test_no_password_of_any_address_is_shown() -> None:
    """A URL of several addresses is shown without any login's password, and each host stays."""
    url = (
        "sentinel://:hidden-one@one:26379/0;sentinel://:hidden-two@two:26379/0?master_name=m&sentinel_password=hidden-3"
    )
    shown = redact.url(f"cannot reach {url} now")
    redact.remember(url)

    assert "hidden" not in shown
    assert "one:26379" in shown
    assert "two:26379" in shown
    assert redact.hide("hidden-one hidden-two hidden-3") == "*** *** ***"
