"""Broker and ledger over TLS: a real server, a worker, and this process as the client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import kombu.exceptions
import pytest
from click.testing import CliRunner

from egregore_dist import LocalCluster, errors
from egregore_dist.cli import codes, examine, main
from egregore_dist.engine import app as apps
from egregore_dist.ledger import Ledger
from egregore_dist.settings import load
from egregore_dist.worker import service
from tests.support import tls
from tests.support.flows import FLOW
from tests.support.tls import Certificates


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Certificates]]:
    """A server on TLS, and its certificates."""
    with tls.server(tmp_path_factory.mktemp("tls")) as running:
        yield running


@pytest.mark.parametrize(
    "options",
    [
        "ssl_ca_certs={ca}",
        "ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={ca}",
        "ssl_cert_reqs=CERT_NONE",
        "ssl_cert_reqs=none",
    ],
)
def test_a_run_over_tls(server: tuple[str, Certificates], options: str) -> None:
    """What the URL says of TLS holds for broker and ledger, in the spelling of Celery and in that of redis-py."""
    url, files = server
    with LocalCluster(workers=1, broker_url=f"{url}?{options.format(ca=files.ca)}"):
        assert FLOW.submit(21).result(timeout=60) == {"doubled": 42, "negated": -21}


def test_a_run_with_a_ca_of_the_machine(server: tuple[str, Certificates], monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that says nothing of TLS serves where the machine knows the CA."""
    url, files = server
    monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
    with LocalCluster(workers=1, broker_url=url):
        assert FLOW.submit(21).result(timeout=60) == {"doubled": 42, "negated": -21}


def test_doctor_over_tls(server: tuple[str, Certificates]) -> None:
    """The doctor finds broker and ledger well with the server's CA, and both unverified without it."""
    url, files = server

    def states(address: str) -> dict[str, str]:
        done = CliRunner(env={"EGREGORE_BROKER_URL": address}).invoke(main, ["doctor", "--json"])
        assert tls.PASSWORD not in done.output
        return {check["name"]: check["status"] for check in json.loads(done.stdout)["checks"]}

    known, unknown = states(f"{url}?ssl_ca_certs={files.ca}"), states(url)

    assert (known["broker"], known["ledger"]) == ("ok", "ok")
    assert (unknown["broker"], unknown["ledger"]) == ("problem", "problem")


def test_nothing_is_sent_to_whom_nobody_vouches_for(tmp_path: Path) -> None:
    """Neither the broker's side nor the ledger's logs in where the certificate does not verify; each says so."""
    with tls.listening(tls.certificates(tmp_path)) as (url, sent):
        settings = load(broker_url=url)
        app = apps.make_app(settings)
        checked = examine.broker(settings)
        with pytest.raises(kombu.exceptions.OperationalError, match="certificate verify failed"):
            app.connection_for_write().ensure_connection(max_retries=1, interval_start=0, timeout=2)
        with pytest.raises(errors.BrokerUnavailable, match="ssl_ca_certs"):
            Ledger(apps.ledger_url(settings), retries=0).ping()
        with pytest.raises(errors.ConfigurationError, match="ssl_ca_certs"):
            service.run(settings)
        done = CliRunner(env={"EGREGORE_BROKER_URL": url}).invoke(main, ["worker"])

    assert sent == []
    assert checked.status == "problem"
    assert "ssl_ca_certs" in checked.cure
    assert done.exit_code == codes.USAGE
    assert "ssl_ca_certs" in done.stderr
