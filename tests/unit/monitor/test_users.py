"""The file of users, passwords and tokens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from egregore_dist import errors
from egregore_dist.monitor import users
from egregore_dist.monitor.sessions import AT_MOST, LASTS, Sessions
from egregore_dist.monitor.users import Role, User, Users
from egregore_dist.wire import private_file
from tests.support.secret import secret_of

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


@pytest.mark.parametrize(
    "name",
    [
        "attacker@example.com.attacker.com",
        "the-attacker@example.com",
        "ATTACKER@example.com",
        "attacker@example.com\n",
        "attacker@exampleXcom",
        "attacker",
        ".*",
    ],
)
def test_s13_a_name_counts_as_a_whole(name: str) -> None:
    """A name that begins, ends or matches like a user's is not that user's."""
    made = users.Users({"attacker@example.com": (Role.ADMIN, users.hash_password(PASSWORD))})

    assert made.get(name) is None
    assert made.by_password(name, PASSWORD) is None
    assert made.by_password("attacker@example.com", PASSWORD) is not None


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


def test_s4_a_weak_token_is_refused() -> None:
    """A token of the monitor that can be guessed is refused, and not repeated."""
    with pytest.raises(errors.ConfigurationError, match="token is too weak") as caught:
        Users({}, "hunter2")
    assert "hunter2" not in str(caught.value)


def test_keys_are_not_shown() -> None:
    """A user's key is in no repr."""
    user = Users({}, secret_of("token")).get("")

    assert user is not None
    assert "key" not in repr(user)


def ann(known: Users) -> User:
    """The user ann."""
    user = known.get("ann")
    assert user is not None
    return user


def test_s11_a_session_ends_after_a_while() -> None:
    """A session lasts for so many hours, and not a second longer."""
    now = [0.0]
    known = Users({"ann": (Role.VIEWER, users.hash_password(PASSWORD))})
    sessions = Sessions(known, lambda: now[0])
    session = sessions.begin(ann(known))

    now[0] = LASTS - 1
    assert sessions.find(session.id) == session
    now[0] = LASTS
    assert sessions.find(session.id) is None
    assert not sessions._held


def test_s11_a_user_has_so_many_sessions() -> None:
    """A further login ends the oldest session of its user, so that logins take no more memory."""
    known = Users({"ann": (Role.VIEWER, users.hash_password(PASSWORD))}, secret_of("token"))
    sessions = Sessions(known)
    bearer = known.get("")
    assert bearer is not None
    other = sessions.begin(bearer)
    made = [sessions.begin(ann(known)) for _ in range(AT_MOST + 2)]

    assert [sessions.find(session.id) is None for session in made] == [True] * 2 + [False] * AT_MOST
    assert sessions.find(other.id) == other


def test_s11_a_session_is_kept_as_a_hash() -> None:
    """What the monitor holds in memory lets nobody in."""
    known = Users({"ann": (Role.VIEWER, users.hash_password(PASSWORD))})
    sessions = Sessions(known)
    session = sessions.begin(ann(known))

    assert session.id not in repr(sessions._held)
    assert session.id not in repr(session)


@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
def test_a_file_that_is_no_file(tmp_path: Path, kind: str) -> None:
    """A link, which somebody else could point elsewhere, and what is no file are refused, without waiting for them."""
    path, target = tmp_path / "users", tmp_path / "target"
    users.add(target, "ann", Role.VIEWER, PASSWORD)
    if kind == "link":
        path.symlink_to(target)
    elif kind == "directory":
        path.mkdir(0o700)
    else:
        os.mkfifo(path, 0o600)

    with pytest.raises(errors.ConfigurationError, match=r"the file itself|not a regular file|Is a directory"):
        users.read(path)
    if kind == "link":
        with pytest.raises(errors.ConfigurationError, match="the file itself"):
            users.add(path, "bob", Role.VIEWER, PASSWORD)


def test_a_file_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another user owns, who could exchange what is in it, is refused."""
    path = tmp_path / "users"
    users.add(path, "ann", Role.VIEWER, PASSWORD)
    inner = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        status = list(inner(descriptor))
        status[4] = 4321
        return os.stat_result(status)

    monkeypatch.setattr(private_file.os, "fstat", fstat)
    with pytest.raises(errors.ConfigurationError, match="belongs to another user"):
        users.read(path)


def test_adding_follows_no_link_that_somebody_laid(tmp_path: Path) -> None:
    """A link under the name that earlier versions wrote to first is not followed."""
    path, victim = tmp_path / "users", tmp_path / "victim"
    victim.write_text("as it was")
    (tmp_path / "users.new").symlink_to(victim)

    users.add(path, "ann", Role.VIEWER, PASSWORD)

    assert victim.read_text() == "as it was"
    assert "ann" in users.read(path)
