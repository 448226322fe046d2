"""URLs of servers that cannot be."""

from __future__ import annotations

import ssl
from urllib.parse import quote, unquote, urlencode, urlsplit

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.url import url_to_parts

from egregore_dist import errors
from egregore_dist.engine import app as apps
from egregore_dist.engine.broker import Channel
from egregore_dist.settings import load

PASSWORD = "open-sesame"

GOOD = [
    "redis://h",
    "redis://h:6379/",
    "rediss://:p%2Fw@h:65535/15?ssl_cert_reqs=none",
    "redis://[::1]:6379/0",
    "redis://h/0?db=3",
]
# Each form of a socket's URL, with the user, the password and the database that it names.
SOCKETS: list[tuple[str, str | None, str | None, int]] = [
    ("unix:///run/a.sock", None, None, 0),
    ("unix:///run/a.sock?db=5", None, None, 5),
    ("unix://:p%2Fw%40%25@/run/a.sock?db=5", None, "p/w@%", 5),
    ("unix://me:p%2Fw@/run/a.sock", "me", "p/w", 0),
    ("unix:///run/a.sock?username=me&password=p%2Fw%26&db=2", "me", "p/w&", 2),
    ("unix://:first@/run/a.sock?password=second", None, "first", 0),
    ("unix:///run/a.sock?virtual_host=6", None, None, 6),
    ("redis+socket:///run/a.sock", None, None, 0),
    ("redis+socket:///run/a.sock?virtual_host=6", None, None, 6),
    ("redis+socket:///run/a.sock?virtual_host=/6", None, None, 6),
    ("redis+socket:///run/a.sock?db=7&virtual_host=7", None, None, 7),
    ("redis+socket://me:p%2Fw@/run/a.sock?virtual_host=6", "me", "p/w", 6),
    ("redis+socket:///run/a.sock?password=p%2Fw", None, "p/w", 0),
    ("socket://:p%2Fw@/run/a.sock?virtual_host=6", None, "p/w", 6),
]
UNREADABLE = [
    (f"redis://:{PASSWORD}@h/zz", "database"),
    (f"redis://:{PASSWORD}@h/-1", "database"),
    (f"redis://:{PASSWORD}@h/1/2", "database"),
    (f"redis://:{PASSWORD}@h/1.5", "database"),
    (f"redis://:{PASSWORD}@h/\u00b2", "database"),
    (f"redis://:{PASSWORD}@h/2147483648", "database"),
    (f"redis://:{PASSWORD}@h/{'9' * 5000}", "database"),
    (f"redis://:{PASSWORD}@h/0?db=zz", "database"),
    (f"unix://:{PASSWORD}@/run/valkey.sock?db=zz", "database"),
    (f"redis://:{PASSWORD}@h:0/0", "port"),
    (f"redis://:{PASSWORD}@h:65536/0", "port"),
    (f"redis://:{PASSWORD}@h:-1/0", "port"),
    (f"rediss://:{PASSWORD}@h:port/0", "port"),
    (f"redis://:{PASSWORD}/{PASSWORD}@h:6379/0", "percent-encoded"),
    (f"redis://:{PASSWORD}@[::1/0", "port"),
    (f"redis://:{PASSWORD}@:6379/0", "no host"),
    (f"redis://{PASSWORD}@/0", "no host"),
    ("redis://", "no host"),
    ("redis:///0", "no host"),
    ("unix://", "no socket"),
    ("redis+socket:///", "no socket"),
    (f"unix://:{PASSWORD}@run/valkey.sock", "three slashes"),
    (f"redis+socket://:{PASSWORD}@/run/valkey.sock?virtual_host=zz", "database"),
    (f"unix://:{PASSWORD}@/run/valkey.sock?db=1&virtual_host=2", "two databases"),
    (f"unix://:{PASSWORD}@/run/valkey.sock?db=1&db=2", "two databases"),
    (f"unix://:{PASSWORD}@/run/valkey.sock?{PASSWORD}=1", "options of a socket are db, "),
    (f"unix://:{PASSWORD}@/run/valkey.sock?ssl_cert_reqs=none", "options of a socket are db, "),
    (f"unix://:{PASSWORD}/{PASSWORD}@/run/valkey.sock", "unix://:password@/"),
    (f"rediss://:{PASSWORD}@h/0?ssl_cert_reqs=some", "ssl_cert_reqs is required"),
    (f"rediss://:{PASSWORD}@h/0?ssl_cert_reqs=required&ssl_cert_reqs=none", "twice"),
    (f"rediss://:{PASSWORD}@h/0?ssl_check_hostname=perhaps", "ssl_check_hostname is true"),
    (f"rediss://:{PASSWORD}@h/0?ssl_{PASSWORD}=1", "options of TLS are ssl_cert_reqs"),
    (f"redis://:{PASSWORD}@h/0?ssl_ca_certs=/ca.pem", "rediss://"),
]
UNREADABLE_BROKERS = [
    (f"amqp://me:{PASSWORD}@h:70000//", "amqp://user"),
    (f"amqp://me:{PASSWORD}@h:5672//;amqp://me:{PASSWORD}@h:x//", "amqp://user"),
]


