"""No secret is shown."""

from __future__ import annotations

import time

import pytest

from egregore_dist.cli import redact


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test makes known stays in it."""
    monkeypatch.setattr(redact, "_known", set())


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:canary@host/0", "redis://:***@host/0"),
        ("amqps://me:canary@host//", "amqps://me:***@host//"),
        ("redis://:can/a@ry@host/0", "redis://:***@host/0"),
        ("at redis+socket://me:canary@/tmp/s and more", "at redis+socket://me:***@/tmp/s and more"),
        ("amqp://me@host//", "amqp://me@host//"),
    ],
)
def test_urls_lose_their_password(address: str, shown: str) -> None:
    """A URL is shown without its password."""
    assert redact.url(address) == shown


@pytest.mark.timeout(10)
@pytest.mark.parametrize("text", ["x" * 200_000, "a://" * 50_000, "a://b:" * 30_000, "@" * 200_000], ids=len)
def test_a_long_word_costs_little(text: str) -> None:
    """Results are shown too, and one that is a single word takes no longer than another."""
    started = time.perf_counter()
    assert redact.clean(text) == text
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("name", ["EGREGORE_BROKER_URL", "EGREGORE_LEDGER_URL"])
def test_passwords_are_hidden_alone_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configured password is hidden where it stands without its URL, escaped or not."""
    monkeypatch.setenv(name, "redis://:can%2Fary99@host/0")

    assert redact.clean("bad can/ary99, or can%2Fary99") == "bad ***, or ***"


def test_pieces_of_a_password_that_breaks_its_url_are_hidden() -> None:
    """Where a password was not escaped, its pieces are hidden."""
    redact.remember("redis://:secret/canary@host/0")

    assert redact.clean("no port 'secret', path canary") == "no port '***', path ***"


def test_the_signing_secret_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """EGREGORE_SECRET is hidden."""
    monkeypatch.setenv("EGREGORE_SECRET", "canary-of-some-length")

    assert redact.hide("it is canary-of-some-length.") == "it is ***."


def test_control_characters_are_shown() -> None:
    """What a terminal would obey is shown as text; tab and newline are kept."""
    assert redact.clean("a\x1b[2Jb\r\n\tc\x07é") == "a\\x1b[2Jb\\r\n\tc\\x07é"
