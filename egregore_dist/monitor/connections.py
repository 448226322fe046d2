"""Connections to the monitor: so many, and none for longer than it has something to say."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections import Counter
from collections.abc import Collection
from typing import Any, Literal

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from egregore_dist.monitor.config import Network, is_in, one_of

# Connections at a time; the half of them may come from one address.
_AT_MOST = 1000

#: Bytes of a request's line and headers.
HEADERS = 32 * 1024
_PIECE = 8 * 1024

# What a connection is at: getting a request (the handshake of TLS too), being answered, being answered while its
# other end does not read, or ending.
Stage = Literal["asks", "answered", "stuck", "ends"]

#: Seconds that a connection may be at one request, or at the next part of an answer.
SECONDS: dict[Stage, float] = {"asks": 10.0, "stuck": 30.0, "ends": 5.0}

# Connections that are being ended, from which on no more are taken.
_LEAVING_AT_MOST = 64


class Listener(socket.socket):
    """A listening socket that takes no more connections than there is room for.

    Where there is none left it ends the oldest connection that is not being answered, so that whoever comes next is
    served, however many there are that only hold on.

    Args:
        family: of its addresses; that of the socket, where there is one.
        fileno: a socket that listens already.
        proxies: the networks of proxies: what comes from them may be all of the connections.
        most: connections at a time.
    """

    def __init__(
        self,
        family: int = -1,
        *,
        fileno: int | None = None,
        proxies: Collection[Network] = (),
        most: int | None = None,
    ) -> None:
        super().__init__(family, socket.SOCK_STREAM if fileno is None else -1, fileno=fileno)
        self._proxies = proxies
        self._most = _room() if most is None else most
        # By the address of the other end, the oldest first.
        self._held: dict[Any, Accepted] = {}
        self._by_host: Counter[str] = Counter()
        self._leaving: set[Accepted] = set()

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that there is room for.

        Raises:
            BlockingIOError: there is none now.
        """
        while len(self._leaving) < _LEAVING_AT_MOST:
            number, address = self._accept()  # type: ignore[attr-defined]
            accepted = Accepted(self, number, address)
            if address in self._held:
                # That one is over, though nobody has heard of it yet: the other end has begun anew.
                self.forget(self._held[address])
            if self._has_room(accepted.host, address[0]):
                self._held[address] = accepted
                self._by_host[accepted.host] += 1
                return accepted, address
            accepted.close()
        raise BlockingIOError

    def find(self, address: Any) -> Accepted | None:
        """The connection from this address."""
        return self._held.get(address)

    def forget(self, accepted: Accepted) -> None:
        """A connection does not count any more."""
        self._leaving.discard(accepted)
        if self._held.get(accepted.address) is accepted:
            del self._held[accepted.address]
            self._by_host[accepted.host] -= 1
            if not self._by_host[accepted.host]:
                del self._by_host[accepted.host]

    def look(self, now: float) -> None:
        """End the connections that are over their time."""
        for accepted in [one for one in self._held.values() if one.is_over(now)]:
            self._end(accepted)

    def _has_room(self, host: str, address: str) -> bool:
        if len(self._held) >= self._most and not self._make_room(None):
            return False
        return self._by_host[host] < self._most // 2 or is_in(address, self._proxies) or self._make_room(host)

    def _make_room(self, host: str | None) -> bool:
        for accepted in self._held.values():
            if host in (None, accepted.host) and accepted.stage != "answered":
                self._end(accepted)
                return True
        return False

    def _end(self, accepted: Accepted) -> None:
        self.forget(accepted)
        self._leaving.add(accepted)
        accepted.end()


class Accepted(socket.socket):
    """A connection that was taken.

    Attributes:
        address: of its other end.
        host: whose that is.
        protocol: what speaks HTTP on it, once it does.
    """

    def __init__(self, listener: Listener, number: int, address: Any) -> None:
        super().__init__(listener.family, listener.type, listener.proto, fileno=number)
        self.address = address
        self.host = one_of(address[0])
        self.protocol: Connection | None = None
        self._listener = listener
        self._since = 0.0
        self._at: tuple[object, ...] = ()

    @property
    def stage(self) -> Stage:
        """What it is at."""
        return "asks" if self.protocol is None else self.protocol.stage

    def is_over(self, now: float) -> bool:
        """Whether it has been at one thing for too long, as often as it is looked at."""
        stage = self.stage
        at = (stage,) if self.protocol is None else (stage, self.protocol.cycle, self.protocol.read_on)
        if at != self._at:
            self._at, self._since = at, now
        return now - self._since > SECONDS.get(stage, float("inf"))

    def end(self) -> None:
        """End it, whatever waits to be sent."""
        try:
            # Not `close`: its descriptor is watched, and would be another one's.
            self.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # its other end has ended it
        if self.protocol is not None:
            self.protocol.transport.abort()

    def close(self) -> None:
        """Close it, and make room for another one."""
        self._listener.forget(self)
        super().close()


class Connection(H11Protocol):
    """HTTP on one connection, which knows what it is at.

    Attributes:
        read_on: how often its other end has begun to read again.
    """

    def __init__(self, listener: Listener, **given: Any) -> None:
        super().__init__(**given)
        self._listener = listener
        self._is_stuck = False
        self.read_on = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The other end is there, and TLS agreed."""
        super().connection_made(transport)
        accepted = self._listener.find(transport.get_extra_info("peername"))
        if accepted is None:
            transport.abort()  # it was ended meanwhile
        else:
            accepted.protocol = self

    def data_received(self, data: bytes) -> None:
        """Something was said."""
        # In pieces: h11 measures a request only while it is not whole.
        for at in range(0, len(data), _PIECE):
            if not self.transport.is_closing():
                super().data_received(data[at : at + _PIECE])

    def pause_writing(self) -> None:
        """The other end does not read."""
        super().pause_writing()
        self._is_stuck = True

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self._is_stuck = False
        self.read_on += 1

    @property
    def stage(self) -> Stage:
        """What it is at."""
        if self.transport.is_closing():
            return "ends"
        if self._is_stuck:
            return "stuck"
        is_whole = self.conn.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)
        return "answered" if is_whole and not self.cycle.response_complete else "asks"


class Server(uvicorn.Server):
    """uvicorn, with connections as above.

    Args:
        options: of uvicorn.
        listener: where it listens.
    """

    def __init__(self, options: uvicorn.Config, listener: Listener) -> None:
        super().__init__(options)
        self._listener = listener
        self._looking: asyncio.TimerHandle | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        made = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        options: dict[str, Any] = {"sock": self._listener, "ssl": self.config.ssl, "backlog": socket.SOMAXCONN}
        self.servers = [await loop.create_server(lambda: Connection(self._listener, **made), **options)]
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if counter % 10 == 0:
            self._listener.look(time.monotonic())
        return await super().on_tick(counter)


def _room() -> int:
    """Connections that leave as many descriptors for streams and the ledger."""
    return min(_AT_MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
