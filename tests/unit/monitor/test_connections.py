"""Connections that only hold on: real sockets, a small server."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from egregore_dist.monitor import connections
from egregore_dist.monitor.connections import Listener
from tests.support.waiting import let_pass, until
from tests.unit.monitor.served import Serving, serving

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
WHOLE = HEAD + b"\r\n"
LARGE = 8_000_000


class App:
    """Answers ``/`` at once, ``/wait`` when it is let go, ``/large`` with much; reads no body."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.waiting = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.waiting += 1
        if scope["path"] == "/wait":
            await asyncio.to_thread(self.go.wait, 20)
        body = b"x" * LARGE if scope["path"] == "/large" else b"ok"
        length = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": body})


@contextmanager
def using(**options: Any) -> Iterator[tuple[Serving, App]]:
    """A server of that application."""
    app = App()
    with serving(lambda port: app, **options) as made:
        try:
            yield made, app
        finally:
            app.go.set()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for a request, for what is stuck, and for what ends."""
    monkeypatch.setattr(connections, "SECONDS", dict.fromkeys(connections.SECONDS, 0.5))


def is_ended(connection: socket.socket) -> bool:
    """Whether the other end has closed it."""
    connection.settimeout(10)
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


def answer(connection: socket.socket) -> bytes:
    """What it is answered, as far as it comes at once; nothing where it was closed."""
    connection.settimeout(10)
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


SLOW: dict[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b""),
    "half a line": (b"GET / HT", b""),
    "headers, byte by byte": (HEAD, b"a"),
    "a body that nobody reads": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b"a"),
    "a body in chunks": (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    "headers after a request": (WHOLE + HEAD, b"a"),
}


@pytest.mark.parametrize("slow", SLOW)
def test_s20_a_request_has_so_long_to_be_whole(quick: None, slow: str) -> None:
    """A connection that does not say a whole request in time is ended, however often it says something."""
    first, more = SLOW[slow]
    with using() as (made, _):
        connection = made.connect(first)
        begun = time.monotonic()
        ended = threading.Event()

        def drip() -> None:
            try:
                while more and not ended.wait(0.1):
                    connection.sendall(more)
            except OSError:
                return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert is_ended(connection)
            assert time.monotonic() - begun < 5
        finally:
            ended.set()
            thread.join()
        until(lambda: made.held() == 0, what="its place")


def test_what_is_answered_may_take_its_time(quick: None) -> None:
    """A page that takes long, and a stream, are no slow request."""
    with using() as (made, app):
        connection = made.connect(WHOLE.replace(b" / ", b" /wait "))
        until(lambda: app.waiting == 1, what="the request")
        let_pass(2)
        app.go.set()

        assert answer(connection).startswith(b"HTTP/1.1 200")


def test_many_requests_are_not_one(quick: None) -> None:
    """A connection that asks again and again is not over its time, whenever it is looked at."""
    with using() as (made, _):
        connection = made.connect()
        begun = time.monotonic()
        while time.monotonic() - begun < 2:
            connection.sendall(WHOLE)
            said = b""
            while not said.endswith(b"ok"):
                said += (part := answer(connection))
                assert part


def test_who_does_not_read_is_let_go(quick: None) -> None:
    """Whoever asks for much and reads nothing of it does not hold it in memory for ever."""
    with using() as (made, app):
        made.connect(WHOLE.replace(b" / ", b" /large "))
        until(lambda: app.waiting == 1, what="the request")

        until(lambda: made.held() == 0, what="its end", seconds=10)


def test_who_reads_slowly_is_served(quick: None) -> None:
    """A slow reader gets the whole answer, as long as it goes on reading."""
    with using() as (made, _):
        connection = made.connect(WHOLE.replace(b" / ", b" /large "))
        size, begun = 0, time.monotonic()
        while size < LARGE:
            part = answer(connection)
            assert part, f"ended after {size} bytes"
            size += len(part)
            if time.monotonic() - begun < 2:
                time.sleep(0.02)


def test_whoever_comes_next_is_served() -> None:
    """Where all places are taken by those who only hold on, the oldest of them makes room."""
    with using(most=8) as (made, _):
        idle = [made.connect(HEAD) for _ in range(50)]

        assert answer(made.connect(WHOLE)).startswith(b"HTTP/1.1 200")
        assert made.held() <= 8
        assert all(is_ended(connection) for connection in idle[:40])


def test_those_that_are_answered_keep_their_places() -> None:
    """No newcomer ends an answer: an address whose places all wait for one gets no more, and then gets them back."""
    with using(most=8) as (made, app):
        busy = [made.connect(WHOLE.replace(b" / ", b" /wait ")) for _ in range(4)]
        until(lambda: app.waiting == 4, what="the requests")

        assert is_ended(made.connect(WHOLE))
        app.go.set()
        for connection in busy:
            assert answer(connection).startswith(b"HTTP/1.1 200")
        assert answer(made.connect(WHOLE)).startswith(b"HTTP/1.1 200")


def test_s20_one_address_leaves_places_for_others() -> None:
    """An address may have half of the places; a proxy's all of them."""
    with using(most=8) as (made, _):
        for _ in range(20):
            made.connect(HEAD)
        until(lambda: made.held() == 4, what="four")
    with using(most=8, proxies=[ip_network("127.0.0.0/8")]) as (made, _):
        for _ in range(20):
            made.connect(HEAD)
        until(lambda: made.held() == 8, what="eight")


def test_an_end_that_begins_anew_counts_once() -> None:
    """A connection that was reset, and made again from the same port before anybody heard of it."""
    with Listener(socket.AF_INET, most=8) as listener, socket.socket() as other:
        listener._accept = lambda: (os.dup(other.fileno()), ("127.0.0.1", 5000))  # type: ignore[attr-defined]
        first, address = listener.accept()
        second, _ = listener.accept()
        assert listener.find(address) is second

        first.close()
        assert listener.find(address) is second
        second.close()
        assert not listener._held
        assert not listener._by_host


def test_a_handshake_has_no_longer(quick: None, tmp_path: Path) -> None:
    """With TLS the time begins when a connection is taken, and not when it is agreed on."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made_by = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run(
        ["openssl", *made_by, "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )
    with using(ssl_certfile=cert, ssl_keyfile=key) as (made, _):
        context = ssl.create_default_context(cafile=str(cert))
        context.check_hostname = False
        with context.wrap_socket(made.connect()) as agreed:
            agreed.sendall(WHOLE)
            assert answer(agreed).startswith(b"HTTP/1.1 200")

        assert is_ended(made.connect())
        assert is_ended(made.connect(b"\x16\x03\x01"))
        until(lambda: made.held() == 0, what="their places")
