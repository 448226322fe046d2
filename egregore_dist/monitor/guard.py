"""The gate that every request passes: host, user, route, role, origin, token; and the headers of every answer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlencode

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import Message, Receive, Scope, Send

from egregore_dist.engine.urls import is_loopback
from egregore_dist.monitor import routes
from egregore_dist.monitor.attempts import Attempts
from egregore_dist.monitor.config import Config, one_of
from egregore_dist.monitor.routes import Route
from egregore_dist.monitor.sessions import LASTS, Session, Sessions
from egregore_dist.monitor.users import User

log = logging.getLogger(__name__)

#: Bytes of a form, and characters of a query: more is refused unread.
FORM_LIMIT = 128 * 1024
QUERY_LIMIT = 2000
_FIELDS_AT_MOST = 2000
_FORM_SECONDS = 10.0

# Answers that hold nobody's data.
_PUBLIC = ("style", "icon", "script")

# What a browser says of a page that it opens for a link on another site.
_FOLLOWED = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}

# Where browsers know it by a name of its own: that of this machine is other programs' too.
_HTTPS_ALONE = (b"strict-transport-security", b"max-age=31536000")

HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    # Not "no-referrer", with which browsers send no origin with a form.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that has passed the gate.

    Attributes:
        route: what it is for.
        parts: what varies in the route's path.
        query: the first value of each name in the query.
        form: the values of each name in the form; none of a GET.
        session: who asks; None on routes that are for everybody.
        path: its path.
        address: where it comes from, as `config.one_of` has it.
        headers: its headers.
        is_gone: whether the browser has gone away.
    """

    route: Route
    parts: Mapping[str, str]
    query: Mapping[str, str]
    form: Mapping[str, list[str]] = field(repr=False)
    session: Session | None
    path: str
    address: str
    headers: Mapping[str, str] = field(repr=False)
    is_gone: Callable[[], Awaitable[bool]] = field(repr=False)


#: What answers the routes, by their names.
Answer = Callable[[Asked], Awaitable[Response]]
#: The page of a refusal: status, what to say, who asked, and for what address of ours.
Refusal = Callable[[int, str, Session | None, str], Response]


