"""URLs of servers that cannot be."""

from __future__ import annotations

import ssl

import pytest
import redis

from egregore_dist import errors
from egregore_dist.engine import app as apps
from egregore_dist.settings import load

PASSWORD = "open-sesame"

GOOD = [
    "redis://h",
    "redis://h:6379/",
    "rediss://:p%2Fw@h:65535/15?ssl_cert_reqs=none",
    "redis://[::1]:6379/0",
    "redis://h/0?db=3",
    "unix:///run/valkey.sock?db=1",
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


@pytest.mark.parametrize("url", [f"amqp://me:{PASSWORD}@h//", "host:6379", "http://h"])
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