@pytest.mark.parametrize("url", GOOD)
def test_good_ones(url: str) -> None:
    """What both libraries read the same way passes as it is."""
    assert apps.broker_url(load(broker_url=url)) == url
    assert apps.ledger_url(load(broker_url="amqp://", ledger_url=url)) == url


@pytest.mark.parametrize("is_broker", [True, False])
@pytest.mark.parametrize(("url", "user", "password", "database"), SOCKETS)
def test_sockets_in_every_form(
    url: str, user: str | None, password: str | None, database: int, is_broker: bool
) -> None:
    """Broker, ledger and the chord's counter connect to the same socket, login and database, whatever the form."""
    settings = load(broker_url=url) if is_broker else load(broker_url="amqp://h//", ledger_url=url)
    app = apps.make_app(settings)
    counter = app.backend.connparams  # type: ignore[attr-defined]
    ledger = redis.Redis.from_url(apps.ledger_url(settings)).connection_pool
    connected = [counter, {**ledger.connection_kwargs, "connection_class": ledger.connection_class}]
    if is_broker:
        channel = Channel.__new__(Channel)
        channel.connection = app.connection_for_write().transport
        channel.auto_delete_queues = set()
        connected.append(channel._connparams())

    for options in connected:
        assert issubclass(options["connection_class"], redis.UnixDomainSocketConnection)
        assert (options["path"], options["db"]) == ("/run/a.sock", database)
        assert (options.get("username"), options.get("password")) == (user, password)
        assert redis.ConnectionPool(**options).make_connection().path == "/run/a.sock"


def test_a_socket_with_an_unusual_path() -> None:
    """Spaces, percent signs, semicolons and letters of other alphabets are a path's too."""
    path = "/run/a b/50%;/\u00fc.sock"
    settings = load(broker_url=f"unix://{quote(path)}")

    assert redis.Redis.from_url(apps.ledger_url(settings)).connection_pool.connection_kwargs["path"] == path
    assert apps.make_app(settings).backend.connparams["path"] == path  # type: ignore[attr-defined]
    assert unquote(urlsplit(apps.broker_url(settings)).path) == path
    assert ";" not in apps.broker_url(settings)


