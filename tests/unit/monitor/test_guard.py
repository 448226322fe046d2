"""Who gets to what: every route, every method, every role."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from egregore_dist.monitor import routes
from egregore_dist.monitor.config import Config
from egregore_dist.monitor.guard import FORM_LIMIT, HEADERS, QUERY_LIMIT
from egregore_dist.monitor.routes import ROUTES, Route
from egregore_dist.monitor.users import Role, Users
from tests.unit.monitor.gate import COOKIE, HOST, ORIGIN, PASSWORD, TOKEN, Gate, example

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "X", "get", "")
OPEN = {("GET", "/healthz"), ("GET", "/static/monitor.css"), ("GET", "/static/icon.svg"), ("POST", "/login")}
#: Some of what not everybody may do.
_GUARDED = (
    *("value", "logs", "logs_events", "cancel", "retry", "delete", "set_limit", "clear_limit"),
    *("worker_drain", "worker_resume", "worker_stop"),
)
#: Every route, by the least role that may use it: who adds one says here whom it is for.
TABLE = {
    None: {
        "GET /healthz",
        "GET /static/monitor.css",
        "GET /static/icon.svg",
        "POST /login",
    },
    Role.VIEWER: {
        "POST /logout",
        "GET /static/monitor.js",
        "GET /",
        "GET /events",
        "GET /workers",
        "GET /nodes",
        "GET /limits",
        "GET /limits/{limit}",
        "GET /aside",
        "GET /metrics",
        "GET /runs/{run}",
        "GET /runs/{run}/events",
        "GET /runs/{run}/blocks",
        "GET /runs/{run}/blocks/{block}",
        "GET /runs/{run}/blocks/{block}/branches/{branch}",
    },
    Role.OPERATOR: {
        "POST /workers/drain",
        "POST /workers/resume",
        "GET /runs/{run}/logs",
        "GET /runs/{run}/logs/events",
        "GET /runs/{run}/blocks/{block}/branches/{branch}/{what}",
        "POST /runs",
        "POST /runs/{run}/cancel",
        "POST /runs/{run}/pause",
        "POST /runs/{run}/resume",
        "POST /runs/{run}/retry",
        "POST /limits",
        "POST /limits/{limit}/clear",
    },
    Role.ADMIN: {
        "POST /workers/stop",
        "POST /runs/{run}/delete",
    },
}
POSTS = [route for route in ROUTES if route.method == "POST" and route.role is not None]


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


def test_what_is_for_everybody_is_a_short_list() -> None:
    """These and no others can be had without logging in, each an exact method and path."""
    assert {(route.method, route.path) for route in ROUTES if route.role is None} == OPEN
    assert all("{" not in path for _, path in OPEN)


def test_every_route_is_in_the_table() -> None:
    """No route is added, and none is for another role, without being written down here too."""
    assert {role: {name_of(route) for route in ROUTES if route.role is role} for role in (None, *Role)} == TABLE
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


def test_s12_what_shows_data_is_for_operators() -> None:
    """Inputs, results and what nodes said are not for those who may only look."""
    shows = [route for route in ROUTES if "{what}" in route.path or "logs" in route.path]

    assert len(shows) == 3
    assert all(route.role is not None and route.role >= Role.OPERATOR for route in shows)


def test_s9_only_posts_change_anything() -> None:
    """A GET is for looking: what changes anything is a POST of an operator or above."""
    changing = {route.name for route in ROUTES if route.method == "POST" and route.name not in ("login", "logout")}

    assert changing == {
        *("bulk", "cancel", "pause", "resume", "retry", "delete", "set_limit", "clear_limit"),
        *("worker_drain", "worker_resume", "worker_stop"),
    }
    assert all(route.role is not None and route.role >= Role.OPERATOR for route in ROUTES if route.name in changing)
    assert {route.method for route in ROUTES} == {"GET", "POST"}


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
@pytest.mark.parametrize("method", METHODS)
def test_s8_nobody_gets_in_without_logging_in(gate: Gate, route: Route, method: str) -> None:
    """Without credentials everything but the open routes is 401, whatever the method."""
    path = example(route)

    status = gate.ask(method, path).status

    if (method, path) == ("POST", "/login"):
        assert status == 401  # a login without a password
    elif (method, path) in OPEN:
        assert status == 200
    else:
        assert status == 401


@pytest.mark.parametrize(
    "path",
    [
        *("/runs/x-healthz", "/healthz/", "//healthz", "/%68ealthz", "/HEALTHZ", "/healthz%2e", "/healthz/../", "/."),
        *("/static/monitor.js", "/static/", "/static/../monitor.css", "/static/monitor.css/", "/login", "", "/nothing"),
    ],
)
def test_s8_what_looks_like_an_open_path_is_not(gate: Gate, path: str) -> None:
    """Only the exact paths are open."""
    assert gate.ask("GET", path).status == 401


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
@pytest.mark.parametrize(("method", "role"), list(itertools.product(METHODS, Role)), ids=str)
def test_s12_each_role_gets_what_it_may(gate: Gate, route: Route, method: str, role: Role) -> None:
    """With a good session, an origin and a token: the routes of the role answer, others are 403, other methods 405."""
    path = example(route)
    found = routes.find(method, path).route

    answer = gate.ask(method, path, gate.session(role))

    if found is None:
        assert answer.status == 405
        assert "answered" not in answer.text
    elif found.role is not None and role < found.role:
        assert answer.status == 403
        assert "answered" not in answer.text
    elif found.name in ("login", "logout", "healthz"):
        assert answer.status in (200, 303, 401)
    else:
        assert (answer.status, answer.text) == (200, f"answered {found.name}")


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (Role.VIEWER, set()),
        (Role.OPERATOR, set(_GUARDED) - {"delete", "worker_stop"}),
        (Role.ADMIN, set(_GUARDED)),
    ],
    ids=["viewer", "operator", "admin"],
)
def test_s12_the_roles_are_what_they_are_said_to_be(gate: Gate, role: Role, may: set[str]) -> None:
    """A viewer changes nothing, and sees no values nor what nodes said; an operator does; an admin also ends things."""
    found = {
        route.name
        for route in ROUTES
        if route.name in _GUARDED and gate.ask(route.method, example(route), gate.session(role)).status == 200
    }

    assert found == may


FORGED = {
    "no origin": {"origin": None},
    "foreign origin": {"origin": "https://evil.example"},
    "null origin": {"origin": "null"},
    "other port": {"origin": "http://127.0.0.1:1"},
    "other scheme": {"origin": f"https://{HOST}"},
    "longer name": {"origin": f"{ORIGIN}.evil.example"},
    "other of our names": {"origin": "http://localhost:8750"},
}


@pytest.mark.parametrize("route", POSTS, ids=name_of)
@pytest.mark.parametrize("forged", FORGED)
def test_s9_a_form_of_another_site_changes_nothing(gate: Gate, route: Route, forged: str) -> None:
    """The right cookie and the right token do not help a request that comes from elsewhere."""
    answer = gate.ask("POST", example(route), gate.session(Role.ADMIN), headers=FORGED[forged])

    assert answer.status == 403


@pytest.mark.parametrize("route", POSTS, ids=name_of)
@pytest.mark.parametrize("csrf", [None, "", "0" * 64, "ä", "of another session"])
def test_s9_a_form_without_its_token_changes_nothing(gate: Gate, route: Route, csrf: str | None) -> None:
    """The token has to be that of the session."""
    if csrf == "of another session":
        csrf = gate.session(Role.ADMIN).csrf

    answer = gate.ask("POST", example(route), gate.session(Role.ADMIN), form={} if csrf is None else {"csrf": csrf})

    assert answer.status == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "127.0.0.1:8750.evil.example", "", None])
@pytest.mark.parametrize("route", ROUTES, ids=name_of)
def test_s9_a_name_that_is_not_ours_is_refused(gate: Gate, route: Route, host: str | None) -> None:
    """A page that another name was rebound for gets nothing, not even whether the monitor is up."""
    assert gate.ask(route.method, example(route), gate.session(Role.ADMIN), headers={"host": host}).status == 400


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
@pytest.mark.parametrize("session", [None, Role.VIEWER, Role.ADMIN], ids=str)
def test_s10_every_answer_has_the_headers(gate: Gate, route: Route, session: Role | None) -> None:
    """Whatever the answer: no inline script, no frame, no guessing of types, no other site, and data are not stored."""
    answer = gate.ask(route.method, example(route), session and gate.session(session))

    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    if route.name not in ("style", "icon", "script"):
        assert answer.headers["cache-control"] == "no-store"


def test_too_much_is_refused(gate: Gate) -> None:
    """Forms, their fields and queries have a size."""
    session = gate.session(Role.ADMIN)

    assert gate.ask("POST", "/runs", session, form=b"csrf=" + b"x" * FORM_LIMIT).status == 413
    assert gate.ask("POST", "/runs", session, form=b"&".join([b"a=1"] * 3000)).status == 400
    assert gate.ask("POST", "/runs", session, form=b"\xff\xfe").status == 400
    assert gate.ask("GET", "/", session, query="a" * (QUERY_LIMIT + 1)).status == 414


@pytest.mark.parametrize("name", [".", ".."])
@pytest.mark.parametrize(
    "route", [route for route in ROUTES if "{run}" in route.path or "{limit}" in route.path], ids=name_of
)
def test_no_name_is_a_step_of_a_path(gate: Gate, route: Route, name: str) -> None:
    """A browser would take it for the folder, or the one above: there is no such run, and no such limit."""
    path = example(route).replace("order-1", name).replace("model", name)

    assert gate.ask(route.method, path, gate.session(Role.ADMIN)).status in (404, 405)


# Logging in


@pytest.fixture(scope="module")
def linked() -> Gate:
    """The gate of a program's own monitor."""
    return Gate(Config(users=Users({}, TOKEN, Role.VIEWER), has_links=True))


