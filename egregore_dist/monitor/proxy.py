"""A monitor behind a proxy answers that proxy alone."""

from __future__ import annotations

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from egregore_dist.engine.urls import is_loopback
from egregore_dist.monitor.config import Config, is_in

_HEALTH = ("GET", "/healthz")


class BehindProxy:
    """Refuses requests of other machines than the proxies, and takes from those whom they ask for.

    A health check on this machine may ask `GET /healthz`.

    Args:
        app: the monitor.
        config: where the proxies are.
    """

    def __init__(self, app: ASGIApp, config: Config) -> None:
        self._proxies = config.proxies
        self._app = ProxyHeadersMiddleware(app, trusted_hosts=list(map(str, config.proxies)))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and not self._may_ask(scope):
            refusal = PlainTextResponse("this monitor answers its proxy alone: see --proxy", 403)
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)  # type: ignore[arg-type]

    def _may_ask(self, scope: Scope) -> bool:
        peer = scope["client"][0] if scope.get("client") else ""
        is_health_check = (scope["method"], scope["path"]) == _HEALTH and is_loopback(peer)
        return is_health_check or is_in(peer, self._proxies)
