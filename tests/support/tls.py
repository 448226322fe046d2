"""A Redis server that takes connections with TLS alone, and the certificates for one."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from egregore_dist.client.processes import Process
from tests.support.waiting import until

PASSWORD = "open-sesame"


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of a CA that nobody knows, and of what it has signed for 127.0.0.1."""

    ca: Path
    certificate: Path
    key: Path


def certificates(folder: Path) -> Certificates:
    """Make them. Skips the test where there is no ``openssl``."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    files = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    ca_key, request, extensions = folder / "ca.key", folder / "server.csr", folder / "server.ext"
    extensions.write_text("subjectAltName=IP:127.0.0.1\n")
    uses = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    signed = ["-CA", files.ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "1"]
    for command in (
        ["req", "-x509", *key, "-subj", "/CN=a CA", "-keyout", ca_key, "-out", files.ca, *uses],
        ["req", *key[:-2], "-subj", "/CN=a server", "-keyout", files.key, "-out", request],
        ["x509", "-req", "-in", request, *signed, "-extfile", extensions, "-out", files.certificate],
    ):
        subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True, timeout=30)
    return files


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, Certificates]]:
    """A server on TLS, its URL without any option of TLS, and its certificates. Skips the test where none can be."""
    binary = shutil.which("valkey-server") or shutil.which("redis-server")
    if binary is None:
        pytest.skip("no valkey-server or redis-server is on the PATH")
    files = certificates(folder)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    options = {
        "bind": "127.0.0.1",
        "port": 0,
        "tls-port": port,
        "tls-cert-file": files.certificate,
        "tls-key-file": files.key,
        "tls-ca-cert-file": files.ca,
        "tls-auth-clients": "no",
        "requirepass": PASSWORD,
        "save": '""',
    }
    config = folder / "server.conf"
    config.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    process = Process.spawn([binary, config.name], env={}, log=folder / "server.log", cwd=folder)
    try:
        until(lambda: _answers(port, files, process), what="the server on TLS")
        yield f"rediss://:{PASSWORD}@127.0.0.1:{port}/0", files
    finally:
        process.kill()


def _answers(port: int, files: Certificates, process: Process) -> bool:
    if not process.alive:
        if "TLS" in process.log_tail():
            pytest.skip("the server on the PATH has no TLS")
        raise AssertionError(process.log_tail())
    asked = redis.Redis("127.0.0.1", port, password=PASSWORD, ssl=True, ssl_ca_certs=str(files.ca))
    with contextlib.suppress(redis.ConnectionError), closing(asked):
        return bool(asked.ping())
    return False


@contextmanager
def listening(files: Certificates) -> Iterator[tuple[str, list[bytes]]]:
    """Whoever poses as a server, with a certificate of a CA that nobody knows; its URL, and what it was sent."""
    sent: list[bytes] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), closing(context.wrap_socket(connection, server_side=True)) as secured:
            while data := secured.recv(65536):
                sent.append(data)
                secured.sendall(b"+OK\r\n" * (data.count(b"\r\n*") + 1))

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield f"rediss://:{PASSWORD}@127.0.0.1:{listener.getsockname()[1]}/0", sent
        listener.shutdown(socket.SHUT_RDWR)
