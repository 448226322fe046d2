"""A monitor whose pages are one word each, to test who gets to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import PlainTextResponse, Response

from egregore_dist.monitor import routes
from egregore_dist.monitor.config import Config
from egregore_dist.monitor.guard import Asked, Guard
from egregore_dist.monitor.sessions import Session
from egregore_dist.monitor.users import Role, Users, hash_password
from tests.support.asking import Answer, ask
from tests.support.secret import secret_of

PORT = 8750
HOST = f"127.0.0.1:{PORT}"
ORIGIN = f"http://{HOST}"
TOKEN = secret_of("token")
PASSWORD = "correct horse"
COOKIE = f"egregore-{PORT}"

_HASHED = hash_password(PASSWORD)
_HASHES = {role.word: (role, _HASHED) for role in Role}

#: A path of each route.
PATHS = {
    "{run}": "order-1",
    "{block}": "0.0-1,2",
    "{branch}": "7",
    "{what}": "input",
    "{limit}": "model",
}


def example(route: routes.Route) -> str:
    """A path that the route answers."""
    path = route.path
    for part, value in PATHS.items():
        path = path.replace(part, value)
    return path


def refuse(status: int, text: str, session: Session | None, address: str) -> Response:
    """A page of a refusal; where nobody is logged in, a header says where the form to do so would go on to."""
    headers = {"x-next": address} if session is None else {}
    return PlainTextResponse(f"refused {text}", status, headers=headers)


async def answer(asked: Asked) -> Response:
    """A page."""
    return PlainTextResponse(f"answered {asked.route.name}")


class Gate:
    """The gate with one user a role, who are called as their roles are."""

    def __init__(self, config: Config | None = None, port: int = PORT) -> None:
        self.users = Users(_HASHES, TOKEN, Role.VIEWER)
        self.config = config or Config(users=self.users)
        own = ("login", "logout", "healthz")
        answers = {route.name: answer for route in routes.ROUTES if route.name not in own}
        self.guard = Guard(self.config, answers, refuse, port=port)

    def session(self, role: Role) -> Session:
        """The session of a role's user."""
        user = self.users.get(role.word)
        assert user is not None
        return self.guard._sessions.begin(user)

    def ask(
        self,
        method: str,
        path: str,
        session: Session | None = None,
        *,
        headers: Mapping[str, str | None] | None = None,
        form: Mapping[str, Any] | bytes | None = None,
        query: str = "",
        client: str = "127.0.0.1",
    ) -> Answer:
        """Ask as a browser with this session does; a header that is None is left out."""
        own: dict[str, str | None] = {"host": HOST, "origin": ORIGIN}
        if session is not None:
            own["cookie"] = f"{COOKIE}={session.id}"
            if form is None:
                form = {"csrf": session.csrf}
        own |= dict(headers or {})
        said = {name: value for name, value in own.items() if value is not None}
        return ask(self.guard, method, path, headers=said, form=form, query=query, client=client)
