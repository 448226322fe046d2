"""Whom the monitor may be open to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from egregore_dist import errors
from egregore_dist.engine.urls import is_loopback
from egregore_dist.monitor.config import Config, network, one_of
from egregore_dist.monitor.users import Users
from tests.support.secret import secret_of

TLS = (Path("cert"), Path("key"))
NOBODY, SOMEBODY = Users({}), Users({}, secret_of("token"))
URL = "https://monitor.example.org"

REFUSED: list[dict[str, Any]] = [
    {"host": "0.0.0.0"},
    {"host": "::"},
    {"host": ""},
    {"host": "192.0.2.1"},
    {"host": "monitor.example.org"},
    {"host": "192.0.2.1", "tls": TLS},
    {"host": "192.0.2.1", "behind_proxy": True, "url": URL},
    {"host": "192.0.2.1", "users": SOMEBODY},
    {"host": "0.0.0.0", "users": SOMEBODY, "tls": TLS},
    {"host": "0.0.0.0", "users": SOMEBODY, "behind_proxy": True},
    {"behind_proxy": True},
    {"behind_proxy": True, "users": SOMEBODY},
    {"behind_proxy": True, "url": URL},
    {"url": URL},
    {},
    {"users": NOBODY},
    {"host": "localhost"},
    {"users": SOMEBODY, "url": "http://monitor.example.org", "behind_proxy": True},
    {"users": SOMEBODY, "url": "https://user:password@monitor.example.org"},
    {"users": SOMEBODY, "url": f"{URL}/path"},
    {"users": SOMEBODY, "url": "ftp://monitor.example.org"},
    {"users": SOMEBODY, "url": "https://[::1"},
    {"users": SOMEBODY, "url": "monitor"},
    {"proxies": (network("192.0.2.7"),)},
    {"users": SOMEBODY, "behind_proxy": True, "url": URL, "proxies": (network("0.0.0.0/0"),)},
    {"users": SOMEBODY, "behind_proxy": True, "url": URL, "proxies": (network("192.0.2.7"), network("::/0"))},
]
ACCEPTED: list[dict[str, Any]] = [
    {"host": "localhost", "users": SOMEBODY},
    {"host": "::1", "users": SOMEBODY},
    {"host": "127.0.0.2", "users": SOMEBODY},
    {"users": SOMEBODY},
    {"host": "192.0.2.1", "users": SOMEBODY, "tls": TLS},
    {"host": "0.0.0.0", "users": SOMEBODY, "tls": TLS, "url": URL},
    {"host": "0.0.0.0", "users": SOMEBODY, "behind_proxy": True, "url": URL},
    {"users": SOMEBODY, "behind_proxy": True, "url": URL},
    {"users": SOMEBODY, "behind_proxy": True, "url": URL, "proxies": (network("192.0.2.7"), network("10.0.0.0/8"))},
]


def shown(given: dict[str, Any]) -> str:
    """Options in the name of a test, the same in every process."""
    return ",".join(f"{name}={'...' if name == 'users' else value}" for name, value in given.items())


@pytest.mark.parametrize("given", REFUSED, ids=shown)
def test_s7_what_is_open_to_others_is_refused(given: dict[str, Any]) -> None:
    """What other machines could reach without a login or without TLS does not start, and is told what is missing."""
    with pytest.raises(errors.ConfigurationError, match=r"--\w"):
        Config(**given).check()


@pytest.mark.parametrize("given", ACCEPTED, ids=shown)
def test_s7_what_is_accepted(given: dict[str, Any]) -> None:
    """This machine alone, or a login and TLS."""
    Config(**given).check()


@pytest.mark.parametrize(
    "host", ["127.0.0.1.evil.example", "localhost.evil.example", "evil-localhost", "0", "10.0.0.1"]
)
def test_s13_what_is_no_loopback(host: str) -> None:
    """An address is this machine's only as a whole."""
    assert not is_loopback(host)


@pytest.mark.parametrize("text", ["*", "", "proxy.example.org", "10.0.0.1/8", "192.0.2.7:80", "127.0.0.1,*"])
def test_s13_what_is_no_network(text: str) -> None:
    """A proxy is an address or a network, and never everybody."""
    with pytest.raises(errors.ConfigurationError, match="--proxy"):
        network(text)


@pytest.mark.parametrize(
    ("host", "whose"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("what a proxy told", "what a proxy told"),
        ("x" * 30_000, "x" * 64),
    ],
    ids=lambda text: text[:20],
)
def test_whose_an_address_is(host: str, whose: str) -> None:
    """Who has a network of addresses counts as one, and what is no address takes little room."""
    assert one_of(host) == whose


def test_names_of_a_monitor_for_this_machine() -> None:
    """It answers to this machine's names, with its port, and to no others."""
    assert Config().origins(8750) == {
        "127.0.0.1:8750": "http://127.0.0.1:8750",
        "localhost:8750": "http://localhost:8750",
        "[::1]:8750": "http://[::1]:8750",
    }


def test_names_behind_a_proxy() -> None:
    """It answers to the name that browsers use too, with and without the port that goes without saying."""
    found = Config(users=SOMEBODY, host="0.0.0.0", behind_proxy=True, url=f"{URL}/").origins(8750)

    assert found["monitor.example.org"] == found["monitor.example.org:443"] == URL
    assert "0.0.0.0:8750" not in found


def test_no_users_is_nobody() -> None:
    """A configuration without users lets everybody on the machine in, so it is seen as without a login."""
    assert not NOBODY
    assert SOMEBODY