@pytest.mark.parametrize("route", [route for route in ROUTES if route.method == "GET" and route.role], ids=name_of)
def test_a_link_lets_in(linked: Gate, route: Route) -> None:
    """It gives a cookie and goes on to the page, without the token in the address; the rest of the query stays."""
    answer = linked.ask("GET", example(route), query=f"a=1&token={TOKEN}&b=%3B%22%0d%0a2")

    address = f"{example(route).replace(',', '%2C')}?a=1&b=%3B%22%0D%0A2"
    assert (answer.status, answer.headers["refresh"]) == (200, f"0; url={address}")
    assert "answered" not in answer.text
    (cookie,) = answer.cookies
    assert {part.strip().lower() for part in cookie.split(";")[1:]} >= {"httponly", "samesite=strict", "path=/"}
    name, _, value = cookie.partition(";")[0].partition("=")
    status = linked.ask("GET", example(route), headers={"cookie": f"{name}={value}"}).status
    assert status == (403 if route.role is not None and route.role > Role.VIEWER else 200)


@pytest.mark.parametrize("route", [route for route in ROUTES if route.role], ids=name_of)
def test_a_wrong_link_lets_nobody_in(linked: Gate, route: Route) -> None:
    """Another token is none; nor is the right one in a form's address, or at a monitor that was not started for one."""
    wrong = linked.ask(route.method, example(route), query=f"token={TOKEN[:-1]}")
    of_a_form = linked.ask("POST", example(route), query=f"token={TOKEN}")
    of_another = Gate().ask(route.method, example(route), query=f"token={TOKEN}")

    for answer in (wrong, of_a_form, of_another):
        assert "answered" not in answer.text
        assert "refresh" not in answer.headers
        assert answer.cookies == ()


