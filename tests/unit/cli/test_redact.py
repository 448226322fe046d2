"""No secret is shown."""

from __future__ import annotations

import base64
import html
import json
import time
from pathlib import Path
from urllib.parse import quote

import markupsafe
import msgspec
import pytest

from egregore_dist.cli import redact, show


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
        ("redis://host/0?db=1&password=canary&x=2", "redis://host/0?db=1&password=***&x=2"),
        ("redis://:canary@host/0?Password=can@ary", "redis://:***@host/0?Password=***"),
    ],
)
def test_urls_lose_their_password(address: str, shown: str) -> None:
    """A URL is shown without its password."""
    assert redact.url(address) == shown


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "text", ["x" * 200_000, "a://" * 50_000, "a://b:" * 30_000, "@" * 200_000, f"a://{'?' * 200_000}"], ids=len
)
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


@pytest.mark.parametrize("name", ["EGREGORE_SECRET", "EGREGORE_MONITOR_TOKEN"])
def test_a_secret_that_is_refused_as_too_short_leaves_words_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap in a word would tell what it is; where it stands alone it is hidden all the same."""
    monkeypatch.setenv(name, "short")

    assert redact.clean(f"{name} is shorter than others") == f"{name} is shorter than others"
    assert redact.clean("it is short, 'short' or =short.") == "it is ***, '***' or =***."
    assert redact.json({"said": "shortly: short"}) == '{"said":"shortly: ***"}'


def test_a_short_password_leaves_words_whole() -> None:
    """A password that is a part of many words is hidden where it stands alone, a longer one everywhere."""
    redact.remember("redis://:host@localhost:6379/0")
    redact.remember("redis://:+abc@localhost:6379/0")
    redact.remember("redis://:hunter22@localhost:6379/0")

    assert redact.clean("localhost refuses host, 1+abc and hunter22s") == "localhost refuses ***, 1*** and ***s"


@pytest.mark.parametrize("text", ["https://host/page?q=who@where", "https://host/?password", "https://a/b?c=d"])
def test_other_addresses_stay_as_they_are(text: str) -> None:
    """What holds no password is shown as it is."""
    assert redact.url(text) == text


@pytest.mark.parametrize("secret", ['can"ary\\1', "can<ary>&1", "can'ary1", "canäry1"])
def test_a_secret_is_hidden_in_whatever_it_is_written(secret: str) -> None:
    """As it is, in JSON, in HTML, in Python's own writing and in an address."""
    redact.remember(secret)
    forms = [
        secret,
        json.dumps(secret),
        msgspec.json.encode(secret).decode(),
        html.escape(secret),
        str(markupsafe.escape(secret)),
        repr(secret),
        repr(secret.encode()),
        quote(secret, safe=""),
        base64.b64encode(secret.encode()).decode(),
    ]

    for form in forms:
        assert "***" in redact.hide(f"it is {form} here"), form
        assert form.strip("'\"b") not in redact.hide(f"it is {form} here")


def test_a_password_in_a_query_is_known() -> None:
    """A URL may have its password there."""
    redact.remember("redis://host/0?password=canary%2F7&db=1")

    assert redact.hide("canary/7 canary%2F7 db") == "*** *** db"


def test_the_secret_of_a_file_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EGREGORE_SECRET_FILE is read, where it can be."""
    file = tmp_path / "secret"
    file.write_text("canary-of-a-file\n")
    monkeypatch.setenv("EGREGORE_SECRET_FILE", str(file))

    assert redact.hide("it is canary-of-a-file.") == "it is ***."


def test_json_holds_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters that JSON itself lets through, and those that turn the text around, are escaped."""
    value = {"a\x9b31m": "\x7f\u202e\u2066é\U000e0041\n"}

    show.print_json(value)

    said = capsys.readouterr().out
    assert json.loads(said) == value
    assert all(letter.isprintable() or letter == "\n" for letter in said)
    assert "é" in said


@pytest.mark.parametrize(
    ("password", "value", "shown"),
    [
        ("1234", {"memory_total": 8123456512}, {"memory_total": 8123456512}),
        ("1234", {"at": "2025-01-01T00:00:00.1234"}, {"at": "2025-01-01T00:00:00.***"}),
        ("state", {"state": "the state", "runs": None}, {"state": "the ***", "runs": None}),
        ("true", [True, "true", {"x": ["true"]}], [True, "***", {"x": ["***"]}]),
        ("nnnn", "\nnnn\nnnnn", "\nnnn\n***"),
        ("canary", {"redis://me:canary@host": 1}, {"redis://me:***@host": 1}),
        ('can"ary', ['a can"ary', 1.5], ["a ***", 1.5]),
    ],
)
def test_json_stays_json(password: str, value: object, shown: object) -> None:
    """Whatever the password is, texts lose it, and numbers, words of JSON and keys stay."""
    redact.remember(password)

    assert json.loads(redact.json(value)) == shown
    assert json.loads(redact.json(value, indent=2)) == shown


@pytest.mark.parametrize("password", ["class", "line", "width", "html", "--back"])
def test_a_page_stays_one(password: str) -> None:
    """Whatever the password is, texts lose it, escaped or not, and elements and style stay."""
    frame = "<html><style>\n:root { --back: line }\n</style><p class='width'>%s</p></html>"
    redact.remember(password)

    assert redact.page(frame % f"the {password}, a line-up") == frame % "the ***, a line-up".replace(password, "***")


def test_control_characters_are_shown() -> None:
    """What a terminal would obey is shown as text; tab and newline are kept."""
    assert redact.clean("a\x1b[2Jb\r\n\tc\x07é") == "a\\x1b[2Jb\\r\n\tc\\x07é"
