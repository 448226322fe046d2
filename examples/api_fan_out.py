"""Call an API many times at once: async nodes, a limit that protects the API, and failures that do not spoil the rest.

The API is a small HTTP server that this program starts itself. It counts its callers, so that the limit can be seen.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from urllib.parse import urlsplit

from egregore_dist import BranchError, Sequence, node

CITIES = ["Bergen", "Cairo", "Dakar", "Hanoi", "Kyoto", "Lima", "Oslo", "Porto", "Quito", "Riga", "Sofia", "Turin"]
AT_ONCE = 4


async def get_json(url: str) -> Any:
    """A GET without a dependency; with httpx this is ``(await client.get(url)).raise_for_status().json()``."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(f"GET {parts.path} HTTP/1.0\r\nHost: {parts.hostname}\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    status = head.split(b"\r\n")[0].decode().partition(" ")[2]
    if status != "200 OK":
        raise RuntimeError(f"{url} answered {status}")
    return json.loads(body)


@node("list_cities")
async def list_cities(api: str) -> list[str]:
    """Where to ask: one URL a city."""
    return [f"{api}/weather/{city}" for city in await get_json(f"{api}/cities")]


@node("fetch_weather", retries=1, timeout=5.0)
async def fetch_weather(url: str) -> dict[str, Any]:
    """One call. An error of the API is tried once more; then it is this branch's failure."""
    weather: dict[str, Any] = await get_json(url)
    return weather


@node("summarise")
def summarise(answers: list[dict[str, Any] | BranchError]) -> dict[str, Any]:
    """With on_error="collect" a branch that failed is a BranchError in its place."""
    good = [answer for answer in answers if not isinstance(answer, BranchError)]
    bad = [answer for answer in answers if isinstance(answer, BranchError)]
    return {
        "answers": len(good),
        "warmest": max(good, key=lambda answer: answer["celsius"]),
        "failed": [f"branch {error.branch}, attempt {error.attempt}: {error.message}" for error in bad],
    }


flow = Sequence(
    list_cities,
    fetch_weather.map(max_concurrent=AT_ONCE, timeout=30.0, on_error="collect"),
    summarise,
    name="weather",
)


class Api:
    """The API: every answer takes 0.2 s, and Quito's station is always out of order."""

    def __init__(self) -> None:
        self.calls = self.now = self.most_at_once = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        self.calls, self.now = self.calls + 1, self.now + 1
        self.most_at_once = max(self.most_at_once, self.now)
        await asyncio.sleep(0.2)
        self.now -= 1
        status, city = "200 OK", path.rpartition("/")[2]
        body = CITIES if city == "cities" else {"city": city, "celsius": sum(map(ord, city)) % 30}
        if city == "Quito":
            status, body = "503 Service Unavailable", {}
        writer.write(f"HTTP/1.0 {status}\r\nContent-Type: application/json\r\n\r\n{json.dumps(body)}".encode())
        await writer.drain()
        writer.close()


async def main() -> None:
    """Start the API, run the workflow from this event loop, and show what came of it."""
    api = Api()
    async with await asyncio.start_server(api.answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        started = time.perf_counter()
        summary = await flow.arun({"api": f"http://{host}:{port}"})
        seconds = time.perf_counter() - started
    print(f"{summary['answers']} of {len(CITIES)} cities answered; the warmest is {summary['warmest']['city']}")
    for failure in summary["failed"]:
        print(f"failed: {failure}")
    print(f"the API got {api.calls} calls, never more than {api.most_at_once} at once (limit: {AT_ONCE})")
    print(f"{seconds:.1f} s with the start of the cluster; one call after the other takes {api.calls * 0.2:.1f} s")


if __name__ == "__main__":
    asyncio.run(main())