def test_a_link_of_another_name_lets_nobody_in(linked: Gate) -> None:
    """A page that another name was rebound for cannot use it."""
    answer = linked.ask("GET", "/", query=f"token={TOKEN}", headers={"host": "evil.example"})

    assert (answer.status, answer.cookies) == (400, ())


def login(gate: Gate, **form: str) -> object:
    return gate.ask("POST", "/login", form=form)


def test_logging_in() -> None:
    """A name and its password give a cookie that scripts cannot read, other sites cannot use, and that lets in."""
    gate = Gate()

    answer = gate.ask("POST", "/login", form={"name": "operator", "password": PASSWORD, "next": "/runs/order-1"})

    assert (answer.status, answer.headers["location"]) == (303, "/runs/order-1")
    (cookie,) = answer.cookies
    assert {part.strip().lower() for part in cookie.split(";")[1:]} >= {"httponly", "samesite=strict", "path=/"}
    assert "secure" not in cookie.lower()
    value = cookie.split(";")[0].partition("=")[2]
    assert gate.ask("GET", "/", headers={"cookie": f"{COOKIE}={value}"}).status == 200


def test_s11_the_cookie_is_secure_where_the_monitor_is(tmp_path: Path) -> None:
    """Behind a proxy that does TLS the cookie is sent by HTTPS alone, to this host alone."""
    users = Gate().users
    gate = Gate(Config(users=users, behind_proxy=True, url="https://monitor.example.org"))
    headers = {"host": "monitor.example.org", "origin": "https://monitor.example.org"}

    answer = gate.ask("POST", "/login", form={"name": "admin", "password": PASSWORD}, headers=headers)

    assert answer.cookies[0].startswith("__Host-egregore=")
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert "strict-transport-security" not in Gate().ask("GET", "/healthz").headers
    assert "; secure" in answer.cookies[0].lower()


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"name": "admin"},
        {"name": "admin", "password": "wrong"},
        {"name": "nobody", "password": PASSWORD},
        {"name": "", "password": PASSWORD},
        {"name": "Admin", "password": PASSWORD},
        {"name": "admin", "password": f"{PASSWORD} "},
        {"name": "attacker@admin", "password": PASSWORD},
        {"password": TOKEN[:-1]},
        {"name": "admin", "password": TOKEN},
    ],
    ids=str,
)
def test_a_wrong_login(form: dict[str, str]) -> None:
    """Whatever is wrong about it, a login that is wrong is told so in the same words."""
    answer = Gate().ask("POST", "/login", form=form)

    assert (answer.status, answer.text) == (401, "refused The name or the password is wrong.")
    assert answer.cookies == ()


