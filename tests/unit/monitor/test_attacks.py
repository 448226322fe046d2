"""The gate on a real socket, asked byte by byte by those who mean no good."""

from __future__ import annotations

import gzip
import re
import socket
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from tests.unit.monitor.gate import TOKEN, Gate
from tests.unit.monitor.served import Serving, serving


@pytest.fixture(scope="module")
def guarded() -> Iterator[Serving]:
    """A gate that asks for its token."""
    with serving(lambda port: Gate(port=port).guard, most=64) as made:
        yield made


def port(served: Serving) -> int:
    """Where it listens."""
    return int(served.address[1])


def said(served: Serving, raw: bytes) -> bytes:
    """What these bytes are answered, until the other end closes or has no more to say."""
    with socket.create_connection(("127.0.0.1", port(served)), timeout=15) as connection:
        connection.sendall(raw)
        found = b""
        try:
            while part := connection.recv(65536):
                found += part
        except (ConnectionResetError, TimeoutError):
            pass
        return found


def request(served: Serving, line: str, *headers: str, host: str | None = None, body: bytes = b"") -> bytes:
    """A request, byte by byte as it is said here, with the token."""
    own = [f"Host: {host or f'127.0.0.1:{port(served)}'}", f"Authorization: Bearer {TOKEN}", "Connection: close"]
    return "\r\n".join([line, *own, *headers, "", ""]).encode("latin-1") + body


def status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d+)", answer)
    return int(found[1]) if found else 0


@pytest.mark.parametrize(
    "path",
    [
        *("/static/../../../etc/passwd", "/static/%2e%2e/%2e%2e/etc/passwd", "/static/..%2fguard.py", "/%2e%2e/users"),
        *(
            "/static/monitor.css%00.html",
            "/static//monitor.css",
            "/runs/%2e%2e",
            "/runs/..%2f..",
            "/runs/x%0d%0aSet-Cookie:a",
        ),
        *(
            "/runs/%ff%fe",
            "/runs/%e2%80%ae",
            "/healthz%20",
            "/.env",
            "/runs/" + "x" * 129,
            "//evil.example/",
        ),
        *("http://evil.example/", "*", "evil"),
    ],
)
def test_paths_lead_nowhere(guarded: Serving, path: str) -> None:
    """Whatever path is asked for, escaped or not, what the table does not have does not exist."""
    answer = said(guarded, request(guarded, f"GET {path} HTTP/1.1"))

    assert status(answer) in (400, 404)
    assert b"root:" not in answer
    assert b"set-cookie" not in answer.lower()


@pytest.mark.parametrize(
    "raw",
    {
        "two hosts": b"GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nHost: evil.example\r\n\r\n",
        "no host": b"GET / HTTP/1.1\r\n\r\n",
        "old, no host": b"GET / HTTP/1.0\r\n\r\n",
        "two lengths": b"POST / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\naa",
        "folded": b"GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nX: a\r\n b: c\r\n\r\n\r\n\r\n",
        "null in a header": b"GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nX: a\0b\r\n\r\n",
        "space before colon": b"GET / HTTP/1.1\r\nHost : 127.0.0.1:PORT\r\n\r\n",
        "large header": b"GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        "many headers": b"GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
        "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "garbage": b"\xff\xfe\x00\r\n\r\n",
    }.items(),
    ids=lambda case: case[0],
)
def test_requests_that_are_none(guarded: Serving, raw: tuple[str, bytes]) -> None:
    """A request that two readers could read in two ways, and one that is too large, gets nothing."""
    answer = said(guarded, raw[1].replace(b"PORT", str(port(guarded)).encode()))

    assert status(answer) in (0, 400, 401)
    assert b"<h1>Runs" not in answer


@pytest.mark.parametrize("more", [b"X: " + b"a" * 100_000 + b"\r\n", b"X: a\r\n" * 20_000], ids=["long", "many"])
def test_s20_headers_have_a_size(guarded: Serving, more: bytes) -> None:
    """However much of them comes at once, more headers than that are refused unread."""
    line = request(guarded, "GET /healthz HTTP/1.1")[:-2]

    assert status(said(guarded, line + more + b"\r\n")) in (0, 400)


def test_no_request_is_hidden_in_another(guarded: Serving) -> None:
    """Length and chunks together are one request or none."""
    hidden = b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    headers = ("Transfer-Encoding: chunked", f"Content-Length: {len(hidden)}")

    answer = said(guarded, request(guarded, "POST /login HTTP/1.1", *headers, body=hidden))

    assert answer.count(b"HTTP/1.1 ") <= 1
    assert b"\r\n\r\nok" not in answer


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_forms_are_not_unpacked(guarded: Serving, encoding: str) -> None:
    """A form that is packed is read as it is, so that none grows."""
    body = gzip.compress(b"password=" + b"a" * 5_000_000, 9)[:60_000]
    headers = (
        f"Content-Encoding: {encoding}",
        f"Content-Length: {len(body)}",
        f"Origin: {f'http://127.0.0.1:{port(guarded)}'}",
    )

    assert status(said(guarded, request(guarded, "POST /login HTTP/1.1", *headers, body=body))) in (400, 401, 429)


@pytest.mark.parametrize(
    "next_",
    [
        "//evil.example",
        "/\\evil.example",
        "/runs/x\r\nSet-Cookie: a=b",
        "/\t/evil.example",
        "/runs/..",
        "https:evil.example",
    ],
)
def test_nobody_is_led_away(guarded: Serving, next_: str) -> None:
    """A login goes on to a page here, and puts nothing of its own into headers."""
    form = urlencode({"password": TOKEN, "next": next_}).encode()
    headers = (f"Origin: http://127.0.0.1:{port(guarded)}", f"Content-Length: {len(form)}")

    answer = said(guarded, request(guarded, "POST /login HTTP/1.1", *headers, body=form)).lower()

    assert status(answer.upper()) == 303
    assert b"\r\nlocation: /\r\n" in answer
    assert answer.count(b"\r\nset-cookie: ") == 1


def test_a_websocket_is_refused(guarded: Serving) -> None:
    """There is none, whatever is asked for."""
    headers = ("Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13")
    line = request(guarded, "GET /events HTTP/1.1", *headers, host="evil.example").replace(b": close", b": upgrade")

    assert status(said(guarded, line)) == 400
