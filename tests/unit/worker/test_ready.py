"""What a worker says when it is ready."""

from __future__ import annotations

import logging
import re
from types import SimpleNamespace
from typing import Any

import pytest

from egregore_dist import errors
from egregore_dist.cli import examine
from egregore_dist.client.session import Session
from egregore_dist.engine.runtime import signer
from egregore_dist.settings import load
from egregore_dist.wire import code, registry
from egregore_dist.worker import ready, service
from tests.support import work
from tests.support.secret import secret_of


def test_a_worker_says_what_it_is_and_serves() -> None:
    """Its name, pool, slots, queues, modules and nodes."""
    said = ready.text(worker="w@h", kind="prefork", slots=4, queues=["a", "b"], modules=["shop"], nodes=["buy", "pay"])

    assert said.splitlines() == [
        "worker w@h is ready: prefork pool, 4 slots",
        "  queues: a, b",
        "  modules: shop",
        "  nodes and decisions: buy, pay",
    ]


def test_what_it_says_is_bounded() -> None:
    """Of many nodes the first twenty are named, and how many more there are."""
    names = [f"n{number:03}" for number in range(500)]

    said = ready.text(worker="w@h", kind="threads", slots=1, queues=["q"], modules=[], nodes=names)

    assert said.splitlines()[0].endswith("threads pool, 1 slot")
    assert "  modules: none" in said
    assert said.endswith(", n019 and 480 more")


@pytest.mark.parametrize(
    ("given", "nodes", "told"),
    [
        ({}, ["a"], None),
        ({}, [], "serves no nodes, and no run can use it: .*worker -m yourproject.steps"),
        ({"modules": "shop,docs"}, [], "there are none in shop, docs"),
        ({"secret": secret_of("any")}, [], "serves no nodes of its own: .* It runs functions that clients sign"),
        ({"secret": secret_of("any"), "modules": "shop"}, ["a"], None),
    ],
)
def test_a_worker_without_nodes_warns(given: dict[str, Any], nodes: list[str], told: str | None) -> None:
    """It names the cure, and says whether functions by value run."""
    said = ready.warnings(load(broker_url="redis://127.0.0.1:6379/0", **given), nodes)

    assert len(said) == (told is not None)
    assert told is None or re.search(told, said[0])


@pytest.mark.parametrize(
    ("address", "ledger", "warns"),
    [
        ("unix:///run/valkey.sock", None, False),
        ("redis+socket:///run/valkey.sock", None, False),
        ("redis://localhost:6379/0", None, False),
        ("redis://:password@127.8.0.1/0", None, False),
        ("rediss://[::1]:6379/0", None, False),
        ("amqp://guest@/vhost", "redis://127.0.0.1", False),
        ("sentinel://127.0.0.1;sentinel://localhost/0?master_name=m", None, False),
        ("redis://valkey.internal:6379/0", None, True),
        ("redis://localhost.example.com:6379/0", None, True),
        ("rediss://:password@10.0.0.1:6379/0", None, True),
        ("amqp://127.0.0.1;amqp://rabbit", "redis://127.0.0.1", True),
        ("amqp://127.0.0.1", "redis://10.0.0.1", True),
        ("sentinel://127.0.0.1;sentinel://s2/0?master_name=m", None, True),
        ("sqs://", "redis://127.0.0.1", True),
    ],
)
def test_s4_a_server_that_others_reach_needs_a_secret(address: str, ledger: str | None, warns: bool) -> None:
    """Without a secret, a worker and `doctor` warn of a server that is neither a Unix socket nor on loopback."""
    settings = load(broker_url=address, ledger_url=ledger)

    (check,) = [check for check in examine.here(settings) if check.name == "secret"]
    for told in (" ".join(ready.warnings(settings, ["a"])), f"{check.detail}: {check.cure}"):
        assert ("can start registered nodes: set EGREGORE_SECRET" in told) is warns
    assert not ready.warnings(load(broker_url=address, ledger_url=ledger, secret=secret_of("any")), ["a"])


@pytest.mark.parametrize("address", ["unix:///run/valkey.sock", "redis://127.0.0.1:6379/0", "redis://valkey:6379/0"])
@pytest.mark.parametrize(
    ("secret", "registered", "by_value"),
    [(None, "runs", "refused by the client"), ("weak", "refused", "refused"), (secret_of("any"), "runs", "runs")],
)
def test_s4_what_starts_and_runs(address: str, secret: str | None, registered: str, by_value: str) -> None:
    """Whatever the address: without a secret code by value is refused, and with a weak one neither side starts."""
    settings = load(broker_url=address, secret=secret)
    if registered == "refused":
        with pytest.raises(errors.ConfigurationError, match="EGREGORE_SECRET is too weak"):
            Session(settings)
        with pytest.raises(errors.ConfigurationError, match="EGREGORE_SECRET is too weak"):
            service.run(settings)
        return

    ours = signer(settings)
    loader = code.Loader(ours, registry.NodeRegistry(["tests.support.work"]).functions)
    sent = code.ship(work.quick.fn, ours)
    references = loader.references(code.encode_references([sent.ref], ours))
    assert loader.load(sent.ref, sent.blob, refusal=references.refusal).fn is work.quick.fn
    if by_value == "runs":
        sent = code.ship(lambda: settings.queue, ours)
        assert loader.load(sent.ref, sent.blob).fn() == settings.queue
    else:
        with pytest.raises(errors.CodeError, match=r"travels only signed.*set EGREGORE_SECRET"):
            code.ship(lambda: settings.queue, ours)


@pytest.mark.parametrize("owns", [True, False])
def test_what_is_wrong_is_printed_or_logged(
    owns: bool, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A worker of our own prints its warnings, a worker of a user's app logs them."""
    app = SimpleNamespace(egregore_settings=load(broker_url="redis://valkey:6379/0"))
    tuner = SimpleNamespace(told=lambda: {"slots": 1})
    worker = SimpleNamespace(hostname="w@h", pool=None, egregore_tuner=tuner)

    with caplog.at_level(logging.INFO, logger=ready.__name__), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ready.consuming, "own", lambda _: ["q"])
        patch.setattr(ready.pool, "kind", lambda _: "prefork")
        ready._say(worker, app, owns)

    printed = capsys.readouterr().err
    assert printed.count("WARNING: ") == (2 if owns else 0)
    assert ("can start registered nodes" in printed) is owns
    assert [record.levelname for record in caplog.records] == ([] if owns else ["INFO", "WARNING", "WARNING"])