def test_a_login_from_another_site() -> None:
    """Nobody is logged in by a form of another site."""
    headers = {"origin": "https://evil.example"}

    assert Gate().ask("POST", "/login", form={"password": TOKEN}, headers=headers).status == 403


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "/nothing",
        "/logout",
        "/healthz",
        "?state=failed",
        "//evil.example/?state=failed",
        "/%2Fevil.example?state=failed",
        "/%5Cevil.example",
        "/\tevil.example",
        "/\r\nrefresh: 0",
        "\\/evil.example",
        "/runs/order-1#/../..",
        "/runs/order-1;x?a=1",
        "/runs/%2E%2E?a=1",
    ],
)
def test_a_login_goes_on_to_our_own_pages(path: str) -> None:
    """Where it goes on to is a page of the monitor; a wrong one does not offer another either."""
    gate = Gate()

    assert gate.ask("POST", "/login", form={"password": TOKEN, "next": path}).headers["location"] == "/"
    assert gate.ask("POST", "/login", form={"password": "wrong", "next": path}).headers["x-next"] == "/"


@pytest.mark.parametrize(
    ("path", "query", "address"),
    [
        ("/", "state=failed&text=order-1", "/?state=failed&text=order-1"),
        ("/runs/order-1/blocks/0.0-1,2", "only=failed&page=2", "/runs/order-1/blocks/0.0-1%2C2?only=failed&page=2"),
        ("/runs/order-1", "", "/runs/order-1"),
        ("/", "text=//evil.example%0D%0Aa%23b&x=", "/?text=%2F%2Fevil.example%0D%0Aa%23b&x="),
        ("/nodes", "sort=p95&token=of-somebody-else", "/nodes?sort=p95"),
        ("/", "a=" + "b" * QUERY_LIMIT, "/"),
    ],
)
def test_a_login_goes_on_to_what_was_asked_for(path: str, query: str, address: str) -> None:
    """The form holds the whole address, with its query and without a token, after a wrong password too."""
    gate = Gate()

    asked = gate.ask("GET", path, query=query)
    wrong = gate.ask("POST", "/login", form={"password": "wrong", "next": asked.headers["x-next"]})
    right = gate.ask("POST", "/login", form={"password": TOKEN, "next": wrong.headers["x-next"]})

    assert (asked.status, asked.headers["x-next"]) == (401, address)
    assert (wrong.status, wrong.headers["x-next"]) == (401, address)
    assert (right.status, right.headers["location"]) == (303, address)


#: What a browser says of a page that it opens for a link on another site.
FOLLOWED = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


def test_a_link_on_another_site_is_asked_for_again(gate: Gate) -> None:
    """A strict cookie is not sent with it, but is when the page asks for its own address."""
    answer = gate.ask("GET", "/", query="state=failed", headers=FOLLOWED)

    assert (answer.status, answer.headers["refresh"]) == (401, "0; url=/?state=failed")


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/", {"sec-fetch-site": "same-origin"}),
        ("GET", "/", {"sec-fetch-site": "none"}),
        ("GET", "/", {"sec-fetch-site": None}),
        ("GET", "/", {"sec-fetch-mode": "no-cors"}),
        ("GET", "/", {"sec-fetch-dest": "iframe"}),
        ("GET", "/", {"cookie": f"{COOKIE}=old"}),
        ("GET", "/nothing", {}),
        ("HEAD", "/", {}),
        ("POST", "/runs", {}),
    ],
)
def test_nothing_else_is_asked_for_again(gate: Gate, method: str, path: str, headers: dict[str, str | None]) -> None:
    """A browser that asks by itself, a part of a page, and who was let in before, get the form to log in."""
    answer = gate.ask(method, path, headers={**FOLLOWED, **headers})

    assert answer.status == 401
    assert "refresh" not in answer.headers