class Guard:
    """The monitor as an ASGI application.

    Args:
        config: who may do what, and from where.
        answers: by the name of the route; every route but those of logging in and out has one.
        refuse: makes the page of a refusal.
        port: where the monitor listens.
    """

    def __init__(self, config: Config, answers: Mapping[str, Answer], refuse: Refusal, *, port: int) -> None:
        own = {"login": self._login, "logout": self._logout, "healthz": _healthz}
        self._answers: dict[str, Answer] = {**answers, **own}
        missing = {route.name for route in routes.ROUTES} - set(self._answers)
        assert not missing, f"routes that nothing answers: {missing}"
        self._users = config.users
        self._refuse = refuse
        self._origins = config.origins(port)
        self._is_secure = config.is_secure
        self._is_https_alone = config.is_secure and config.url is not None and not is_loopback(config.called)
        self._has_links = config.has_links
        # Cookies are those of a host, whatever the port, so that two monitors on one host need two names.
        self._cookie = "__Host-egregore" if config.is_secure else f"egregore-{port}"
        self._sessions = Sessions(config.users)
        self._attempts = Attempts()
        self._passwords_at_once = anyio.CapacityLimiter(2)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        answer, is_public = await self._answer(Request(scope, receive))

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                if self._is_https_alone:
                    own.append(_HTTPS_ALONE)
                if not is_public:
                    own.append((b"cache-control", b"no-store"))
                message["headers"] = [*message["headers"], *own]
            await send(message)

        await answer(scope, receive, with_headers)

    async def _answer(self, request: Request) -> tuple[Response, bool]:
        path, method = request.scope["path"], request.method
        host = request.headers.get("host", "").lower()
        if host not in self._origins:
            return PlainTextResponse("this monitor is not called that: see --url", 400), False
        found = routes.find(method, path)
        route = found.route
        if self._has_links and route is not None and route.method == "GET" and route.role is not None:
            user = self._users.by_token(request.query_params.get("token", ""))
            if user is not None:
                return self._enter(request, user), False
        session = self._session_of(request)
        if session is None and (route is None or route.role is not None):
            address = _address_of(request)
            if route is not None and self._comes_from_elsewhere(request):
                return _again(address, 401), False
            return self._refuse(401, "", None, address), False
        if route is None:
            if not found.methods:
                return self._refuse(404, "There is no such page.", session, path), False
            allow = {"allow": ", ".join(found.methods)}
            return PlainTextResponse("method not allowed", 405, headers=allow), False
        if route.role is not None and session is not None and session.user.role < route.role:
            text = f"This needs the role {route.role.word}; yours is {session.user.role.word}."
            return self._refuse(403, text, session, path), False
        if len(request.scope["query_string"]) > QUERY_LIMIT:
            return self._refuse(414, "This address is too long.", session, path), False
        form: Mapping[str, list[str]] = {}
        if route.method == "POST":
            body = await _body(request)
            if body is None:
                return self._refuse(413, f"More than {FORM_LIMIT} bytes.", session, path), False
            try:
                form = parse_qs(body.decode(), max_num_fields=_FIELDS_AT_MOST, keep_blank_values=True)
            except ValueError:
                return self._refuse(400, "This form cannot be read.", session, path), False
            wrong = self._forged(request, host, form, session, route)
            if wrong:
                return self._refuse(403, wrong, session, path), False
        asked = Asked(
            route=route,
            parts=found.parts,
            query=dict(request.query_params),
            form=form,
            session=session,
            path=path,
            address=one_of(request.client.host) if request.client else "",
            headers=request.headers,
            is_gone=request.is_disconnected,
        )
        try:
            return await self._answers[route.name](asked), route.name in _PUBLIC
        except Exception:
            log.exception("monitor: %s could not be shown", route.path, extra={"action": "monitor_failed"})
            return self._refuse(500, "This page could not be made; the monitor's log says why.", session, path), False

    def _session_of(self, request: Request) -> Session | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            user = self._users.by_token(token.strip())
            return None if user is None else Session(user, "")
        cookie = request.cookies.get(self._cookie)
        return None if cookie is None else self._sessions.find(cookie)

    def _comes_from_elsewhere(self, request: Request) -> bool:
        """Whether a link on another site's page was followed, with which browsers send no strict cookie."""
        return (
            request.method == "GET"
            and self._cookie not in request.cookies
            and all(request.headers.get(name) == value for name, value in _FOLLOWED.items())
        )

    def _forged(
        self, request: Request, host: str, form: Mapping[str, list[str]], session: Session | None, route: Route
    ) -> str:
        """Why a form is not from a page of ours, or ""."""
        # No other site can have a browser send the token in a header.
        if session is not None and not session.has_cookie:
            return ""
        if request.headers.get("origin") != self._origins[host]:
            return "This form was not sent from a page of this monitor."
        # Who logs in has no session yet, and so no token.
        if route.name == "login":
            return ""
        if session is None or not session.sent_by(form.get("csrf", [""])[0]):
            return "This page is of an earlier session: reload it."
        return ""

    async def _login(self, asked: Asked) -> Response:
        name, password = (asked.form.get(part, [""])[0] for part in ("name", "password"))
        # A token has no name, and cannot be guessed: nobody shall lock all out who have it.
        subjects = (("address", asked.address), *([("name", name[:64])] if name else []))
        address = _own(asked.form.get("next", ["/"])[0])
        wait = self._attempts.wait(*subjects)
        if wait > 0:
            refused = self._refuse(429, "Too many wrong logins. Try again in some minutes.", None, address)
            refused.headers["retry-after"] = str(int(wait) + 1)
            return refused
        # Counted before it is looked at, so that many at once gain nothing.
        self._attempts.begin(*subjects)
        if name:
            user = await anyio.to_thread.run_sync(
                self._users.by_password, name, password, limiter=self._passwords_at_once
            )
        else:
            user = self._users.by_token(password)
        if user is None:
            log.warning("monitor: a wrong login from %s", asked.address, extra={"action": "login_failed"})
            return self._refuse(401, "The name or the password is wrong.", None, address)
        self._attempts.succeeded(*subjects)
        log.info("monitor: %s logged in", user.name or "the token", extra={"action": "login", "user": user.name})
        answer = RedirectResponse(address, 303)
        self._let_in(answer, user)
        return answer

    def _enter(self, request: Request, user: User) -> Response:
        """Let in who has followed a link with the token in it, and take the token out of the address."""
        answer = _again(_address_of(request))
        self._let_in(answer, user)
        return answer

    def _let_in(self, answer: Response, user: User) -> None:
        answer.set_cookie(
            self._cookie,
            self._sessions.begin(user).id,
            max_age=int(LASTS),
            secure=self._is_secure,
            httponly=True,
            samesite="strict",
        )

    async def _logout(self, asked: Asked) -> Response:
        assert asked.session is not None
        if asked.form.get("everywhere"):
            self._sessions.end_all(asked.session.user.name)
        else:
            self._sessions.end(asked.session)
        answer = RedirectResponse("/", 303)
        answer.delete_cookie(self._cookie, secure=self._is_secure, httponly=True, samesite="strict")
        return answer


async def _healthz(asked: Asked) -> Response:
    return PlainTextResponse("ok")


def _address_of(request: Request) -> str:
    """The address that was asked for, without a token in it."""
    pairs = request.query_params.multi_items() if len(request.scope["query_string"]) <= QUERY_LIMIT else []
    return _address(request.scope["path"], ((name, value) for name, value in pairs if name != "token"))


def _own(address: str) -> str:
    """An address to go on to: that of a page here, else the first page."""
    path, _, query = address.partition("?")
    path = unquote(path)
    found = routes.find("GET", path)
    if found.route is None or found.route.role is None:
        return "/"
    return _address(path, parse_qsl(query[:QUERY_LIMIT], keep_blank_values=True))


def _address(path: str, pairs: Iterable[tuple[str, str]]) -> str:
    query = urlencode(list(pairs))
    return quote(path) + (f"?{query}" if 0 < len(query) <= QUERY_LIMIT else "")


def _again(address: str, status: int = 200) -> Response:
    """Have the browser ask for an address of ours by itself."""
    # Not a redirect: after one from another site's page, such as a terminal's, no strict cookie would be sent.
    return PlainTextResponse(f"Go on to {address}", status, headers={"refresh": f"0; url={address}"})


async def _body(request: Request) -> bytes | None:
    """What was sent, or None where it is too much, or too slow."""
    parts, size = [], 0
    try:
        with anyio.fail_after(_FORM_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > FORM_LIMIT:
                    return None
                parts.append(part)
    except (ClientDisconnect, TimeoutError):
        return None
    return b"".join(parts)


async def _live(receive: Receive, send: Send) -> None:
    """There is nothing to start, and nothing to stop."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
