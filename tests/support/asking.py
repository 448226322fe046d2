"""Asking an ASGI application without a socket, byte by byte as the test says it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; of headers that came more than once, the last."""

    status: int
    headers: Mapping[str, str]
    text: str
    cookies: tuple[str, ...] = field(default=())


def ask(
    app: Any,
    method: str,
    path: str,
    *,
    query: str = "",
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, Any] | bytes | None = None,
    client: str = "127.0.0.1",
) -> Answer:
    """One request, and what it is answered. The path is taken as it stands: nothing of it is put in order."""
    body = form if isinstance(form, bytes) else urlencode(form or {}, doseq=True).encode()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
        "client": (client, 50000),
        "server": ("127.0.0.1", 8750),
    }
    sent: list[dict[str, Any]] = []
    received = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return received.pop() if received else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    pairs = [(name.decode().lower(), value.decode("latin-1")) for name, value in sent[0]["headers"]]
    return Answer(
        status=sent[0]["status"],
        headers=dict(pairs),
        text=b"".join(message.get("body", b"") for message in sent[1:]).decode(),
        cookies=tuple(value for name, value in pairs if name == "set-cookie"),
    )
