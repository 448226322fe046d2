"""Settings: names of variables, values, and what is never shown."""

from __future__ import annotations

import re
from pathlib import Path

import pydantic
import pytest

from egregore_dist import errors
from egregore_dist.engine.runtime import signer
from egregore_dist.settings import Settings, load
from egregore_dist.workflow import names
from tests.support.secret import secret_of

PASSWORD = secret_of("open sesame")
SECRETS = {
    "EGREGORE_BROKER_URL": f"redis://:{PASSWORD}@host:6379/0",
    "EGREGORE_LEDGER_URL": f"redis://:{PASSWORD}@host:6380/0",
    "EGREGORE_SECRET": PASSWORD,
}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_variable_and_a_description(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each setting is read from ``EGREGORE_`` and its name in capitals, and says what it is."""
    values = {
        "secret_file": "/x",
        "modules": "a,b",
        "labels": "a=1,b=2",
        "queue": "q",
        "prefix": "p",
        "report_interval": "3",
        "tune": "0",
        "monitor": "0",
        "monitor_url": "https://h",
    }
    raw = values.get(name, "redis://h" if name.endswith("url") else "7")
    monkeypatch.setenv(f"EGREGORE_{name.upper()}", raw)
    value = getattr(Settings(), name)
    plain = value.get_secret_value() if isinstance(value, pydantic.SecretStr) else value

    assert plain in (raw, 7, 3, Path("/x"), ("a", "b"), ("a=1", "b=2"), False)
    assert plain != Settings.model_fields[name].default
    assert Settings.model_fields[name].description


def test_nothing_is_configured_by_default() -> None:
    """Without variables there is no broker, no secret and no module: the embedded server."""
    settings = Settings()

    assert (settings.broker_url, settings.ledger_url, settings.secret, settings.modules) == (None, None, None, ())


def test_s15_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither repr, str nor a dump to text holds a password or a secret."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    settings = Settings()

    assert settings.secret is not None
    assert settings.secret.get_secret_value() == PASSWORD
    for text in (repr(settings), str(settings), f"{settings.model_dump()}", settings.model_dump_json()):
        assert PASSWORD not in text


def test_an_error_does_not_show_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of one wrong setting does not show the others."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EGREGORE_RETENTION", "for ever")
    with pytest.raises(pydantic.ValidationError) as caught:
        Settings()

    assert PASSWORD not in str(caught.value)
    assert "retention" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["RETENTION", "PAYLOAD_LIMIT", "ASYNC_WIDTH", "REPORT_INTERVAL", "REPORT_TTL", "SWEEP_INTERVAL"]
)
@pytest.mark.parametrize("value", ["0", "-1", "much", "inf", "nan", "1e300"])
def test_numbers_must_make_sense(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Intervals, sizes and widths are above zero."""
    monkeypatch.setenv(f"EGREGORE_{name}", value)
    with pytest.raises(pydantic.ValidationError, match=name.lower()):
        Settings()


@pytest.mark.parametrize("value", ["zone", "zone=", "=eu", "zone=a b", "zone=a=b", "zone=eu,disk"])
def test_a_label_is_a_key_and_a_value(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """What is none is refused, and the error shows how one is written."""
    monkeypatch.setenv("EGREGORE_LABELS", value)
    with pytest.raises(errors.ConfigurationError, match=r"EGREGORE_LABELS: .* is no label: write key=value"):
        load()


@pytest.mark.parametrize("value", ["-1", "1.5", "all", "1025"])
def test_a_number_of_gpus_makes_sense(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """It is a whole number from 0, and of one machine."""
    monkeypatch.setenv("EGREGORE_GPUS", value)
    with pytest.raises(errors.ConfigurationError, match="EGREGORE_GPUS"):
        load()


@pytest.mark.parametrize("name", ["QUEUE", "PREFIX"])
@pytest.mark.parametrize("value", ["x{y}", "a b", "a,b", "a:b", "a/b", "é", "x" * 129])
def test_queue_and_prefix_are_names(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """What no node's queue may be called, or would break keys of the ledger, is refused with the variable's name."""
    monkeypatch.setenv(f"EGREGORE_{name}", value)
    with pytest.raises(errors.ConfigurationError, match=f"EGREGORE_{name}: '.*cannot name a {name.lower()}: use 1 to"):
        load()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"TTL": "1"}, r"EGREGORE_REPORT_TTL \(1 s\).*EGREGORE_REPORT_INTERVAL \(2 s\)"),
        ({"INTERVAL": "4"}, r"EGREGORE_REPORT_TTL \(10 s\).*EGREGORE_REPORT_INTERVAL \(4 s\)"),
        ({"INTERVAL": "0.5", "TTL": "1.4"}, r"EGREGORE_REPORT_TTL \(1.4 s\).*EGREGORE_REPORT_INTERVAL \(0.5 s\)"),
    ],
)
def test_reports_outlive_their_interval(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], told: str) -> None:
    """A report that would be gone before the next ones may have come is refused, with both variables and values."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for name, value in given.items():
        monkeypatch.setenv(f"EGREGORE_REPORT_{name}", value)
    with pytest.raises(errors.ConfigurationError, match=f"^settings that cannot be: {told}") as caught:
        load()
    with pytest.raises(pydantic.ValidationError) as raw:
        Settings()

    assert PASSWORD not in f"{caught.value}{raw.value}"


def test_reports_may_live_three_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times the interval is enough."""
    monkeypatch.setenv("EGREGORE_REPORT_INTERVAL", "30")
    monkeypatch.setenv("EGREGORE_REPORT_TTL", "90")

    assert load().report_ttl == 90.0


