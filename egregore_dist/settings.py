"""Settings: every ``EGREGORE_*`` variable, in one place."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from egregore_dist import errors
from egregore_dist.workflow import labels, names

# Seconds: whatever counts them, in Python, Lua or the server, can count so many.
_LONGEST = 100 * 365 * 86400
# Intervals that a report lives at least: a live worker may be late, or miss one, and not count as gone.
_LEAST_REPORTS = 3
_PREFIX, _QUEUE = "egd", "egregore"


def _queue_of(prefix: str) -> str:
    """The default queue of a cluster with this prefix: clusters that share a server do not share a queue."""
    name = f"{_QUEUE}-{prefix}"
    # A prefix may be as long as a queue.
    return name if len(name) <= names.MAX_LENGTH else f"{_QUEUE}-{hashlib.sha256(prefix.encode()).hexdigest()}"


class Settings(BaseSettings):
    """What a client or a worker is configured with; each field is read from ``EGREGORE_<FIELD>``.

    URLs are secrets: they may hold a password.
    """

    model_config = SettingsConfigDict(
        env_prefix="EGREGORE_", env_ignore_empty=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    broker_url: SecretStr | None = Field(None, description="Celery's broker. Absent: an embedded server.")
    ledger_url: SecretStr | None = Field(
        None, description="The ledger's Redis or Valkey. Absent: the broker, if it is one."
    )
    secret: SecretStr | None = Field(None, description="Signs code that travels by value (HMAC-SHA256).")
    secret_file: Path | None = Field(None, description="A file, readable by its owner only, that holds the secret.")
    modules: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Modules a worker loads: it serves their nodes."
    )
    labels: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="What a worker says of itself, key=value,...; see `labels=` of nodes."
    )
    gpus: int | None = Field(None, ge=0, le=1024, description="GPUs that a worker has. Absent: those that it finds.")
    prefix: str = Field(_PREFIX, description="What every ledger key starts with.")
    queue: str = Field(
        _QUEUE,
        description="The Celery queue of lanes that ask for no other. Absent, with a prefix: egregore-PREFIX.",
    )
    retention: float = Field(7 * 86400, gt=0, le=_LONGEST, description="Seconds that a finished run is kept.")
    payload_limit: int = Field(
        64 * 2**20, gt=0, lt=512 * 2**20, description="Largest encoded value, in bytes; a server takes no larger one."
    )
    async_width: int = Field(500, gt=0, description="Async branches that one lane runs at a time.")
    thread_width: int = Field(
        32,
        gt=0,
        description="Branches of sync nodes with io=True that one lane runs at a time on threads; 1 for none.",
    )
    tune: bool = Field(
        True,
        description="Workers that were given no number of lanes change it as their machine allows, "
        "and none takes lanes while memory is short.",
    )
    report_interval: float = Field(2.0, gt=0, le=_LONGEST, description="Seconds between two reports of a worker.")
    report_ttl: float = Field(10.0, gt=0, le=_LONGEST, description="Seconds until a silent worker counts as gone.")
    sweep_interval: float = Field(1.0, gt=0, le=_LONGEST, description="Seconds between two rounds of the janitor.")
    redact: str | None = Field(
        None, description="A function, module:function, that all inputs, results, errors and lines pass that are shown."
    )
    log_level: str = Field(
        "INFO",
        description="The least level of what nodes log that is kept with their run; what they print to stdout is INFO, "
        "to stderr WARNING. OFF keeps nothing.",
    )
    log_lines: int = Field(
        1000, ge=2, description="Lines of one branch that are kept, in one process: its first and last."
    )
    log_bytes: int = Field(256 * 2**10, ge=2, description="Bytes of them.")
    log_run_bytes: int = Field(16 * 2**20, gt=0, description="Bytes of all lines of a run that are kept, its last.")
    stop_grace: float = Field(
        2.0, ge=0, le=_LONGEST, description="Seconds that a node may take to stop before its process is killed."
    )
    monitor: bool | None = Field(
        None,
        description="Whether a run that is waited for says first where its page is; a cluster that this program "
        "started has a web monitor for that. Absent: on a terminal.",
    )
    monitor_url: str | None = Field(
        None, description="Where browsers find the web monitor of a cluster that exists already."
    )

    @model_validator(mode="before")
    @classmethod
    def _has_its_own_queue(cls, values: dict[str, Any]) -> dict[str, Any]:
        prefix = values.get("prefix", _PREFIX)
        if prefix == _PREFIX or not names.is_valid(prefix):
            return values
        return {"queue": _queue_of(prefix), **values}

    @field_validator("modules", "labels", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("modules")
    @classmethod
    def _modules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "*" in value:
            raise ValueError(
                "'*' is not supported: name the modules whose nodes the worker serves. Clients and workers that share "
                "EGREGORE_SECRET need no modules to be named"
            )
        return value

    @field_validator("labels")
    @classmethod
    def _labels(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return labels.of_worker(value)

    @field_validator("monitor_url")
    @classmethod
    def _is_web_address(cls, value: str | None) -> str | None:
        return None if value is None else web_address(value)

    @field_validator("log_level")
    @classmethod
    def _is_level(cls, value: str) -> str:
        level_of(value)
        return value

    @field_validator("queue", "prefix")
    @classmethod
    def _named(cls, value: str, info: ValidationInfo) -> str:
        try:
            return names.checked(value, str(info.field_name))
        except errors.WorkflowError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _outlives_reports(self) -> Self:
        if self.report_ttl < _LEAST_REPORTS * self.report_interval:
            raise ValueError(
                f"EGREGORE_REPORT_TTL ({self.report_ttl:g} s) must be at least {_LEAST_REPORTS} times "
                f"EGREGORE_REPORT_INTERVAL ({self.report_interval:g} s), or live workers count as gone between two of "
                "their reports: set both"
            )
        return self


def level_of(name: str) -> int | None:
    """The number of a level of `logging`, by its name or its number; None for OFF.

    Raises:
        ValueError: there is none of this name.
    """
    known = logging.getLevelNamesMapping()
    word = name.strip().upper()
    if word == "OFF":
        return None
    if word.isascii() and word.isdigit():
        return int(word)
    if word not in known:
        raise ValueError(f"no level is called {name!r}: DEBUG, INFO, WARNING, ERROR, CRITICAL, a number, or OFF")
    return known[word]


def web_address(text: str) -> str:
    """The address of a web server, without a slash at its end.

    Raises:
        ValueError: it is none, or has more than a scheme and a host in it.
    """
    try:
        parts = urlsplit(text)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError("scheme and host only, such as https://monitor.example.org")
    return text.rstrip("/")


def load(**given: object) -> Settings:
    """The settings of this process: what is given, else ``EGREGORE_*``, else the defaults.

    Raises:
        errors.ConfigurationError: one of them cannot be; it names the variable, and never a secret.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        wrong = "; ".join(_told(item["loc"], item["msg"]) for item in error.errors())
        raise errors.ConfigurationError(f"settings that cannot be: {wrong}") from None


def _told(place: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    # What is wrong with several together says itself which.
    return f"EGREGORE_{'_'.join(map(str, place)).upper()}: {message}" if place else message
