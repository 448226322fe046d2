"""Every route: method, path, and who may use it. What is not here does not exist."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from egregore_dist.monitor.users import Role
from egregore_dist.workflow import names

_PARTS = {
    "run": names.PATTERN,
    "block": r"[0-9][0-9.,-]{0,511}",
    "branch": r"[0-9]{1,9}",
    "what": r"input|result",
    "limit": names.PATTERN,
}


@dataclass(frozen=True, slots=True)
class Route:
    """One way to use the monitor.

    Attributes:
        method: GET shows, POST changes.
        path: with the parts that vary in braces.
        role: the least that may use it; None for everybody, logged in or not.
        name: of what answers.
    """

    method: str
    path: str
    role: Role | None
    name: str
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pieces = re.split(r"\{(\w+)\}", self.path)
        for i, piece in enumerate(pieces):
            pieces[i] = f"(?P<{piece}>{_PARTS[piece]})" if i % 2 else re.escape(piece)
        object.__setattr__(self, "_pattern", re.compile("".join(pieces)))

    def match(self, path: str) -> dict[str, str] | None:
        """The parts that vary, where this is its path."""
        found = self._pattern.fullmatch(path)
        return None if found is None else found.groupdict()


_BRANCH = "/runs/{run}/blocks/{block}/branches/{branch}"

ROUTES = (
    Route("GET", "/healthz", None, "healthz"),
    Route("GET", "/static/monitor.css", None, "style"),
    Route("GET", "/static/icon.svg", None, "icon"),
    Route("POST", "/login", None, "login"),
    Route("POST", "/logout", Role.VIEWER, "logout"),
    Route("GET", "/static/monitor.js", Role.VIEWER, "script"),
    Route("GET", "/", Role.VIEWER, "runs"),
    Route("GET", "/events", Role.VIEWER, "runs_events"),
    Route("GET", "/workers", Role.VIEWER, "workers"),
    Route("GET", "/nodes", Role.VIEWER, "nodes"),
    Route("GET", "/limits", Role.VIEWER, "limits"),
    Route("GET", "/limits/{limit}", Role.VIEWER, "limit"),
    Route("POST", "/workers/drain", Role.OPERATOR, "worker_drain"),
    Route("POST", "/workers/resume", Role.OPERATOR, "worker_resume"),
    Route("POST", "/workers/stop", Role.ADMIN, "worker_stop"),
    Route("GET", "/aside", Role.VIEWER, "aside"),
    Route("GET", "/metrics", Role.VIEWER, "metrics"),
    Route("GET", "/runs/{run}", Role.VIEWER, "run"),
    Route("GET", "/runs/{run}/events", Role.VIEWER, "run_events"),
    Route("GET", "/runs/{run}/logs", Role.OPERATOR, "logs"),
    Route("GET", "/runs/{run}/logs/events", Role.OPERATOR, "logs_events"),
    Route("GET", "/runs/{run}/blocks", Role.VIEWER, "blocks"),
    Route("GET", "/runs/{run}/blocks/{block}", Role.VIEWER, "block"),
    Route("GET", _BRANCH, Role.VIEWER, "branch"),
    Route("GET", _BRANCH + "/{what}", Role.OPERATOR, "value"),
    Route("POST", "/runs", Role.OPERATOR, "bulk"),
    Route("POST", "/runs/{run}/cancel", Role.OPERATOR, "cancel"),
    Route("POST", "/runs/{run}/pause", Role.OPERATOR, "pause"),
    Route("POST", "/runs/{run}/resume", Role.OPERATOR, "resume"),
    Route("POST", "/runs/{run}/retry", Role.OPERATOR, "retry"),
    Route("POST", "/limits", Role.OPERATOR, "set_limit"),
    Route("POST", "/limits/{limit}/clear", Role.OPERATOR, "clear_limit"),
    Route("POST", "/runs/{run}/delete", Role.ADMIN, "delete"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What the table says of a method and a path.

    Attributes:
        route: the route, or None where there is none of this method.
        parts: what varies in its path.
        methods: those that the path has; none where there is no such path.
    """

    route: Route | None
    parts: Mapping[str, str]
    methods: tuple[str, ...]


def find(method: str, path: str) -> Found:
    """Look a method and a path up."""
    methods = []
    for route in ROUTES:
        parts = route.match(path)
        if parts is None:
            continue
        if route.method == method:
            return Found(route, parts, (method,))
        methods.append(route.method)
    return Found(None, {}, tuple(methods))