def test_a_server_takes_no_value_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit above what Redis and Valkey store as one value is refused."""
    monkeypatch.setenv("EGREGORE_PAYLOAD_LIMIT", str(512 * 2**20 - 1))
    assert Settings().payload_limit == 512 * 2**20 - 1
    monkeypatch.setenv("EGREGORE_PAYLOAD_LIMIT", str(512 * 2**20))
    with pytest.raises(pydantic.ValidationError, match="payload_limit"):
        Settings()


@pytest.mark.parametrize(("text", "modules"), [("a", ("a",)), (" a , b.c ,", ("a", "b.c")), ("", ()), (",,", ())])
def test_modules_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch, text: str, modules: tuple[str, ...]) -> None:
    """Spaces and empty parts do not matter."""
    monkeypatch.setenv("EGREGORE_MODULES", text)

    assert Settings().modules == modules


def test_s5_any_module_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker serves whatever module a message names: the star of former releases is refused, with what to do."""
    monkeypatch.setenv("EGREGORE_MODULES", "shop,*")

    with pytest.raises(errors.ConfigurationError, match=r"EGREGORE_MODULES: '\*' is not supported: name the modules"):
        load()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A variable that is set to nothing, as compose files do, counts as absent."""
    monkeypatch.setenv(f"EGREGORE_{name.upper()}", "")

    assert getattr(Settings(), name) == Settings.model_fields[name].default


def test_settings_do_not_change() -> None:
    """Settings are read once, and never change under who holds them."""
    with pytest.raises(pydantic.ValidationError):
        Settings().queue = "another"


@pytest.mark.parametrize(
    ("given", "queue"),
    [
        ({}, "egregore"),
        ({"prefix": "egd"}, "egregore"),
        ({"prefix": "shop"}, "egregore-shop"),
        ({"prefix": "shop", "queue": "egregore"}, "egregore"),
        ({"prefix": "x" * 119}, "egregore-" + "x" * 119),
        ({"prefix": "x" * 128}, "egregore-24da1b81d0b16df6428eee73c69fcb2a93c76bc6df706f0c6670fe6bfe800464"),
    ],
    ids=["none", "default", "prefix", "queue", "long", "longest"],
)
def test_the_queue_is_named_after_the_prefix(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], queue: str
) -> None:
    """Clusters with prefixes of their own do not share the default queue; whoever names a queue has that one."""
    assert load(**given).queue == queue
    for name, value in given.items():
        monkeypatch.setenv(f"EGREGORE_{name.upper()}", value)
    assert load().queue == queue
    assert names.checked(load().queue, "queue") == queue


@pytest.mark.parametrize("prefix", ["", "a b", "x" * 129])
def test_a_wrong_prefix_is_the_one_thing_that_is_told(prefix: str) -> None:
    """The queue that would be made of it is not named beside it."""
    with pytest.raises(errors.ConfigurationError, match="EGREGORE_PREFIX") as refused:
        load(prefix=prefix)

    assert "EGREGORE_QUEUE" not in str(refused.value)


def test_unknown_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of other programs, or of another release, are no error."""
    monkeypatch.setenv("EGREGORE_FROM_THE_FUTURE", "1")

    assert Settings().queue == "egregore"


def test_the_secret_may_come_from_a_file(tmp_path: Path) -> None:
    """A file that only its owner can read holds the secret; what signs is the same."""
    path = tmp_path / "secret"
    path.write_text(f"{PASSWORD}\n")
    path.chmod(0o600)
    blob = signer(Settings(secret_file=path)).sign("test", b"payload")

    assert signer(Settings(secret=pydantic.SecretStr(PASSWORD))).open("test", blob) == b"payload"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_s15_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """A file with the secret that others can read is an error that says what to do."""
    path = tmp_path / "secret"
    path.write_text(PASSWORD)
    path.chmod(mode)
    with pytest.raises(errors.ConfigurationError, match="chmod 600"):
        signer(Settings(secret_file=path))


def test_a_missing_secret_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is an error that names it."""
    with pytest.raises(errors.ConfigurationError, match="nowhere"):
        signer(Settings(secret_file=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "url",
    ["monitor", "ftp://h", "https://", f"https://u:{PASSWORD}@h", "https://h/path", "https://h?a=b", "http://[::1"],
)
def test_the_monitors_address_is_one(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Scheme and host: what is printed has no password in it."""
    monkeypatch.setenv("EGREGORE_MONITOR_URL", url)
    with pytest.raises(errors.ConfigurationError, match="EGREGORE_MONITOR_URL: scheme and host only") as caught:
        load()
    assert PASSWORD not in str(caught.value)


def test_every_variable_is_documented() -> None:
    """What any file that is shipped reads from the environment is in the table of settings."""
    root = Path(__file__).parents[2]
    files = [*root.glob("egregore_dist/**/*.py"), *root.glob("worker/*.py"), root / "docker-compose.yml"]
    named = {name for file in files for name in re.findall(r"(?<!_)EGREGORE_[A-Z]+(?:_[A-Z]+)*", file.read_text())}
    named |= {f"EGREGORE_{field.upper()}" for field in Settings.model_fields}
    documented = set(re.findall(r"`(EGREGORE_[A-Z_]+)", (root / "docs" / "settings.md").read_text()))

    # It belongs to the compose file alone.
    assert named - documented == {"EGREGORE_CODE"}
    assert documented <= named
