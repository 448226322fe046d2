"""A TCP proxy that can be slow, lossy, cut and half-closed: what a network does, where the kernel has no netem."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_CHUNK = 65536


@dataclass(slots=True)
class Weather:
    """How a connection is now.

    Attributes:
        latency: seconds that each piece takes, in each direction.
        stall: how likely a piece is held up for ``stalled`` seconds, as a lost packet is.
        stalled: seconds.
        drip: bytes a second, 0 for no limit.
    """

    latency: float = 0.0
    stall: float = 0.0
    stalled: float = 0.2
    drip: int = 0


class Proxy:
    """Forwards connections to an address, on a thread of its own; a context manager.

    Args:
        target: the server's port on 127.0.0.1, or its Unix socket.
        seed: of what is held up.
        listen: where it listens.

    Attributes:
        weather: may be replaced at any time.
        port: where it listens.
        accepted: monotonic seconds at which connections came.
    """

    def __init__(self, target: int | Path, *, seed: object = 0, listen: str = "127.0.0.1") -> None:
        self.weather = Weather()
        self.port = 0
        self.accepted: list[float] = []
        self._target = target
        self._listen = listen
        self._rng = random.Random(str(seed))
        self._refusing = False
        self._requests, self._answers = asyncio.Event(), asyncio.Event()
        self._open: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.thaw()
        self._server = self._do(asyncio.start_server(self._accept, self._listen, 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # On its loop, where its connections end too.
        self._do(self._close())
        self.cut()
        self._do(self._end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()

    def url(self, url: str) -> str:
        """A server's URL, by way of this proxy."""
        before, _, rest = url.rpartition("@")
        if before.startswith("unix://"):
            return f"redis{before.removeprefix('unix')}@127.0.0.1:{self.port}/{rest.partition('?db=')[2]}"
        return f"{before}@127.0.0.1:{self.port}/{rest.partition('/')[2]}"

    def switch(self, port: int) -> None:
        """Take new connections to another server, as an address does whose primary has changed; open ones stay."""
        self._target = port

    def cut(self) -> None:
        """Reset every connection; new ones are let in."""
        self._do(self._each(lambda one, other: (_reset(one), _reset(other))))

    def half_close(self) -> None:
        """End the server's half of every connection, and never its client's: each waits for the other."""
        self._do(self._each(lambda client, server: client.write_eof() if client.can_write_eof() else None))

    def refuse(self, refusing: bool = True) -> None:
        """Reset connections as they come, or let them in again."""
        self._refusing = refusing

    def freeze(self, *, requests: bool = True) -> None:
        """Let nothing through, without a word, until `thaw`; or nothing but requests, so that only answers wait."""
        for way in (self._requests, self._answers) if requests else (self._answers,):
            self._loop.call_soon_threadsafe(way.clear)

    def thaw(self) -> None:
        """Let through what has waited, and what comes."""
        for way in (self._requests, self._answers):
            self._loop.call_soon_threadsafe(way.set)

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _each(self, act: Callable[[asyncio.StreamWriter, asyncio.StreamWriter], object]) -> None:
        for client, server in list(self._open.items()):
            act(client, server)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.accepted.append(time.monotonic())
        if self._refusing:
            _reset(to_client)
            return
        try:
            if isinstance(self._target, Path):
                from_server, to_server = await asyncio.open_unix_connection(self._target)
            else:
                from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(to_client)
            return
        self._open[to_client] = to_server
        ways = [
            asyncio.create_task(self._carry(from_client, to_server, self._requests)),
            asyncio.create_task(self._carry(from_server, to_client, self._answers)),
        ]
        self._tasks.update(ways)
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        self._tasks.difference_update(ways)
        self._open.pop(to_client, None)
        for writer in (to_client, to_server):
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: asyncio.Event) -> None:
        try:
            while piece := await reader.read(_CHUNK):
                await self._delay(len(piece))
                await way.wait()
                writer.write(piece)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass

    async def _delay(self, size: int) -> None:
        weather = self.weather
        held_up = weather.stalled if self._rng.random() < weather.stall else 0.0
        dripping = size / weather.drip if weather.drip else 0.0
        if wait := weather.latency + held_up + dripping:
            await asyncio.sleep(wait)


def _reset(writer: asyncio.StreamWriter) -> None:
    # Closing with a reset, as a firewall does it, and not in good order.
    writer.transport.abort()
