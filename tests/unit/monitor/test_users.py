"""The file of users, passwords and tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from egregore_dist import errors
from egregore_dist.monitor import users
from egregore_dist.monitor.sessions import Attempts
from egregore_dist.monitor.users import Role, Users

PASSWORD = "correct horse"


def test_adding_and_reading(tmp_path: Path) -> None:
    """Who was added is let in with the last password and role; the file is its owner's alone and has no password."""
    path = tmp_path / "users"
    users.add(path, "ann", Role.VIEWER, "some password")
    users.add(path, "bob@example.org", Role.ADMIN, PASSWORD)
    users.add(path, "ann", Role.OPERATOR, PASSWORD)

    known = Users(users.read(path))

    ann, bob = known.by_password("ann", PASSWORD), known.by_password("bob@example.org", PASSWORD)
    assert ann is not None
    assert bob is not None
    assert (ann.role, bob.role) == (Role.OPERATOR, Role.ADMIN)
    assert known.by_password("ann", "some password") is None
    assert path.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in path.read_text()


@pytest.mark.parametrize("name", ["", "a:b", "a b", "a\nb", "x" * 65, "<script>"])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    """A name has letters, digits and few signs."""
    with pytest.raises(errors.ConfigurationError, match="user "):
        users.add(tmp_path / "users", name, Role.VIEWER, PASSWORD)


@pytest.mark.parametrize("password", ["", "short", "x" * 1025])
def test_passwords_that_cannot_be(tmp_path: Path, password: str) -> None:
    """A password is neither short nor endless, and its error does not repeat it."""
    with pytest.raises(errors.ConfigurationError, match="8 to 1024") as caught:
        users.add(tmp_path / "users", "ann", Role.VIEWER, password)
    assert not password or password not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "ann:operator:plainpassword",
        pytest.param("ann:root:" + users.hash_password(PASSWORD), id="an unknown role"),
        "ann",
        "",
        "# nobody",
        "ann:admin:scrypt$AAAA$AAAA",
    ],
)
def test_files_that_are_wrong(tmp_path: Path, text: str) -> None:
    """A line that is wrong is named by its number, and what is in it is not repeated."""
    path = tmp_path / "users"
    path.touch(0o600)
    path.write_text(text)

    with pytest.raises(errors.ConfigurationError, match="users' file") as caught:
        users.read(path)
    assert "plainpassword" not in str(caught.value)


def test_a_user_twice(tmp_path: Path) -> None:
    """Two lines of one name are refused: which one counts should not be a question."""
    path = tmp_path / "users"
    users.add(path, "ann", Role.VIEWER, PASSWORD)
    path.write_text(path.read_text() * 2)

    with pytest.raises(errors.ConfigurationError, match="another 'ann'"):
        users.read(path)


def test_a_file_that_others_can_read(tmp_path: Path) -> None:
    """Such a file is refused."""
    path = tmp_path / "users"
    users.add(path, "ann", Role.VIEWER, PASSWORD)
    path.chmod(0o640)

    with pytest.raises(errors.ConfigurationError, match="chmod 600"):
        users.read(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """It is named."""
    with pytest.raises(errors.ConfigurationError, match="nothing cannot be read"):
        users.read(tmp_path / "nothing")


def test_a_short_token() -> None:
    """A token that can be guessed is refused, and not repeated."""
    with pytest.raises(errors.ConfigurationError, match="16 characters") as caught:
        Users({}, "hunter2")
    assert "hunter2" not in str(caught.value)


def test_keys_are_not_shown() -> None:
    """A user's key is in no repr."""
    user = Users({}, "a-token-that-is-long-enough").get("")

    assert user is not None
    assert "key" not in repr(user)


def test_a_new_password_ends_sessions() -> None:
    """The key of a user's sessions is another one with another password."""
    first, second = (Users({"ann": (Role.VIEWER, users.hash_password(PASSWORD))}).get("ann") for _ in range(2))

    assert first is not None
    assert second is not None
    assert first.key != second.key


def test_attempts_are_forgotten_after_a_while() -> None:
    """A name waits until the window is over; others do not wait."""
    now = [0.0]
    attempts = Attempts(3, 60, lambda: now[0])
    for _ in range(3):
        attempts.begin("ann", "here")

    assert attempts.wait("ann") == 60
    assert attempts.wait("bob") == 0
    now[0] = 61
    assert attempts.wait("ann", "here") == 0
    attempts.begin("ann")
    assert attempts.wait("ann") == 0


def test_attempts_that_succeed_do_not_count() -> None:
    """Who knows the password may log in as often as they like."""
    attempts = Attempts(3)
    for _ in range(10):
        attempts.begin("ann")
        attempts.succeeded("ann")

    assert attempts.wait("ann") == 0


def test_what_is_remembered_of_attempts_is_bounded() -> None:
    """An attacker with many addresses does not fill the memory."""
    attempts = Attempts()
    for number in range(20_000):
        attempts.begin(f"address {number}")

    assert len(attempts._wrong) == 10_000