@given(password=st.text(st.characters(exclude_categories=["Cs"]), min_size=1), database=st.integers(0, 2**31 - 1))
def test_any_password_of_a_socket(password: str, database: int) -> None:
    """A password arrives as it is, from the login or from the query, in the form of either library."""
    for url in (
        f"unix://:{quote(password, safe='')}@/s?db={database}",
        f"redis+socket:///s?{urlencode({'password': password, 'virtual_host': database})}",
    ):
        settings = load(broker_url=url)
        ours = redis.Redis.from_url(apps.ledger_url(settings)).connection_pool.connection_kwargs
        kombus = url_to_parts(apps.broker_url(settings))

        assert (ours["password"], ours["db"]) == (password, database)
        assert (kombus.password, kombus.query) == (password, {"virtual_host": str(database)})


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", {"ssl_cert_reqs": ssl.CERT_REQUIRED}),
        ("?ssl_cert_reqs=", {"ssl_cert_reqs": ssl.CERT_REQUIRED}),
        ("?ssl_cert_reqs=CERT_REQUIRED", {"ssl_cert_reqs": ssl.CERT_REQUIRED}),
        ("?ssl_cert_reqs=required", {"ssl_cert_reqs": ssl.CERT_REQUIRED}),
        ("?ssl_cert_reqs=CERT_OPTIONAL", {"ssl_cert_reqs": ssl.CERT_OPTIONAL}),
        ("?ssl_cert_reqs=CERT_NONE", {"ssl_cert_reqs": ssl.CERT_NONE}),
        ("?ssl_cert_reqs=none", {"ssl_cert_reqs": ssl.CERT_NONE}),
        (
            "?ssl_ca_certs=/a%20b/ca%2525.pem&ssl_check_hostname=0",
            {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/a b/ca%25.pem", "ssl_check_hostname": False},
        ),
        (
            "?ssl_certfile=/me.pem&ssl_keyfile=/me.key&ssl_password=x%26y&ssl_check_hostname=Yes",
            {
                "ssl_cert_reqs": ssl.CERT_REQUIRED,
                "ssl_certfile": "/me.pem",
                "ssl_keyfile": "/me.key",
                "ssl_password": "x&y",
                "ssl_check_hostname": True,
            },
        ),
    ],
)
def test_tls_as_all_read_it(query: str, options: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    """Broker, chord's counter and ledger verify unless they are told otherwise, and read the same of one URL."""
    url = f"rediss://:p%2Fw@h:6380/3{query}"
    settings = load(broker_url=url)
    app = apps.make_app(settings)
    broker = app.connection_for_write()
    backend = app.backend.connparams  # type: ignore[attr-defined]
    ledger = redis.Redis.from_url(apps.ledger_url(settings)).connection_pool.make_connection()

    assert broker.ssl == options
    assert {name: value for name, value in backend.items() if name.startswith("ssl_")} == options
    assert ledger.cert_reqs == options["ssl_cert_reqs"]
    assert ledger.ca_certs == options.get("ssl_ca_certs")
    assert ledger.certificate_password == options.get("ssl_password")
    verified = options["ssl_cert_reqs"] != ssl.CERT_NONE
    assert ledger.check_hostname is (verified and options.get("ssl_check_hostname", True))
    assert (broker.password, backend["password"], ledger.host, ledger.db) == ("p/w", "p/w", "h", 3)
    assert "insecure" not in caplog.text


def test_each_of_several_brokers_is_verified() -> None:
    """What a list for failover says of TLS holds for the server that it is said of; what it leaves out is the rule."""
    both = "rediss://a:6379/0;rediss://b:6379/0?ssl_cert_reqs=CERT_NONE"

    assert apps.broker_url(load(broker_url=both)) == (
        "rediss://a:6379/0?ssl_cert_reqs=required;rediss://b:6379/0?ssl_cert_reqs=none"
    )


@pytest.mark.parametrize(("url", "told"), [*UNREADABLE, *UNREADABLE_BROKERS])
def test_a_broker_that_cannot_be_read(url: str, told: str) -> None:
    """A wrong port, host or database is refused before anything connects, and no part of the URL is told."""
    with pytest.raises(errors.ConfigurationError, match=f"^EGREGORE_BROKER_URL cannot be read: .*{told}") as caught:
        apps.make_app(load(broker_url=url, ledger_url="redis://h"))

    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(("url", "told"), UNREADABLE)
def test_a_ledger_that_cannot_be_read(url: str, told: str) -> None:
    """The ledger's URL is held to the same rules."""
    with pytest.raises(errors.ConfigurationError, match=f"^EGREGORE_LEDGER_URL cannot be read: .*{told}") as caught:
        apps.make_app(load(broker_url="amqp://h//", ledger_url=url))

    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("url", [f"amqp://me:{PASSWORD}@h//", "host:6379", "http://h", "unix:/run/a.sock"])
def test_a_ledger_elsewhere(url: str) -> None:
    """Only a Redis or Valkey server keeps a ledger."""
    with pytest.raises(errors.ConfigurationError, match="EGREGORE_LEDGER_URL names no Redis or Valkey") as caught:
        apps.ledger_url(load(broker_url="amqp://h//", ledger_url=url))

    assert PASSWORD not in str(caught.value)


def test_several_brokers_hold_no_ledger() -> None:
    """A list for failover may name the broker, and not the ledger with it."""
    both = "redis://a:6379/0;redis://b:6379/0"
    assert apps.broker_url(load(broker_url=both)) == both
    with pytest.raises(errors.ConfigurationError, match="EGREGORE_BROKER_URL cannot be read"):
        apps.ledger_url(load(broker_url=both))