def test_s11_guessing_is_slowed_down() -> None:
    """After ten wrong passwords the name has to wait, even with the right one; 20 tries end as 429."""
    gate = Gate()

    found = [gate.ask("POST", "/login", form={"name": "admin", "password": "wrong"}).status for _ in range(20)]

    assert found == [401] * 10 + [429] * 10
    last = gate.ask("POST", "/login", form={"name": "admin", "password": PASSWORD})
    assert last.status == 429
    assert int(last.headers["retry-after"]) > 0


def test_nobody_locks_out_those_who_have_the_token() -> None:
    """It has no name, and cannot be guessed: wrong ones keep out who sent them, and nobody elsewhere."""
    gate = Gate()
    for _ in range(20):
        gate.ask("POST", "/login", form={"password": "wrong"}, client="10.0.0.1")

    assert gate.ask("POST", "/login", form={"password": TOKEN}, client="10.0.0.1").status == 429
    assert gate.ask("POST", "/login", form={"password": TOKEN}, client="10.0.0.2").status == 303


def test_a_network_of_addresses_guesses_no_faster() -> None:
    """Another address of the same IPv6 network is the same guesser."""
    gate = Gate()

    found = [
        gate.ask("POST", "/login", form={"password": "wrong"}, client=f"2001:db8::{number:x}").status
        for number in range(1, 13)
    ]

    assert found == [401] * 10 + [429] * 2


def test_the_token_as_a_bearer() -> None:
    """Programs send the token in a header; another one, or none, does not get in."""
    gate = Gate()

    assert gate.ask("GET", "/metrics", headers={"authorization": f"Bearer {TOKEN}"}).status == 200
    for wrong in (f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer", "Bearer "):
        assert gate.ask("GET", "/metrics", headers={"authorization": wrong}).status == 401


def test_s11_logging_out_ends_the_session() -> None:
    """The cookie is emptied, and a copy of it lets nobody in."""
    gate = Gate()
    session, other = gate.session(Role.VIEWER), gate.session(Role.VIEWER)

    answer = gate.ask("POST", "/logout", session)

    assert answer.status == 303
    assert "Max-Age=0" in answer.cookies[0]
    assert gate.ask("GET", "/", session).status == 401
    assert gate.ask("GET", "/", other).status == 200


def test_s11_logging_out_everywhere_ends_all_sessions_of_a_user() -> None:
    """A user who logs out everywhere has no session left; other users keep theirs."""
    gate = Gate()
    session, same, another = gate.session(Role.VIEWER), gate.session(Role.VIEWER), gate.session(Role.ADMIN)

    gate.ask("POST", "/logout", session, form={"csrf": session.csrf, "everywhere": "1"})

    assert [gate.ask("GET", "/", each).status for each in (session, same, another)] == [401, 401, 200]


@pytest.mark.parametrize("cookie", ["", ".", "x", "é.é", "x" * 600])
def test_s11_a_cookie_that_no_login_gave(gate: Gate, cookie: str) -> None:
    """A cookie that the monitor did not give lets nobody in."""
    assert gate.ask("GET", "/", headers={"cookie": f"{COOKIE}={cookie}"}).status == 401


@pytest.mark.parametrize("route", POSTS, ids=name_of)
def test_s9_a_bearer_needs_no_token_of_a_form(route: Route) -> None:
    """A program with the token in a header changes things without a page; a cookie beside it does not matter."""
    gate = Gate(Config(users=Users({}, TOKEN, Role.ADMIN)))
    bearer = {"authorization": f"Bearer {TOKEN}", "origin": None}

    assert gate.ask("POST", example(route), form={}, headers=bearer).status in (200, 303)
    assert gate.ask("POST", example(route), form={}, headers={**bearer, "authorization": "Bearer no"}).status == 401


def test_what_fails_says_nothing_of_itself() -> None:
    """An answer that fails is a page without its traceback."""
    gate = Gate()

    async def fails(asked: object) -> None:
        raise ValueError("secret")

    gate.guard._answers["runs"] = fails  # type: ignore[assignment]

    answer = gate.ask("GET", "/", gate.session(Role.VIEWER))

    assert answer.status == 500
    assert "secret" not in answer.text
