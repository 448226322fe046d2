"""The peers, as ``peers.toml`` has them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("peers.toml")
OURS = "ours"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Peer:
    """What the work is done with.

    Attributes:
        name: how it is chosen.
        title: how it is shown.
        driver: its module.
        venv: the folder of its environment; empty for the project's own.
        packages: what is installed there, with versions.
        report: the packages whose versions are published.
        note: what to know when reading its figures.
        server: whether it needs a Redis or Valkey server.
        servers: what the command lines of its own servers look like.
        options: for its driver.
        seldom: whether it is so slow that once has to do, without warming.
        width: waiting branches that one process runs at a time.
        async_width: async branches that one process runs at a time.
    """

    name: str
    title: str
    driver: str
    venv: str
    packages: list[str] = field(default_factory=list)
    report: list[str] = field(default_factory=list)
    note: str = ""
    server: bool = False
    servers: str = ""
    options: dict[str, str] = field(default_factory=dict)
    seldom: bool = False
    width: int = 1
    async_width: int = 1


def load() -> dict[str, Peer]:
    """Every peer by its name, this package first."""
    found: dict[str, dict[str, Any]] = tomllib.loads(FILE.read_text("utf-8"))
    return {name: Peer(name=name, **{"venv": name, **values}) for name, values in found.items()}
