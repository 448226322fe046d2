"""An application on a real socket of this machine, without a cluster."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import uvicorn

from egregore_dist.monitor.config import Network
from egregore_dist.monitor.connections import HEADERS, Listener, Server
from tests.support.waiting import until


class Serving:
    """A server on a thread, and what connects to it."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.address = listener.getsockname()
        self._stack = ExitStack()

    def connect(self, said: bytes = b"") -> socket.socket:
        """Connect, and say this."""
        made = self._stack.enter_context(socket.create_connection(self.address, timeout=10))
        made.sendall(said)
        return made

    def held(self) -> int:
        """How many connections count."""
        return len(self.listener._held)

    def close(self) -> None:
        """Close what was connected."""
        self._stack.close()


@contextmanager
def serving(
    make: Callable[[int], Any], most: int = 8, proxies: Collection[Network] = (), **options: Any
) -> Iterator[Serving]:
    """Serve the application that ``make`` makes for a port."""
    options.setdefault("h11_max_incomplete_event_size", HEADERS)
    with closing(Listener(socket.AF_INET, proxies=proxies, most=most)) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        given = {"lifespan": "off", "log_config": None, "loop": "asyncio", "http": "h11", "ws": "none", **options}
        config = uvicorn.Config(make(listener.getsockname()[1]), timeout_graceful_shutdown=1, **given)
        server = Server(config, listener)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        made = Serving(listener)
        try:
            until(lambda: server.started, what="the server")
            yield made
        finally:
            made.close()
            server.should_exit = True
            thread.join(20)
